// Package catalog is a process's live, read-only mirror of the configuration:
// the sources, subscriptions and policies of KV bucket config, compiled, with
// the secrets of bucket secrets.
//
// It promises that a reader never waits, that an edit takes effect in every
// process within moments of being written, and that [Catalog.WaitFor] returns
// only when it has in this one. A value that does not compile does not take
// the place of one that did: the version before stays in force, the log says
// so once, and [Catalog.Problems] goes on saying it.
//
// It keeps nothing but the mirror, and writes nothing: that is the Master
// API's. It doesn't check references: a subscription whose policy does not
// exist goes by the default one.
package catalog
