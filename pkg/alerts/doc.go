// Package alerts tells of the platform's own troubles by events that can be
// subscribed to like any other: that a subscription fails, works again or was
// disabled, and that deliveries became dead letters.
//
// An alert is an outgoing event of source "posthorn", in the context and of the
// tenant of the subscription that it is about, which is its subject. It goes to
// subscriptions that ask for it by name (posthorn.#, not # alone), and never to the
// subscription that it is about. docs/events.md has what is in them.
//
// What happened once is one event, however often it is told: the idempotency key
// says what it is. The package keeps nothing; whoever tells must tell again after a
// failure.
package alerts
