package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/policy"
	"github.com/posthornhq/posthorn/pkg/queue"
	"github.com/posthornhq/posthorn/pkg/subscription"
	"github.com/posthornhq/posthorn/pkg/telemetry"
	"github.com/posthornhq/posthorn/pkg/wire"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

const (
	// MaxFetch is how many deliveries a client may have asked for at once.
	MaxFetch = 1000
	// MaxWait is how long a fetch may wait for the first one.
	MaxWait = 30 * time.Second

	// fetchBytes is how much data is handed out at once, more or less: what is
	// fetched is in memory.
	fetchBytes = 16 << 20
	// prepareAtOnce is how many of the fetched deliveries are claimed and read at once.
	prepareAtOnce = 16
	// settleWait bounds the wait for what ends a lease, which goes on when the client
	// that asked for it has gone.
	settleWait = 30 * time.Second
	// leaseMargin is how much earlier a lease ends for clients than for the queue, for
	// which it began earlier.
	leaseMargin = time.Second
)

// A Puller hands the deliveries of pull subscriptions to those who ask for them,
// by the rules of all deliveries: claims, attempts, dead letters. It keeps nothing
// that another Puller needs: an answer is taken by any of them.
type Puller struct {
	d      *Dispatcher // what it works with; it is not run
	sealer Sealer
	// mayAnswer says whether a caller may end leases.
	mayAnswer func(ctx context.Context) error

	stopping chan struct{}
	stopOnce sync.Once

	mu      sync.Mutex
	changed chan struct{}     // closed and replaced when the catalog changed
	made    map[string]string // subscription → the settings of its lane's consumer
	held    map[string]func(until time.Time)
}

// NewPuller returns a Puller that works with the same parts as a Dispatcher; it has
// no need of Lanes, Open, Alerts and Disable. mayAnswer is asked whether the caller of
// a stream may end leases; nil lets everybody.
func NewPuller(d Deps, sealer Sealer, mayAnswer func(ctx context.Context) error, cfg Config) (*Puller, error) {
	if sealer == nil {
		return nil, errors.New("dispatcher: a Puller needs a sealer")
	}
	cfg.setDefaults()
	if d.Metrics == nil {
		d.Metrics = none()
	}
	if mayAnswer == nil {
		mayAnswer = func(context.Context) error { return nil }
	}
	return &Puller{
		d: &Dispatcher{Deps: d, cfg: cfg}, sealer: sealer, mayAnswer: mayAnswer,
		stopping: make(chan struct{}), changed: make(chan struct{}),
		made: map[string]string{}, held: map[string]func(time.Time){},
	}, nil
}

// Run ends what waits for deliveries when ctx is done, so that the doors can close.
func (p *Puller) Run(ctx context.Context) error {
	<-ctx.Done()
	p.stopOnce.Do(func() { close(p.stopping) })
	return nil
}

func (p *Puller) stopped() bool {
	select {
	case <-p.stopping:
		return true
	default:
		return false
	}
}

// CatalogChanged says that policies or subscriptions changed. It does not block.
func (p *Puller) CatalogChanged() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changed)
	p.changed = make(chan struct{})
	for name := range p.made {
		if sub, ok := p.d.Catalog.Subscription(name); !ok || sub.Disabled || !sub.Pulled {
			delete(p.made, name) // dispatchers may make of it what they want
		}
	}
}

func (p *Puller) change() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// subscription returns one that deliveries can be fetched of.
func (p *Puller) subscription(name string) (*subscription.Subscription, error) {
	if name == "" {
		return nil, errs.Field("subscription", "is required")
	}
	sub, ok := p.d.Catalog.Subscription(name)
	switch {
	case !ok:
		return nil, errs.New(errs.NotFound, "there is no subscription %q", name)
	case !sub.Pulled:
		return nil, errs.Field("subscription", "%q has its deliveries sent; only those of a subscription with destination.pull can be fetched", name)
	case sub.Disabled:
		return nil, errs.New(errs.Conflict, "subscription %q is disabled; set disabled to false first", name)
	}
	return sub, nil
}

// A pulled delivery is handed out, with its token.
type pulled struct {
	ticket  *ticket
	message *posthornv1.PulledDelivery
}

