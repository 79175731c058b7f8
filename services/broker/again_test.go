package broker_test

import (
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/event"
)

// All that match a filter may be very many. POSTHORN_TEST_LETTERS says how many,
// for instance 100000; 1,500 without it, more than a page.
func TestManyDeadLettersAreRetriedOnceEach(t *testing.T) {
	t.Parallel()
	n := 1500
	if v, err := strconv.Atoi(os.Getenv("POSTHORN_TEST_LETTERS")); err == nil {
		n = v
	}
	r := newRig(t)
	r.subscription("a", "")
	ids := r.acceptMany(100, "free.a")
	var want []string
	for i := range n { // many in a row of one event, which are retried side by side
		d := event.DeadLetter{Event: ids[i*100/n], Subscription: "a", Round: 1 + 2*i, At: time.Now()}
		if err := r.letters.Put(t.Context(), &d); err != nil {
			t.Fatal(err)
		}
		want = append(want, (&event.Delivery{Event: d.Event, Subscription: "a", Round: d.Round + 1}).Key())
	}
	begun := time.Now()
	for q := (deadletter.Query{Limit: 1000}); ; {
		page, next, err := r.letters.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		var some []string
		for _, d := range page {
			some = append(some, d.ID)
		}
		for _, done := range r.broker.Retry(t.Context(), r.letters, some) {
			if done.Err != nil {
				t.Errorf("letter %s: %v", done.Letter.ID, done.Err)
			}
		}
		if q.Before = next; next == "" {
			break
		}
	}
	t.Logf("%d dead letters were retried in %s", n, time.Since(begun))
	if left := r.stored(topology.StreamDeadLetters); left != 0 {
		t.Errorf("%d dead letters are left", left)
	}
	got := r.queued()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%d deliveries are queued, want %d, each once", len(got), len(want))
	}
}
