// Package telemetry is how the platform is seen from outside the data path:
// its loggers, the correlation IDs and W3C trace context that travel with an
// event, and the HTTP handler with metrics, health and profiles.
//
// It promises that what runs for each event is cheap (one allocation for each
// ID or trace context that is made, none for one that is passed on), that foreign
// input is either valid or replaced, and that a health check that hangs delays
// nobody and is never run twice at once.
//
// It keeps no state but the last result of each health check, starts no server,
// and has no global logger or registry. Metrics themselves are declared by the
// packages that count, in their metrics.go.
package telemetry
