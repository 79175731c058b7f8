package dispatcher

import (
	"context"
	"crypto/rand"
	"errors"
	mathrand "math/rand/v2"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/posthornhq/posthorn/pkg/dedup"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/policy"
	"github.com/posthornhq/posthorn/pkg/queue"
	"github.com/posthornhq/posthorn/pkg/telemetry"
)

const (
	// MaxDelay is how far a nack may put the next try off.
	MaxDelay = 24 * time.Hour
	// maxReason is how much of a nack's reason is kept, in bytes.
	maxReason = 1000
	// pullDestination is what attempts say of where a delivery went.
	pullDestination = "pull"
)

// leaseKey is the claim of the one failure that a lease may end with: a nack, or that
// it ran out.
func leaseKey(dl *event.Delivery, attempt int) string {
	return "lease:" + dl.Event + ":" + dl.Subscription + ":" + strconv.Itoa(dl.Round) + ":" + leaseID(dl.Sequence, attempt)
}

// ack settles a delivery that is done. Done is done: the answer is taken also if the
// lease has run out meanwhile, and a second time.
func (p *Puller) ack(ctx context.Context, name, token string) error {
	t, lease, pol, err := p.leased(name, token)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleWait)
	defer cancel()
	dl := lease.Delivery()
	key, owner := claimKey(dl), strconv.FormatUint(dl.Sequence, 10)
	claim, err := p.d.Claims.Claim(ctx, key, owner, claimTTL(pol))
	if err != nil {
		return p.notNow(t, err)
	}
	if over, err := p.forgotten(ctx, claim, dl); over || err != nil || claim.Done {
		p.release(t)
		return p.notNow(t, err)
	}
	a := p.attempt(t, dl, event.Delivered)
	record, err := p.d.Ledger.Record(a)
	if err != nil {
		return p.notNow(t, err)
	}
	// Side by side with the record: what must come before the lease's end is both.
	err = p.d.Claims.Done(ctx, key, owner, p.d.cfg.DoneTTL)
	if _, rErr := record.Wait(ctx); errors.Join(err, rErr) != nil {
		return p.notNow(t, errors.Join(err, rErr))
	}
	if err := lease.Done(); err != nil {
		p.log(t).with().Error("the delivery was not settled; it will come again and be known", "err", err)
	}
	p.told(ctx, t, a)
	return nil
}

// A failure is a nack.
type failure struct {
	delay  time.Duration // 0 is the policy's
	reason string
	class  string // as in event.Attempt; empty if the client said so itself
	dead   bool   // no other try
}

func (f *failure) validate() error {
	if f.delay < 0 || f.delay > MaxDelay {
		return errs.Field("delay", "is %s, must be 0 to %s", f.delay, MaxDelay)
	}
	if len(f.reason) > maxReason {
		f.reason = f.reason[:maxReason]
	}
	f.reason = text([]byte(f.reason))
	return nil
}

// nack ends a lease whose delivery failed, and says when it is tried again; never if
// it became a dead letter.
func (p *Puller) nack(ctx context.Context, name, token string, f failure) (next time.Time, err error) {
	if err := f.validate(); err != nil {
		return time.Time{}, err
	}
	t, _, _, err := p.leased(name, token)
	if err != nil {
		return time.Time{}, err
	}
	return p.fail(ctx, t, f)
}

func (p *Puller) fail(ctx context.Context, t *ticket, f failure) (next time.Time, err error) {
	lease, pol, err := p.lease(t)
	if err != nil {
		return time.Time{}, err
	}
	if !time.Now().Before(t.Until) {
		return time.Time{}, ranOut(t)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleWait)
	defer cancel()
	dl := lease.Delivery()
	owner := strconv.FormatUint(dl.Sequence, 10)
	claim, err := p.d.Claims.Claim(ctx, claimKey(dl), owner, claimTTL(pol))
	if err != nil {
		return time.Time{}, p.notNow(t, err)
	}
	over, err := p.forgotten(ctx, claim, dl)
	if err != nil {
		return time.Time{}, p.notNow(t, err)
	}
	if over || !claim.Mine(owner) {
		return time.Time{}, errs.New(errs.Stale, "the delivery has been settled already")
	}
	// A second nack of the lease could hit the one after it.
	once, me := leaseKey(dl, dl.Attempt), rand.Text()
	claim, err = p.d.Claims.Claim(ctx, once, me, max(time.Until(t.Until), time.Second))
	if err != nil {
		return time.Time{}, p.notNow(t, err)
	}
	if !claim.Mine(me) {
		return time.Time{}, errs.New(errs.Stale, "the lease has been ended already")
	}
	if next, err = p.failed(ctx, t, f); err != nil {
		return time.Time{}, p.notNow(t, errors.Join(err, p.d.Claims.Release(ctx, once, me)))
	}
	return next, nil
}

