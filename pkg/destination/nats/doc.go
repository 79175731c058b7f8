// Package nats delivers events to subjects of other NATS systems: one message an
// attempt.
//
// With JetStream an attempt has succeeded when a stream has acknowledged the message;
// without, when the server has taken it, which says nothing about whether anybody
// listens. Every message carries Nats-Msg-Id (the event's ID, the same in every
// attempt, by which a stream knows a repeat), the trace context and the event's
// correlation IDs. Its body is the event's data with ce- headers (CloudEvents NATS
// binding, binary), one CloudEvents JSON document, or the data alone.
//
// It connects as any client would, through the guard that all outbound connections
// go through, with the credentials of the subscription. It has no part in the
// platform's own connections, and subjects of NATS itself ($JS, $KV, _INBOX) are
// refused, also when a type leads to one. Where the operator lets it reach the
// platform's embedded server (--allow-net), deliveries into the platform's own streams
// are refused too. An external server that the platform shares with others is theirs
// to divide into accounts: there, its subjects are as open as its permissions are.
//
// Destinations with the same server and credentials share a connection, which is made
// when it is first needed and closed when nobody has used it for a while. The first
// connect is tried by each attempt that wants it, so that each knows why it failed
// (nats.go's RetryOnFailedConnect would keep the reason); one that was made is made
// again without end. An attempt waits for a connection no longer than its context
// allows, and nothing is buffered for a connection to come: what an attempt did not
// get through is the queue's to try again.
package nats
