package queue

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
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

// own is the lane that the copies of a delivery of erp are in.
var own = LaneConfig{Lane: Own("erp", 0), MaxDeliver: 5, AckWait: 30 * time.Second}

func take1(t *testing.T, q *Queue, from Lane, handle func(*Lease)) {
	t.Helper()
	if n, err := q.Take(t.Context(), from, 1, handle); err != nil || n != 1 {
		t.Fatalf("took %d from %s, error %v", n, from, err)
	}
}

// A copy knows all messages that it comes from: the end of each move is on its way on
// its own.
func TestAMovedDeliveryKnowsWhereItHasBeen(t *testing.T) {
	t.Parallel()
	q := open(t, jstest.WithTopology(t, topology.Config{}), laneDefaults)
	if err := q.EnsureLane(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	enqueue(t, q, 0, 1)
	var want []uint64
	move := func(l *Lease) {
		d := l.Delivery()
		if !slices.Equal(d.From, want[:min(len(want), mostAncestors)]) {
			t.Errorf("it comes from %v, want %v", d.From, want)
		}
		want = slices.Insert(want, 0, d.Sequence)
		if err := q.Move(t.Context(), l, 0); err != nil {
			t.Error(err)
		}
	}
	take1(t, q, laneDefaults.Lane, move)
	for range mostAncestors + 2 {
		take1(t, q, own.Lane, move)
	}
}

// A consumer that is made anew counts from 1 again, and a copy is named by that count:
// one that was dropped meanwhile must not stand in the way of the next.
func TestADeliveryIsCopiedAgainAfterItsConsumerIsMadeAnew(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	q := open(t, js, laneDefaults)
	if err := q.EnsureLane(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	enqueue(t, q, 0, 1)
	take1(t, q, laneDefaults.Lane, func(l *Lease) {
		if err := q.Copy(t.Context(), l, 0); err != nil {
			t.Error(err)
		}
	})
	take1(t, q, own.Lane, func(l *Lease) { // the original is there: this is a duplicate
		if err := l.Done(); err != nil {
			t.Error(err)
		}
	})
	if err := js.DeleteConsumer(t.Context(), topology.StreamDeliveries, laneDefaults.String()); err != nil {
		t.Fatal(err)
	}
	if err := q.EnsureLane(t.Context(), laneDefaults); err != nil {
		t.Fatal(err)
	}
	take1(t, q, laneDefaults.Lane, func(l *Lease) {
		if err := q.Move(t.Context(), l, 0); err != nil {
			t.Error(err)
		}
	})
	take1(t, q, own.Lane, func(*Lease) {})
}

// What nats-server leaves of a consumer that is created while the one before of its
// name is being deleted: it works, but its directory is gone.
func TestALaneWhoseDirectoryIsGoneIsMadeAnew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	js := jstest.Connect(t, jstest.Start(t, dir))
	if _, err := topology.Ensure(t.Context(), js, topology.Config{}); err != nil {
		t.Fatal(err)
	}
	q := open(t, js, laneDefaults)
	var home string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == laneDefaults.String() {
			home = path
			return filepath.SkipAll
		}
		return err
	})
	if err != nil || home == "" {
		t.Fatalf("the consumer has no directory in %s, error %v", dir, err)
	}
	if err := os.RemoveAll(home); err != nil {
		t.Fatal(err)
	}
	enqueue(t, q, 0, 1)
	next := laneDefaults
	next.MaxDeliver = 7
	if err := q.EnsureLane(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(home); err != nil {
		t.Errorf("the consumer still has no directory: %v", err)
	}
	take1(t, q, laneDefaults.Lane, func(l *Lease) {
		if err := l.Done(); err != nil {
			t.Error(err)
		}
	})
	c, err := js.Consumer(t.Context(), topology.StreamDeliveries, laneDefaults.String())
	if err != nil {
		t.Fatal(err)
	}
	if n := c.CachedInfo().Config.MaxDeliver; n != 7 {
		t.Errorf("the consumer hands out %d times at most, want 7", n)
	}
}

// Two processes, of which one removes a lane and the other one needs it.
func TestALaneThatIsRemovedAndMadeAtOnceWorks(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	q := open(t, js, laneDefaults)
	for i := range 60 {
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := q.RemoveLane(t.Context(), laneDefaults.Lane); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			for range 5 {
				cfg := laneDefaults
				cfg.MaxDeliver = 2 + i%5
				if err := q.EnsureLane(t.Context(), cfg); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Wait()
		if err := q.EnsureLane(t.Context(), laneDefaults); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
	}
}
