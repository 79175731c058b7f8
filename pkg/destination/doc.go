// Package destination is the vocabulary between the dispatcher and the kinds of
// places that deliveries go to: what is sent, and what came of it.
//
// A kind (see webhook) makes one attempt and says what happened. It does not
// retry, record, or decide what is next: a destination's no is a value, not an
// error, and [Result.Outcome] with the policy's word on statuses is the whole
// decision.
//
// The package keeps no state and imports no kind.
package destination
