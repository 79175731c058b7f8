// Package redistest starts a real redis-server for one test.
//
// The server listens on a Unix socket of its own, keeps what it acknowledged in
// an append-only file, and is gone when the test ends. A test can kill it and
// start it again. There is no fake: without redis-server in PATH a test fails.
package redistest
