package broker_test

import (
	"fmt"
	"testing"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/ledger"
	"github.com/posthornhq/posthorn/pkg/subscription"
	"github.com/posthornhq/posthorn/pkg/trace"
)

// queued returns how many deliveries each subscription has in the queue.
func (r *rig) queued() map[string]int {
	r.t.Helper()
	got := map[string]int{}
	for seq := uint64(1); seq <= r.stored(topology.StreamDeliveries); seq++ {
		d, err := r.queue.Get(r.t.Context(), seq)
		if err != nil {
			r.t.Fatal(err)
		}
		got[d.Subscription]++
	}
	return got
}

func TestFiltersSeeEveryAttribute(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for name, filter := range map[string]string{
		"type": "type == 'order.created'", "source": "source == 'shop'", "tenant": "tenant == 'acme'", "context": "context == 'default'",
		"subject": "subject == 'o/1'", "extension": "extensions.region == 'eu'", "data": "data.total == 1",
		"other-subject": "subject == 'o/2'", "other-extension": "extensions.region == 'us'", "no-subject": "subject == ''",
	} {
		r.catalog.subscribe(t, fmt.Sprintf(`{"name":%q,"types":["#"],"filter":%q,%s}`, name, filter, anywhere))
	}
	r.route()
	ev := good()
	ev.Subject, ev.Extensions, ev.Source, ev.Tenant = "o/1", map[string]string{"region": "eu"}, "shop", "acme"
	r.accept(ev)
	r.routed(1)
	got := r.queued()
	for _, name := range []string{"type", "source", "tenant", "context", "subject", "extension", "data"} {
		if got[name] != 1 {
			t.Errorf("%d deliveries for %s, want 1", got[name], name)
		}
	}
	if len(got) != 7 {
		t.Errorf("queued %v, want 7 subscriptions", got)
	}
}

// What the headers tell needs no look at the event.
func TestAFilterOverHeadersReadsNoEvent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.subscribe(t, `{"name":"one","types":["#"],"filter":"type == 'order.created' && tenant == 'acme' && source != ''",`+anywhere+`}`)
	ev := good()
	ev.Tenant = "acme"
	r.accept(ev)
	// Whoever wants to read the event now has to wait forever.
	kv, err := r.js.Stream(t.Context(), topology.BucketStream(topology.BucketEvents))
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.route()
	r.routed(1)
	if got := r.queued(); got["one"] != 1 {
		t.Errorf("queued %v, want one delivery", got)
	}
}

func TestAFilterThatFailsIsSeenInTheTrace(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.subscribe(t, `{"name":"broken","types":["#"],"filter":"data.nothing > 1",`+anywhere+`}`)
	r.catalog.subscribe(t, `{"name":"fine","types":["#"],`+anywhere+`}`)
	r.route()
	first := r.accept(good())
	for range 20 {
		r.accept(good())
	}
	r.routed(21)
	if got := r.queued(); got["fine"] != 21 || len(got) != 1 {
		t.Errorf("queued %v, want all for fine and none for broken", got)
	}
	tracer := trace.New(r.js, r.store, r.ledger, r.letters)
	tr, err := tracer.Trace(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, e := range tr.Entries {
		found = found || e.Step == "filter" && e.Outcome == "error" && e.Subscription == "broken" && e.Detail != ""
	}
	if !found || tr.Status != trace.Pending {
		t.Errorf("the trace is %s %+v, want it pending with the filter's error", tr.Status, tr.Entries)
	}
	// Not one note for each event.
	if n := r.stored(topology.StreamAttempts); n == 0 || n >= 21 {
		t.Errorf("%d notes for 21 events, want few", n)
	}
}

func TestAFilterThatFailsAloneLeavesTheEventUnmatched(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.subscribe(t, `{"name":"broken","types":["#"],"filter":"data.nothing > 1",`+anywhere+`}`)
	r.route()
	id := r.accept(good())
	r.routed(1)
	tr, err := trace.New(r.js, r.store, r.ledger, r.letters).Trace(t.Context(), id)
	if err != nil || tr.Status != trace.Unmatched {
		t.Errorf("the status is %v with error %v, want unmatched", tr, err)
	}
	attempts, err := r.ledger.Attempts(t.Context(), id, tr.Event.Received)
	if err != nil || len(attempts) != 2 {
		t.Fatalf("recorded %+v with error %v, want the mark and the note", attempts, err)
	}
	outcomes := map[event.Outcome]string{attempts[0].Outcome: attempts[0].Subscription, attempts[1].Outcome: attempts[1].Subscription}
	if outcomes[ledger.Unmatched] != topology.Unmatched || outcomes[ledger.FilterError] != "broken" {
		t.Errorf("recorded %v, want unmatched, and the error of broken's filter", outcomes)
	}
}

// One subscription may mix the notations of topic exchanges and of Certes, and has
// each event once however many of its patterns match.
func TestPatternsOfEveryNotationAreOneDelivery(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.subscribe(t, `{"name":"mixed","types":["order.*","order.#","#.created","shop.example/1/*","shop.example/*/order","shop.example/#"],`+anywhere+`}`)
	r.catalog.subscribe(t, `{"name":"binding","types":["order.*.paid"],`+anywhere+`}`)
	r.catalog.subscribe(t, `{"name":"certes","types":["shop.example/1/*"],`+anywhere+`}`)
	want := map[string]int{"mixed": 0, "binding": 0, "certes": 0}
	r.route()
	n := uint64(0)
	for _, tt := range []struct {
		typ string
		who []string
	}{
		{"order.created", []string{"mixed"}},                  // three patterns
		{"order.de.paid", []string{"mixed", "binding"}},       // one word and any number
		{"order", []string{"mixed"}},                          // # is also no word
		{"shop.example/1/order", []string{"mixed", "certes"}}, // three patterns
		{"shop.example/2/order", []string{"mixed"}},
		{"shop.example/2/invoice", []string{"mixed"}},
		{"invoice.paid", nil},
		{"shop.other/1/order", nil},
	} {
		ev := good()
		ev.Type = tt.typ
		r.accept(ev)
		n++
		for _, name := range tt.who {
			want[name]++
		}
	}
	r.routed(n)
	got := r.queued()
	for name, n := range want {
		if got[name] != n {
			t.Errorf("%d deliveries for %s, want %d", got[name], name, n)
		}
	}
}

func BenchmarkFilter(b *testing.B) {
	ev := &event.Event{Type: "order.created", Tenant: "acme", Data: []byte(`{"total":101,"lines":[{"sku":"x","n":2},{"sku":"y","n":3}],"customer":{"vip":true}}`)}
	for name, text := range map[string]string{"headers": `type == "order.created" && tenant == "acme"`, "data": `data.total > 100 && data.customer.vip`} {
		b.Run(name, func(b *testing.B) {
			f, err := subscription.CompileFilter(text)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if ok, err := f.Eval(b.Context(), ev); !ok || err != nil {
					b.Fatal(ok, err)
				}
			}
		})
	}
}