// next returns at most n deliveries of a subscription: those that there are, or the
// first that come within wait. It returns none while the subscription is paused, and
// when the Puller stops.
func (p *Puller) next(ctx context.Context, name string, n int, wait time.Duration) ([]pulled, error) {
	end := time.Now().Add(wait)
	for first := true; ; first = false {
		changed := p.change()
		sub, err := p.subscription(name)
		if err != nil {
			return nil, err
		}
		left := time.Until(end)
		if over(ctx) || p.stopped() || !first && left <= 0 {
			return nil, nil
		}
		if sub.MaxInFlight > 0 {
			n = min(n, sub.MaxInFlight)
		}
		if sub.Ordered {
			n = 1 // the server holds a request back that it cannot fill
		}
		if sub.Paused {
			timer := time.NewTimer(max(left, 0))
			select {
			case <-ctx.Done():
			case <-p.stopping:
			case <-changed:
			case <-timer.C:
			}
			timer.Stop()
			continue
		}
		got, err := p.fetch(ctx, sub, n, max(left, 0))
		if err != nil || len(got) > 0 {
			return got, err
		}
	}
}

// fetch takes leases and prepares them, until the subscription changes.
func (p *Puller) fetch(ctx context.Context, sub *subscription.Subscription, n int, wait time.Duration) ([]pulled, error) {
	pol := p.d.Catalog.Policy(sub.Policy)
	lane := queue.Own(sub.Name, 0)
	waiting, cancel := p.while(ctx, sub, pol)
	defer cancel()
	var leases []*queue.Lease
	for try := 1; ; try++ {
		err := p.ensure(ctx, sub, pol)
		if err == nil {
			leases, err = p.d.Queue.Fetch(waiting, lane, n, wait)
		}
		if errors.Is(err, queue.ErrNoLane) && try == 1 {
			p.mu.Lock()
			delete(p.made, sub.Name)
			p.mu.Unlock()
			continue
		}
		if err != nil {
			if over(ctx) {
				return nil, nil
			}
			return nil, errs.Wrap(err, errs.Unavailable, "the queue cannot be reached; try again")
		}
		break
	}
	if ctx.Err() != nil || !p.active(sub.Name) {
		p.giveBack(ctx, leases, sub)
		return nil, nil
	}
	got, err := p.prepareAll(ctx, leases, sub, pol)
	if ctx.Err() == nil {
		return got, err
	}
	for i := range got { // nobody is there to take them
		if lease, err := p.d.Queue.Lease(got[i].ticket.ref()); err == nil {
			p.d.giveBack(ctx, lease, sub.Ordered)
		}
	}
	return nil, nil
}

func over(ctx context.Context) bool { return ctx.Err() != nil }

// active reports whether deliveries of a subscription may be handed out now.
func (p *Puller) active(name string) bool {
	sub, err := p.subscription(name)
	return err == nil && !sub.Paused
}

// while returns a context that ends when what was read of the catalog is not so any
// more, or the Puller stops.
func (p *Puller) while(ctx context.Context, sub *subscription.Subscription, pol *policy.Policy) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		for {
			changed := p.change()
			if now, _ := p.d.Catalog.Subscription(sub.Name); now != sub || p.d.Catalog.Policy(sub.Policy) != pol {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-p.stopping:
				return
			case <-changed:
			}
		}
	}()
	return ctx, cancel
}

// ensure makes the consumer of a subscription's lane as its settings want it.
func (p *Puller) ensure(ctx context.Context, sub *subscription.Subscription, pol *policy.Policy) error {
	c := queue.LaneConfig{
		Lane: queue.Own(sub.Name, 0), Ordered: sub.Ordered, MaxDeliver: pol.MaxDeliver(), AckWait: sub.AckWait(), Describe: pol.Describe(),
	}
	if sub.Blocking {
		c.MaxDeliver = -1
	}
	settings := fmt.Sprint(c.MaxDeliver, c.AckWait, c.Ordered, c.Describe)
	p.mu.Lock()
	done := p.made[sub.Name] == settings
	p.mu.Unlock()
	if done {
		return nil
	}
	if err := p.d.Queue.EnsureLane(ctx, c); err != nil {
		return err
	}
	p.mu.Lock()
	p.made[sub.Name] = settings
	p.mu.Unlock()
	return nil
}

// prepareAll makes of leases what is handed out, in their order, without those that
// are not to be. What is too much, and what cannot be read now, is given back; an
// error is returned if nothing else is left.
func (p *Puller) prepareAll(ctx context.Context, leases []*queue.Lease, sub *subscription.Subscription, pol *policy.Policy) ([]pulled, error) {
	var out []pulled
	var failed error
	for size := 0; len(leases) > 0; {
		some := leases[:min(prepareAtOnce, len(leases))]
		if size > fetchBytes || failed != nil {
			break
		}
		leases = leases[len(some):]
		made := make([]*pulled, len(some))
		errors := make([]error, len(some))
		var wg sync.WaitGroup
		for i, lease := range some {
			wg.Go(func() { made[i], errors[i] = p.prepare(ctx, lease, sub, pol) })
		}
		wg.Wait()
		for i, one := range made {
			switch {
			case errors[i] != nil:
				failed = errors[i]
				p.giveBack(ctx, some[i:i+1], sub)
			case one != nil:
				size += len(one.message.GetEvent().GetData())
				out = append(out, *one)
			}
		}
	}
	p.giveBack(ctx, leases, sub)
	if failed != nil {
		p.d.Log.Error("deliveries were fetched and given back", "subscription", sub.Name, "err", failed)
		if len(out) == 0 {
			return nil, errs.Wrap(failed, errs.Unavailable, "the deliveries cannot be read now; try again")
		}
	}
	return out, nil
}

