package dispatcher

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/queue"
	"github.com/posthornhq/posthorn/pkg/subscription"
)

// targets keeps the destinations of subscriptions, made anew when one changed.
type targets struct {
	open func(*subscription.Subscription) (destination.Destination, error)
	mu   sync.Mutex // held while one is made: two would have slots of their own
	m    sync.Map   // name → *target
	well sync.Map   // name → *health, which an edit of the subscription leaves as it is
}

// target is a destination in use.
type target struct {
	sub    *subscription.Subscription
	dest   destination.Destination
	slots  chan struct{} // nil without a limit of the subscription's own
	health *health
}

// health is what this process's attempts taught about an endpoint.
type health struct {
	failures atomic.Int32 // one after another
	long     atomic.Int32 // attempts in flight for longer than longAfter

	// An edit of the lane is on its way that says the same as those that would follow:
	// a whole lane of attempts can end in one moment.
	slowing, breaking, mending atomic.Bool
}

func (t *targets) get(sub *subscription.Subscription) (*target, error) {
	if got := t.made(sub.Name); got != nil && got.sub == sub {
		return got, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.made(sub.Name)
	if before != nil && before.sub == sub {
		return before, nil
	}
	dest, err := t.open(sub)
	if err != nil {
		return nil, err
	}
	made := &target{sub: sub, dest: dest, health: t.healthOf(sub.Name)}
	switch {
	case sub.MaxInFlight <= 0:
	case before != nil && cap(before.slots) == sub.MaxInFlight:
		made.slots = before.slots // attempts that began before the edit count, too
	default:
		made.slots = make(chan struct{}, sub.MaxInFlight)
	}
	t.m.Store(sub.Name, made)
	return made, nil
}

// made returns the target of a subscription, nil if there is none yet.
func (t *targets) made(name string) *target {
	v, _ := t.m.Load(name)
	got, _ := v.(*target) // nothing else is stored
	return got
}

func (t *targets) healthOf(name string) *health {
	v, ok := t.well.Load(name)
	if !ok {
		v, _ = t.well.LoadOrStore(name, new(health))
	}
	h, _ := v.(*health) // nothing else is stored
	return h
}

// forget drops what is kept of subscriptions that are gone.
func (t *targets) forget(there func(name string) bool) {
	for _, m := range []*sync.Map{&t.m, &t.well} {
		m.Range(func(k, _ any) bool {
			if name, ok := k.(string); ok && !there(name) {
				m.Delete(name)
			}
			return true
		})
	}
}

// enter takes one of the subscription's own slots, waiting at most for a while.
func (t *target) enter(atMost time.Duration) bool {
	if t.slots == nil {
		return true
	}
	select {
	case t.slots <- struct{}{}:
		return true
	default:
	}
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case t.slots <- struct{}{}:
		return true
	case <-timer.C:
		return false
	}
}

// wait takes one of the subscription's own slots, and keeps the lease alive until
// there is one. It reports false when done is closed.
func (t *target) wait(done <-chan struct{}, every time.Duration, lease *queue.Lease) bool {
	for !t.enter(every) {
		select {
		case <-done:
			return false
		default:
		}
		if err := lease.Extend(); err != nil {
			return false
		}
	}
	return true
}

func (t *target) leave() {
	if t.slots != nil {
		<-t.slots
	}
}
