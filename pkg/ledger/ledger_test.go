package ledger

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/stream"
)

func open(t *testing.T) *Ledger {
	t.Helper()
	l, err := New(jstest.WithTopology(t, topology.Config{}).Conn())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func wait(t *testing.T, p stream.Pending, err error) {
	t.Helper()
	if err == nil {
		_, err = p.Wait(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestAttemptsAreReadBackByEvent(t *testing.T) {
	t.Parallel()
	l := open(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	var want []event.Attempt
	// More events than there are buckets, so that some share one.
	for i := range 600 {
		a := event.Attempt{Event: "ev_" + strings.Repeat("x", i%300+1), Subscription: "erp", Round: 1, Number: i/300 + 1,
			Outcome: event.Retry, Status: 503, Response: "busy", At: at, Latency: time.Millisecond}
		p, err := l.Record(&a)
		wait(t, p, err)
		if i%300 == 7 {
			want = append(want, a)
		}
	}
	got, err := l.Attempts(t.Context(), want[0].Event, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
	if got, err := l.Attempts(t.Context(), "ev_none", time.Time{}); err != nil || len(got) != 0 {
		t.Errorf("attempts of no event: got %v and error %v, want nothing", got, err)
	}
	n := 0
	if err := l.Latest(t.Context(), time.Time{}, func(*event.Attempt) { n++ }); err != nil || n != 600 {
		t.Errorf("all attempts: got %d and error %v, want 600", n, err)
	}
}

func TestAnUnmatchedEventIsMarked(t *testing.T) {
	t.Parallel()
	l := open(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p, err := l.Unmatched("ev_1", at)
	wait(t, p, err)
	got, err := l.Attempts(t.Context(), "ev_1", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	want := []event.Attempt{{Event: "ev_1", Subscription: topology.Unmatched, Outcome: Unmatched, At: at}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func TestRejectionsArePagedFromTheNewest(t *testing.T) {
	t.Parallel()
	l := open(t)
	for i := range 7 {
		source := []string{"shop", "github"}[i%2]
		if err := l.Reject(t.Context(), &event.Rejection{Source: source, Status: 401, Reason: "signature"}); err != nil {
			t.Fatal(err)
		}
	}
	pages := func(q Query) (ids []string) {
		t.Helper()
		for range 10 {
			got, next, err := l.Rejections(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range got {
				if r.At.IsZero() || q.Source != "" && r.Source != q.Source {
					t.Errorf("%+v is not of source %q or has no time", r, q.Source)
				}
				ids = append(ids, r.ID)
			}
			if next == "" {
				return ids
			}
			q.Before = next
		}
		t.Fatal("ten pages of seven")
		return nil
	}
	tests := []struct {
		name string
		q    Query
		want []string
	}{
		{"all by three", Query{Limit: 3}, []string{"7", "6", "5", "4", "3", "2", "1"}},
		{"all at once", Query{Limit: 100}, []string{"7", "6", "5", "4", "3", "2", "1"}},
		{"one source by two", Query{Source: "shop", Limit: 2}, []string{"7", "5", "3", "1"}},
		{"before any", Query{To: time.Now().Add(-time.Hour), Limit: 3}, nil},
		{"after all", Query{From: time.Now().Add(time.Hour), Limit: 3}, nil},
		{"a source without any", Query{Source: "none", Limit: 3}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, pages(tt.q), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("IDs (-want +got):\n%s", diff)
			}
		})
	}
	if _, next, err := l.Rejections(t.Context(), Query{From: time.Now().Add(time.Hour), Limit: 3}); err != nil || next != "" {
		t.Errorf("behind the open end: cursor %q and error %v, want neither", next, err)
	}
	_, _, err := l.Rejections(t.Context(), Query{Before: "x", Limit: 1})
	if v := errs.ViolationsOf(err); errs.KindOf(err) != errs.Invalid || len(v) != 1 || v[0].Field != "cursor" {
		t.Errorf("a bad cursor: got error %v, want one about field cursor", err)
	}
}

func TestRejectionsAreFiltered(t *testing.T) {
	t.Parallel()
	l := open(t)
	for _, r := range []event.Rejection{
		{Source: "shop", Status: 401, Context: "default"}, {Source: "shop", Status: 422, Context: "default"},
		{Source: "github", Status: 401, Context: "testing"}, {Source: "github", Status: 503, Context: "default"},
	} {
		if err := l.Reject(t.Context(), &r); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name  string
		query Query
		want  []string // IDs
	}{
		{"all", Query{}, []string{"4", "3", "2", "1"}},
		{"a status", Query{Status: "401"}, []string{"3", "1"}},
		{"a status of a source", Query{Status: "401", Source: "shop"}, []string{"1"}},
		{"a family", Query{Status: "4xx"}, []string{"3", "2", "1"}},
		{"a family in a context", Query{Status: "4xx", Context: "default"}, []string{"2", "1"}},
		{"a context", Query{Context: "testing"}, []string{"3"}},
		{"nothing", Query{Status: "429"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.query.Limit = 10
			found, _, err := l.Rejections(t.Context(), tt.query)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range found {
				got = append(got, r.ID)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("listed (-want +got):\n%s", diff)
			}
		})
	}
}

// What a stranger sends may be anything; it must be recorded all the same.
func TestStrangeRejectionsAreRecorded(t *testing.T) {
	t.Parallel()
	l := open(t)
	in := event.Rejection{Source: "a b.>*", Status: 7, Detail: strings.Repeat("ü", 4000) + "\xff"}
	if err := l.Reject(t.Context(), &in); err != nil {
		t.Fatal(err)
	}
	got, _, err := l.Rejections(t.Context(), Query{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Source != "a b.>*" || got[0].Status != 7 || len(got[0].Detail) > 4<<10+2 {
		t.Errorf("got %d rejections, want the one of source %q with its detail cut: %+v", len(got), in.Source, got)
	}
}
