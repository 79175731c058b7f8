// Package e2e tests the platform from outside: the built binary as a process,
// HTTP, gRPC and the nats CLI on it, real endpoints that it delivers to.
//
// Nothing here looks into the platform's packages for what it can see at a port.
package e2e
