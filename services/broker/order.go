package broker

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
)

// lookAtFloor is how often the router's consumer is asked how far all brokers
// together have come, while somebody waits for it.
const lookAtFloor = 10 * time.Millisecond

// A sequencer keeps the order of acceptance for subscriptions that want it, with
// any number of brokers. Deliveries for them are queued when those of all events
// before are: either because this broker has them on their way, over the same
// connection, or because the router's consumer says that they are acknowledged.
// One broker alone never waits; several wait for each other, and one that finds what
// a dead one held waits until the queue has handed that out again.
//
// A delivery that cannot be queued at all for as long as the publisher tries is
// queued late, after others that came behind it.
type sequencer struct {
	mu sync.Mutex
	// floor: the deliveries of all events up to here are queued, or on their way
	// before whatever is queued next.
	floor uint64
	ahead map[uint64]bool // as the floor, but with a gap before
	held  []heldRouting   // in order
	wake  chan struct{}
}

type heldRouting struct {
	seq   uint64
	queue func() // begins to queue, and hands the routing on
	drop  func()
}

func newSequencer(floor uint64) *sequencer {
	return &sequencer{floor: floor, ahead: map[uint64]bool{}, wake: make(chan struct{}, 1)}
}

// route begins to queue the deliveries of the event at seq: with inOrder now, or when
// its turn has come. Those of the events before have been given to route before, as
// far as they are this broker's.
func (s *sequencer) route(seq uint64, inOrder bool, queue, drop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if inOrder && seq > s.floor+1 {
		h := heldRouting{seq, queue, drop}
		i, _ := slices.BinarySearchFunc(s.held, seq, func(h heldRouting, seq uint64) int {
			if h.seq < seq {
				return -1
			}
			return 1
		})
		s.held = slices.Insert(s.held, i, h)
		select {
		case s.wake <- struct{}{}:
		default:
		}
		return
	}
	queue()
	s.passed(seq)
}

// passed notes that the deliveries of the event at seq are on their way, and lets
// those go that waited for it. The lock is held.
func (s *sequencer) passed(seq uint64) {
	if seq > s.floor {
		s.ahead[seq] = true
	}
	for {
		for s.ahead[s.floor+1] {
			s.floor++
			delete(s.ahead, s.floor)
		}
		if len(s.held) == 0 || s.held[0].seq > s.floor+1 {
			return
		}
		h := s.held[0]
		s.held = s.held[1:]
		h.queue()
		if h.seq > s.floor {
			s.ahead[h.seq] = true
		}
	}
}

// raise notes that everything up to floor is acknowledged.
func (s *sequencer) raise(floor uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if floor <= s.floor {
		return
	}
	s.floor = floor
	for seq := range s.ahead {
		if seq <= floor {
			delete(s.ahead, seq)
		}
	}
	s.passed(floor)
}

func (s *sequencer) waiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held) > 0
}

// run asks how far all have come while somebody waits for it, until ctx is done.
// What waits then is handed back.
func (s *sequencer) run(ctx context.Context, js jetstream.JetStream) {
	for {
		select {
		case <-ctx.Done():
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, h := range s.held {
				h.drop()
			}
			s.held = nil
			return
		case <-s.wake:
		}
		for s.waiting() && ctx.Err() == nil {
			// A failure is as good as no news; the router's own reading complains.
			if c, err := js.Consumer(ctx, topology.StreamEvents, topology.ConsumerRouter); err == nil {
				s.raise(c.CachedInfo().AckFloor.Stream)
			}
			select {
			case <-ctx.Done():
			case <-time.After(lookAtFloor):
			}
		}
	}
}
