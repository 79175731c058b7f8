// Package client is Posthorn's SDK for Go.
//
// A [Client] publishes events and manages what stands around them over the
// REST API: sources, subscriptions, policies, schemas, stored events and dead
// letters. [Handler], [Mux] and [On] are the other end: they receive what a
// subscription delivers, check its signature and decode its data; a program without
// an address has [Client.Receive] fetch it. [SchemaOf] derives the JSON Schema of an
// event type from the Go type that carries it.
//
// It promises that data travels as the bytes that were given, that a call which
// may be repeated is repeated while the platform is busy or out of reach, and
// that a publish is never doubled by that: an event without an idempotency key
// gets one before it is sent for the first time. A refusal is an [*Error].
//
// It keeps no state but its connections. An event whose Publish returned an
// error may have been stored or not; to publish it again without a double, the
// caller has to use the same idempotency key.
package client
