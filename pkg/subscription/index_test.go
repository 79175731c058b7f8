package subscription_test

import (
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/subscription"
)

func TestIndexMatch(t *testing.T) {
	t.Parallel()
	x := subscription.NewIndex()
	for _, s := range []string{
		`{"name":"all","types":["#"]}`,
		`{"name":"orders","types":["order.*","order.created","#"]}`,
		`{"name":"orders-of-acme","types":["order.*"],"tenant":"acme"}`,
		`{"name":"orders-of-umbrella","types":["order.*"],"tenant":"umbrella"}`,
		`{"name":"invoices","types":["invoice.*"]}`,
		`{"name":"incoming","types":["#"],"direction":"INCOMING"}`,
		`{"name":"testing","types":["#"],"context":"testing"}`,
		`{"name":"paused","types":["order.created"],"paused":true}`,
		`{"name":"disabled","types":["#"],"disabled":true}`,
		`{"name":"filtered","types":["order.created"],"filter":"type == 'never'"}`,
	} {
		x.Put(compile(t, s))
	}
	tests := []struct {
		name  string
		event event.Event
		want  []string
	}{
		{"of no tenant", event.Event{Type: "order.created"}, []string{"all", "filtered", "orders", "paused"}},
		{"of the default context by name", event.Event{Type: "order.created", Context: "default"}, []string{"all", "filtered", "orders", "paused"}},
		{"of a tenant", event.Event{Type: "order.shipped", Tenant: "acme"}, []string{"all", "orders", "orders-of-acme"}},
		{"of an unknown tenant", event.Event{Type: "order.shipped", Tenant: "acm"}, []string{"all", "orders"}},
		{"of another context", event.Event{Type: "order.created", Context: "testing", Tenant: "acme"}, []string{"testing"}},
		{"of an unknown context", event.Event{Type: "order.created", Context: "x"}, nil},
		{"from outside", event.Event{Type: "order.created", Direction: event.Incoming}, []string{"incoming"}},
		{"of another type", event.Event{Type: "invoice.paid"}, []string{"all", "invoices", "orders"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, names(x.Match(&tt.event, nil))); diff != "" {
				t.Errorf("found others (-want +got):\n%s", diff)
			}
		})
	}
	if x.Len() != 10 || x.Get("disabled") == nil || x.Get("nobody") != nil {
		t.Errorf("index has %d subscriptions, disabled %v, nobody %v; want 10 with disabled and without nobody", x.Len(), x.Get("disabled"), x.Get("nobody"))
	}
}

func TestIndexFollowsEdits(t *testing.T) {
	t.Parallel()
	x := subscription.NewIndex()
	e := &event.Event{Type: "order.created", Tenant: "acme"}
	steps := []struct {
		name string
		do   func()
		want []string
	}{
		{"nothing yet", func() {}, nil},
		{"put", func() { x.Put(compile(t, `{"name":"s","types":["order.*","#"]}`)) }, []string{"s"}},
		{"put again", func() { x.Put(compile(t, `{"name":"s","types":["order.*","#"]}`)) }, []string{"s"}},
		{"moved to another type", func() { x.Put(compile(t, `{"name":"s","types":["invoice.*"]}`)) }, nil},
		{"and back, for a tenant", func() { x.Put(compile(t, `{"name":"s","types":["order.*"],"tenant":"acme"}`)) }, []string{"s"}},
		{"disabled", func() { x.Put(compile(t, `{"name":"s","types":["order.*"],"tenant":"acme","disabled":true}`)) }, nil},
		{"enabled", func() { x.Put(compile(t, `{"name":"s","types":["order.*"],"tenant":"acme"}`)) }, []string{"s"}},
		{"moved to another context", func() { x.Put(compile(t, `{"name":"s","types":["order.*"],"context":"testing"}`)) }, nil},
		{"another one", func() { x.Put(compile(t, `{"name":"r","types":["order.*"]}`)) }, []string{"r"}},
		{"deleted", func() { x.Delete("r") }, nil},
	}
	for _, step := range steps {
		step.do()
		if diff := cmp.Diff(step.want, names(x.Match(e, nil))); diff != "" {
			t.Errorf("%s: found others (-want +got):\n%s", step.name, diff)
		}
	}
	if x.Delete("r") {
		t.Error("r is deleted twice")
	}
	if !x.Delete("s") || x.Len() != 0 {
		t.Errorf("after deleting all, %d are left, want none", x.Len())
	}
}

// An event that comes while its subscription is edited must reach it, once:
// before and after the edit it matches.
func TestEditsAreSeenWhole(t *testing.T) {
	t.Parallel()
	x := subscription.NewIndex()
	versions := []*subscription.Subscription{
		compile(t, `{"name":"s","types":["order.created"]}`),
		compile(t, `{"name":"s","types":["#","order.*"],"tenant":"acme"}`),
		compile(t, `{"name":"s","types":["order.#"],"priority":"HIGH"}`),
	}
	x.Put(versions[0])

	done := make(chan struct{})
	var readers, writers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			e := &event.Event{Type: "order.created", Tenant: "acme"}
			var found []*subscription.Subscription
			for {
				select {
				case <-done:
					return
				default:
				}
				found = x.Match(e, found[:0])
				n := 0
				for _, s := range found {
					if s.Name == "s" {
						n++
					}
				}
				if n != 1 || x.Get("s") == nil {
					t.Errorf("found %v, want s exactly once", names(found))
					return
				}
			}
		})
	}
	writers.Go(func() {
		for i := range 2000 {
			x.Put(versions[i%len(versions)])
		}
	})
	for w := range 2 {
		writers.Go(func() {
			for i := range 500 {
				name := fmt.Sprintf("w%d-%d", w, i)
				x.Put(&subscription.Subscription{Name: name, Context: "default"})
				if i%2 == 0 && !x.Delete(name) {
					t.Errorf("%s was lost", name)
				}
			}
		})
	}
	writers.Wait()
	close(done)
	readers.Wait()
	if want := 1 + 2*250; x.Len() != want {
		t.Errorf("index has %d subscriptions, want %d", x.Len(), want)
	}
}

