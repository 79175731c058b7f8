package dedup

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthornhq/posthorn/pkg/errs"
)

// FallbackConfig holds what operators may tune. The zero value is usable.
type FallbackConfig struct {
	// Timeout bounds one call to the primary, before it counts as down. Default 1s.
	Timeout time.Duration
	// Retry is how long a primary that is down is left alone before a call is
	// tried on it again. Default 1s.
	Retry time.Duration
}

// stateAge is how long it is believed that the secondary is empty, or not.
const stateAge = time.Second

// Fallback keeps claims in a primary, and in a KV while the primary is down.
//
// While it is down, the KV cannot know what was claimed in the primary before,
// so a claim that is new to it is [Claim.Unsure], counted and logged; its caller
// decides. A delivery's first attempt may well go on; a further one should
// Release and wait, because the one before may be done.
//
// When the primary is back, the KV is asked too, for as long as it has any claim:
// what was claimed or done during the outage holds until it expires. Its being
// empty, looked up once a second, is how every process knows, also one
// that saw nothing of the outage. So a claim that is not unsure is exclusive,
// with one exception: in the first two seconds of an outage that only some
// processes see, another may take the same key in the primary.
type Fallback struct {
	primary   Claims
	secondary *KV
	log       *slog.Logger
	cfg       FallbackConfig
	active    prometheus.Gauge
	unsure    prometheus.Counter

	start time.Time // of the clock below, which is monotonic
	// retryAt is when the primary is tried again; 0 while it is up.
	retryAt atomic.Int64
	// lookAt is when the secondary's emptiness is looked up again.
	lookAt atomic.Int64
	// emptyAt is when the secondary was asked and found empty; 0 if it was not.
	emptyAt atomic.Int64
	// usedAt is when this process last put a claim there.
	usedAt atomic.Int64
}

var _ Claims = (*Fallback)(nil)

// NewFallback returns claims in primary, or in secondary while primary gives
// errors of kind [errs.Unavailable]. Metrics are registered with reg, if it is
// not nil: posthorn_dedup_fallback_active, 1 while the primary is down, and
// posthorn_dedup_fallback_unsure_total.
func NewFallback(primary Claims, secondary *KV, log *slog.Logger, reg prometheus.Registerer, cfg FallbackConfig) (*Fallback, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Second
	}
	if cfg.Retry == 0 {
		cfg.Retry = time.Second
	}
	f := &Fallback{
		primary: primary, secondary: secondary, log: log, cfg: cfg, start: time.Now(),
		active: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "posthorn_dedup_fallback_active",
			Help: "1 while Redis is down and claims go to the KV bucket.",
		}),
		unsure: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "posthorn_dedup_fallback_unsure_total",
			Help: "Claims given out while Redis, which might have known of an earlier one, was down.",
		}),
	}
	if err := register(reg, f.active, f.unsure); err != nil {
		return nil, err
	}
	return f, nil
}

// Claim implements [Claims].
func (f *Fallback) Claim(ctx context.Context, key, owner string, ttl time.Duration) (Claim, error) {
	var c Claim
	up, err := f.tryPrimary(ctx, func(ctx context.Context) (err error) {
		c, err = f.primary.Claim(ctx, key, owner, ttl)
		return err
	})
	if err != nil {
		return Claim{}, err
	}
	if !up {
		return f.claimUnsure(ctx, key, owner, ttl)
	}
	if c.Done || !f.ask(ctx) {
		return c, nil
	}
	during, err := f.secondary.Peek(ctx, key)
	if err != nil {
		return Claim{}, err
	}
	if during.Owner == "" || !during.Done && (during.Owner == owner || c.Owner != owner) {
		c.Fresh = c.Fresh && during.Owner == ""
		return c, nil
	}
	// Made during the outage, and what counts. The primary learns it, or it would
	// hold our claim when the KV's has expired.
	if err := f.copy(ctx, key, c, during, ttl); err != nil {
		return Claim{}, err
	}
	return Claim{Owner: during.Owner, Done: during.Done}, nil
}

// copy replaces claim in the primary by held.
func (f *Fallback) copy(ctx context.Context, key string, claim, held Claim, ttl time.Duration) error {
	if held.Done {
		return f.primary.Done(ctx, key, held.Owner, ttl)
	}
	_, err := f.primary.Takeover(ctx, key, claim, held.Owner, ttl)
	return err
}

