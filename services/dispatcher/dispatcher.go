package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/posthornhq/posthorn/pkg/alerts"
	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/dedup"
	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/ledger"
	"github.com/posthornhq/posthorn/pkg/policy"
	"github.com/posthornhq/posthorn/pkg/queue"
	"github.com/posthornhq/posthorn/pkg/subscription"
	"github.com/posthornhq/posthorn/pkg/telemetry"
)

// Events reads stored events. It is satisfied by *store.Store.
type Events interface {
	Get(ctx context.Context, id string) (*event.Event, error)
}

// Catalog knows the subscriptions and policies. It is satisfied by *catalog.Catalog.
type Catalog interface {
	Subscription(name string) (*subscription.Subscription, bool)
	Policy(name string) *policy.Policy
	Policies() []*policy.Policy
	// Delivery returns p, or what an override makes of it for an event.
	Delivery(p *policy.Policy, source, typ string) *policy.Policy
	Subscriptions() *subscription.Index
}

// Alerts tells people of endpoints. It is satisfied by *alerts.Publisher.
type Alerts interface {
	Failing(ctx context.Context, s *subscription.Subscription, st alerts.State) error
	Recovered(ctx context.Context, s *subscription.Subscription, st alerts.State) error
}

// Config holds what operators may tune. The zero value is usable.
type Config struct {
	// Concurrency is the number of attempts in flight at once in all shared lanes
	// together, not counting those that take long, and in each own lane. Default 128.
	Concurrency int
	// DoneTTL is how long a delivered delivery is remembered. Default 15m.
	DoneTTL time.Duration
	// ProbeInterval is the longest wait between two tries at an endpoint that fails.
	// Default 60s.
	ProbeInterval time.Duration
	// Hold is how long an own lane that is of no more use is kept at least, lest it
	// is opened and closed all the time. Default 15s.
	Hold time.Duration
}

func (c *Config) setDefaults() {
	if c.Concurrency == 0 {
		c.Concurrency = 128
	}
	for _, d := range []struct {
		at  *time.Duration
		def time.Duration
	}{{&c.DoneTTL, 15 * time.Minute}, {&c.ProbeInterval, time.Minute}, {&c.Hold, 15 * time.Second}} {
		if *d.at == 0 {
			*d.at = d.def
		}
	}
}

// Deps are the parts that a Dispatcher works with.
type Deps struct {
	Events  Events
	Queue   *queue.Queue
	Lanes   *queue.OwnLanes
	Claims  dedup.Claims
	Ledger  *ledger.Ledger
	Letters *deadletter.Letters
	Catalog Catalog
	// Open makes a subscription's destination.
	Open func(*subscription.Subscription) (destination.Destination, error)
	// Alerts is told that a subscription's endpoint fails, or is back; by one process
	// each time. May be nil.
	Alerts Alerts
	// Disable disables a subscription whose endpoint is gone.
	Disable func(ctx context.Context, name string) error
	Log     *slog.Logger
	Metrics *Metrics
	// Spans exports what attempts take. May be nil.
	Spans *telemetry.Spans
}

// A Dispatcher makes attempts at deliveries.
type Dispatcher struct {
	Deps
	cfg     Config
	targets targets
	gate    *gate
	long    atomic.Int64 // attempts in flight that left the gate because they take long
	changed chan struct{}
	own     ownLanes
	// watching are the attempts that may yet take long: see watch.
	watching sync.WaitGroup
}

// New returns a Dispatcher. It does nothing until [Dispatcher.Run] is called.
func New(d Deps, cfg Config) (*Dispatcher, error) {
	cfg.setDefaults()
	if cfg.Concurrency < 0 {
		return nil, fmt.Errorf("dispatcher: concurrency %d is negative", cfg.Concurrency)
	}
	if d.Metrics == nil {
		d.Metrics = none()
	}
	made := &Dispatcher{
		Deps: d, cfg: cfg, targets: targets{open: d.Open}, gate: newGate(cfg.Concurrency),
		changed: make(chan struct{}, 1), own: ownLanes{m: map[string]*ownLane{}},
	}
	d.Lanes.OnChange(made.laneChanged)
	return made, nil
}

