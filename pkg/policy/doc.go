// Package policy turns a policy as people write it into what the path of a
// delivery asks: whether a status is retried, how long to wait, when to stop.
//
// It promises that what [Validate] accepts, [Compile] can use, that every
// default stands in one place, and that a check which this version does not
// make is refused and not passed over. It keeps no state: policies are stored
// by the Master API.
package policy
