// Package bucket is a KV bucket of JetStream with typed values.
//
// A [Bucket] is a view of the keys below one prefix of a bucket, so that several
// kinds of value share one. It promises that an edit by revision fails if
// somebody else was faster, and that [Bucket.Watch] sees every key's newest
// value. It keeps no copy of its own.
package bucket