// CatalogChanged says that policies or subscriptions changed. It does not block.
func (d *Dispatcher) CatalogChanged() {
	d.lanesChanged()
	// Own lanes that run do not wait for this: a pause is to be one at once, and it
	// takes a while with many policies.
	d.own.mu.Lock()
	defer d.own.mu.Unlock()
	for _, l := range d.own.m {
		d.poke(l)
	}
}

// lanesChanged has the lanes brought up to date.
func (d *Dispatcher) lanesChanged() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// A place is where a lease is from: the slots that it holds, and the rules there.
type place struct {
	lease *queue.Lease
	// gate is nil in an own lane.
	gate *gate
	// own is nil in a shared lane.
	own *ownLane
	// probe says that this is the one try at an endpoint that fails.
	probe bool
}

// leave gives up the slots of a shared lane, once, for another delivery to have them.
func (p place) leave() {
	if p.gate != nil && p.lease.Leave() {
		p.gate.leave()
	}
}

// handleShared makes an attempt at a delivery from a shared lane, or moves it to
// its subscription's own.
func (d *Dispatcher) handleShared(running context.Context, lease *queue.Lease) {
	dl := lease.Delivery()
	p := d.Catalog.Policy(dl.Policy)
	d.gate.enter(dl.Priority, lease, p.AckWait()/2)
	at := place{lease: lease, gate: d.gate}
	defer at.leave()
	if sub, ok := d.Catalog.Subscription(dl.Subscription); ok && (sub.OwnLane() || !sub.Disabled && d.Lanes.Open(sub.Name)) {
		d.move(running, lease, sub)
		return
	}
	d.handle(running, lease, p, at)
}

// move puts a delivery into its subscription's own lane. If that fails, it comes
// again.
func (d *Dispatcher) move(running context.Context, lease *queue.Lease, sub *subscription.Subscription) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(running), moveWait)
	defer cancel()
	part := 0
	var err error
	if sub.Key != nil {
		var ev *event.Event
		switch ev, err = d.Events.Get(ctx, lease.Delivery().Event); {
		case err == nil:
			part = sub.Part(ctx, subscription.NewFacts(ev))
		case errs.KindOf(err) == errs.NotFound:
			part, err = 1, nil // where it becomes a dead letter
		}
	}
	if err == nil {
		err = d.Queue.Move(ctx, lease, part)
	}
	if err != nil {
		d.Log.Error("a delivery was not moved to its subscription's own lane; it will come again", "event", lease.Delivery().Event, "subscription", sub.Name, "err", err)
		return
	}
	d.Metrics.moved.Inc()
}

// handle makes an attempt at a leased delivery and settles the lease. Where
// something of ours fails, it holds the lease until that works again or running
// is done; then the lease runs out, and the queue hands the delivery out again.
func (d *Dispatcher) handle(running context.Context, lease *queue.Lease, p *policy.Policy, at place) {
	// An attempt outlives the signal that stops the lane: cutting it short would
	// make every deploy a burst of retries. Its own timeout bounds it.
	ctx := context.WithoutCancel(running)
	dl := lease.Delivery()
	log := note{d.Log, dl}

	mine, going := d.claimed(running, lease, p, log)
	if !going {
		return
	}
	if !mine {
		d.Metrics.duplicate()
		if err := lease.Done(); err != nil {
			log.with().Error("a duplicate was not settled; it will come again", "err", err)
		}
		return
	}
	var ev *event.Event
	var missing error
	if !hold(running, lease, p, log, "its event", func() (err error) {
		if ev, err = d.Events.Get(ctx, dl.Event); errs.KindOf(err) == errs.NotFound {
			missing, err = err, nil
		}
		return err
	}) {
		return
	}
	if missing != nil {
		d.giveUp(ctx, lease, letter(dl, nil, "missing", errs.MessageOf(missing)), log)
		return
	}
	sub, ok := d.subscription(running, lease, p, at)
	if !ok && running.Err() != nil {
		return
	}
	if !ok || sub.Disabled {
		d.giveUp(ctx, lease, letter(dl, ev, "no-subscription", "the subscription was deleted or disabled after the event was routed"), log)
		return
	}
	target, err := d.targets.get(sub)
	if err != nil {
		d.giveUp(ctx, lease, letter(dl, ev, "refused", "the subscription's destination cannot be used: "+err.Error()), log)
		return
	}
	if at.own == nil {
		// Who waits here waits in front of others.
		if !target.enter(longAfter) {
			d.isolate(running, sub, queue.Slow, nil, time.Time{})
			d.move(running, lease, sub)
			return
		}
	} else if !target.wait(running.Done(), p.AckWait()/2, lease) {
		return // on the way down; the lease runs out
	}
	// What waited for a slot has used up some of its lease, and the attempt may need
	// all but the margin.
	if lease.Age() > leaseSpare {
		if err := lease.Extend(); err != nil {
			log.with().Warn("the lease was not extended", "err", err)
		}
	}
	a, res := d.attempt(running, target, ev, lease, p, at)
	target.leave()
	d.learn(running, sub, target.health, a, res, at)
	d.settle(running, lease, p, ev, a, res, log)
}

