// Package topology is every stream, bucket, consumer and subject of the
// platform, as data with reasons beside the limits.
//
// It alone names them: no other package writes a subject by hand. [Ensure]
// creates what is missing and widens what is narrower than configured; it never
// shrinks or deletes, because either would throw away what somebody was
// promised. The JSON files under assets/ are the same streams with the default
// configuration, in the form that "nats stream add --config" accepts.
package topology
