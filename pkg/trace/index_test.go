package trace_test

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/store"
	"github.com/posthornhq/posthorn/pkg/stream"
	"github.com/posthornhq/posthorn/pkg/trace"
)

// indexed is a tracer of the rig that has an index.
func (r *rig) indexed() *trace.Tracer { return r.indexedFor(trace.IndexConfig{}) }

func (r *rig) indexedFor(cfg trace.IndexConfig) *trace.Tracer {
	r.t.Helper()
	t := trace.New(r.js, r.store, r.ledger, r.letters)
	ctx, cancel := context.WithCancel(r.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := t.Run(ctx, cfg, slog.New(slog.DiscardHandler)); err != nil {
			r.t.Errorf("index: %v", err)
		}
	})
	r.t.Cleanup(func() { cancel(); wg.Wait() })
	select {
	case <-t.Indexed():
	case <-time.After(10 * time.Minute):
		r.t.Fatal("no index within 10 minutes")
	}
	return t
}

// history makes events with all that can happen to them, half of it before mid is
// called.
func (r *rig) history(n int, mid func()) []*event.Event {
	rnd := rand.New(rand.NewPCG(1, 2))
	pick := func(all ...string) string { return all[rnd.IntN(len(all))] }
	var evs []*event.Event
	for i := range n {
		if i == n/2 {
			mid()
		}
		ev := r.event(func(e *event.Event) {
			e.Type, e.Source, e.Tenant = pick("order.created", "order.paid", "user.created"), pick("shop", "crm"), pick("", "acme")
			e.Direction = event.Direction(rnd.IntN(2))
		})
		evs = append(evs, ev)
		for _, sub := range []string{"a", "b"} {
			switch rnd.IntN(6) {
			case 0:
				r.attempt(ev, sub, 1, event.Delivered, 200)
			case 1:
				r.attempt(ev, sub, 1, event.Retry, 503)
			case 2:
				r.attempt(ev, sub, 1, event.Retry, 429)
				r.attempt(ev, sub, 2, event.Delivered, 202)
			case 3:
				r.attempt(ev, sub, 1, event.Refused, 404)
				r.dead(ev, sub)
			case 4:
				r.queued(ev, sub)
			}
		}
		if rnd.IntN(10) == 0 { // a later round of an old one
			old := evs[rnd.IntN(len(evs))]
			r.wait(r.ledger.Record(&event.Attempt{Event: old.ID, Subscription: "a", Round: 3000, Number: 1, Outcome: event.Delivered, Status: 200, At: r.next()}))
		}
	}
	return evs
}

func all[Q any, T any](t testing.TB, q Q, list func(Q) ([]T, string, error), next func(*Q, string)) []T {
	t.Helper()
	var out []T
	for {
		page, cursor, err := list(q)
		if err != nil {
			t.Fatal(err)
		}
		if out = append(out, page...); cursor == "" {
			return out
		}
		next(&q, cursor)
	}
}

// The index is for speed: what it answers is what the streams say.
func TestTheIndexAnswersWhatTheStreamsSay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var with *trace.Tracer
	// Half is there when the index begins, and half comes later.
	evs := r.history(300, func() { with = r.indexed() })
	for range 3 {
		r.route()
	}
	in := event.Incoming
	queries := map[string]trace.Query{
		"all": {}, "a pattern": {Type: "order.*"}, "source": {Source: "crm"}, "tenant": {Tenant: "acme"}, "direction": {Direction: &in},
		"a context that is not there": {Context: "other"},
		"one event":                   {ID: evs[17].ID},
		"one subscription":            {Subscription: "b"},
		"a status of one":             {Subscription: "b", Status: trace.Delivered},
		"client errors":               {Answer: "4xx"},
		"server errors of one":        {Answer: "503", Subscription: "a"},
		"everything":                  {Type: "order.#", Source: "shop", Status: trace.Failed},
	}
	for _, status := range []string{trace.Accepted, trace.Unmatched, trace.Pending, trace.Delivered, trace.Retrying, trace.Failed} {
		queries[status] = trace.Query{Status: status}
	}
	page, _, err := r.tracer.List(t.Context(), trace.Query{Limit: 300})
	if err != nil {
		t.Fatal(err)
	}
	queries["since"] = trace.Query{From: page[100].Received}
	queries["until"] = trace.Query{To: page[100].Received}
	queries["between"] = trace.Query{From: page[200].Received, To: page[100].Received, Status: trace.Failed}
	queries["in the future"] = trace.Query{From: time.Now().Add(time.Hour)}
	for name, q := range queries {
		for _, limit := range []int{71, 1000} {
			q.Limit = limit
			next := func(q *trace.Query, c string) { q.Cursor = c }
			want := all(t, q, func(q trace.Query) ([]trace.Summary, string, error) { return r.tracer.List(t.Context(), q) }, next)
			got := all(t, q, func(q trace.Query) ([]trace.Summary, string, error) { return with.List(t.Context(), q) }, next)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, %d at a time (-streams +index):\n%s", name, limit, diff)
			}
		}
	}
	for _, ev := range evs[:50] {
		want, err := r.tracer.Trace(t.Context(), ev.ID)
		if err != nil {
			t.Fatal(err)
		}
		got, err := with.Trace(t.Context(), ev.ID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("trace (-streams +index):\n%s", diff)
		}
	}
}

