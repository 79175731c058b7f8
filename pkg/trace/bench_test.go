package trace_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/store"
	"github.com/posthornhq/posthorn/pkg/stream"
	"github.com/posthornhq/posthorn/pkg/trace"
)

// flood stores n events as the router sees them and an attempt at each, as fast as
// the server takes them: one in a thousand is from a rare source, one in ten
// thousand was refused by a rare subscription, and has a dead letter.
func (r *rig) flood(pub *stream.Publisher, n int) (last string) {
	r.t.Helper()
	var window []stream.Pending
	wait := func(most int) {
		for len(window) > most {
			if _, err := window[0].Wait(r.t.Context()); err != nil {
				r.t.Fatal(err)
			}
			window = window[1:]
		}
	}
	for i := range n {
		id, source, sub := store.NewID(), "shop", "orders-erp"
		outcome, status := event.Delivered, 200
		if i%1000 == 7 {
			source = "rare"
		}
		if i%10_000 == 9 {
			sub, outcome, status = "fragile", event.Refused, 404
		}
		header := nats.Header{
			topology.HeaderType: {"order.created"}, topology.HeaderSource: {source}, topology.HeaderTenant: {"acme"},
			topology.HeaderRevision: {strconv.Itoa(i + 1)}, jetstream.MsgIDHeader: {id},
		}
		window = append(window, pub.Start(&nats.Msg{Subject: "events.out.default.order.created", Header: header, Data: []byte(id)}))
		a := event.Attempt{
			Event: id, Type: "order.created", Subscription: sub, Round: 1, Number: 1, Outcome: outcome, Status: status,
			Destination: "https://erp.example/hooks", Response: `{"ok":true}`, At: time.Now(), Queued: time.Now(), Latency: time.Millisecond,
		}
		rec, err := r.ledger.Record(&a)
		r.wait0(err)
		window = append(window, rec)
		if outcome == event.Refused {
			r.wait0(r.letters.Put(r.t.Context(), &event.DeadLetter{Event: id, Type: a.Type, Subscription: sub, Round: 1, Reason: "refused", Status: status, At: time.Now()}))
		}
		wait(4096)
		last = id
	}
	wait(0)
	return last
}

func (r *rig) wait0(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// BenchmarkListWith5MillionAttempts measures the pages of lists where so many
// attempts are stored as POSTHORN_BENCH_ATTEMPTS says, for instance 5000000; 200,000
// without it. It takes a data directory of half a kilobyte for each.
//
// Each list is read page after page as far as it goes, at most 50 pages; what is
// told is the slowest page. All of them are to stay below 300 ms.
func BenchmarkListWith5MillionAttempts(b *testing.B) {
	n := 200_000
	if v := os.Getenv("POSTHORN_BENCH_ATTEMPTS"); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil {
			b.Fatalf("POSTHORN_BENCH_ATTEMPTS: %v", err)
		}
	}
	r := newRig(b)
	pub, err := stream.New(r.js.Conn())
	r.wait0(err)
	begun := time.Now()
	oldest := r.flood(pub, 1)
	r.flood(pub, n/2)
	middle := time.Now()
	r.flood(pub, n-n/2-1)
	b.Logf("%d events and as many attempts in %s", n, time.Since(begun).Round(time.Second))
	begun = time.Now()
	with := r.indexed()
	b.Logf("the index took %s", time.Since(begun).Round(100*time.Millisecond))

	for _, q := range []struct {
		name  string
		query trace.Query
	}{
		{"newest", trace.Query{}},
		{"old", trace.Query{To: middle}},
		{"rare source", trace.Query{Source: "rare"}},
		{"source that is not there", trace.Query{Source: "nobody"}},
		{"failed", trace.Query{Status: trace.Failed}},
		{"retrying, which none is", trace.Query{Status: trace.Retrying}},
		{"pending, which none is", trace.Query{Status: trace.Pending}},
		{"client errors", trace.Query{Answer: "4xx"}},
		{"one subscription", trace.Query{Subscription: "fragile"}},
		{"one event", trace.Query{ID: oldest}},
		{"all filters", trace.Query{Type: "order.*", Source: "shop", Context: "default", Status: trace.Failed, Subscription: "fragile", Answer: "404", To: middle}},
	} {
		b.Run("events/"+q.name, func(b *testing.B) {
			q.query.Limit = 50
			pages(b, func(cursor string) (int, string, error) {
				q.query.Cursor = cursor
				page, next, err := with.List(b.Context(), q.query)
				return len(page), next, err
			})
		})
	}
	for _, q := range []struct {
		name  string
		query deadletter.Query
	}{
		{"newest", deadletter.Query{}},
		{"status that is not there", deadletter.Query{Status: "5xx"}},
		{"old", deadletter.Query{To: middle}},
		{"one event", deadletter.Query{Event: oldest}},
	} {
		b.Run("deadletters/"+q.name, func(b *testing.B) {
			q.query.Limit = 50
			pages(b, func(cursor string) (int, string, error) {
				q.query.Before = cursor
				page, next, err := with.DeadLetters(b.Context(), q.query)
				return len(page), next, err
			})
		})
	}
}

// pages reads a list and reports its slowest page.
func pages(b *testing.B, page func(cursor string) (n int, next string, err error)) {
	var slowest time.Duration
	read, found := 0, 0
	for b.Loop() {
		cursor := ""
		for range 50 {
			begun := time.Now()
			n, next, err := page(cursor)
			if err != nil {
				b.Fatal(err)
			}
			slowest = max(slowest, time.Since(begun))
			read++
			found += n
			if cursor = next; cursor == "" {
				break
			}
		}
	}
	b.ReportMetric(float64(slowest.Microseconds())/1000, "ms/slowest-page")
	b.ReportMetric(float64(read)/float64(b.N), "pages/op")
	b.ReportMetric(float64(found)/float64(b.N), "found/op")
	b.ReportMetric(0, "ns/op")
	if slowest > 300*time.Millisecond {
		fmt.Fprintf(os.Stderr, "%s: a page took %s\n", b.Name(), slowest)
	}
}
