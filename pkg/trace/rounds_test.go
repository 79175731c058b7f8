package trace_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/trace"
)

// again records an attempt of a later round.
func (r *rig) again(ev *event.Event, round int, outcome event.Outcome) {
	r.t.Helper()
	r.wait(r.ledger.Record(&event.Attempt{
		Event: ev.ID, Type: ev.Type, Subscription: "a", Round: round, Number: 1, Outcome: outcome, Queued: r.next(), At: r.next(),
	}))
}

func (r *rig) status(ev *event.Event) (traced, listed string) {
	r.t.Helper()
	got, err := r.tracer.Trace(r.t.Context(), ev.ID)
	if err != nil {
		r.t.Fatal(err)
	}
	list, _, err := r.tracer.List(r.t.Context(), trace.Query{Limit: 100})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, s := range list {
		if s.ID == ev.ID {
			listed = s.Status
		}
	}
	return got.Status, listed
}

// A retry by hand is a round of its own, and the newest round is what counts.
func TestTheNewestRoundCounts(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		then []event.Outcome // of rounds 2, 3, …
		want string
	}{
		{"failed", nil, trace.Failed},
		{"and then delivered", []event.Outcome{event.Delivered}, trace.Delivered},
		{"and then being tried", []event.Outcome{event.Retry}, trace.Retrying},
		{"and failed again", []event.Outcome{event.Refused}, trace.Failed},
		{"delivered, and failed when it was replayed", []event.Outcome{event.Delivered, event.Exhausted}, trace.Failed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			ev := r.event(nil)
			r.attempt(ev, "a", 1, event.Exhausted, 503)
			for i, o := range tt.then {
				r.again(ev, i+2, o)
			}
			r.route()
			if traced, listed := r.status(ev); traced != tt.want || listed != tt.want {
				t.Errorf("the trace says %q and the list %q, want %q", traced, listed, tt.want)
			}
		})
	}
}

// Each round is routed once, and its attempts and dead letter stand under it.
func TestATraceTellsRoundsApart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ev := r.event(nil)
	r.attempt(ev, "a", 1, event.Retry, 503)
	r.attempt(ev, "a", 2, event.Exhausted, 503)
	r.dead(ev, "a")
	r.again(ev, 2, event.Delivered)
	got, err := r.tracer.Trace(t.Context(), ev.ID)
	if err != nil {
		t.Fatal(err)
	}
	type line struct {
		Step   string
		Round  int
		Number int
	}
	var lines []line
	for _, e := range got.Entries {
		if e.Subscription == "" {
			continue
		}
		l := line{Step: e.Step, Round: e.Round}
		if e.Attempt != nil {
			l.Number = e.Attempt.Number
		}
		lines = append(lines, l)
	}
	// The second attempt of a round says again when it was queued.
	want := []line{{"routed", 1, 0}, {"attempt", 1, 1}, {"attempt", 1, 2}, {"dead-letter", 1, 0}, {"routed", 2, 0}, {"attempt", 2, 1}}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("what happened to the delivery (-want +got):\n%s", diff)
	}
}

// An event that nobody wants is told as such, with when it was looked at.
func TestATraceOfWhatNobodyWants(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ev := r.event(nil)
	at := r.next()
	r.wait(r.ledger.Unmatched(ev.ID, at))
	got, err := r.tracer.Trace(t.Context(), ev.ID)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range got.Entries {
		switch e.Step {
		case "unmatched":
			if n++; !e.At.Equal(at) {
				t.Errorf("it was looked at at %s, want %s", e.At, at)
			}
		case "routed", "attempt", "dead-letter":
			t.Errorf("the trace has %+v, want nothing of deliveries", e)
		}
	}
	if n != 1 || got.Status != trace.Unmatched {
		t.Errorf("%d entries say that nobody wants it and the status is %s, want one and unmatched", n, got.Status)
	}
}

// From is included and To is not, so that spans that follow each other have each
// event once.
func TestSpansOfTimeMeetWithoutOverlap(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var want []string
	for range 5 {
		want = append([]string{r.event(nil).ID}, want...)
	}
	list := func(q trace.Query) (ids []string, times []time.Time) {
		t.Helper()
		got, _, err := r.tracer.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range got {
			ids, times = append(ids, s.ID), append(times, s.Received)
		}
		return ids, times
	}
	_, times := list(trace.Query{Limit: 100})
	for i, at := range times {
		newer, _ := list(trace.Query{From: at, Limit: 100})
		older, _ := list(trace.Query{To: at, Limit: 100})
		if diff := cmp.Diff(want[:i+1], newer); diff != "" {
			t.Errorf("from the time of event %d (-want +got):\n%s", i, diff)
		}
		if diff := cmp.Diff(want, append(newer, older...)); diff != "" {
			t.Errorf("the two spans that meet at event %d (-want +got):\n%s", i, diff)
		}
	}
}

// Pages of one status go on past pages that have nothing of it.
func TestPagesOfOneStatus(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var want []string
	for i := range 12 {
		ev := r.event(nil)
		if i%5 == 0 {
			r.attempt(ev, "a", 1, event.Refused, 400)
			want = append([]string{ev.ID}, want...)
		} else {
			r.attempt(ev, "a", 1, event.Delivered, 200)
		}
	}
	r.route()
	var got []string
	q := trace.Query{Status: trace.Failed, Limit: 2}
	for {
		page, next, err := r.tracer.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range page {
			got = append(got, s.ID)
		}
		if q.Cursor = next; next == "" {
			break
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("failed events, page by page (-want +got):\n%s", diff)
	}
}
