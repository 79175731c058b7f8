// Package dispatcher delivers events to destinations.
//
// It leases deliveries from the queue, makes one attempt at each, and settles
// the lease with what the attempt taught it: done, try again later, or never.
// It keeps no state of its own. Everything that must survive a crash is in the
// claims, the ledger, the dead letters or the queue before the lease is settled,
// so any number of dispatchers may run and any of them may be killed.
//
// Delivery is at least once. A dispatcher that dies between a destination's 200
// and the marking of the claim will cause a second attempt; destinations know
// the repeat by its webhook-id header, which is the same in both.
package dispatcher
