package broker_test

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/stream"
	"github.com/posthornhq/posthorn/services/broker"
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
				t.Errorf("letter %s: %v", done.ID, done.Err)
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

// place returns where an event stands on EVENTS, as a dead letter of it knows.
func (r *rig) place(id string) (at uint64) {
	r.t.Helper()
	if err := stream.Each(r.t.Context(), r.js, topology.StreamEvents, topology.Everything, time.Time{}, 1000, func(m *jetstream.RawStreamMsg) error {
		if string(m.Data) == id {
			at = m.Sequence
		}
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
	return at
}

// die makes a dead letter of a delivery in some round, and returns its ID.
func (r *rig) die(d event.DeadLetter) string {
	r.t.Helper()
	d.At = time.Now()
	if err := r.letters.Put(r.t.Context(), &d); err != nil {
		r.t.Fatal(err)
	}
	page, _, err := r.letters.List(r.t.Context(), deadletter.Query{Limit: 1})
	if err != nil {
		r.t.Fatal(err)
	}
	return page[0].ID
}

// parts returns the events that wait in each part of a subscription's own lane.
func (r *rig) parts(sub string) map[int][]string {
	r.t.Helper()
	out := map[int][]string{}
	if err := stream.Each(r.t.Context(), r.js, topology.StreamDeliveries, topology.Everything, time.Time{}, 1000, func(m *jetstream.RawStreamMsg) error {
		if d, ok := topology.ParseDeliverySubject(m.Subject); ok && d.Own && d.Subscription == sub {
			out[d.Part] = append(out[d.Part], string(m.Data))
		} else {
			r.t.Errorf("queued on %s", m.Subject)
		}
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
	return out
}

func TestDeadLettersOfAnOrderedSubscriptionAreRetriedInTheOrderOfAcceptance(t *testing.T) {
	t.Parallel()
	const n = 40
	for _, tt := range []struct {
		name, order string
		known       bool // the letters know their events' places
	}{
		{"one lane", `"ordered":true`, true},
		{"by key", `"ordered":true,"orderingKey":"subject"`, true},
		{"of a time when it was not ordered", `"ordered":true`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.catalog.subscribe(t, `{"name":"odr","types":["#"],`+tt.order+`,`+anywhere+`}`)
			var events, ids []string
			for i := range n {
				events = append(events, r.accept(event.Event{
					Type: "free.a", Source: "shop", Subject: strconv.Itoa(i % 5), Data: []byte(`{}`), Direction: event.Outgoing,
				}))
			}
			// They died in any order: some were retried before.
			for _, i := range rand.Perm(n) {
				d := event.DeadLetter{Event: events[i], Subscription: "odr", Round: 1 + i%3}
				if tt.known {
					d.Place = r.place(events[i])
				}
				ids = append(ids, r.die(d))
			}
			for i, done := range r.broker.Retry(t.Context(), r.letters, ids) {
				if done.Err != nil || done.ID != ids[i] || done.Subscription != "odr" || done.Round < 2 {
					t.Errorf("letter %s: got %+v", ids[i], done)
				}
			}
			if left := r.stored(topology.StreamDeadLetters); left != 0 {
				t.Errorf("%d dead letters are left", left)
			}
			total := 0
			for part, got := range r.parts("odr") {
				total += len(got)
				if !slices.IsSortedFunc(got, func(a, b string) int { return slices.Index(events, a) - slices.Index(events, b) }) {
					t.Errorf("part %d: %v are queued in an order that is not that of %v", part, got, events)
				}
			}
			if total != n {
				t.Errorf("%d deliveries are queued, want %d", total, n)
			}
		})
	}
}

// What is retried a second time has still its place.
func TestARetriedDeliveryKnowsItsPlace(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.subscribe(t, `{"name":"odr","types":["#"],"ordered":true,`+anywhere+`}`)
	r.route()
	first, second := r.accept(good()), r.accept(good())
	r.routed(2)
	id := r.die(event.DeadLetter{Event: second, Subscription: "odr", Round: 1, Place: r.place(second)})
	if done := r.broker.Retry(t.Context(), r.letters, []string{id}); done[0].Err != nil {
		t.Fatal(done[0].Err)
	}
	want := map[string]uint64{first + ".odr.1": r.place(first), second + ".odr.1": r.place(second), second + ".odr.2": r.place(second)}
	for seq := uint64(1); seq <= 3; seq++ {
		d, err := r.queue.Get(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		if d.Place != want[d.Key()] || d.Place == 0 {
			t.Errorf("%s: place %d, want %d", d.Key(), d.Place, want[d.Key()])
		}
	}
}

// Of those who retry a letter at once, one is told that he did.
func TestADeadLetterIsRetriedByOne(t *testing.T) {
	t.Parallel()
	for _, order := range []string{"false", "true"} {
		t.Run("ordered "+order, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.catalog.subscribe(t, `{"name":"a","types":["free.a"],"ordered":`+order+`,`+anywhere+`}`)
			var ids []string
			for range 20 {
				ev := r.accept(event.Event{Type: "free.a", Source: "shop", Data: []byte(`{}`), Direction: event.Outgoing})
				ids = append(ids, r.die(event.DeadLetter{Event: ev, Subscription: "a", Round: 1}))
			}
			all := make([][]broker.Retried, 12)
			var wg sync.WaitGroup
			for i := range all {
				wg.Go(func() { all[i] = r.broker.Retry(t.Context(), r.letters, ids) })
			}
			wg.Wait()
			for i, id := range ids {
				did := 0
				for _, one := range all {
					switch done := one[i]; {
					case done.Err == nil:
						did++
					case !done.Gone || errs.KindOf(done.Err) != errs.NotFound:
						t.Errorf("letter %s: got %+v, want that it is not there", id, done)
					}
				}
				if did != 1 {
					t.Errorf("letter %s: %d were told that they retried it, want one", id, did)
				}
			}
			if got := r.stored(topology.StreamDeliveries); got != 20 {
				t.Errorf("%d deliveries are queued, want 20", got)
			}
		})
	}
}
