package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/queue"
)

func newQueue(t testing.TB, js jetstream.JetStream) *queue.Queue {
	t.Helper()
	q, err := queue.New(js.Conn(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := q.EnsureLane(t.Context(), queue.LaneConfig{Lane: queue.Shared("default", event.Normal), MaxDeliver: 5, AckWait: 30 * time.Second}); err != nil {
		t.Fatal(err)
	}
	return q
}

func enqueue(t testing.TB, q *queue.Queue, id string, revision uint64, round int) {
	t.Helper()
	p := q.Enqueue(&event.Delivery{Event: id, Subscription: "erp", Round: round, Policy: "default", Revision: revision}, "")
	if _, err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// drain settles all deliveries.
func drain(t testing.TB, js jetstream.JetStream, q *queue.Queue) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- q.Consume(ctx, queue.Shared("default", event.Normal), 64, func(l *queue.Lease) {
			if err := l.Done(); err != nil {
				t.Error(err)
			}
		})
	}()
	eventually(t, "drain", func() error {
		if n := state(t, js, topology.StreamDeliveries).Msgs; n > 0 {
			return fmt.Errorf("%d deliveries are queued", n)
		}
		return nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// remaining returns which of the events are there, past any cache.
func remaining(t testing.TB, js jetstream.JetStream, ids ...string) string {
	t.Helper()
	s := open(t, js, Config{})
	var b strings.Builder
	for _, id := range ids {
		switch _, err := s.Get(t.Context(), id); {
		case err == nil:
			b.WriteByte('x')
		case errs.KindOf(err) == errs.NotFound:
			b.WriteByte('.')
		default:
			t.Fatalf("get %s: %v", id, err)
		}
	}
	return b.String()
}

func TestASmallStoreFullOfDeliveredEventsTurnsNobodyAway(t *testing.T) {
	t.Parallel()
	const limit = 4 << 20
	js := jstest.WithTopology(t, topology.Config{EventsBytes: limit})
	s := open(t, js, Config{})
	s.patience = time.Minute // the machine may keep retention from its work for a while
	router(t, js)
	retain(t, s)

	data := `"` + strings.Repeat("x", 1000) + `"`
	written := 0
	for written < 4*limit {
		mustAppend(t, s, newEvent(data))
		written += len(data)
	}
	if got := state(t, js, "KV_events").Bytes; got > limit {
		t.Errorf("the bucket has %d B, want at most %d", got, limit)
	}
	if testutil.ToFloat64(s.metrics.purged) == 0 {
		t.Error("no event was counted as purged")
	}
	if got := testutil.ToFloat64(s.metrics.blocked); got != 0 {
		t.Errorf("posthorn_store_full is %v, want 0", got)
	}
}

func TestAStoreFullOfUndeliveredEventsTurnsPublishersAwayUntilTheyDrain(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{EventsBytes: 2 << 20})
	s, q := open(t, js, Config{}), newQueue(t, js)
	router(t, js)
	retain(t, s)

	data := `"` + strings.Repeat("x", 4000) + `"`
	var ids []string
	var full error
	for len(ids) < 2000 {
		ev := newEvent(data)
		// The event's delivery is queued before the router goes on; here, before
		// its ID is on EVENTS.
		value, _, err := s.prepare(t.Context(), ev)
		if err != nil {
			t.Fatal(err)
		}
		put := s.create(ev.ID, value, false)
		revision, err := s.created(t.Context(), ev.ID, &put, false)
		if err != nil {
			full = err
			break
		}
		enqueue(t, q, ev.ID, revision, 1)
		if _, err := s.queue(t.Context(), ev, revision, false); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, ev.ID)
	}
	if got := errs.KindOf(full); got != errs.Full {
		t.Fatalf("after %d events the error is %v, want one of kind full", len(ids), full)
	}
	eventually(t, "the metric of a full store", func() error {
		if got := testutil.ToFloat64(s.metrics.blocked); got != 1 {
			return fmt.Errorf("posthorn_store_full is %v, want 1", got)
		}
		return nil
	})
	if _, err := s.Append(t.Context(), newEvent(data)); errs.KindOf(err) != errs.Full {
		t.Errorf("append to a full store: got error %v, want one of kind full", err)
	}
	if got, want := remaining(t, js, ids...), strings.Repeat("x", len(ids)); got != want {
		t.Errorf("undelivered events that are there: %s, want all", got)
	}

	drain(t, js, q)
	eventually(t, "append after the deliveries drained", func() error {
		_, err := s.Append(t.Context(), newEvent(data))
		return err
	})
	eventually(t, "the metric of a store with room", func() error {
		if got := testutil.ToFloat64(s.metrics.blocked); got != 0 {
			return fmt.Errorf("posthorn_store_full is %v, want 0", got)
		}
		return nil
	})
}

// pass makes one pass whose clock says that everything is older than MaxAge
// and, with settled 0, older than any publish takes.
func pass(t testing.TB, s *Store, settled time.Duration) int {
	t.Helper()
	r := &retention{s: s, age: -time.Hour, settled: settled}
	z, err := r.sizes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n, err := r.pass(t.Context(), z)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// What is needed keeps itself and what was written after it.
func TestWhatMayGo(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		// deliveries are indices of the five events that one is queued for.
		deliveries []int
		routed     int // how many of them the router has routed; -1 is no router
		want       string
	}{
		{"everything when all is delivered", nil, 5, "....."},
		{"nothing while the first is queued", []int{0}, 5, "xxxxx"},
		{"up to the first that is queued", []int{2}, 5, "..xxx"},
		{"up to the lowest, in whichever order they were queued", []int{4, 1, 3}, 5, ".xxxx"},
		{"up to what the router has routed", nil, 3, "...xx"},
		{"up to whichever is lower", []int{1}, 3, ".xxxx"},
		{"nothing without a router", nil, -1, "xxxxx"},
		{"nothing before the router has begun", nil, 0, "xxxxx"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			js := jstest.WithTopology(t, topology.Config{})
			s, q := open(t, js, Config{}), newQueue(t, js)
			var ids []string
			var at []Position
			for range 5 {
				ev := newEvent(`{}`)
				ids, at = append(ids, ev.ID), append(at, mustAppend(t, s, ev))
			}
			for _, i := range tt.deliveries {
				enqueue(t, q, ids[i], at[i].Revision, 1)
			}
			if tt.routed >= 0 {
				ackFirst(t, js, tt.routed)
			}
			n := pass(t, s, settled)
			if got := remaining(t, js, ids...); got != tt.want {
				t.Errorf("what remains is %s, want %s", got, tt.want)
			}
			if want := strings.Count(tt.want, "."); n != want {
				t.Errorf("the pass says that %d went, want %d", n, want)
			}
			if got, want := state(t, js, topology.StreamEvents).Msgs, uint64(strings.Count(tt.want, "x")); got != want {
				t.Errorf("%d IDs are on EVENTS, want %d", got, want)
			}
			if again := pass(t, s, settled); again != 0 {
				t.Errorf("a second pass removed %d, want 0", again)
			}
		})
	}
}

// ackFirst routes the first n events.
func ackFirst(t testing.TB, js jetstream.JetStream, n int) {
	t.Helper()
	c, err := js.CreateOrUpdateConsumer(t.Context(), topology.StreamEvents, topology.Router(0))
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		m, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAgeRemovesWhatIsDeliveredAndKeepsTheRest(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	s, q := open(t, js, Config{MaxAge: 500 * time.Millisecond}), newQueue(t, js)
	router(t, js)
	delivered, waiting := newEvent(`1`), newEvent(`2`)
	mustAppend(t, s, delivered)
	p := mustAppend(t, s, waiting)
	enqueue(t, q, waiting.ID, p.Revision, 1)
	retain(t, s)
	eventually(t, "removal of what is delivered and old", func() error {
		if got := remaining(t, js, delivered.ID, waiting.ID); got != ".x" {
			return fmt.Errorf("there are %s, want .x", got)
		}
		return nil
	})
	drain(t, js, q)
	eventually(t, "removal of the other one", func() error {
		if got := remaining(t, js, delivered.ID, waiting.ID); got != ".." {
			return fmt.Errorf("there are %s, want none", got)
		}
		return nil
	})
}

func TestYoungEventsStayWithoutPressure(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	s := open(t, js, Config{})
	ev := newEvent(`{}`)
	mustAppend(t, s, ev)
	ackFirst(t, js, 1)
	r := &retention{s: s, age: time.Hour, settled: settled}
	if _, err := r.step(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := remaining(t, js, ev.ID); got != "x" {
		t.Errorf("a young event: got %s, want x", got)
	}
}

// A publisher that dies between the two writes leaves an event without an ID on
// EVENTS. Until it is settled somebody may still queue it.
func TestOrphansGoOnceTheyAreSettled(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	s := open(t, js, Config{})
	before, orphan, after := newEvent(`1`), newEvent(`2`), newEvent(`3`)
	mustAppend(t, s, before)
	value, _, err := s.prepare(t.Context(), orphan)
	if err != nil {
		t.Fatal(err)
	}
	put := s.create(orphan.ID, value, false)
	if _, err := s.created(t.Context(), orphan.ID, &put, false); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, after)
	ackFirst(t, js, 2)

	pass(t, s, time.Hour)
	if got, want := remaining(t, js, before.ID, orphan.ID, after.ID), ".xx"; got != want {
		t.Errorf("with a young orphan there are %s, want %s", got, want)
	}
	pass(t, s, 0)
	if got, want := remaining(t, js, before.ID, orphan.ID, after.ID), "..."; got != want {
		t.Errorf("with a settled orphan there are %s, want %s", got, want)
	}
}

// A retry by hand writes the event anew; the old ID on EVENTS goes, and neither
// event nor payload with it.
func TestATouchedEventKeepsItsPayload(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	s, q := open(t, js, Config{Threshold: 10}), newQueue(t, js)
	ev, gone := newEvent(`"more than ten bytes"`), newEvent(`"gone, with its payload"`)
	mustAppend(t, s, ev)
	mustAppend(t, s, gone)
	_, revision, err := s.Touch(t.Context(), ev.ID)
	if err != nil {
		t.Fatal(err)
	}
	enqueue(t, q, ev.ID, revision, 2)
	ackFirst(t, js, 2)

	if n := pass(t, s, 0); n != 1 {
		t.Errorf("the pass removed %d events, want 1", n)
	}
	got, err := open(t, js, Config{}).Get(t.Context(), ev.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(ev.Data), string(got.Data)); diff != "" {
		t.Errorf("data of a touched event (-want +got):\n%s", diff)
	}
	if n := state(t, js, topology.StreamEvents).Msgs; n != 0 {
		t.Errorf("%d IDs are on EVENTS, want 0", n)
	}

	drain(t, js, q)
	pass(t, s, 0)
	if got := remaining(t, js, ev.ID); got != "." {
		t.Errorf("after its delivery the touched event is %s, want .", got)
	}
	if n := state(t, js, objectsStream).Msgs; n != 0 {
		t.Errorf("object store payloads has %d messages, want 0: data or markers are left", n)
	}
}

// An event that is replayed before it was routed has an ID on EVENTS whose
// revision is gone; the router has yet to see it.
func TestTheIDOfATouchedEventStaysUntilItIsRouted(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	s := open(t, js, Config{})
	ev := newEvent(`{}`)
	mustAppend(t, s, ev)
	ackFirst(t, js, 0)
	if _, _, err := s.Touch(t.Context(), ev.ID); err != nil {
		t.Fatal(err)
	}
	pass(t, s, 0)
	if n := state(t, js, topology.StreamEvents).Msgs; n != 1 {
		t.Errorf("%d IDs are on EVENTS, want 1", n)
	}
	if got := remaining(t, js, ev.ID); got != "x" {
		t.Errorf("the event is %s, want x", got)
	}
}

func TestSeveralRetentionsAtOnceAreHarmless(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{EventsBytes: 2 << 20})
	s, q := open(t, js, Config{}), newQueue(t, js)
	router(t, js)
	retain(t, s)
	for range 2 {
		retain(t, open(t, js, Config{}))
	}
	data := `"` + strings.Repeat("x", 1000) + `"`
	var kept []string
	for i := range 2000 {
		ev := newEvent(data)
		p := mustAppend(t, s, ev)
		if i >= 1500 {
			enqueue(t, q, ev.ID, p.Revision, 1)
			kept = append(kept, ev.ID)
		}
	}
	got := remaining(t, js, kept...)
	if want := strings.Repeat("x", len(kept)); got != want {
		t.Errorf("of those that are queued there are %s, want all", got)
	}
}

func TestRetainGoesOnAfterAnOutage(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := open(t, js, Config{}).Retain(ctx); err != nil {
		t.Errorf("retain until its context is done: got %v, want nil", err)
	}
	js.Conn().Close()
	r := &retention{s: &Store{nc: js.Conn(), js: js, metrics: none()}, age: time.Hour, settled: settled}
	wait, err := r.step(t.Context())
	if err == nil || errors.Is(err, context.Canceled) || wait <= 0 {
		t.Errorf("a step without a connection: got wait %v and error %v, want a wait and an error", wait, err)
	}
}