const (
	// hearOf is how long it may take until this process hears of a subscription that
	// a router knows already.
	hearOf = 5 * time.Second
	// leaseSpare is the age up to which a lease lasts for an attempt and its settling.
	leaseSpare = 2 * time.Second
)

// subscription returns the subscription of a delivery. One that is not known may be
// so new that this process has not heard of it: what was queued just now waits a
// little, outside of the slots, before it is a dead letter.
func (d *Dispatcher) subscription(running context.Context, lease *queue.Lease, p *policy.Policy, at place) (*subscription.Subscription, bool) {
	dl := lease.Delivery()
	left := min(hearOf, time.Until(dl.Queued.Add(hearOf)))
	for {
		sub, ok := d.Catalog.Subscription(dl.Subscription)
		if ok || left <= 0 {
			return sub, ok
		}
		at.leave()
		const every = 50 * time.Millisecond
		if !pause(running, every) {
			return nil, false
		}
		left -= every
		if lease.Age() > p.AckWait()/holdShare {
			_ = lease.Extend() // if it runs out all the same, the claim tells the two apart
		}
	}
}

const (
	// The pauses of hold between two tries.
	holdFrom, holdTo = 100 * time.Millisecond, 5 * time.Second
	// holdShare is the share of the AckWait that a pause may take.
	holdShare = 3
)

// hold tries f until it succeeds, and keeps the lease alive meanwhile: to hand
// the delivery back would use up one of the subscriber's tries for a failure of
// ours. It reports false when running is done first.
func hold(running context.Context, lease *queue.Lease, p *policy.Policy, log note, what string, f func() error) bool {
	pause := holdFrom
	for {
		err := f()
		if err == nil {
			return true
		}
		if pause == holdFrom {
			log.with().Error("the delivery waits", "for", what, "err", err)
		}
		select {
		case <-running.Done():
			return false
		case <-time.After(pause):
		}
		pause = min(2*pause, holdTo, p.AckWait()/holdShare)
		if err := lease.Extend(); err != nil {
			log.with().Warn("the lease was not extended", "err", err)
		}
	}
}

func elapsedLimit(p *policy.Policy) time.Duration {
	if p.Schedule.MaxElapsed > 0 {
		return p.Schedule.MaxElapsed
	}
	return policy.MaxMaxElapsed
}

const (
	// longAfter is how long an attempt may hold up others: then it goes on, but its
	// slot is another's. It is also how long a delivery in a shared lane waits for
	// one of its subscription's own slots.
	longAfter = 100 * time.Millisecond
	// longMax bounds the attempts of this process that go on without a slot.
	longMax = 2048
	// How many of them a subscription may have before it is slow: fewer, the more
	// there are.
	longMost, longLeast = 32, 4
)

