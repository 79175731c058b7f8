// Package commit is the commit barrier: it makes what JetStream has
// acknowledged survive the loss of power.
//
// JetStream acknowledges a message when the operating system has it, and syncs
// its files every two minutes. A [Barrier] issues one syncfs on the data
// directory's file system for all who wait at the moment, and begins the next
// when that one is done. There is no timer: who is alone does not wait for
// company, and under load the company grows by itself.
//
// It promises that when [Barrier.Wait] returns without error, everything that
// was written to the file system before the call is on the device, as far as
// the device tells the truth. syncfs flushes the whole file system, so the data
// directory should have one of its own.
package commit