// prepare claims a delivery and reads its event. It returns nil for one that is not
// to be handed out.
func (p *Puller) prepare(ctx context.Context, lease *queue.Lease, sub *subscription.Subscription, pol *policy.Policy) (*pulled, error) {
	dl := lease.Delivery()
	dl.Policy, dl.Priority = sub.Policy, sub.Priority
	log := note{p.d.Log, dl}
	mine, err := p.d.claim(ctx, dl, pol)
	if errors.Is(err, errOriginal) {
		p.d.retry(lease, pol.AckWait(), log) // by then that is settled
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !mine {
		p.d.Metrics.duplicate()
		if err := lease.Done(); err != nil {
			log.with().Error("a duplicate was not settled; it will come again", "err", err)
		}
		return nil, nil
	}
	ev, err := p.d.Events.Get(ctx, dl.Event)
	if errs.KindOf(err) == errs.NotFound {
		p.d.giveUp(context.WithoutCancel(ctx), lease, letter(dl, nil, "missing", errs.MessageOf(err)), log)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if dl.Attempt-1 > dl.Tries { // there was a lease of this message before
		if err := p.expire(ctx, dl, ev, sub.AckWait()); err != nil {
			return nil, err
		}
	}
	own := telemetry.Child(lease.TraceParent())
	at := lease.Arrived()
	t := newTicket(lease, ev, own, at, at.Add(sub.AckWait()-min(sub.AckWait()/20, leaseMargin)))
	token, err := p.seal(t)
	if err != nil {
		return nil, err
	}
	m := wire.FromEvent(ev)
	m.Traceparent = own
	return &pulled{ticket: t, message: &posthornv1.PulledDelivery{
		Event: m, Subscription: sub.Name, Round: int32(dl.Round), Attempt: int32(dl.Attempt), WebhookId: ev.ID,
		Token: token, ExpiresAt: wire.Timestamp(t.Until), AckWait: wire.Duration(sub.AckWait()),
	}}, nil
}

// expire ends the lease before, unless a nack did, and records that it ran out. A nack
// that comes now would hit the lease that is about to be handed out.
func (p *Puller) expire(ctx context.Context, dl *event.Delivery, ev *event.Event, ackWait time.Duration) error {
	before, err := p.d.Claims.Claim(ctx, leaseKey(dl, dl.Attempt-1), "ran-out", ackWait)
	if err != nil {
		return err
	}
	if !before.Fresh {
		return nil
	}
	// A claim does not last for ever; what is recorded does.
	now := time.Now()
	known, err := p.d.Ledger.Attempts(ctx, ev.ID, ev.Received)
	if err != nil {
		return err
	}
	for i := range known {
		if a := &known[i]; a.Subscription == dl.Subscription && a.Round == dl.Round && a.Number == dl.Attempt-1 {
			return nil
		}
	}
	a := &event.Attempt{
		Event: ev.ID, Type: ev.Type, Subscription: dl.Subscription, Round: dl.Round, Number: dl.Attempt - 1, Outcome: event.Retry,
		Destination: pullDestination, ErrorClass: destination.ClassTimeout, Error: "the lease ran out unanswered",
		At: now.Add(-ackWait), Latency: ackWait, NextAt: now, Queued: dl.Queued,
	}
	record, err := p.d.Ledger.Record(a)
	if err != nil {
		return err
	}
	if _, err := record.Wait(ctx); err != nil {
		return err
	}
	p.d.Metrics.attempted(a, ev)
	return nil
}

// giveBack hands back deliveries that no client has seen, without using up a try.
func (p *Puller) giveBack(ctx context.Context, leases []*queue.Lease, sub *subscription.Subscription) {
	for _, lease := range leases {
		p.d.giveBack(ctx, lease, sub.Ordered)
	}
}

// lastTry reports whether a failure of a delivery is its last, if the next try would
// be at a time.
func lastTry(dl *event.Delivery, p *policy.Policy, next time.Time) bool {
	return dl.Attempt > p.MaxRetries || next.Sub(dl.Queued) > elapsedLimit(p)
}
