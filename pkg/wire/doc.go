// Package wire converts between the platform's vocabulary and its protobuf
// messages: events both ways, and errors to gRPC statuses with details and back.
//
// It promises that an error crosses a process boundary with its kind, reason,
// message and violations, and that nothing else of it does: causes stay here.
package wire
