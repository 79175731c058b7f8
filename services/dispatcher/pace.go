package dispatcher

import (
	"context"
	"sync"
	"time"

	"github.com/posthornhq/posthorn/pkg/queue"
)

// A pacer lets the deliveries of a limited lane go, by turns that are reserved
// among all processes.
type pacer struct {
	lanes *queue.OwnLanes
	name  string

	mu   sync.Mutex
	next time.Time     // the first turn that is reserved
	left int           // how many are,
	each time.Duration // this far apart
}

// wait waits for a turn, and keeps the lease alive meanwhile. It reports false when
// ctx is done first, or no turn can be had.
func (p *pacer) wait(ctx context.Context, rate float64, lease *queue.Lease, every time.Duration) bool {
	at, err := p.take(ctx, rate)
	for err != nil {
		// Without a turn nothing goes: a limit that holds only while all is well is none.
		if !pause(ctx, laneRetry) || lease.Extend() != nil {
			return false
		}
		at, err = p.take(ctx, rate)
	}
	for {
		left := time.Until(at)
		if left <= 0 {
			return true
		}
		if !pause(ctx, min(left, every)) {
			return false
		}
		if left > every && lease.Extend() != nil {
			return false
		}
	}
}

// take returns when this process may go next.
func (p *pacer) take(ctx context.Context, rate float64) (time.Time, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	each := time.Duration(float64(time.Second) / rate)
	// What nobody used in time is lost: saved up, it would be a burst.
	if late := time.Since(p.next); p.left > 0 && late > p.each {
		lost := min(int(late/p.each), p.left)
		p.next, p.left = p.next.Add(time.Duration(lost)*p.each), p.left-lost
	}
	if p.left == 0 {
		// For a while ahead, lest each delivery costs a write.
		n := max(1, int(rate*limitedAhead.Seconds()))
		first, err := p.lanes.Reserve(ctx, p.name, n, each)
		if err != nil {
			return time.Time{}, err
		}
		p.next, p.left, p.each = first, n, each
	}
	at := p.next
	p.next, p.left = at.Add(p.each), p.left-1
	return at, nil
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