func (f *Fallback) claimUnsure(ctx context.Context, key, owner string, ttl time.Duration) (Claim, error) {
	defer f.used()
	c, err := f.secondary.Claim(ctx, key, owner, ttl)
	if err == nil && c.Fresh {
		c.Unsure = true
		f.unsure.Inc()
	}
	return c, err
}

// Done implements [Claims].
func (f *Fallback) Done(ctx context.Context, key, owner string, ttl time.Duration) error {
	up, err := f.tryPrimary(ctx, func(ctx context.Context) error {
		return f.primary.Done(ctx, key, owner, ttl)
	})
	if err != nil || up {
		return err
	}
	defer f.used()
	return f.secondary.Done(ctx, key, owner, ttl)
}

// Takeover implements [Claims]. While the primary is down, a claim that it
// returned cannot be taken over.
func (f *Fallback) Takeover(ctx context.Context, key string, old Claim, owner string, ttl time.Duration) (bool, error) {
	var taken bool
	up, err := f.tryPrimary(ctx, func(ctx context.Context) (err error) {
		taken, err = f.primary.Takeover(ctx, key, old, owner, ttl)
		return err
	})
	if err != nil {
		return false, err
	}
	if !up {
		return f.secondary.Takeover(ctx, key, old, owner, ttl)
	}
	if taken && f.ask(ctx) {
		// The one who is replaced may be there as well, of the time of the outage.
		old.revision = 0
		_, err = f.secondary.Takeover(ctx, key, old, owner, ttl)
	}
	return taken, err
}

// Release implements [Claims].
func (f *Fallback) Release(ctx context.Context, key, owner string) error {
	up, err := f.tryPrimary(ctx, func(ctx context.Context) error {
		return f.primary.Release(ctx, key, owner)
	})
	if err != nil || up && !f.ask(ctx) {
		return err
	}
	return f.secondary.Release(ctx, key, owner)
}

// tryPrimary calls the primary, unless it is down and not yet due again. It
// returns false without an error when the secondary is to be used.
func (f *Fallback) tryPrimary(ctx context.Context, call func(context.Context) error) (up bool, err error) {
	retryAt := f.retryAt.Load()
	if retryAt != 0 && (f.now() < retryAt || !f.retryAt.CompareAndSwap(retryAt, f.in(f.cfg.Retry))) {
		return false, nil
	}
	short, cancel := context.WithTimeout(ctx, f.cfg.Timeout)
	defer cancel()
	err = call(short)
	switch {
	case err == nil:
		if retryAt != 0 && f.retryAt.Swap(0) != 0 {
			f.active.Set(0)
			f.log.Info("Redis is back; claims made meanwhile are respected until they expire")
		}
		return true, nil
	case ctx.Err() != nil || errs.KindOf(err) != errs.Unavailable && short.Err() == nil:
		return false, err
	}
	if f.retryAt.Swap(f.in(f.cfg.Retry)) == 0 {
		f.active.Set(1)
		f.log.Warn("Redis is down; claims go to the KV bucket, and duplicates of what was claimed before are not known", "err", err)
	}
	return false, nil
}

// ask reports whether the secondary may have claims. One call in a second looks;
// where that is overdue or fails, it may.
func (f *Fallback) ask(ctx context.Context) bool {
	lookAt := f.lookAt.Load()
	now := f.now()
	if now >= lookAt && f.lookAt.CompareAndSwap(lookAt, now+int64(stateAge)) {
		empty, err := f.secondary.Empty(ctx)
		if err != nil || !empty {
			f.emptyAt.Store(0)
			return true // an error is told by the question that follows
		}
		f.emptyAt.Store(now)
	}
	// Believed for twice as long as the next look is away, so that others need
	// not ask while that is under way; and never of a time before our own claims.
	emptyAt := f.emptyAt.Load()
	return emptyAt == 0 || emptyAt <= f.usedAt.Load() || now >= emptyAt+int64(2*stateAge)
}

// used is called after each write to the secondary that it may have been empty
// before.
func (f *Fallback) used() { f.usedAt.Store(f.now()) }

// now is never 0, which means never.
func (f *Fallback) now() int64 { return int64(time.Since(f.start)) + 1 }

func (f *Fallback) in(d time.Duration) int64 { return f.now() + int64(d) }
