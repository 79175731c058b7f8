package broker_test

import (
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/stream"
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
	r.catalog.subscribe(t, `{"name":"a","types":["free.a"],`+anywhere+`}`)
	ids := make([]string, 100)
	for i := range ids {
		ids[i] = r.accept(event.Event{Type: "free.a", Source: "shop", Data: []byte(`{}`), Direction: event.Outgoing})
	}
	var want []string
	for i := range n { // many in a row of one event, which are retried side by side
		d := event.DeadLetter{Event: ids[i*100/n], Subscription: "a", Round: 2 + 2*i, At: time.Now()}
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
	var got []string
	if err := stream.Each(t.Context(), r.js, topology.StreamDeliveries, topology.Everything, time.Time{}, 1000, func(m *jetstream.RawStreamMsg) error {
		d, ok := topology.ParseDeliverySubject(m.Subject)
		if !ok {
			t.Errorf("queued on %s", m.Subject)
		}
		d.Event, d.Round = string(m.Data), 1
		if round, err := strconv.Atoi(m.Header.Get(topology.HeaderRound)); err == nil {
			d.Round = round
		}
		got = append(got, d.Key())
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%d deliveries are queued, want %d, each once", len(got), len(want))
	}
}
