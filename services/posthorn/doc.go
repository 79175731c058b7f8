// Command posthorn is the platform and its tool: one binary that serves, and
// that manages and publishes to what serves.
//
// Commands read noun, verb. This package reads flags and files, calls
// pkg/client and shows what it answers; it keeps no rules of its own about what
// is valid, which only the platform knows. Results go to stdout, everything
// else to stderr, and the exit code says what kind of failure it was.
package main
