// Package embedded is a nats-server with JetStream in this process.
//
// It promises that one data directory has one server at a time, and that a
// server that cannot have its port or its directory says so in one error. It
// does not decide how durable writes are: see [Config.SyncAlways] and the commit
// barrier of pkg/store.
package embedded
