package queue

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
)

// A lane is removed only while nothing of it is leased, else the next consumer would
// hand out what somebody works on.
func TestALaneIsNeverRemovedUnderALease(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	q := open(t, js, laneDefaults)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	const total = 400
	var mu sync.Mutex
	times := map[string]int{}
	all := make(chan struct{})
	wg.Go(func() {
		for ctx.Err() == nil {
			err := q.Consume(ctx, laneDefaults.Lane, 8, func(l *Lease) {
				mu.Lock()
				times[l.Delivery().Event]++
				if len(times) == total {
					select {
					case <-all:
					default:
						close(all)
					}
				}
				mu.Unlock()
				<-time.After(2 * time.Millisecond)
				if err := l.Done(); err != nil {
					t.Error(err)
				}
			})
			if err != nil && !errors.Is(err, ErrNoLane) {
				t.Error(err)
			}
		}
	})
	wg.Go(func() {
		for ctx.Err() == nil {
			_, err := q.RemoveLane(ctx, laneDefaults.Lane)
			if err == nil {
				err = q.EnsureLane(ctx, laneDefaults)
			}
			if err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	for i := range total {
		enqueue(t, q, i, i+1)
		<-time.After(rand.N(4 * time.Millisecond))
	}
	take(t, "all deliveries", all)
	mu.Lock()
	defer mu.Unlock()
	for id, n := range times {
		if n != 1 {
			t.Errorf("%s was handed out %d times", id, n)
		}
	}
}

// Whoever copies a delivery and dies before the original is settled may leave a copy
// that is given up because the original was there; so the next one that copies it
// does.
func TestEachHandingOutOfADeliveryCanBeCopied(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	q := open(t, js, laneDefaults)
	enqueue(t, q, 0, 1)
	for range 2 {
		n, err := q.Take(t.Context(), laneDefaults.Lane, 1, func(l *Lease) {
			for range 2 { // a publish that is repeated
				if err := q.Copy(t.Context(), l, 0); err != nil {
					t.Error(err)
				}
			}
			if err := l.Retry(time.Millisecond); err != nil {
				t.Error(err)
			}
		})
		if err != nil || n != 1 {
			t.Fatalf("took %d, error %v", n, err)
		}
	}
	s, err := js.Stream(t.Context(), topology.StreamDeliveries)
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(t.Context(), jetstream.WithSubjectFilter(topology.OwnDeliverySubject("erp", 0)))
	if err != nil {
		t.Fatal(err)
	}
	if n := info.State.Subjects[topology.OwnDeliverySubject("erp", 0)]; n != 2 {
		t.Errorf("%d copies of a delivery that was handed out twice, want 2", n)
	}
}