// attempt makes one try and describes it.
func (d *Dispatcher) attempt(running context.Context, t *target, ev *event.Event, lease *queue.Lease, p *policy.Policy, at place) (*event.Attempt, destination.Result) {
	ctx := context.WithoutCancel(running)
	dl := lease.Delivery()
	now := time.Now()
	sendCtx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	own := telemetry.Child(lease.TraceParent())
	d.Metrics.inFlight.Inc()
	var done func()
	if at.own == nil {
		done = d.watch(running, t, at)
	}
	res := t.dest.Send(sendCtx, &destination.Message{Event: ev, Delivery: dl, TraceParent: own, Now: now})
	if done != nil {
		done()
	}
	d.Metrics.inFlight.Dec()
	if d.Spans != nil {
		d.Spans.Record(ctx, &telemetry.Span{
			Name: "deliver " + dl.Subscription, Parent: lease.TraceParent(), Own: own, Begun: now, Ended: now.Add(res.Latency), Kind: trace.SpanKindClient, Err: res.Err,
			Attributes: []attribute.KeyValue{
				attribute.String("posthorn.event", ev.ID), attribute.String("posthorn.subscription", dl.Subscription),
				attribute.Int("posthorn.attempt", dl.Attempt), attribute.Int("http.response.status_code", res.Status),
			},
		})
	}
	a := &event.Attempt{
		Event: ev.ID, Type: ev.Type, Subscription: dl.Subscription, Round: dl.Round, Number: dl.Attempt,
		Outcome: res.Outcome(p.Retryable), Destination: t.dest.String(), Status: res.Status, ErrorClass: res.ErrorClass,
		Response: text(res.Response), At: now, Latency: res.Latency, Queued: dl.Queued,
	}
	if res.Err != nil {
		a.Error = res.Err.Error()
	}
	blocking := at.own != nil && t.sub.Blocking
	if blocking && a.Outcome == event.Refused && !res.Gone {
		a.Outcome = event.Retry
	}
	if a.Outcome == event.Retry {
		p := d.Catalog.Delivery(p, ev.Source, ev.Type)
		delay := p.Schedule.Delay(dl.Attempt, rand.Float64)
		if blocking {
			// There is no last try that it could come to sooner, and nothing else in its
			// lane shows that the endpoint is back.
			delay = min(delay, d.cfg.ProbeInterval)
		}
		a.NextAt = time.Now().Add(max(delay, res.RetryAfter))
		if !blocking && lastTry(dl, p, a.NextAt) {
			a.Outcome, a.NextAt = event.Exhausted, time.Time{}
		}
	}
	d.Metrics.attempted(a, ev)
	return a, res
}

// watch makes an attempt that takes long give up its slots, and isolates a
// subscription that has many of them. The result is called when the attempt ends.
func (d *Dispatcher) watch(running context.Context, t *target, at place) (done func()) {
	const (
		short int32 = iota
		long
		over
	)
	var state atomic.Int32
	d.watching.Add(1)
	timer := time.AfterFunc(longAfter, func() {
		defer d.watching.Done()
		all := d.long.Add(1)
		if all > longMax || !state.CompareAndSwap(short, long) {
			d.long.Add(-1)
			return // it keeps its slots, or has ended
		}
		n := t.health.long.Add(1)
		at.leave()
		if int64(n) >= longLimit(all) {
			d.isolate(running, t.sub, queue.Slow, nil, time.Time{})
		}
	})
	return func() {
		if timer.Stop() {
			d.watching.Done()
		}
		if state.Swap(over) == long {
			d.long.Add(-1)
			t.health.long.Add(-1)
		}
	}
}

func longLimit(all int64) int64 { return max(longLeast, longMost-longMost*all/longMax) }

