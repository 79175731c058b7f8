package deadletter_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
)

func open(t *testing.T) *deadletter.Letters {
	t.Helper()
	l, err := deadletter.New(jstest.WithTopology(t, topology.Config{}).Conn())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func put(t *testing.T, l *deadletter.Letters, d event.DeadLetter) {
	t.Helper()
	if err := l.Put(t.Context(), &d); err != nil {
		t.Fatal(err)
	}
}

func TestADeadLetterStaysUntilItIsRemoved(t *testing.T) {
	t.Parallel()
	l := open(t)
	want := event.DeadLetter{Event: "ev_1", Type: "order.created", Context: "default", Subscription: "erp", Round: 1, Attempts: 6,
		Reason: "exhausted", Status: 503, Priority: event.High, At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	put(t, l, want)
	put(t, l, want) // the same delivery
	other := want
	other.Round = 2
	put(t, l, other)
	all, next, err := l.List(t.Context(), deadletter.Query{Limit: 10})
	if err != nil || len(all) != 2 || next != "" {
		t.Fatalf("list: got %d, cursor %q and error %v, want two", len(all), next, err)
	}
	got, err := l.Get(t.Context(), "1")
	if err != nil {
		t.Fatal(err)
	}
	want.ID = "1"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("get (-want +got):\n%s", diff)
	}
	for i, want := range []bool{true, false} {
		if ok, err := l.Remove(t.Context(), "1"); err != nil || ok != want {
			t.Errorf("remove, time %d: got %v and error %v, want %v", i+1, ok, err, want)
		}
	}
	for _, id := range []string{"1", "0", "99", "", "x", "-1"} {
		if _, err := l.Get(t.Context(), id); errs.KindOf(err) != errs.NotFound {
			t.Errorf("get %q: got error %v, want one of kind not-found", id, err)
		}
	}
}

func TestListFiltersAndPages(t *testing.T) {
	t.Parallel()
	l := open(t)
	for i, status := range []int{0, 503, 500, 404, 503, 200} {
		put(t, l, event.DeadLetter{Event: fmt.Sprintf("ev_%d", i/2), Subscription: []string{"erp", "crm"}[i%2],
			Context: []string{"default", "testing", "default"}[i%3], Round: i, Status: status})
	}
	tests := []struct {
		name string
		q    deadletter.Query
		want []string
	}{
		{"all", deadletter.Query{}, []string{"6", "5", "4", "3", "2", "1"}},
		{"by subscription", deadletter.Query{Subscription: "crm"}, []string{"6", "4", "2"}},
		{"by event", deadletter.Query{Event: "ev_1"}, []string{"4", "3"}},
		{"by context", deadletter.Query{Context: "testing"}, []string{"5", "2"}},
		{"by status", deadletter.Query{Status: "503"}, []string{"5", "2"}},
		{"by family", deadletter.Query{Status: "5xx"}, []string{"5", "3", "2"}},
		{"without an answer", deadletter.Query{Status: "0"}, []string{"1"}},
		{"by all at once", deadletter.Query{Subscription: "erp", Event: "ev_1", Context: "default", Status: "5xx"}, []string{"3"}},
		{"of the future", deadletter.Query{From: time.Now().Add(time.Hour)}, nil},
		{"of the past", deadletter.Query{To: time.Now().Add(-time.Hour)}, nil},
	}
	for _, tt := range tests {
		for _, limit := range []int{1, 2, 100} {
			t.Run(fmt.Sprintf("%s, %d a page", tt.name, limit), func(t *testing.T) {
				var ids []string
				q := tt.q
				for q.Limit = limit; ; {
					got, next, err := l.List(t.Context(), q)
					if err != nil {
						t.Fatal(err)
					}
					if len(got) > limit {
						t.Errorf("a page has %d, want at most %d", len(got), limit)
					}
					for _, d := range got {
						ids = append(ids, d.ID)
					}
					if q.Before = next; next == "" {
						break
					}
				}
				if diff := cmp.Diff(tt.want, ids, cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("IDs (-want +got):\n%s", diff)
				}
			})
		}
	}
	if _, _, err := l.List(t.Context(), deadletter.Query{Before: "x", Limit: 1}); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a bad cursor: got error %v, want one of kind invalid", err)
	}
}
