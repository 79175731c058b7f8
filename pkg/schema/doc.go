// Package schema keeps the versions of every event type's schema, says whether
// a new version is compatible with the one before, and checks events against
// them.
//
// A schema is JSON Schema, draft 2020-12 or draft-07, chosen by "$schema", the
// former if there is none. The keyword "format" is an annotation in both: it
// documents and is not checked, as 2020-12 has it, so that the meaning of a
// schema does not hang on its draft. Unknown keywords mean nothing.
//
// Or it is a message of proto3 files, uploaded as the text of one file or as a
// FileDescriptorSet. Data is then the message's JSON form, in which unknown
// fields are wrong, or its binary form, in which they are how newer publishers
// speak, or either inside a google.protobuf.Any.
//
// It promises that no schema makes the platform open a file or a connection:
// references resolve inside the document (and to the two drafts themselves,
// which are built in) or the schema is refused, and imports are protobuf's
// well-known types, built in too. It promises that a schema which
// is too large, too deep or too expensive is refused before it can do harm, and
// that numbers are compared exactly, however many digits they have.
//
// [Registry] keeps its state in KV bucket "schemas", one key for each version,
// written once and never changed, and in every process that runs it a copy in
// memory, against which [Registry.Validate] checks without locks and without
// the network.
//
// [pattern.URI] reads the names that event types have across platforms, and [Foreign]
// asks other Posthorns for the schemas of theirs. It keeps what they answer in
// memory alone: a process that restarts while they are gone knows nothing of them.
package schema
