// Package errs has the one error type that callers act on and clients see.
//
// Most errors in the platform are plain ones, wrapped with what was being done.
// An [Error] is made only where the kind of failure decides what a caller does
// next or what a client is told: its Message is safe to show, its cause is for
// operators and never leaves the process.
package errs
