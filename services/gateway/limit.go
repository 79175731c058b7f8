package gateway

import (
	"math"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/source"
)

// maxClients is how many clients' rates are known at once. One that is forgotten
// begins anew, with a full burst.
const maxClients = 65_536

// limits holds publishers to the rates of their source. Each gateway counts for
// itself: it bounds what one process takes in, and needs no round trip for it.
type limits struct {
	buckets *lru.Cache[limitKey, *rate.Limiter]
}

// A limitKey names a bucket: of a source, or of a client at it.
type limitKey struct{ source, client string }

func newLimits() (*limits, error) {
	c, err := lru.New[limitKey, *rate.Limiter](maxClients)
	return &limits{c}, err
}

// admit refuses a request that comes too early, and says when to come again.
func (l *limits) admit(src *source.Source, client string, now time.Time) error {
	spec := src.Spec()
	// The client's own first: one that is over it takes nothing from the others.
	if err := l.take(limitKey{src.Name(), client}, spec.GetRatePerClient(), now, "client "+client); err != nil {
		return err
	}
	return l.take(limitKey{src.Name(), ""}, spec.GetRatePerSecond(), now, "all clients")
}

func (l *limits) take(key limitKey, perSecond float64, now time.Time, whose string) error {
	if perSecond <= 0 {
		return nil
	}
	limit, burst := rate.Limit(perSecond), max(1, int(math.Ceil(2*perSecond)))
	b, ok := l.buckets.Get(key)
	if !ok || b.Limit() != limit {
		// Two requests may both make one; what the loser's had taken is forgotten.
		b = rate.NewLimiter(limit, burst)
		l.buckets.Add(key, b)
	}
	if b.AllowN(now, 1) {
		return nil
	}
	wait := time.Duration(float64(time.Second) * (1 - b.TokensAt(now)) / perSecond)
	return &throttled{
		err:   errs.New(errs.Throttled, "source %s takes %g requests a second from %s; try again in %s", key.source, perSecond, whose, ceilSeconds(wait)).Because("rate"),
		after: wait,
	}
}

// A throttled error says when to come again.
type throttled struct {
	err   *errs.Error
	after time.Duration
}

func (t *throttled) Error() string { return t.err.Error() }

// Unwrap makes it one of its kind.
func (t *throttled) Unwrap() error { return t.err }

// ceilSeconds is a wait as Retry-After has it: whole seconds, at least one.
func ceilSeconds(d time.Duration) time.Duration {
	return max(time.Second, (d + time.Second - 1).Truncate(time.Second))
}
