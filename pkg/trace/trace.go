package trace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/ledger"
	"github.com/posthornhq/posthorn/pkg/pattern"
	"github.com/posthornhq/posthorn/pkg/store"
	"github.com/posthornhq/posthorn/pkg/stream"
)

// A Trace is all that happened to an event.
type Trace struct {
	Event   *event.Event
	Status  string // see [Statuses]
	Entries []Entry
}

// An Entry is one thing that happened.
type Entry struct {
	At                    time.Time
	Step, Outcome, Detail string
	Took                  time.Duration
	// Subscription, Round and Attempt are set in steps of one delivery.
	Subscription string
	Round        int
	Attempt      *event.Attempt
}

// What can be said of an event and its deliveries together.
const (
	Accepted  = "accepted"  // stored, not routed yet
	Unmatched = "unmatched" // no subscription wants it
	Pending   = "pending"   // queued, no attempt yet
	Delivered = "delivered" // all deliveries succeeded
	Retrying  = "retrying"  // some delivery waits for its next try
	Failed    = "failed"    // some delivery was given up
)

// A Tracer answers questions about events. It is safe for concurrent use.
type Tracer struct {
	js      jetstream.JetStream
	events  *store.Store
	ledger  *ledger.Ledger
	letters *deadletter.Letters
	index   atomic.Pointer[index]
	indexed chan struct{} // closed when the index has all that it will have of what is old
}

// New returns a Tracer.
func New(js jetstream.JetStream, events *store.Store, l *ledger.Ledger, letters *deadletter.Letters) *Tracer {
	return &Tracer{js: js, events: events, ledger: l, letters: letters, indexed: make(chan struct{})}
}

// skew is how far the clocks of who received an event and of the server that
// stored it may differ.
const skew = time.Minute

// Trace returns all that happened to an event. The error is of kind
// [errs.NotFound] if there is none.
func (t *Tracer) Trace(ctx context.Context, id string) (*Trace, error) {
	ev, err := t.events.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	out := &Trace{Event: ev}
	add := func(e Entry) { out.Entries = append(out.Entries, e) }
	add(Entry{At: ev.Received, Step: "received", Outcome: "ok", Detail: ev.Direction.String() + " " + ev.Type + " from " + ev.Source})
	for _, s := range ev.Receipt {
		add(Entry{At: s.At, Step: s.Name, Outcome: s.Outcome, Detail: s.Detail, Took: s.Took})
	}
	seq, at, revision, err := t.stored(ctx, ev)
	if err != nil {
		return nil, err
	}
	if seq > 0 {
		add(Entry{At: at, Step: "stored", Outcome: "ok", Detail: "EVENTS sequence " + strconv.FormatUint(seq, 10) + ", revision " + revision})
	}
	attempts, err := t.attemptsOf(ctx, ev)
	if err != nil {
		return nil, err
	}
	sum := newSummary()
	routed := map[delivery]bool{}
	for i := range attempts {
		a := &attempts[i]
		sum.attempt(a)
		if a.Outcome == ledger.Unmatched {
			add(Entry{At: a.At, Step: "unmatched", Outcome: "ok", Detail: "no subscription matched"})
			continue
		}
		if a.Outcome == ledger.FilterError {
			add(Entry{At: a.At, Step: "filter", Outcome: "error", Detail: "no match, since the filter could not be evaluated: " + a.Error, Subscription: a.Subscription})
			continue
		}
		if d := (delivery{a.Subscription, a.Round}); !routed[d] && !a.Queued.IsZero() {
			routed[d] = true
			add(Entry{At: a.Queued, Step: "routed", Outcome: "ok", Subscription: a.Subscription, Round: a.Round})
		}
		add(Entry{At: a.At, Step: "attempt", Outcome: string(a.Outcome), Detail: a.Error, Took: a.Latency, Subscription: a.Subscription, Round: a.Round, Attempt: a})
	}
	queued, err := t.queued(ctx, ev)
	if err != nil {
		return nil, err
	}
	for d, at := range queued {
		sum.queued(d)
		if !routed[d] {
			add(Entry{At: at, Step: "routed", Outcome: "ok", Detail: "waits for its first attempt", Subscription: d.subscription, Round: d.round})
		}
	}
	letters, err := t.lettersOf(ctx, ev)
	if err != nil {
		return nil, err
	}
	for i := range letters {
		l := &letters[i]
		sum.dead(delivery{l.Subscription, l.Round})
		add(Entry{At: l.At, Step: "dead-letter", Outcome: l.Reason, Detail: l.Detail, Subscription: l.Subscription, Round: l.Round})
	}
	slices.SortStableFunc(out.Entries, func(a, b Entry) int { return a.At.Compare(b.At) })
	out.Status = sum.status()
	return out, nil
}

