// Package deadletter keeps the deliveries that the platform gave up on: stream
// DEADLETTERS.
//
// It promises that a dead letter is there when [Letters.Put] returns, and that
// it goes only by retry, by hand, or by the stream's age and size. What a retry
// does is the caller's: see services/broker.
package deadletter
