// Package queue holds the deliveries that wait or are being tried: stream
// DELIVERIES, with a durable consumer for every lane.
//
// It promises that a delivery stays until somebody settles its [Lease], that a
// [Lane] hands out no more leases than it has free slots, and that a lane which
// is stopped hands out every lease that the server had already counted as a
// delivery. It knows nothing of destinations and keeps nothing beside the
// stream.
package queue
