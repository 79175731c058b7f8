// Package rabbittest starts a real rabbitmq-server for tests.
//
// The node listens on a port of its own on loopback, with a name, a cookie, a
// data directory and a port mapper of its own, so that it meets no other node of
// the machine. It can be stopped, killed and started again with what it had, and
// it is gone when the test ends. There is no fake: without RabbitMQ a test fails.
package rabbittest
