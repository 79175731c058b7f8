// Package amqp knows brokers of AMQP 0-9-1 (RabbitMQ): what a URL of one may
// look like, how a connection is made, and how long to wait before the next try.
//
// It connects only through the dialer that it is given, which is the guard of
// outbound connections, and it never shows a password. It keeps no connection
// alive: whoever has one supervises it, as the two ends need different things
// when it breaks (see docs/adr/0012). The library's own recovery is not used.
package amqp
