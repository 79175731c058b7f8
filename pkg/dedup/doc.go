// Package dedup remembers who took a key first, so that an event is not accepted
// twice and a delivery is not made twice.
//
// A key is claimed before the work and marked as done after it, each for a time.
// Whoever comes second learns who holds the claim and whether the work is done:
// it drops a duplicate, or finishes what its owner left undone. Keys are any
// text: "ingest:<source>:<key>", owned by the ID of the event to be stored;
// "delivery:<event>:<subscription>:<round>", owned by a sequence of stream
// DELIVERIES.
//
// There are two backends of one behaviour ([Claims], held to it by deduptest):
// [Redis], one command a claim, and [KV], one message a claim in bucket dedup.
// Values are "<owner>" or "done <owner>", to be read by a person. [Fallback]
// takes claims to a KV while Redis is down.
//
// It promises that of all who claim a key at once one is the owner, for as long as the
// backend keeps what it acknowledged: a Redis that fails over to a replica, or
// restarts without append-only file, forgets. It does not promise that the work
// is done once: an owner that dies between its work and Done leaves a claim that
// says no more than that it began. Nothing is kept longer than it was asked for;
// a claim may outlive its time by a second.
package dedup
