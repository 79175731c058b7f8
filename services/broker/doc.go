// Package broker takes responsibility for events and routes them.
//
// Accepting ([Broker.Accept]) claims the idempotency key, validates against the
// schema, stores, queues the ID, and only then answers: what was answered is
// stored and will be delivered, and a failure in one step does none of the next.
// Routing ([Broker.Run]) reads the IDs in order, matches each event with the
// subscriptions, and queues one delivery a match; it acknowledges last, so that
// a crash repeats the step and the queue drops the repeats.
//
// It keeps nothing of its own. Any number of brokers may run.
package broker
