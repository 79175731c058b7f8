package broker

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/alerts"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/pattern"
	"github.com/posthornhq/posthorn/pkg/stream"
	"github.com/posthornhq/posthorn/pkg/subscription"
)

const (
	// routeAhead is how many events are pulled ahead of being settled.
	routeAhead = 2048
	// routeRetry is the pause before the routing of an event is repeated.
	routeRetry = time.Second
)

// routing is an event whose deliveries are on their way into the queue.
type routing struct {
	msg    jetstream.Msg
	queued []stream.Pending
	err    error
}

// Run routes until ctx is done, finishes what it has begun, and returns nil. It
// returns an error only if it cannot go on.
func (b *Broker) Run(ctx context.Context, js jetstream.JetStream) error {
	consumer, err := js.Consumer(ctx, topology.StreamEvents, topology.ConsumerRouter)
	if err != nil {
		return fmt.Errorf("broker: look up the router's consumer: %w", err)
	}
	// Routing outlives the signal that stops it, by the time of one publish.
	work := context.WithoutCancel(ctx)

	begun := make(chan routing, routeAhead)
	settled := make(chan struct{})
	go func() {
		defer close(settled)
		for r := range begun {
			b.settle(work, r)
		}
	}()
	var matches []*subscription.Subscription
	run, err := consumer.Consume(func(msg jetstream.Msg) {
		var r routing
		r, matches = b.route(work, msg, matches[:0])
		begun <- r
	}, jetstream.PullMaxMessages(routeAhead), jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		if ctx.Err() == nil {
			b.Log.Warn("the router's consumer complains", "err", err)
		}
	}))
	if err != nil {
		close(begun)
		return fmt.Errorf("broker: consume EVENTS: %w", err)
	}
	<-ctx.Done()
	run.Drain()
	<-run.Closed()
	close(begun)
	<-settled
	return nil
}

// route begins to queue an event's deliveries. Its result is settled later, so
// that the next event need not wait for the queue's answers.
func (b *Broker) route(ctx context.Context, msg jetstream.Msg, matches []*subscription.Subscription) (routing, []*subscription.Subscription) {
	r := routing{msg: msg}
	ev, revision, err := header(msg)
	if err != nil {
		// Written by hand: no event of ours. It cannot become one.
		b.Log.Error("a message on EVENTS is no event's ID; it is passed over", "subject", msg.Subject(), "err", err)
		return r, matches
	}
	if matches, err = b.match(ctx, ev, matches); err != nil {
		r.err = err
		return r, matches
	}
	var notes []stream.Pending
	seen := b.view(ev, nil)
	for _, s := range matches {
		if s.Filter != nil {
			ok, note, err := b.passes(ctx, s, seen)
			if err != nil {
				r.err = err
				return r, matches
			}
			if note != nil {
				notes = append(notes, *note)
			}
			if !ok {
				continue
			}
		}
		d := event.Delivery{
			Event: ev.ID, Subscription: s.Name, Round: 1, Policy: s.Policy, Priority: s.Priority, Revision: revision,
		}
		r.queued = append(r.queued, b.Queue.Enqueue(&d, ev.TraceParent))
	}
	if len(r.queued) == 0 {
		mark, err := b.Ledger.Unmatched(ev.ID, time.Now())
		if err != nil {
			r.err = err
			return r, matches
		}
		b.Metrics.unmatched.Inc()
		r.queued = append(append(r.queued, mark), notes...)
		return r, matches
	}
	b.Metrics.routed.Add(float64(len(r.queued)))
	r.queued = append(r.queued, notes...)
	if md, err := msg.Metadata(); err == nil {
		b.Metrics.lag(md.Timestamp)
	}
	return r, matches
}

// match finds the subscriptions that want an event, but for what their filters say.
func (b *Broker) match(ctx context.Context, ev *event.Event, matches []*subscription.Subscription) ([]*subscription.Subscription, error) {
	index := b.Catalog.Subscriptions()
	alert := ev.Direction == event.Outgoing && alerts.Is(ev.Type)
	if !alert && !isVersionUpdate(ev) {
		return index.Match(ev, matches), nil
	}
	// Whom these are for depends on their subject, which the headers don't have.
	full, err := b.Store.Get(ctx, ev.ID)
	if err != nil {
		return matches, fmt.Errorf("broker: read %s: %w", ev.ID, err)
	}
	if alert {
		return wanted(index.Match(full, matches), full), nil
	}
	return index.MatchTypes(matches, ev.Type, full.Subject), nil
}

// settle waits until an event's deliveries are queued, and acknowledges last.
func (b *Broker) settle(ctx context.Context, r routing) {
	err := r.err
	for i := range r.queued {
		if _, wErr := r.queued[i].Wait(ctx); wErr != nil {
			err = wErr
		}
	}
	if err == nil {
		if err := r.msg.Ack(); err != nil {
			b.Log.Warn("a routed event was not acknowledged; it is routed again, and its deliveries are known", "err", err)
		}
		return
	}
	b.Metrics.routeErrors.Inc()
	b.Log.Warn("an event could not be routed; it will be tried again", "event", string(r.msg.Data()), "err", err)
	if err := r.msg.NakWithDelay(routeRetry); err != nil {
		b.Log.Warn("its repeat waits for the consumer's AckWait", "err", err)
	}
}

// header reads from a message of EVENTS what routing needs: everything that
// patterns ask for, and filters as long as they need not see the event itself, and
// the revision.
func header(msg jetstream.Msg) (*event.Event, uint64, error) {
	d, context, tokens, err := topology.ParseEventSubject(msg.Subject())
	if err != nil {
		return nil, 0, fmt.Errorf("broker: %w", err)
	}
	h := msg.Headers()
	typ := h.Get(topology.HeaderType)
	if typ == "" {
		if typ, err = pattern.DecodeType(tokens); err != nil {
			return nil, 0, err
		}
	}
	revision, err := strconv.ParseUint(h.Get(topology.HeaderRevision), 10, 64)
	if err != nil {
		return nil, 0, fmt.Errorf("broker: header %s: %w", topology.HeaderRevision, err)
	}
	return &event.Event{
		ID: string(msg.Data()), Type: typ, Direction: d, Context: context,
		Source: h.Get(topology.HeaderSource), Tenant: h.Get(topology.HeaderTenant), TraceParent: h.Get(topology.HeaderTrace),
	}, revision, nil
}
