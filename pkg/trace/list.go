package trace

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/ledger"
	"github.com/posthornhq/posthorn/pkg/pattern"
	"github.com/posthornhq/posthorn/pkg/stream"
)

// A Query selects events.
type Query struct {
	Type                    string // a type or a pattern of types
	Source, Context, Tenant string
	Status                  string
	// ID is that of the only event wanted; Subscription keeps those that have a
	// delivery to it, whose status then counts alone; Answer is the HTTP status of
	// the last attempt at some delivery: "503", "5xx", or "0" for no answer.
	ID, Subscription, Answer string
	Direction                *event.Direction
	From, To                 time.Time // of acceptance; From is included, To is not
	Limit                    int
	Cursor                   string
}

// A Summary is an event in a list.
type Summary struct {
	ID, Type, Source, Context, Tenant string
	Direction                         event.Direction
	Received                          time.Time
	Sequence                          uint64
	Status                            string
}

// List returns a page of events, newest first, and the cursor of the next, ""
// on the last.
func (t *Tracer) List(ctx context.Context, q Query) ([]Summary, string, error) {
	var before uint64
	if q.Cursor != "" {
		n, err := strconv.ParseUint(q.Cursor, 10, 64)
		if err != nil || n == 0 {
			return nil, "", errs.Field("cursor", "%q is not one that a list gave", q.Cursor)
		}
		before = n
	}
	keep, err := q.filter()
	if err != nil {
		return nil, "", err
	}
	if page, next, ok, err := t.listIndexed(ctx, &q, keep, before); ok || err != nil {
		return page, cursorOf(next), err
	}
	for end := time.Now().Add(listFor); ; {
		page, next, err := t.page(ctx, &q, keep, before)
		if err != nil {
			return nil, "", err
		}
		if page, err = t.statuses(ctx, &q, page); err != nil {
			return nil, "", err
		}
		// A page without a hit is not the end; go on, until there is one or it takes
		// too long.
		if len(page) == 0 && next > 0 && ctx.Err() == nil && time.Now().Before(end) {
			before = next
			continue
		}
		return page, cursorOf(next), nil
	}
}

// listFor is how long a list looks for the first hit. Then it answers with an
// empty page and a cursor.
const listFor = 10 * time.Second

func cursorOf(next uint64) string {
	if next == 0 {
		return ""
	}
	return strconv.FormatUint(next, 10)
}

func (q *Query) filter() (func(*Summary) bool, error) {
	var types *pattern.Pattern
	if q.Type != "" {
		p, err := pattern.Parse(q.Type)
		if err != nil {
			return nil, errs.Field("type", "%v", err)
		}
		types = &p
	}
	return func(s *Summary) bool {
		return (types == nil || types.Match(s.Type)) &&
			(q.ID == "" || s.ID == q.ID) &&
			(q.Source == "" || s.Source == q.Source) &&
			(q.Context == "" || s.Context == q.Context) &&
			(q.Tenant == "" || s.Tenant == q.Tenant) &&
			(q.Direction == nil || s.Direction == *q.Direction)
	}, nil
}

// page reads one page and the sequence to go on before, 0 at the beginning.
func (t *Tracer) page(ctx context.Context, q *Query, keep func(*Summary) bool, before uint64) ([]Summary, uint64, error) {
	var out []Summary
	past := false
	next, err := stream.Backwards(ctx, t.js, topology.StreamEvents, topology.Everything, before, func(m *jetstream.RawStreamMsg) (bool, error) {
		if !q.From.IsZero() && m.Time.Before(q.From) {
			past = true
			return false, nil
		}
		if !q.To.IsZero() && !m.Time.Before(q.To) {
			return true, nil
		}
		if s, ok := summarize(m); ok && keep(&s) {
			out = append(out, s)
		}
		return len(out) <= q.Limit, nil // one more, to know whether there is one
	})
	if err != nil {
		return nil, 0, fmt.Errorf("trace: list events: %w", err)
	}
	if past {
		next = 0
	}
	if len(out) > q.Limit {
		out = out[:q.Limit]
		next = out[q.Limit-1].Sequence
	}
	return out, next, nil
}

