// Package webhook delivers events over HTTP: one POST an attempt.
//
// Every request carries webhook-id (the event's ID, the same in every attempt,
// by which a subscriber knows a repeat), webhook-timestamp and webhook-signature
// (Standard Webhooks, one signature for each secret), HMAC-SIG (Certes, by the
// first secret), webhook-attempt, the trace context and the event's correlation
// IDs. The body is the event's data with ce- headers (CloudEvents binary), one
// CloudEvents JSON document, or the data alone. In each, the data's bytes are
// those that came: they are never parsed and written again.
//
// The status line is the endpoint's word: an answer whose body is slow, endless
// or cut short counts by its status all the same. Redirects are not followed, no
// proxy is used, and a request of which a byte may have left is never repeated
// behind the dispatcher's back. One exception is the endpoint's own word: where it asks
// for OAuth2 tokens, a 401 is answered with a new token, once.
//
// Besides signatures an endpoint can ask for a bearer token, a password, an OAuth2
// token or a client certificate. Tokens are kept until shortly before they expire, and
// no text of an error has anything that a token endpoint answered but its status.
//
// All webhooks share the connections of one [Client]. A [Webhook] is what can be
// known of a subscription before there is an event; it is immutable and safe for
// concurrent use, as are the connections that webhooks with the same client
// certificate share. The package keeps no state besides idle connections and tokens.
package webhook
