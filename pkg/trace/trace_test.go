package trace_test

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/commit"
	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/ledger"
	"github.com/posthornhq/posthorn/pkg/queue"
	"github.com/posthornhq/posthorn/pkg/store"
	"github.com/posthornhq/posthorn/pkg/stream"
	"github.com/posthornhq/posthorn/pkg/trace"
)

// rig is what the platform writes, without the platform.
type rig struct {
	t       testing.TB
	js      jetstream.JetStream
	store   *store.Store
	queue   *queue.Queue
	ledger  *ledger.Ledger
	letters *deadletter.Letters
	tracer  *trace.Tracer
	router  jetstream.Consumer
	at      time.Time // of what happens next
}

func newRig(t testing.TB) *rig {
	t.Helper()
	js := jstest.WithTopology(t, topology.Config{})
	nc, log := js.Conn(), slog.New(slog.DiscardHandler)
	r := &rig{t: t, js: js, at: time.Now().Add(-10 * time.Second)}
	var err error
	must := func() {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	r.store, err = store.New(nc, (*commit.Barrier)(nil), log, nil, store.Config{})
	must()
	r.queue, err = queue.New(nc, log)
	must()
	r.ledger, err = ledger.New(nc)
	must()
	r.letters, err = deadletter.New(nc)
	must()
	r.tracer = trace.New(js, r.store, r.ledger, r.letters)
	r.router, err = js.CreateConsumer(t.Context(), topology.StreamEvents, topology.Router(0))
	must()
	return r
}

// route makes the router acknowledge all that was accepted.
func (r *rig) route() {
	r.t.Helper()
	batch, err := r.router.FetchNoWait(100)
	if err != nil {
		r.t.Fatal(err)
	}
	for m := range batch.Messages() {
		if err := m.DoubleAck(r.t.Context()); err != nil {
			r.t.Fatal(err)
		}
	}
}

// next moves the time on.
func (r *rig) next() time.Time {
	r.at = r.at.Add(10 * time.Millisecond)
	return r.at
}

func (r *rig) wait(put stream.Pending, err error) {
	r.t.Helper()
	if err == nil {
		_, err = put.Wait(r.t.Context())
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) event(change func(*event.Event)) *event.Event {
	r.t.Helper()
	ev := &event.Event{
		ID: store.NewID(), Type: "order.created", Source: "shop", Context: "default", Tenant: "acme", Data: []byte(`{}`), Received: r.next(),
		Receipt: []event.Step{{Name: "verify", Outcome: "ok", At: r.next(), Took: time.Millisecond}},
	}
	if change != nil {
		change(ev)
	}
	if _, err := r.store.Append(r.t.Context(), ev); err != nil {
		r.t.Fatal(err)
	}
	return ev
}

func (r *rig) attempt(ev *event.Event, subscription string, number int, outcome event.Outcome, status int) {
	r.t.Helper()
	r.wait(r.ledger.Record(&event.Attempt{
		Event: ev.ID, Type: ev.Type, Subscription: subscription, Round: 1, Number: number, Outcome: outcome, Status: status, At: r.next(), Queued: ev.Received.Add(5 * time.Millisecond),
	}))
}

func (r *rig) queued(ev *event.Event, subscription string) {
	r.t.Helper()
	r.wait(r.queue.Enqueue(&event.Delivery{Event: ev.ID, Subscription: subscription, Round: 1, Policy: "default", Priority: event.Normal}, ""), nil)
}

func (r *rig) dead(ev *event.Event, subscription string) {
	r.t.Helper()
	if err := r.letters.Put(r.t.Context(), &event.DeadLetter{Event: ev.ID, Type: ev.Type, Subscription: subscription, Round: 1, Reason: "exhausted", Status: 503, At: r.next()}); err != nil {
		r.t.Fatal(err)
	}
}

func TestStatusOfAnEvent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	tests := []struct {
		name   string
		happen func(*event.Event)
		want   string
	}{
		{"accepted", func(*event.Event) {}, trace.Accepted},
		{"wanted by nobody", func(ev *event.Event) { r.wait(r.ledger.Unmatched(ev.ID, r.next())) }, trace.Unmatched},
		{"queued", func(ev *event.Event) { r.queued(ev, "a") }, trace.Pending},
		{"delivered", func(ev *event.Event) { r.attempt(ev, "a", 1, event.Delivered, 200) }, trace.Delivered},
		{"delivered at last", func(ev *event.Event) {
			r.attempt(ev, "a", 1, event.Retry, 503)
			r.attempt(ev, "a", 2, event.Delivered, 200)
		}, trace.Delivered},
		{"tried again", func(ev *event.Event) {
			r.queued(ev, "a")
			r.attempt(ev, "a", 1, event.Retry, 503)
		}, trace.Retrying},
		{"failed", func(ev *event.Event) {
			r.attempt(ev, "a", 1, event.Exhausted, 503)
			r.dead(ev, "a")
		}, trace.Failed},
		{"delivered to one and failed for another", func(ev *event.Event) {
			r.attempt(ev, "a", 1, event.Delivered, 200)
			r.attempt(ev, "b", 1, event.Refused, 400)
			r.dead(ev, "b")
		}, trace.Failed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ev := r.event(nil)
			tt.happen(ev)
			got, err := r.tracer.Trace(t.Context(), ev.ID)
			if err != nil {
				t.Fatal(err)
			}
			if got.Status != tt.want {
				t.Errorf("the status is %q, want %q", got.Status, tt.want)
			}
			if tt.want != trace.Accepted {
				r.route()
			}
			// The list says the same.
			list, _, err := r.tracer.List(t.Context(), trace.Query{Status: tt.want, Limit: 100})
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, s := range list {
				found = found || s.ID == ev.ID
			}
			if !found {
				t.Errorf("the list of status %s does not have it: %+v", tt.want, list)
			}
		})
	}
}

