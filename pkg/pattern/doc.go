// Package pattern knows what event types look like: which are valid, how they
// are written as NATS subject tokens, which patterns match them, and how to
// find all patterns that match one type without trying each.
//
// A type has one of two forms, told apart by whether there is a slash in it:
// dotted, "order.created", whose words stand between dots; or a Certes URI,
// "community.certes.dev/github/1/push", whose words stand between slashes and
// may have dots. A pattern has the form of the types that it matches. A URI may
// come as events://domain:port/…, with its domain in any case and with the default
// namespace written out; an event has one type nevertheless, which [ParseType]
// returns.
//
// It promises that encoding loses nothing and never yields a subject that NATS
// would read differently, and that an [Index] matches exactly what
// [Pattern.Match] matches, one by one. It keeps no state.
package pattern
