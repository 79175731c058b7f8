package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/event"
)

func ensured(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	if _, err := topology.Ensure(t.Context(), js, topology.Config{}); err != nil {
		t.Fatal(err)
	}
}

func TestAFetchTakesWhatThereIsAndNoMoreThanItAskedFor(t *testing.T) {
	t.Parallel()
	js := jstest.Connect(t, jstest.Start(t, t.TempDir()))
	ensured(t, js)
	q := open(t, js, laneDefaults)
	enqueue(t, q, 0, 5)
	all := 0
	fetch := func() {
		t.Helper()
		began := time.Now()
		got, err := q.Fetch(t.Context(), laneDefaults.Lane, 3, 0)
		if err != nil || len(got) > 3 {
			t.Fatalf("got %d leases and error %v, want 3 at most", len(got), err)
		}
		// What comes late, on a busy machine, is the next one's.
		if took, want := time.Since(began), min(3, 5-all); len(got) != want && took < fetchRest {
			t.Errorf("got %d leases in %s, want %d", len(got), took, want)
		}
		for _, l := range got {
			if err := l.Done(); err != nil {
				t.Fatal(err)
			}
		}
		all += len(got)
	}
	eventually(t, "all are fetched", func() error {
		if fetch(); all < 5 {
			return fmt.Errorf("%d of 5", all)
		}
		return nil
	})
	if fetch(); all != 5 {
		t.Errorf("got %d leases, want 5", all)
	}
	eventually(t, "all are settled", messages(q, 0))
}

func TestAFetchWaitsForTheFirstAndNotForAllOfThem(t *testing.T) {
	t.Parallel()
	js := jstest.Connect(t, jstest.Start(t, t.TempDir()))
	ensured(t, js)
	q := open(t, js, laneDefaults)
	var got []*Lease
	var err error
	var wg sync.WaitGroup
	began := time.Now()
	wg.Go(func() { got, err = q.Fetch(t.Context(), laneDefaults.Lane, 100, time.Minute) })
	enqueue(t, q, 0, 1)
	wg.Wait()
	if err != nil || len(got) != 1 || time.Since(began) > 30*time.Second {
		t.Errorf("got %d leases and error %v after %s, want one at once", len(got), err, time.Since(began))
	}
}

// Several that wait share what comes; what one of them was given when it gave up is
// not lost.
func TestFetchesThatWaitShareAndLoseNothing(t *testing.T) {
	t.Parallel()
	js := jstest.Connect(t, jstest.Start(t, t.TempDir()))
	ensured(t, js)
	q := open(t, js, laneDefaults)
	const n = 200
	var mu sync.Mutex
	tries := map[string]int{}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				one, give := context.WithTimeout(ctx, 20*time.Millisecond)
				got, err := q.Fetch(one, laneDefaults.Lane, 7, time.Minute)
				give()
				if err != nil {
					t.Error(err)
				}
				for _, l := range got {
					mu.Lock()
					tries[l.Delivery().Event] = l.Delivery().Attempt
					mu.Unlock()
					if err := l.Done(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	enqueue(t, q, 0, n)
	eventually(t, "all are settled", messages(q, 0))
	cancel()
	wg.Wait()
	if len(tries) != n {
		t.Errorf("%d deliveries came, want %d", len(tries), n)
	}
}

func TestAFetchSaysThatThereIsNoLane(t *testing.T) {
	t.Parallel()
	js := jstest.Connect(t, jstest.Start(t, t.TempDir()))
	ensured(t, js)
	q := open(t, js, laneDefaults)
	if _, err := q.Fetch(t.Context(), Own("nobody", 0), 1, time.Second); !errors.Is(err, ErrNoLane) {
		t.Errorf("got error %v, want that there is no lane", err)
	}
}

// What is written down is the same lease elsewhere.
func TestALeaseIsEndedByWhoeverHasItWrittenDown(t *testing.T) {
	t.Parallel()
	s := jstest.Start(t, t.TempDir())
	js := jstest.Connect(t, s)
	ensured(t, js)
	q := open(t, js, laneDefaults)
	other := open(t, jstest.Connect(t, s), laneDefaults)
	enqueue(t, q, 0, 1)
	got, err := q.Fetch(t.Context(), Shared("default", event.Normal), 1, time.Minute)
	if err != nil || len(got) != 1 {
		t.Fatalf("got %d leases and error %v, want one", len(got), err)
	}
	written, err := json.Marshal(got[0].Ref())
	if err != nil {
		t.Fatal(err)
	}
	var ref Ref
	if err := json.Unmarshal(written, &ref); err != nil {
		t.Fatal(err)
	}
	l, err := other.Lease(ref)
	if err != nil {
		t.Fatal(err)
	}
	if l.Delivery().Key() != got[0].Delivery().Key() || l.Delivery().Sequence != got[0].Delivery().Sequence {
		t.Errorf("got %+v, want %+v", l.Delivery(), got[0].Delivery())
	}
	if err := l.Done(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is settled", messages(q, 0))
	if _, err := q.Lease(Ref{Reply: "somebody.elses.subject"}); err == nil {
		t.Error("a subject that is not JetStream's was taken")
	}
}
