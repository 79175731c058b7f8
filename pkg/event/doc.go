// Package event is the platform's vocabulary: what an event, a delivery, an
// attempt, a dead letter and a rejection are. Read it first.
//
// It promises to depend on nothing but the standard library, and keeps no
// behaviour beyond what follows from the words themselves: how things are
// stored, sent or shown is for the packages that do so.
package event
