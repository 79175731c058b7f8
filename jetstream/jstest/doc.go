// Package jstest starts a real JetStream server for one test.
//
// The server is in the test's process, its files are in t.TempDir(), and it is
// gone when the test ends. There is no fake: what a test saw here is what the
// server does.
package jstest
