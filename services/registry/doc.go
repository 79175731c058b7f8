// Package registry serves the schema registry over gRPC: SchemaRegistry of
// posthorn.v1, on top of what pkg/schema keeps.
//
// It promises that errors leave it as statuses with details. It keeps no state.
// The Master API over REST calls its methods in process.
package registry
