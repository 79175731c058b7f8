// Package subscription knows who gets which events.
//
// It checks subscriptions as people write them, compiles them into what the
// path of an event asks, and finds those that an event matches: an [Index] by
// context, direction, tenant and type, and a [Filter] for what only the event's
// attributes and data can tell.
//
// It promises that finding matches takes no lock and does not look at the
// subscriptions that don't match, and that an edit is seen whole or not at all.
// Subscriptions are stored by the Master API; here they are kept in memory only.
package subscription
