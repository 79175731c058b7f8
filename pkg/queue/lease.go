package queue

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/event"
)

// A Lease is the right, for a while, to make one attempt at a delivery. It ends
// with one of its methods, or by itself after the lane's AckWait.
type Lease struct {
	nc       *nats.Conn
	reply    string // where its end is told to
	delivery event.Delivery
	trace    string
	arrived  time.Time
	lane     *lane
	left     atomic.Bool // its slot is free
	since    time.Time   // handed out, or extended last
}

// newLease reads a message that a pull brought.
func newLease(nc *nats.Conn, msg *nats.Msg) (*Lease, error) {
	attempt, seq, at, err := parseReply(msg.Reply)
	if err != nil {
		return nil, err
	}
	d, err := parse(msg.Subject, msg.Header, msg.Data, seq, at)
	if err != nil {
		return nil, err
	}
	d.Attempt = d.Tries + attempt
	return &Lease{nc: nc, reply: msg.Reply, delivery: d, trace: msg.Header.Get(topology.HeaderTrace), arrived: time.Now(), since: time.Now()}, nil
}

// parseReply reads the server's reply subject,
// $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>,
// which has two more tokens (domain and account) in front of the stream and one
// behind in the newer form (ADR-15 of nats-architecture-and-design).
func parseReply(reply string) (attempt int, seq uint64, at time.Time, err error) {
	rest, ok := strings.CutPrefix(reply, "$JS.ACK.")
	if ok {
		if n := strings.Count(rest, "."); n >= 8 {
			_, rest, _ = strings.Cut(rest, ".")
			_, rest, _ = strings.Cut(rest, ".")
		}
		_, rest, _ = strings.Cut(rest, ".")
		_, rest, _ = strings.Cut(rest, ".")
		var delivered, sseq, nanos string
		delivered, rest, _ = strings.Cut(rest, ".")
		sseq, rest, _ = strings.Cut(rest, ".")
		_, rest, _ = strings.Cut(rest, ".")
		nanos, _, _ = strings.Cut(rest, ".")
		a, err1 := strconv.Atoi(delivered)
		s, err2 := strconv.ParseUint(sseq, 10, 64)
		n, err3 := strconv.ParseInt(nanos, 10, 64)
		if err1 == nil && err2 == nil && err3 == nil {
			return a, s, time.Unix(0, n), nil
		}
	}
	return 0, 0, time.Time{}, fmt.Errorf("queue: reply subject %q is not JetStream's", reply)
}

// A Ref is a lease written down, so that another process can end it. Whoever has one
// can end the lease: what leaves the platform must be sealed.
type Ref struct {
	Reply    string
	Delivery event.Delivery
	Trace    string
}

// Ref returns the lease written down. Its slot in its lane stays behind.
func (l *Lease) Ref() Ref { return Ref{Reply: l.reply, Delivery: l.delivery, Trace: l.trace} }

// Lease returns the lease that a Ref is of.
func (q *Queue) Lease(r Ref) (*Lease, error) {
	if _, _, _, err := parseReply(r.Reply); err != nil {
		return nil, err
	}
	return &Lease{nc: q.nc, reply: r.Reply, delivery: r.Delivery, trace: r.Trace}, nil
}

// Delivery returns what is to be delivered.
func (l *Lease) Delivery() *event.Delivery { return &l.delivery }

// Arrived returns when the lease came here: a little after it began.
func (l *Lease) Arrived() time.Time { return l.arrived }

// TraceParent returns the W3C trace context that the delivery was queued with.
func (l *Lease) TraceParent() string { return l.trace }

// Leave gives the lease's slot in its lane to another one, before the lease ends. It
// reports false if it has been given before.
func (l *Lease) Leave() bool {
	if l.lane == nil || !l.left.CompareAndSwap(false, true) {
		return false
	}
	l.lane.release()
	return true
}

// Done ends the lease: the delivery is settled and gone. If the server does not
// hear of it, the lease runs out and the delivery comes again.
func (l *Lease) Done() error { return l.end([]byte("+ACK")) }

// Retry ends the lease: the delivery comes again after delay, as long as it has
// tries left.
func (l *Lease) Retry(delay time.Duration) error {
	return l.end([]byte(`-NAK {"delay":` + strconv.FormatInt(int64(delay), 10) + `}`))
}

// Kill ends the lease: the delivery is gone, for a reason that the server's
// advisory repeats.
func (l *Lease) Kill(reason string) error { return l.end([]byte("+TERM " + reason)) }

// Extend makes the lease last for another AckWait from now. It must not be called
// side by side with itself or Age.
func (l *Lease) Extend() error {
	now := time.Now()
	err := l.end([]byte("+WPI"))
	if err == nil {
		l.since = now
	}
	return err
}

// Age returns how long ago the lease began, or was extended last.
func (l *Lease) Age() time.Duration { return time.Since(l.since) }

func (l *Lease) end(verb []byte) error {
	if err := l.nc.Publish(l.reply, verb); err != nil {
		return fmt.Errorf("queue: settle %s: %w", l.delivery.Key(), err)
	}
	return nil
}
