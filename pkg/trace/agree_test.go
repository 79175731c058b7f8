package trace_test

import (
	"testing"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/trace"
)

func (r *rig) listed(id string, limit int) string {
	r.t.Helper()
	list, _, err := r.tracer.List(r.t.Context(), trace.Query{Limit: limit})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, s := range list {
		if s.ID == id {
			return s.Status
		}
	}
	return "not there"
}

func TestListAndTraceAgree(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		happen func(*rig, *event.Event)
		want   string
		routed bool
	}{
		{"given up without an attempt", func(r *rig, ev *event.Event) { r.dead(ev, "a") }, trace.Failed, true},
		{"given up after its last try had no answer", func(r *rig, ev *event.Event) {
			r.attempt(ev, "a", 1, event.Retry, 503)
			r.dead(ev, "a")
		}, trace.Failed, true},
		{"queued anew after delivery", func(r *rig, ev *event.Event) {
			r.attempt(ev, "a", 1, event.Delivered, 200)
			r.wait(r.queue.Enqueue(&event.Delivery{Event: ev.ID, Subscription: "a", Round: 2, Policy: "default"}, ""), nil)
		}, trace.Pending, true},
		{"delivered to one, waiting for another", func(r *rig, ev *event.Event) {
			r.queued(ev, "b")
			r.attempt(ev, "a", 1, event.Delivered, 200)
		}, trace.Pending, true},
		{"queued, and the router has not acknowledged", func(r *rig, ev *event.Event) { r.queued(ev, "a") }, trace.Pending, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			ev := r.event(nil)
			tt.happen(r, ev)
			if tt.routed {
				r.route()
			}
			got, err := r.tracer.Trace(t.Context(), ev.ID)
			if err != nil {
				t.Fatal(err)
			}
			if got.Status != tt.want {
				t.Errorf("the trace says %q, want %q", got.Status, tt.want)
			}
			if l := r.listed(ev.ID, 10); l != tt.want {
				t.Errorf("the list says %q, want %q", l, tt.want)
			}
		})
	}
}

func TestTheLastPageHasNoCursor(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for range 4 {
		r.event(nil)
	}
	page, next, err := r.tracer.List(t.Context(), trace.Query{Limit: 4})
	if err != nil || len(page) != 4 || next != "" {
		t.Errorf("%d events with cursor %q and error %v, want all 4 and no cursor", len(page), next, err)
	}
}

func TestARetryByHandThatWorkedIsDelivered(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ev := r.event(nil)
	r.attempt(ev, "a", 1, event.Exhausted, 503)
	r.wait(r.ledger.Record(&event.Attempt{Event: ev.ID, Subscription: "a", Round: 2, Number: 1, Outcome: event.Delivered, At: r.next()}))
	r.route()
	got, err := r.tracer.Trace(t.Context(), ev.ID)
	if err != nil {
		t.Fatal(err)
	}
	if l := r.listed(ev.ID, 10); got.Status != trace.Delivered || l != trace.Delivered {
		t.Errorf("trace %q and list %q, want delivered", got.Status, l)
	}
}
