package backoff

import (
	"fmt"
	"math"
	"time"
)

// A Strategy is how delays grow from one retry to the next.
type Strategy uint8

const (
	Exponential Strategy = iota // initial * 2^(n-1)
	Linear                      // initial * n
	Logarithmic                 // initial * (1 + ln n)
)

// String returns the strategy in one word.
func (s Strategy) String() string {
	switch s {
	case Exponential:
		return "exponential"
	case Linear:
		return "linear"
	case Logarithmic:
		return "logarithmic"
	}
	return fmt.Sprintf("strategy(%d)", uint8(s))
}

// A Schedule says how long to wait before each retry. With the zero Schedule
// retries follow at once.
type Schedule struct {
	Strategy Strategy
	// Initial is the delay before the first retry.
	Initial time.Duration
	// Max is the longest delay; 0 is no limit.
	Max time.Duration
	// Jitter is the share of each delay that is random, 0 to 1.
	Jitter float64
	// MaxElapsed is how long after the beginning retries go on; 0 is without
	// end. Delay does not know when the beginning was: callers look at it.
	MaxElapsed time.Duration
}

// Delay returns the wait before retry n, counted from 1; a smaller n counts as
// 1. Jitter only shortens: the delay is spread evenly over [d*(1-jitter), d],
// where d is the delay of the strategy, limited by Max. So Max holds for what
// is really waited, and endpoints that failed together are not called together
// even when all have reached Max. rnd returns numbers in [0,1), as
// [math/rand/v2.Float64] does; without it there is no jitter.
func (s Schedule) Delay(n int, rnd func() float64) time.Duration {
	d := s.delay(n)
	if rnd == nil || s.Jitter <= 0 {
		return d
	}
	return d - time.Duration(float64(d)*min(s.Jitter, 1)*rnd())
}

// delay is Delay without jitter.
func (s Schedule) delay(n int) time.Duration {
	n = max(n, 1)
	// In floating point nothing overflows: what is too large becomes infinite,
	// and is then cut off.
	var d float64
	switch initial := float64(s.Initial); s.Strategy {
	case Linear:
		d = initial * float64(n)
	case Logarithmic:
		d = initial * (1 + math.Log(float64(n)))
	default:
		// 2^63 is beyond any limit already, and Ldexp overflows for exponents near MaxInt.
		d = math.Ldexp(initial, min(n-1, 63))
	}

	limit := s.Max
	if limit <= 0 {
		limit = math.MaxInt64
	}
	if d >= float64(limit) {
		return limit
	}
	return max(time.Duration(d), 0)
}

// Preview returns the delays before the first retries at their longest, that is,
// without jitter.
func (s Schedule) Preview(retries int) []time.Duration {
	delays := make([]time.Duration, max(retries, 0))
	for i := range delays {
		delays[i] = s.delay(i + 1)
	}
	return delays
}

// Horizon returns how long a delivery of this schedule can stay undone: all
// tries take their timeout, all delays are waited out, and a try may begin as
// late as MaxElapsed. What comes from elsewhere is not in it: a destination's
// Retry-After, waiting for a free slot, or an outage of the platform's own;
// with those, MaxElapsed alone is the limit.
func (s Schedule) Horizon(retries int, timeout time.Duration) time.Duration {
	limit := time.Duration(math.MaxInt64)
	if s.MaxElapsed > 0 {
		limit = plus(s.MaxElapsed, timeout)
	}
	total := timeout
	for n := 1; n <= retries && total < limit; n++ {
		total = plus(plus(total, s.delay(n)), timeout)
	}
	return min(total, limit)
}

// plus adds without overflow; neither may be negative.
func plus(a, b time.Duration) time.Duration {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
