package dispatcher_test

import (
	"sync"
	"testing"
	"time"
)

// stalls measures for how long at a time the machine did not let this process run.
type stalls struct {
	mu    sync.Mutex
	last  time.Time
	most  time.Duration
	every time.Duration
}

// meterStalls begins to measure; it ends with the test.
func meterStalls(t *testing.T) *stalls {
	t.Helper()
	s := &stalls{last: time.Now(), every: 10 * time.Millisecond}
	done := make(chan struct{})
	var wg sync.WaitGroup
	t.Cleanup(func() { close(done); wg.Wait() })
	wg.Go(func() {
		tick := time.NewTicker(s.every)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				s.look()
			}
		}
	})
	return s
}

func (s *stalls) look() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.most = max(s.most, now.Sub(s.last)-s.every)
	s.last = now
	return s.most
}

// worst is the longest until now, one that has just ended too.
func (s *stalls) worst() time.Duration { return s.look() }
