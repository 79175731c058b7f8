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
	"github.com/posthornhq/posthorn/pkg/pattern"
	"github.com/posthornhq/posthorn/pkg/stream"
)

// A Query selects events.
type Query struct {
	Type                    string // a type or a pattern of types
	Source, Context, Tenant string
	Status                  string
	Direction               *event.Direction
	From, To                time.Time // of acceptance; From is included, To is not
	Limit                   int
	Cursor                  string
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
	for {
		page, next, err := t.page(ctx, &q, keep, before)
		if err != nil {
			return nil, "", err
		}
		if err := t.statuses(ctx, page); err != nil {
			return nil, "", err
		}
		if q.Status != "" {
			wanted := page[:0]
			for _, s := range page {
				if s.Status == q.Status {
					wanted = append(wanted, s)
				}
			}
			// A page without a hit is not the end; go on, until there is one.
			if len(wanted) == 0 && next > 0 && ctx.Err() == nil {
				before = next
				continue
			}
			page = wanted
		}
		if next == 0 {
			return page, "", nil
		}
		return page, strconv.FormatUint(next, 10), nil
	}
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
	next, err := stream.Backwards(ctx, t.js, topology.StreamEvents, topology.LiveEvents, before, func(m *jetstream.RawStreamMsg) (bool, error) {
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

// statuses fills in what became of the events of a page, from one read each of
// the records, the queue and the dead letters since the oldest.
func (t *Tracer) statuses(ctx context.Context, page []Summary) error {
	if len(page) == 0 {
		return nil
	}
	known := make(map[string]*summary, len(page))
	for i := range page {
		known[page[i].ID] = newSummary()
	}
	since := page[len(page)-1].Received.Add(-skew)
	if err := t.ledger.Latest(ctx, since, func(a *event.Attempt) {
		if s := known[a.Event]; s != nil {
			s.attempt(a)
		}
	}); err != nil {
		return err
	}
	if err := t.eachQueued(ctx, since, func(id string, d delivery, _ time.Time) {
		if s := known[id]; s != nil {
			s.queued(d)
		}
	}); err != nil {
		return err
	}
	if err := t.buried(ctx, since, known); err != nil {
		return err
	}
	consumer, err := t.js.Consumer(ctx, topology.StreamEvents, topology.ConsumerRouter)
	if err != nil {
		return fmt.Errorf("trace: look at the router: %w", err)
	}
	routed := consumer.CachedInfo().AckFloor.Stream
	for i := range page {
		page[i].Status = known[page[i].ID].status()
		if page[i].Status == Accepted && page[i].Sequence <= routed {
			page[i].Status = Pending
		}
	}
	return nil
}

// buried tells the summaries of the dead letters since a time, at most lookFor of them.
func (t *Tracer) buried(ctx context.Context, since time.Time, known map[string]*summary) error {
	const batch = 1000
	before := ""
	for range lookFor / batch {
		letters, next, err := t.letters.List(ctx, deadletter.Query{From: since, Before: before, Limit: batch})
		if err != nil {
			return err
		}
		for i := range letters {
			if s := known[letters[i].Event]; s != nil {
				s.dead(delivery{letters[i].Subscription, letters[i].Round})
			}
		}
		if next == "" {
			return nil
		}
		before = next
	}
	return nil
}
