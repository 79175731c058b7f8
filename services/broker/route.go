package broker

import (
	"context"
	"fmt"
	"strconv"
	"sync"
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
	// ordered deliveries are queued in the order of acceptance.
	ordered []event.Delivery
	trace   string
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
	order := newSequencer(consumer.CachedInfo().AckFloor.Stream)
	orderCtx, stopOrder := context.WithCancel(work)
	var ordering sync.WaitGroup
	ordering.Go(func() { order.run(orderCtx, js) })
	var matches []*subscription.Subscription
	run, err := consumer.Consume(func(msg jetstream.Msg) {
		var r routing
		r, matches = b.route(work, msg, matches[:0])
		if r.err != nil {
			begun <- r // and those that come after it in order wait for it
			return
		}
		order.route(sequence(msg), len(r.ordered) > 0, func() {
			for i := range r.ordered {
				r.queued = append(r.queued, b.Queue.Enqueue(&r.ordered[i], r.trace))
			}
			begun <- r
		}, func() { b.again(r.msg) })
	}, jetstream.PullMaxMessages(routeAhead), jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		if ctx.Err() == nil {
			b.Log.Warn("the router's consumer complains", "err", err)
		}
	}))
	if err != nil {
		stopOrder()
		close(begun)
		return fmt.Errorf("broker: consume EVENTS: %w", err)
	}
	<-ctx.Done()
	run.Drain()
	<-run.Closed()
	stopOrder()
	ordering.Wait()
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
			Own: b.ownLane(s),
		}
		if s.Ordered {
			if d.Part, err = b.part(ctx, s, seen); err != nil {
				r.err = err
				return r, matches
			}
			d.Place = sequence(msg)
			r.ordered, r.trace = append(r.ordered, d), ev.TraceParent
			continue
		}
		r.queued = append(r.queued, b.Queue.Enqueue(&d, ev.TraceParent))
	}
	if len(r.queued)+len(r.ordered) == 0 {
		mark, err := b.Ledger.Unmatched(ev.ID, time.Now())
		if err != nil {
			r.err = err
			return r, matches
		}
		b.Metrics.unmatched.Inc()
		r.queued = append(append(r.queued, mark), notes...)
		return r, matches
	}
	b.Metrics.routed.Add(float64(len(r.queued) + len(r.ordered)))
	r.queued = append(r.queued, notes...)
	if md, err := msg.Metadata(); err == nil {
		b.Metrics.lag(md.Timestamp)
	}
	return r, matches
}

// ownLane reports whether a subscription's deliveries go to its own lane. It may
// not have heard of the newest; then a dispatcher moves them.
func (b *Broker) ownLane(s *subscription.Subscription) bool {
	return s.OwnLane() || b.Lanes != nil && b.Lanes.Open(s.Name)
}

// part returns the part of its lane that an ordered delivery goes to.
func (b *Broker) part(ctx context.Context, s *subscription.Subscription, seen *view) (int, error) {
	if s.Key == nil {
		return 0, nil
	}
	facts, err := seen.facts(ctx, s.Key.NeedsEvent())
	if err != nil {
		return 0, err
	}
	return s.Part(ctx, facts), nil
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
	b.again(r.msg)
}

// again has an event routed again, soon.
func (b *Broker) again(msg jetstream.Msg) {
	if err := msg.NakWithDelay(routeRetry); err != nil {
		b.Log.Warn("an event's routing again waits for the consumer's AckWait", "err", err)
	}
}

// sequence returns the sequence of a message on EVENTS; 0 of what is none of its.
func sequence(msg jetstream.Msg) uint64 {
	md, err := msg.Metadata()
	if err != nil {
		return 0
	}
	return md.Sequence.Stream
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
