// Package recording keeps a sample of the last requests of each source, so that a
// policy, or a draft of one, can be simulated on what publishers really send.
//
// A gateway asks [Recorder.Due] whether a request is one for the sample, strips it
// ([Strip], [Query]) and offers it. Offering never waits: a request that comes when
// too many wait to be written is dropped. [Recorder.Run] writes; [Reader] reads,
// from any process.
//
// It promises that no credential is kept: of headers only those values are kept
// that are known to be harmless and that no check of the source reads, of cookies
// and of the query the names, of the body its size. What is kept is bounded by
// the stream: the last 20 of a source that were taken and the last 20 that were
// refused, for 24 hours.
package recording
