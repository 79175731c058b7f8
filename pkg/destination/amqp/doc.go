// Package amqp is the destination of kind AMQP: an exchange of RabbitMQ.
//
// A delivery is one message, persistent and mandatory, and it has succeeded when
// the broker has confirmed it. What the broker returns (no queue is bound by its
// routing key), refuses or does not answer for is a failed attempt, which is
// tried again; the error names the exchange and the routing key.
//
// A message is a CloudEvent in binary mode (AMQP protocol binding): attributes in
// headers "cloudEvents:…", the data as the body, unchanged. Its message-id is the
// event's ID, the same in every attempt and for every subscription, as the
// webhook-id of webhooks is. Header posthorn-attempt counts the tries: a message
// whose confirmation was lost with the connection is sent again, and the second
// one has 2 there.
//
// Subscriptions with the same broker and user share a connection of the [Pool],
// which supervises it without end and closes it when nobody has used it for a
// while. Each exchange has a channel of its own: what the broker says to one that
// does not exist, or may not be written to, is the end of that channel alone.
package amqp
