// Package audit records who changed which resource, and when.
//
// A [Change] is one message on stream AUDIT, subject audit.<kind>.<name>. It
// names the fields that changed, never their values: headers and settings hold
// credentials. What a resource was before stands in the history of KV bucket
// config, under the revision that the change names.
//
// It promises that a change which was recorded without error is in the stream,
// once. It keeps nothing, and nobody waits for it: a change that took effect is
// not undone because it could not be recorded.
package audit