// settle records the attempt and then ends the lease with what it taught. It
// runs under no attempt's time limit: an attempt that used up its time happened
// all the same.
func (d *Dispatcher) settle(running context.Context, lease *queue.Lease, p *policy.Policy, ev *event.Event, a *event.Attempt, res destination.Result, log note) {
	ctx := context.WithoutCancel(running)
	dl := lease.Delivery()
	record, err := d.Ledger.Record(a)
	if err != nil {
		log.with().Error("the attempt was not recorded", "err", err)
		return
	}
	// Side by side with the record: what must come before the lease's end is both.
	if a.Outcome == event.Delivered && !hold(running, lease, p, log, "the mark that it is done", func() error {
		return d.Claims.Done(ctx, claimKey(dl), strconv.FormatUint(dl.Sequence, 10), d.cfg.DoneTTL)
	}) {
		err = errors.New("the claims were out of reach")
	}
	if _, rErr := record.Wait(ctx); err == nil {
		err = rErr
	}
	if err != nil {
		log.with().Error("the attempt was not recorded; the delivery will come again", "outcome", a.Outcome, "err", err)
		return
	}
	switch a.Outcome {
	case event.Delivered:
		if err := lease.Done(); err != nil {
			log.with().Error("the delivery was not settled; it will come again and be known", "err", err)
		}
		if log.debug(ctx) {
			log.with().Debug("delivered", "status", a.Status, "latency", a.Latency)
		}
	case event.Retry:
		d.retry(lease, time.Until(a.NextAt), log)
		log.with().Info("will be tried again", "status", a.Status, "class", a.ErrorClass, "err", a.Error, "next", a.NextAt)
	default:
		dead := letter(dl, ev, string(a.Outcome), a.Error)
		dead.Status = a.Status
		if res.Reason != "" {
			dead.Reason = res.Reason
		}
		if res.Gone {
			dead.Reason = "gone"
			if err := d.Disable(ctx, dl.Subscription); err != nil {
				log.with().Error("the subscription, whose endpoint is gone, was not disabled", "err", err)
			}
		}
		d.giveUp(ctx, lease, dead, log)
	}
}

func (d *Dispatcher) retry(lease *queue.Lease, delay time.Duration, log note) {
	if err := lease.Retry(max(delay, time.Millisecond)); err != nil {
		log.with().Error("the delivery was not handed back; it will come again when the lease runs out", "err", err)
	}
}

// giveUp is bury where nobody waits for an answer.
func (d *Dispatcher) giveUp(ctx context.Context, lease *queue.Lease, dead *event.DeadLetter, log note) {
	if err := d.bury(ctx, lease, dead, log); err != nil {
		log.with().Error("the dead letter was not stored; the delivery will come again", "err", err)
	}
}

// bury stores a dead letter, and only then ends the lease.
func (d *Dispatcher) bury(ctx context.Context, lease *queue.Lease, dead *event.DeadLetter, log note) error {
	if err := d.Letters.Put(ctx, dead); err != nil {
		return err
	}
	dl := lease.Delivery()
	// A repeat of this message must not bring it back to life. A retry by hand is
	// a new round, with a claim of its own.
	if err := d.Claims.Done(ctx, claimKey(dl), strconv.FormatUint(dl.Sequence, 10), d.cfg.DoneTTL); err != nil {
		log.with().Warn("the claim of a dead letter was not marked", "err", err)
	}
	if err := lease.Kill(dead.Reason); err != nil {
		log.with().Error("the dead delivery was not settled; it will come again and be known", "err", err)
	}
	d.Metrics.dead(dead.Reason)
	log.with().Warn("dead letter", "reason", dead.Reason, "status", dead.Status, "detail", dead.Detail)
	return nil
}

// letter describes a delivery that is given up; ev is nil if the event is not there.
func letter(dl *event.Delivery, ev *event.Event, reason, detail string) *event.DeadLetter {
	l := &event.DeadLetter{
		Event: dl.Event, Subscription: dl.Subscription, Policy: dl.Policy, Priority: dl.Priority,
		Round: dl.Round, Attempts: dl.Attempt, Reason: reason, Detail: detail, Place: dl.Place, At: time.Now(),
	}
	if ev != nil {
		l.Type, l.Source, l.Context, l.Tenant = ev.Type, ev.Source, ev.Context, ev.Tenant
	}
	return l
}
