// Package cloudevent writes events as CloudEvents 1.0, for destinations of every
// kind: in the JSON event format, and as attributes that stand in headers.
//
// Data is never parsed and written again: its bytes are those that came. The package
// keeps no state, and which header an attribute stands in is the destination's to know.
package cloudevent
