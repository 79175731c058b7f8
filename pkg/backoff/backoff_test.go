package backoff

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const s = time.Second

func TestPreview(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		schedule Schedule
		retries  int
		want     []time.Duration
	}{
		{"exponential doubles", Schedule{Initial: s}, 5, []time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s}},
		{"exponential up to its maximum", Schedule{Initial: s, Max: 5 * s}, 5, []time.Duration{s, 2 * s, 4 * s, 5 * s, 5 * s}},
		{"linear", Schedule{Strategy: Linear, Initial: 2 * s, Max: 7 * s}, 4, []time.Duration{2 * s, 4 * s, 6 * s, 7 * s}},
		{"logarithmic", Schedule{Strategy: Logarithmic, Initial: s}, 3, []time.Duration{s, 1693147180, 2098612288}},
		{"jitter is left out", Schedule{Initial: s, Jitter: 1}, 2, []time.Duration{s, 2 * s}},
		{"the zero schedule", Schedule{}, 2, []time.Duration{0, 0}},
		{"no retries", Schedule{Initial: s}, 0, []time.Duration{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, tt.schedule.Preview(tt.retries)); diff != "" {
				t.Errorf("preview differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDelayNeitherOverflowsNorExceedsItsMaximum(t *testing.T) {
	t.Parallel()
	for _, strategy := range []Strategy{Exponential, Linear, Logarithmic} {
		for _, limit := range []time.Duration{0, 1, 300 * s, math.MaxInt64} {
			schedule := Schedule{Strategy: strategy, Initial: s, Max: limit, Jitter: 0.2}
			before := time.Duration(0)
			for _, n := range []int{math.MinInt, -1, 0, 1, 2, 62, 63, 64, 65, 1 << 20, math.MaxInt} {
				d := schedule.Delay(n, nil)
				if d < before || d <= 0 || limit > 0 && d > limit {
					t.Errorf("%v up to %v: delay %d is %v after %v", strategy, limit, n, d, before)
				}
				before = d
			}
		}
	}
}

func TestJitterSpreadsOverItsShareAndNeverUpwards(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	schedule := Schedule{Initial: s, Max: 10 * s, Jitter: 0.2}

	const n = 20 // far beyond the maximum
	shortest, longest := 10*s, time.Duration(0)
	for range 10_000 {
		d := schedule.Delay(n, rnd.Float64)
		shortest, longest = min(shortest, d), max(longest, d)
	}
	if shortest < 8*s || shortest > 8100*time.Millisecond {
		t.Errorf("shortest delay is %v, want hardly more than 8s", shortest)
	}
	if longest > 10*s || longest < 9900*time.Millisecond {
		t.Errorf("longest delay is %v, want hardly less than 10s", longest)
	}
	schedule.Jitter = 1
	if d := schedule.Delay(n, func() float64 { return math.Nextafter(1, 0) }); d < 0 || d > s {
		t.Errorf("delay with full jitter is %v, want next to nothing", d)
	}
}

func TestHorizon(t *testing.T) {
	t.Parallel()
	exponential := Schedule{Initial: s, Max: 300 * s, MaxElapsed: 86400 * s}
	tests := []struct {
		name     string
		schedule Schedule
		retries  int
		timeout  time.Duration
		want     time.Duration
	}{
		{"six tries and five delays", exponential, 5, 10 * s, 60*s + 31*s},
		{"one try", exponential, 0, 10 * s, 10 * s},
		{"a try that begins at the end", Schedule{Initial: 100 * s, MaxElapsed: 150 * s}, 10, 10 * s, 160 * s},
		{"without end", Schedule{Initial: math.MaxInt64}, 10, 10 * s, math.MaxInt64},
		{"longest end", Schedule{Initial: math.MaxInt64, MaxElapsed: math.MaxInt64}, 10, 10 * s, math.MaxInt64},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := tt.schedule.Horizon(tt.retries, tt.timeout); got != tt.want {
				t.Errorf("horizon is %v, want %v", got, tt.want)
			}
		})
	}
}

func TestDelayAllocatesNothing(t *testing.T) {
	schedule := Schedule{Initial: s, Max: 300 * s, Jitter: 0.2}
	if allocs := testing.AllocsPerRun(100, func() { schedule.Delay(3, rand.Float64) }); allocs != 0 {
		t.Errorf("Delay allocates %v times, want 0", allocs)
	}
}
