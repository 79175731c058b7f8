package dispatcher

import (
	"sync"
	"time"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/queue"
)

// weights are the shares of the free slots by priority, where all three wait. None
// is 0, so that none starves.
var weights = [...]int{event.High: 8, event.Normal: 4, event.Low: 1}

// gate shares the slots of this process among the shared lanes. Where nobody waits
// a slot is there at once; where somebody does, one that becomes free goes to the
// priority that is most behind its share, and there to who came first.
type gate struct {
	mu      sync.Mutex
	free    int
	waiting [len(weights)][]chan struct{}
	credit  [len(weights)]int
}

func newGate(slots int) *gate { return &gate{free: slots} }

// enter waits for a slot, and keeps the lease alive meanwhile.
func (g *gate) enter(p event.Priority, lease *queue.Lease, every time.Duration) {
	ch := g.join(p)
	if ch == nil {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ch:
			return
		case <-tick.C:
			// If it runs out all the same, the claim tells the two apart.
			_ = lease.Extend()
		}
	}
}

// join takes a free slot and returns nil, or returns what is closed when one is there.
func (g *gate) join(p event.Priority) chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.free > 0 {
		g.free--
		return nil
	}
	ch := make(chan struct{})
	g.waiting[p] = append(g.waiting[p], ch)
	return ch
}

// leave gives a slot to the next one.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	next, ok := g.next()
	if !ok {
		g.free++
		return
	}
	close(g.waiting[next][0])
	g.waiting[next] = g.waiting[next][1:]
}

// next picks the priority whose turn it is: smooth weighted round-robin among those
// that wait. The lock is held.
func (g *gate) next() (best event.Priority, found bool) {
	sum := 0
	for _, p := range event.Priorities() {
		if len(g.waiting[p]) == 0 {
			g.credit[p] = 0 // who does not wait saves nothing up
			continue
		}
		g.credit[p] += weights[p]
		sum += weights[p]
		if !found || g.credit[p] > g.credit[best] {
			best, found = p, true
		}
	}
	if found {
		g.credit[best] -= sum
	}
	return best, found
}
