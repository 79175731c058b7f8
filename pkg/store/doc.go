// Package store keeps accepted events.
//
// An event is a key of KV bucket events, its data above a threshold an object of
// the store payloads, and its ID a message on stream EVENTS. It promises that an
// ID is on EVENTS only after its event is in the bucket, that what [Store.Append]
// answered without error is as durable as the commit barrier makes it, and that
// an event reads as the bytes that came. Retention ([Store.Retain]) removes what
// is old or in the way, but nothing that the router or a queued delivery needs.
//
// It keeps a small cache of recent events, since those are the ones that
// deliveries ask for; everything else is in JetStream.
package store
