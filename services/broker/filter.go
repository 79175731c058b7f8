package broker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/stream"
	"github.com/posthornhq/posthorn/pkg/subscription"
)

// A view is what expressions of subscriptions see of one event while it is routed:
// what the headers say, for as long as that does, and then the stored event, read
// once for all.
type view struct {
	b         *Broker
	ev        *event.Event // as the headers have it
	head      *subscription.Facts
	whole     *subscription.Facts
	wholeFrom *event.Event
}

// view returns a view of ev; full is the stored event, nil if it was not read yet.
func (b *Broker) view(ev, full *event.Event) *view { return &view{b: b, ev: ev, wholeFrom: full} }

// facts returns what an expression needs. An event that cannot be read now makes
// its routing fail, to be repeated.
func (v *view) facts(ctx context.Context, needsEvent bool) (*subscription.Facts, error) {
	if !needsEvent && v.whole == nil {
		if v.head == nil {
			v.head = subscription.NewFacts(v.ev)
		}
		return v.head, nil
	}
	if v.whole != nil {
		return v.whole, nil
	}
	if v.wholeFrom == nil {
		full, err := v.b.Store.Get(ctx, v.ev.ID)
		if err != nil {
			return nil, fmt.Errorf("broker: read %s for a filter: %w", v.ev.ID, err)
		}
		v.wholeFrom = full
	}
	v.whole = subscription.NewFacts(v.wholeFrom)
	return v.whole, nil
}

// passes evaluates a filter. One that cannot be evaluated lets nothing pass, and is
// noted for those who look for the event, where the rate of notes allows.
func (b *Broker) passes(ctx context.Context, s *subscription.Subscription, v *view) (bool, *stream.Pending, error) {
	facts, err := v.facts(ctx, s.Filter.NeedsEvent())
	if err != nil {
		return false, nil, err
	}
	ok, err := s.Filter.EvalFacts(ctx, facts)
	if err == nil {
		return ok, nil, nil
	}
	b.Metrics.filterErrors.Inc()
	now := time.Now()
	if !b.noted.allow(s.Name, now) {
		return false, nil, nil
	}
	b.Log.Warn("a filter could not be evaluated; the event does not match", "event", v.ev.ID, "subscription", s.Name, "err", err)
	note, err := b.Ledger.FilterFailed(v.ev.ID, s.Name, err.Error(), now)
	if err != nil {
		return false, nil, err
	}
	return false, &note, nil
}

// noteEvery is how often a subscription's filter is noted as failing. A filter that
// asks for a field that is not there does so for each event.
const noteEvery = time.Second

// notes remembers when a subscription was noted last. The zero value is usable.
type notes struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (n *notes) allow(name string, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if now.Sub(n.last[name]) < noteEvery {
		return false
	}
	if n.last == nil || len(n.last) > 10_000 { // subscriptions come and go
		n.last = map[string]time.Time{}
	}
	n.last[name] = now
	return true
}