// failed records a failure and ends the lease with what it means.
func (p *Puller) failed(ctx context.Context, t *ticket, f failure) (time.Time, error) {
	lease, pol, err := p.lease(t)
	if err != nil {
		return time.Time{}, err
	}
	dl := lease.Delivery()
	sub, _ := p.d.Catalog.Subscription(t.subscription)
	a := p.attempt(t, dl, event.Refused)
	a.ErrorClass, a.Error = f.class, f.reason
	if a.Error == "" {
		a.Error = "the subscriber answered with a nack"
	}
	if !f.dead {
		pol := p.d.Catalog.Delivery(pol, t.Source, t.Type)
		delay := f.delay
		if delay == 0 {
			delay = pol.Schedule.Delay(dl.Attempt, mathrand.Float64)
		}
		a.Outcome, a.NextAt = event.Retry, time.Now().Add(delay)
		if blocking := sub != nil && sub.Blocking; !blocking && lastTry(dl, pol, a.NextAt) {
			a.Outcome, a.NextAt = event.Exhausted, time.Time{}
		}
	}
	record, err := p.d.Ledger.Record(a)
	if err != nil {
		return time.Time{}, err
	}
	if _, err := record.Wait(ctx); err != nil {
		return time.Time{}, err
	}
	if a.Outcome == event.Retry {
		p.d.retry(lease, time.Until(a.NextAt), p.log(t))
	} else {
		ev, err := p.d.Events.Get(ctx, t.Event)
		if err != nil && errs.KindOf(err) != errs.NotFound {
			return time.Time{}, err
		}
		if err := p.d.bury(ctx, lease, letter(dl, ev, string(a.Outcome), a.Error), p.log(t)); err != nil {
			return time.Time{}, err
		}
	}
	p.told(ctx, t, a)
	return a.NextAt, nil
}

// extend makes a lease last for another AckWait, under a new token.
func (p *Puller) extend(name, token string) (*ticket, string, error) {
	sub, err := p.subscription(name)
	if err != nil {
		return nil, "", err
	}
	t, lease, _, err := p.leased(name, token)
	if err != nil {
		return nil, "", err
	}
	now := time.Now()
	if !now.Before(t.Until) {
		return nil, "", ranOut(t)
	}
	if err := lease.Extend(); err != nil {
		return nil, "", p.notNow(t, err)
	}
	t.Until = now.Add(sub.AckWait())
	if token, err = p.seal(t); err != nil {
		return nil, "", err
	}
	p.mu.Lock()
	held := p.held[t.id()]
	p.mu.Unlock()
	if held != nil {
		held(t.Until)
	}
	return t, token, nil
}

// leased reads a token, and returns the lease with the policy of its delivery.
func (p *Puller) leased(name, token string) (*ticket, *queue.Lease, *policy.Policy, error) {
	t, err := p.open(name, token)
	if err != nil {
		return nil, nil, nil, err
	}
	l, pol, err := p.lease(t)
	return t, l, pol, err
}

func (p *Puller) lease(t *ticket) (*queue.Lease, *policy.Policy, error) {
	l, err := p.d.Queue.Lease(t.ref())
	if err != nil {
		return nil, nil, err
	}
	dl := l.Delivery()
	dl.Policy = policy.DefaultName
	if sub, ok := p.d.Catalog.Subscription(t.subscription); ok {
		dl.Policy, dl.Priority = sub.Policy, sub.Priority
	}
	return l, p.d.Catalog.Policy(dl.Policy), nil
}

// forgotten reports whether a delivery was settled so long ago that its claim has
// been forgotten: a claim was free, and there is no message.
func (p *Puller) forgotten(ctx context.Context, claim dedup.Claim, dl *event.Delivery) (bool, error) {
	if !claim.Fresh {
		return false, nil
	}
	_, err := p.d.Queue.Get(ctx, dl.Sequence)
	if errs.KindOf(err) != errs.NotFound {
		return false, err
	}
	return true, p.d.Claims.Release(ctx, claimKey(dl), claim.Owner)
}

// attempt describes the try that a lease was.
func (p *Puller) attempt(t *ticket, dl *event.Delivery, o event.Outcome) *event.Attempt {
	return &event.Attempt{
		Event: t.Event, Type: t.Type, Subscription: t.subscription, Round: t.Round, Number: dl.Attempt, Outcome: o,
		Destination: pullDestination, At: t.At, Latency: max(time.Since(t.At), 0), Queued: t.Queued,
	}
}

// told counts an attempt that is settled, and frees the place of its lease.
func (p *Puller) told(ctx context.Context, t *ticket, a *event.Attempt) {
	p.release(t)
	p.d.Metrics.attempted(a, &event.Event{Received: t.Received})
	if log := p.log(t); log.debug(ctx) {
		log.with().Debug("answered", "outcome", a.Outcome, "latency", a.Latency)
	}
	if p.d.Spans == nil {
		return
	}
	var failed error
	if a.Error != "" {
		failed = errors.New(a.Error)
	}
	p.d.Spans.Record(ctx, &telemetry.Span{
		Name: "deliver " + t.subscription, Parent: t.Trace, Own: t.Own, Begun: t.At, Ended: t.At.Add(a.Latency), Kind: trace.SpanKindProducer, Err: failed,
		Attributes: []attribute.KeyValue{
			attribute.String("posthorn.event", t.Event), attribute.String("posthorn.subscription", t.subscription), attribute.Int("posthorn.attempt", a.Number),
		},
	})
}

// hold has f told of the end of a lease, with a zero time, or of a new one.
func (p *Puller) hold(t *ticket, f func(until time.Time)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held[t.id()] = f
}

func (p *Puller) release(t *ticket) {
	p.mu.Lock()
	f := p.held[t.id()]
	delete(p.held, t.id())
	p.mu.Unlock()
	if f != nil {
		f(time.Time{})
	}
}

func (p *Puller) log(t *ticket) note {
	return note{p.d.Log, &event.Delivery{Event: t.Event, Subscription: t.subscription, Round: t.Round, Attempt: t.Attempt}}
}

// notNow is an answer that could not be taken for a reason of ours; nil for none.
func (p *Puller) notNow(t *ticket, err error) error {
	if err == nil {
		return nil
	}
	p.log(t).with().Error("an answer to a lease was not taken", "err", err)
	return errs.Wrap(err, errs.Unavailable, "the answer cannot be recorded now; send it again")
}

func ranOut(t *ticket) error {
	return errs.New(errs.Stale, "the lease ran out at %s; the delivery comes again", t.Until.UTC().Format(time.RFC3339))
}