func TestATraceIsInTheOrderOfTime(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ev := r.event(nil)
	other := r.event(nil) // beside it
	r.attempt(ev, "a", 1, event.Retry, 503)
	r.attempt(other, "a", 1, event.Delivered, 200)
	r.attempt(ev, "b", 1, event.Delivered, 204)
	r.attempt(ev, "a", 2, event.Exhausted, 503)
	r.dead(ev, "a")
	r.queued(ev, "c")
	got, err := r.tracer.Trace(t.Context(), ev.ID)
	if err != nil {
		t.Fatal(err)
	}
	var steps []string
	last := time.Time{}
	for _, e := range got.Entries {
		if e.At.Before(last) {
			t.Errorf("%s at %s comes after %s", e.Step, e.At, last)
		}
		last = e.At
		if e.Step != "stored" && !(e.Step == "routed" && e.Subscription == "c") { // by the server's clock
			steps = append(steps, strings.TrimSpace(e.Step+" "+e.Subscription+" "+e.Outcome))
		}
	}
	want := []string{
		"received  ok", "routed a ok", "routed b ok", "verify  ok", "attempt a retry", "attempt b delivered", "attempt a exhausted", "dead-letter a exhausted",
	}
	if diff := cmp.Diff(want, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if n := len(got.Entries); n != len(want)+2 {
		t.Errorf("%d entries, want %d: stored, and c that waits, are among them", n, len(want)+2)
	}
	if _, err := r.tracer.Trace(t.Context(), store.NewID()); errs.KindOf(err) != errs.NotFound {
		t.Errorf("an event that is not there: error %v, want NotFound", err)
	}
}

func TestListsAreFilteredAndComeInPages(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := event.Incoming
	var all []string
	for i := range 9 {
		ev := r.event(func(ev *event.Event) {
			switch i % 3 {
			case 1:
				ev.Type, ev.Source, ev.Direction, ev.Tenant = "invoice.paid", "bank", event.Incoming, ""
			case 2:
				ev.Context = "testing"
			}
		})
		all = append([]string{ev.ID}, all...) // newest first
	}
	ids := func(q trace.Query) (ids []string, cursor string) {
		t.Helper()
		got, next, err := r.tracer.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range got {
			ids = append(ids, s.ID)
		}
		return ids, next
	}
	pick := func(rest int) (some []string) {
		for i, id := range all {
			if (8-i)%3 == rest {
				some = append(some, id)
			}
		}
		return some
	}
	tests := []struct {
		name string
		q    trace.Query
		want []string
	}{
		{"all", trace.Query{}, all},
		{"a type", trace.Query{Type: "invoice.paid"}, pick(1)},
		{"a pattern", trace.Query{Type: "#.paid"}, pick(1)},
		{"a source", trace.Query{Source: "bank"}, pick(1)},
		{"a direction", trace.Query{Direction: &in}, pick(1)},
		{"a context", trace.Query{Context: "testing"}, pick(2)},
		{"a tenant and a context", trace.Query{Tenant: "acme", Context: "default"}, pick(0)},
		{"nothing", trace.Query{Source: "nobody"}, nil},
		{"the future", trace.Query{From: time.Now().Add(time.Hour)}, nil},
		{"the past", trace.Query{To: time.Now().Add(-time.Hour)}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, limit := range []int{2, 100} {
				tt.q.Limit, tt.q.Cursor = limit, ""
				var got []string
				for {
					page, next := ids(tt.q)
					if len(page) > limit {
						t.Fatalf("a page has %d, want %d at most", len(page), limit)
					}
					got = append(got, page...)
					if tt.q.Cursor = next; next == "" {
						break
					}
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("in pages of %d (-want +got):\n%s", limit, diff)
				}
			}
		})
	}
	if _, _, err := r.tracer.List(t.Context(), trace.Query{Cursor: "x", Limit: 1}); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a cursor that is none: error %v, want it refused", err)
	}
}
