// Package consumer is the entrance for publishers that speak AMQP: it takes the
// messages of RabbitMQ's queues, which are sources of kind AMQP, and hands them to
// the broker as the gateway does with requests.
//
// A message is acknowledged when its event is stored, never before. What can never
// be stored is refused without requeueing, which sends it to the queue's
// dead-letter exchange, and leaves a rejection as a refused request does. What
// cannot be stored now is held, in its order, and tried again with growing pauses;
// only after minutes is it given back to the queue. (Giving it back at once would
// make a loop of it, and quorum queues count how often a message came back, and
// dead-letter what came back too often.)
//
// Connections are supervised without end. An edit of a source ends its connection
// and begins another one; what was in hand is finished first.
//
// A message may become an event twice: when the acknowledgement is lost with the
// connection. The broker knows it again by its message-id or its CloudEvents id
// and source; the event of one that has neither says amqpredelivered.
//
// Any number of gateways may run: the queue shares its messages out among them.
// Each keeps their order, all together do not.
package consumer
