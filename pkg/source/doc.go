// Package source turns a publisher's HTTP request into events.
//
// A source is a named entrance of one kind: one that any publisher can be
// described by (GENERIC, CLOUDEVENTS, HMAC, STANDARD_WEBHOOKS, HEADER,
// JSON_FIELD), or one provider's (GITHUB, GITLAB, STRIPE, SLACK, SHOPIFY, TWILIO,
// AUTH0), a file each; or it is a queue of an AMQP broker, whose messages somebody
// else fetches and [Source.ReceiveMessage] reads. Types are those that the provider gives its events, in its
// own words: "push", "charge.succeeded", "orders.create". [Validate] says what is wrong with what a user wrote,
// [Compile] prepares it, and [Source.Receive] first verifies who sent a request
// and then parses it.
//
// It promises that nothing is parsed before it is verified (but by JSON_FIELD,
// whose secret is in the body, and only as far as it takes), that verification
// is on the raw bytes and in constant time, that a request is taken whole or not
// at all, and that an event's data are the bytes that came: slices of the
// request's body, or what the publisher's own transport encoding (base64, a JSON
// string, a form) stands for, never JSON written anew.
//
// It keeps no state and does no I/O. The size of a body, the interceptors of a
// policy, whether a source is disabled and what becomes of a known idempotency
// key are for the gateway and the broker.
package source
