// Package api is the Master API: sources, subscriptions and policies, events and
// their traces, dead letters, over gRPC and, through [NewHandler], over REST.
//
// It promises that an edit which was answered is stored and in force in this
// process, that nobody's edit is lost to one that did not see it (If-Match), that
// a secret which was handed in never comes out again, and that an event's data
// passes as the bytes that came. An edit is recorded on stream AUDIT.
//
// Over REST, answers show fields that have their defaults ("paused":false), and
// defaults that were left out are written out when a resource is stored. Lists
// always have items. Unknown fields and parameters are refused by name, and so is
// a field that comes twice. Errors are problem+json (RFC 9457).
//
// It writes KV buckets config and secrets, and the administrator's key into
// bucket identity. It keeps no state: any number of processes may run it. Events,
// dead letters and schemas are other packages'; it asks them through the
// interfaces in this package.
package api
