// Package app is the composition root: it turns a configuration into a running
// platform.
//
// [New] connects to NATS (or starts one), brings the assets up to date and
// builds the parts of the roles in one straight line; [App.Run] starts them,
// waits, and stops them in the reverse order, so that nothing is cut: first
// nobody new is let in, then what was begun is finished, and last the server
// goes. Whether a part is the struct in this process or its client in another
// is decided here and nowhere else.
package app
