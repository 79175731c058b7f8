// Package proto holds the wire: the .proto files, and what they say of the
// platform for others to read.
//
// It promises that [OpenAPI] is what the .proto files make, unchanged. The Go
// code made of them is in gen, which is written by `task generate` alone. What
// the Master API serves is completed by services/api.
package proto