func TestTheIndexListsTheDeadLettersThatAreThere(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var with *trace.Tracer
	evs := r.history(200, func() { with = r.indexed() })
	s, err := r.js.Stream(t.Context(), topology.StreamDeadLetters)
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(3); seq < 20; seq += 4 { // retried, or deleted by hand
		if err := s.DeleteMsg(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
	}
	letters, _, err := r.letters.List(t.Context(), deadletter.Query{Limit: 1000})
	if err != nil || len(letters) < 20 {
		t.Fatalf("%d dead letters, %v", len(letters), err)
	}
	at := func(i int) time.Time {
		m, err := stream.GetFromLeader(t.Context(), r.js.Conn(), topology.StreamDeadLetters, uint64(100-i)/10)
		if err != nil {
			t.Fatal(err)
		}
		return m.Time
	}
	for name, q := range map[string]deadletter.Query{
		"all": {}, "of one": {Subscription: "b"}, "of nobody": {Subscription: "c"}, "a status": {Status: "5xx"}, "another": {Status: "404"},
		"an event": {Event: letters[5].Event}, "no event": {Event: evs[0].ID + "x"}, "a context": {Context: "default"},
		"since": {From: at(0)}, "until": {To: at(0)},
	} {
		for _, limit := range []int{3, 1000} {
			q.Limit = limit
			next := func(q *deadletter.Query, c string) { q.Before = c }
			want := all(t, q, func(q deadletter.Query) ([]event.DeadLetter, string, error) { return r.letters.List(t.Context(), q) }, next)
			got := all(t, q, func(q deadletter.Query) ([]event.DeadLetter, string, error) { return with.DeadLetters(t.Context(), q) }, next)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, %d at a time (-stream +index):\n%s", name, limit, diff)
			}
		}
	}
}

// What is older than the index covers is read from the streams.
func TestBeyondTheIndexListsGoOn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	with := r.indexedFor(trace.IndexConfig{Entries: 1}) // two chunks
	const n = 16_500
	// Two chunks end with the newest: the one before is beyond.
	const first = n/trace.ChunkSize*trace.ChunkSize - trace.ChunkSize
	pub, err := stream.New(r.js.Conn())
	if err != nil {
		t.Fatal(err)
	}
	r.flood(pub, n)
	events, err := r.js.Stream(t.Context(), topology.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	at := func(seq uint64) time.Time {
		t.Helper()
		m, err := events.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		return m.Time
	}
	for _, span := range []struct {
		what     string
		from, to uint64 // to is the first one that is too new
	}{
		{"the newest", n - 500, n},
		{"from the index to what is beyond", first - 300, first + 300},
		{"the oldest", 1, 300},
	} {
		next := span.to
		q := trace.Query{Limit: 250, From: at(span.from), To: at(span.to)}
		for {
			page, cursor, err := with.List(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range page {
				next--
				want := trace.Delivered
				if (e.Sequence-1)%10_000 == 9 {
					want = trace.Failed
				}
				if e.Status != want {
					t.Fatalf("%s: event %d is %s, want %s", span.what, e.Sequence, e.Status, want)
				}
				if e.Sequence != next {
					t.Fatalf("%s: event %d comes where %d was due", span.what, e.Sequence, next)
				}
			}
			if q.Cursor = cursor; cursor == "" {
				break
			}
		}
		if next != span.from {
			t.Errorf("%s: listed back to event %d, want %d", span.what, next, span.from)
		}
	}
}

// While much comes and nobody asks, the index stands back; whoever asks gets what
// there is all the same, and from then on quickly.
func TestTheIndexFollowsABusyStreamForThoseWhoAsk(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	with := r.indexedFor(trace.IndexConfig{Calm: 0.001, AskedFor: 3 * time.Second})
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	t.Cleanup(func() { cancel(); load.Wait() })
	load.Go(func() {
		for ctx.Err() == nil {
			ev := &event.Event{ID: store.NewID(), Type: "order.created", Source: "shop", Context: "default", Data: []byte(`{}`), Received: time.Now()}
			if _, err := r.store.Append(ctx, ev); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	until := func(what string, f func() bool) {
		t.Helper()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for end := time.Now().Add(time.Minute); !f(); <-tick.C {
			if time.Now().After(end) {
				t.Fatalf("not within a minute: %s; behind by %d", what, with.Behind())
			}
		}
	}
	for range 2 {
		until("it stands back", func() bool { return with.Rests() && with.Behind() > 0 })
		ev := r.event(nil)
		page, _, err := with.List(t.Context(), trace.Query{ID: ev.ID, Limit: 1})
		if err != nil || len(page) != 1 {
			t.Fatalf("%d events and error %v, want the one that is new", len(page), err)
		}
		until("it follows", func() bool {
			// Who asks goes on asking: if that takes the machine long, it would rest again.
			if _, _, err := with.List(t.Context(), trace.Query{ID: ev.ID, Limit: 1}); err != nil {
				t.Fatal(err)
			}
			return !with.Rests() && with.Behind() == 0
		})
	}
}