func summarize(m *jetstream.RawStreamMsg) (Summary, bool) {
	d, context, _, err := topology.ParseEventSubject(m.Subject)
	if err != nil {
		return Summary{}, false
	}
	return Summary{
		ID: string(m.Data), Type: m.Header.Get(topology.HeaderType), Source: m.Header.Get(topology.HeaderSource),
		Context: context, Tenant: m.Header.Get(topology.HeaderTenant), Direction: d, Received: m.Time, Sequence: m.Sequence,
	}, true
}

// facts are what is known of an event's deliveries.
type facts struct {
	attempts     []attemptKind // in the order of time
	queued, dead []delivery
}

// judge puts facts together, those of one subscription alone if the query names
// one, and reports whether the query wants such an event, whatever its status.
func (f *facts) judge(q *Query) (status string, wanted bool) {
	sum := newSummary()
	type answer struct{ round, status int }
	last := map[string]answer{}
	theirs := func(sub string) bool {
		ok := q.Subscription == "" || sub == q.Subscription
		wanted = wanted || ok
		return ok
	}
	for _, a := range f.attempts {
		if !theirs(a.subscription) {
			continue
		}
		sum.attempt(&event.Attempt{Subscription: a.subscription, Round: a.round, Outcome: a.outcome})
		if a.outcome != ledger.Unmatched && a.round >= last[a.subscription].round {
			last[a.subscription] = answer{a.round, a.status}
		}
	}
	for _, d := range f.queued {
		if theirs(d.subscription) {
			sum.queued(d)
		}
	}
	for _, d := range f.dead {
		if theirs(d.subscription) {
			sum.dead(d)
		}
	}
	wanted = wanted || q.Subscription == ""
	if q.Answer != "" {
		some := false
		for _, a := range last {
			some = some || deadletter.StatusIs(a.status, q.Answer)
		}
		wanted = wanted && some
	}
	return sum.status(), wanted
}

// decide gives the events of a page their statuses and keeps those that the query
// wants.
func (q *Query) decide(page []Summary, known []facts, routed uint64) []Summary {
	kept := page[:0]
	for i, s := range page {
		status, ok := known[i].judge(q)
		if status == Accepted && s.Sequence <= routed {
			status = Pending
		}
		if s.Status = status; ok && (q.Status == "" || status == q.Status) {
			kept = append(kept, s)
		}
	}
	return kept
}

// statuses finds out what became of the events of a page, from one read each of
// the records, the queue and the dead letters since the oldest.
func (t *Tracer) statuses(ctx context.Context, q *Query, page []Summary) ([]Summary, error) {
	if len(page) == 0 {
		return page, nil
	}
	known := make([]facts, len(page))
	of := make(map[string]*facts, len(page))
	for i := range page {
		of[page[i].ID] = &known[i]
	}
	since := page[len(page)-1].Received.Add(-skew)
	if err := t.ledger.Latest(ctx, since, func(a *event.Attempt) {
		if f := of[a.Event]; f != nil {
			f.attempts = append(f.attempts, attemptKind{a.Subscription, a.Outcome, a.Round, a.Status})
		}
	}); err != nil {
		return nil, err
	}
	if err := t.eachQueued(ctx, since, func(id string, d delivery, _ time.Time) {
		if f := of[id]; f != nil {
			f.queued = append(f.queued, d)
		}
	}); err != nil {
		return nil, err
	}
	if err := t.buried(ctx, since, of); err != nil {
		return nil, err
	}
	routed, err := t.routed(ctx)
	return q.decide(page, known, routed), err
}

// routed returns up to where events are routed.
func (t *Tracer) routed(ctx context.Context) (uint64, error) {
	consumer, err := t.js.Consumer(ctx, topology.StreamEvents, topology.ConsumerRouter)
	if err != nil {
		return 0, fmt.Errorf("trace: look at the router: %w", err)
	}
	return consumer.CachedInfo().AckFloor.Stream, nil
}

// buried adds the dead letters since a time.
func (t *Tracer) buried(ctx context.Context, since time.Time, of map[string]*facts) error {
	for before := ""; ; {
		letters, next, err := t.letters.List(ctx, deadletter.Query{From: since, Before: before, Limit: 1000})
		if err != nil {
			return err
		}
		for i := range letters {
			if f := of[letters[i].Event]; f != nil {
				f.dead = append(f.dead, delivery{letters[i].Subscription, letters[i].Round})
			}
		}
		if next == "" {
			return nil
		}
		before = next
	}
}
