// Package stream publishes to JetStream streams and waits until they have it.
//
// It promises that a message whose [Pending.Wait] returned without error is in
// its stream, and that a publish outlives an election: it is tried again, the
// same message with the same ID, for at least [RetryFor]. Whether a second try
// can store a message twice is the caller's to prevent, with a message ID or an
// expected sequence. It keeps nothing but the count of what failed, see [Failures].
package stream
