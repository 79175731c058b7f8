// Package destinationtest holds what every kind of destination must do, whatever it
// speaks: say truthfully what came of an attempt, in time, without credentials.
//
// A kind's test sets a peer up in each of the ways in which one can behave, and calls
// [Run].
package destinationtest