var errFound = errors.New("found")

// lookFor bounds how many messages are read to find one.
const lookFor = 20_000

// stored finds where an event's ID stands on EVENTS.
func (t *Tracer) stored(ctx context.Context, ev *event.Event) (seq uint64, at time.Time, revision string, err error) {
	if msg, ok, err := known(ctx, t, ev, func(x *index) *column[eventKind] { return x.events }); err != nil {
		return 0, time.Time{}, "", err
	} else if ok {
		for _, m := range msg {
			if m != nil {
				return m.Sequence, m.Time, m.Header.Get(topology.HeaderRevision), nil
			}
		}
		return 0, time.Time{}, "", nil
	}
	n := 0
	subject := topology.EventSubject(ev.Direction, ev.Context, pattern.EncodeType(ev.Type))
	err = stream.Each(ctx, t.js, topology.StreamEvents, subject, ev.Received.Add(-skew), 500, func(m *jetstream.RawStreamMsg) error {
		if n++; string(m.Data) == ev.ID {
			seq, at, revision = m.Sequence, m.Time, m.Header.Get(topology.HeaderRevision)
			return errFound
		}
		if n >= lookFor || m.Time.After(ev.Received.Add(2*skew)) {
			return errFound
		}
		return nil
	})
	if err != nil && !errors.Is(err, errFound) {
		return 0, time.Time{}, "", fmt.Errorf("trace: find %s on EVENTS: %w", ev.ID, err)
	}
	return seq, at, revision, nil
}

// queued returns an event's deliveries that are in the queue.
func (t *Tracer) queued(ctx context.Context, ev *event.Event) (map[delivery]time.Time, error) {
	out := map[delivery]time.Time{}
	err := t.eachQueued(ctx, ev.Received.Add(-skew), func(id string, d delivery, at time.Time) {
		if id == ev.ID {
			out[d] = at
		}
	})
	return out, err
}

// eachQueued calls f with the event and the time of each delivery that was
// queued since a time and still is, at most lookFor of them.
func (t *Tracer) eachQueued(ctx context.Context, since time.Time, f func(id string, d delivery, at time.Time)) error {
	n := 0
	err := stream.Each(ctx, t.js, topology.StreamDeliveries, topology.Everything, since, 500, func(m *jetstream.RawStreamMsg) error {
		if n++; n > lookFor {
			return errFound
		}
		queued, ok := topology.ParseDeliverySubject(m.Subject)
		if !ok {
			return nil
		}
		round := 1
		if v, err := strconv.Atoi(m.Header.Get(topology.HeaderRound)); err == nil {
			round = v
		}
		f(string(m.Data), delivery{queued.Subscription, round}, m.Time)
		return nil
	})
	if err != nil && !errors.Is(err, errFound) {
		return fmt.Errorf("trace: look into the queue: %w", err)
	}
	return nil
}

type delivery struct {
	subscription string
	round        int
}

// summary puts together what is known of an event's deliveries. Only the
// newest round of each counts.
type summary struct {
	unmatched bool
	round     map[string]int
	state     map[string]string
}

func newSummary() *summary {
	return &summary{round: map[string]int{}, state: map[string]string{}}
}

func (s *summary) set(d delivery, state string) {
	if d.round < s.round[d.subscription] {
		return
	}
	s.round[d.subscription], s.state[d.subscription] = d.round, state
}

func (s *summary) attempt(a *event.Attempt) {
	d := delivery{a.Subscription, a.Round}
	switch a.Outcome {
	case ledger.Unmatched:
		s.unmatched = true
	case ledger.FilterError: // no delivery came of it
	case event.Delivered:
		s.set(d, Delivered)
	case event.Retry:
		if s.state[a.Subscription] != Delivered || d.round > s.round[a.Subscription] {
			s.set(d, Retrying)
		}
	default:
		s.set(d, Failed)
	}
}

func (s *summary) queued(d delivery) {
	if d.round > s.round[d.subscription] {
		s.set(d, Pending)
	}
}

func (s *summary) dead(d delivery) { s.set(d, Failed) }

func (s *summary) status() string {
	all := map[string]bool{}
	for _, st := range s.state {
		all[st] = true
	}
	for _, st := range []string{Failed, Retrying, Pending, Delivered} {
		if all[st] {
			return st
		}
	}
	if s.unmatched {
		return Unmatched
	}
	return Accepted
}
