// Package pmap has a persistent map: one that every edit leaves as it was,
// returning another that shares nearly all of it.
//
// It is for indexes that the path of every event reads and that people edit
// now and then. Readers load a pointer and take no lock; an edit among 10,000
// keys copies a few hundred bytes where a plain map would be copied whole.
//
// It promises that a Map can be read by any number of goroutines while others
// derive new maps from it. It keeps no order.
package pmap