func TestMatchTypesFindsThemEverywhereOnce(t *testing.T) {
	t.Parallel()
	x := subscription.NewIndex()
	for _, doc := range []string{
		`{"name":"exact","types":["shop.example/1/order"]}`,
		`{"name":"incoming","types":["shop.example/1/order"],"direction":"INCOMING"}`,
		`{"name":"tenant","types":["shop.example/1/*"],"tenant":"acme"}`,
		`{"name":"context","types":["#","shop.example/1/_version"],"context":"testing"}`,
		`{"name":"other","types":["shop.example/2/order"]}`,
		`{"name":"off","types":["shop.example/1/order"],"disabled":true}`,
	} {
		x.Put(compile(t, doc))
	}
	got := names(x.MatchTypes(nil, "shop.example/1/_version", "shop.example/1/order"))
	slices.Sort(got)
	if want := []string{"context", "exact", "incoming", "tenant"}; !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}

func TestMatchAmongThousandsAllocatesNothing(t *testing.T) {
	x := fill(t, 2000, func(i int) string {
		return fmt.Sprintf(`{"name":"s%d","types":["type%d.created"],"tenant":"t%d"}`, i, i%50, i)
	})
	e := &event.Event{Type: "type7.created", Tenant: "t7"}
	dst := make([]*subscription.Subscription, 0, 4)
	if allocs := testing.AllocsPerRun(100, func() { dst = x.Match(e, dst[:0]) }); allocs != 0 {
		t.Errorf("Match allocates %v times, want 0", allocs)
	}
	if got := names(dst); !slices.Equal(got, []string{"s7"}) {
		t.Errorf("found %v, want s7", got)
	}
}

// What an edit copies grows with the depth of what it changes, not with how many
// subscriptions there are: it is counted, since time on a busy machine says little.
func TestEditAmongTenThousandIsCheap(t *testing.T) {
	each := func(n int) uint64 {
		x := fill(t, n, func(i int) string { return fmt.Sprintf(`{"name":"s%d","types":["order.created"]}`, i) })
		s := x.Get("s50")
		const edits = 100
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range edits {
			x.Put(s)
		}
		runtime.ReadMemStats(&after)
		return (after.TotalAlloc - before.TotalAlloc) / edits
	}
	few, many := each(100), each(10_000)
	t.Logf("an edit among 100 copies %d bytes, among 10,000 %d", few, many)
	if many > 8*few {
		t.Errorf("an edit among 10,000 copies %d bytes, among 100 %d; want hardly more", many, few)
	}
}

func BenchmarkMatch10000DistinctTypes(b *testing.B) {
	x := fill(b, 10_000, func(i int) string { return fmt.Sprintf(`{"name":"s%d","types":["type%d.created"]}`, i, i) })
	benchmarkMatch(b, x, &event.Event{Type: "type5000.created"}, 1)
}

func BenchmarkMatch10000TenantsOneType(b *testing.B) {
	x := fill(b, 10_000, func(i int) string {
		return fmt.Sprintf(`{"name":"s%d","types":["order.created"],"tenant":"t%d"}`, i, i)
	})
	benchmarkMatch(b, x, &event.Event{Type: "order.created", Tenant: "t5000"}, 1)
}

func BenchmarkMatch10000WithWildcards(b *testing.B) {
	x := fill(b, 10_000, func(i int) string {
		pattern := [...]string{"type%d.created", "type%d.*", "type%d.#", "#.type%d", "community.certes.dev/type%d/#"}[i%5]
		return fmt.Sprintf(`{"name":"s%d","types":["`+pattern+`"]}`, i, i/5)
	})
	x.Put(compile(b, `{"name":"all","types":["#"]}`))
	x.Put(compile(b, `{"name":"created","types":["*.created","#.created.#"]}`))
	benchmarkMatch(b, x, &event.Event{Type: "type1000.created"}, 5)
}

func benchmarkMatch(b *testing.B, x *subscription.Index, e *event.Event, want int) {
	var dst []*subscription.Subscription
	b.ReportAllocs()
	for b.Loop() {
		dst = x.Match(e, dst[:0])
	}
	if len(dst) != want {
		b.Errorf("found %v, want %d", names(dst), want)
	}
}

func BenchmarkEditAmong10000(b *testing.B) {
	x := fill(b, 10_000, func(i int) string { return fmt.Sprintf(`{"name":"s%d","types":["order.created"]}`, i) })
	s := x.Get("s5000")
	b.ReportAllocs()
	for b.Loop() {
		x.Put(s)
	}
}

func fill(t testing.TB, n int, spec func(i int) string) *subscription.Index {
	t.Helper()
	x := subscription.NewIndex()
	for i := range n {
		x.Put(compile(t, spec(i)))
	}
	if x.Len() != n {
		t.Fatal("index has " + strconv.Itoa(x.Len()) + " subscriptions")
	}
	return x
}

func names(list []*subscription.Subscription) []string {
	var names []string
	for _, s := range list {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	return names
}
