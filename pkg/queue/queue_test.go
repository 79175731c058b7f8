package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/embedded"
	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
)

var laneDefaults = LaneConfig{Lane: Shared("default", event.Normal), MaxDeliver: 5, AckWait: 30 * time.Second}

func open(t testing.TB, js jetstream.JetStream, lane LaneConfig) *Queue {
	t.Helper()
	q, err := New(js.Conn(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := q.EnsureLane(t.Context(), lane); err != nil {
		t.Fatal(err)
	}
	return q
}

func delivery(n int) *event.Delivery {
	return &event.Delivery{Event: "ev_" + strconv.Itoa(n), Subscription: "erp", Round: 1, Policy: "default", Revision: uint64(n + 1)}
}

func enqueue(t testing.TB, q *Queue, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		p := q.Enqueue(delivery(i), "")
		if _, err := p.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// consume runs the normal lane until the returned function is called.
func consume(t testing.TB, q *Queue, slots int, handle func(*Lease)) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- q.Consume(ctx, Shared("default", event.Normal), slots, handle) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("consume: got error %v, want nil", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func take[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: nothing within 20 s", what)
		panic("not reached")
	}
}

func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within 20 s: %v", what, err)
		}
	}
}

func messages(q *Queue, want uint64) func() error {
	return func() error {
		d, err := q.Depth(context.Background())
		if err == nil && d.Messages != want {
			err = fmt.Errorf("%d deliveries are queued, want %d", d.Messages, want)
		}
		return err
	}
}

func TestParseReply(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, reply string
		attempt     int
		seq         uint64
		nanos       int64
		ok          bool
	}{
		{"without domain", "$JS.ACK.DELIVERIES.default_normal.2.17.5.1700000000000000001.9", 2, 17, 1700000000000000001, true},
		{"with domain and account", "$JS.ACK.hub.ACC.DELIVERIES.default_normal.1.3.5.7.0", 1, 3, 7, true},
		{"with a random token behind", "$JS.ACK._.ACC.DELIVERIES.default_normal.1.3.5.7.0.abc", 1, 3, 7, true},
		{"too short", "$JS.ACK.DELIVERIES.default_normal.1.3", 0, 0, 0, false},
		{"not numbers", "$JS.ACK.DELIVERIES.default_normal.a.b.c.d.e", 0, 0, 0, false},
		{"an inbox", "_INBOX.abc", 0, 0, 0, false},
		{"empty", "", 0, 0, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			attempt, seq, at, err := parseReply(tt.reply)
			if (err == nil) != tt.ok {
				t.Fatalf("got error %v, want ok %v", err, tt.ok)
			}
			if tt.ok && (attempt != tt.attempt || seq != tt.seq || at.UnixNano() != tt.nanos) {
				t.Errorf("got attempt %d, sequence %d, time %d, want %d, %d, %d", attempt, seq, at.UnixNano(), tt.attempt, tt.seq, tt.nanos)
			}
		})
	}
}

func TestADeliveryComesOutAsItWentIn(t *testing.T) {
	t.Parallel()
	q := open(t, jstest.WithTopology(t, topology.Config{}), laneDefaults)
	want := event.Delivery{Event: "ev_1", Subscription: "erp", Round: 3, Policy: "default", Revision: 42}
	for range 2 { // the second is the same delivery
		p := q.Enqueue(&want, "00-1-2-01")
		if _, err := p.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := messages(q, 1)(); err != nil {
		t.Errorf("after the same delivery twice: %v", err)
	}
	leases := make(chan *Lease)
	consume(t, q, 1, func(l *Lease) { leases <- l })
	l := take(t, "the delivery", leases)
	got := *l.Delivery()
	if got.Queued.IsZero() || l.TraceParent() != "00-1-2-01" {
		t.Errorf("queued at %v with trace %q, want a time and 00-1-2-01", got.Queued, l.TraceParent())
	}
	stored, err := q.Get(t.Context(), got.Sequence)
	if err != nil {
		t.Fatal(err)
	}
	if stored.Event != "ev_1" || stored.Round != 3 {
		t.Errorf("read by sequence it is %+v", stored)
	}
	got.Queued = time.Time{}
	want.Attempt, want.Sequence = 1, 1
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the delivery (-want +got):\n%s", diff)
	}
	if err := l.Done(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "settle", messages(q, 0))
	if _, err := q.Get(t.Context(), 1); errs.KindOf(err) != errs.NotFound {
		t.Errorf("get of what is settled: got error %v, want one of kind not-found", err)
	}
}

func TestALaneHandsOutNoMoreThanItHasSlots(t *testing.T) {
	t.Parallel()
	q := open(t, jstest.WithTopology(t, topology.Config{}), laneDefaults)
	const slots, total = 5, 200
	enqueue(t, q, 0, total)
	var busy, most atomic.Int32
	seen := make(chan string, total)
	consume(t, q, slots, func(l *Lease) {
		n := busy.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		busy.Add(-1)
		if err := l.Done(); err != nil {
			t.Error(err)
		}
		seen <- l.Delivery().Event
	})
	ids := map[string]int{}
	for range total {
		ids[take(t, "a delivery", seen)]++
	}
	if len(ids) != total {
		t.Errorf("%d deliveries came, want %d", len(ids), total)
	}
	if got := most.Load(); got > slots {
		t.Errorf("%d were handed out at once, want at most %d", got, slots)
	}
}

// What is pulled beyond the slots would wait in the process and run out.
func TestALaneAsksForNoMoreThanItsFreeSlots(t *testing.T) {
	t.Parallel()
	q := open(t, jstest.WithTopology(t, topology.Config{}), laneDefaults)
	enqueue(t, q, 0, 50)
	held, release := make(chan struct{}, 50), make(chan struct{})
	stop := consume(t, q, 5, func(l *Lease) {
		held <- struct{}{}
		<-release
		if err := l.Done(); err != nil {
			t.Error(err)
		}
	})
	for range 5 {
		take(t, "a delivery", held)
	}
	c, err := q.js.Consumer(t.Context(), topology.StreamDeliveries, "default_normal")
	if err != nil {
		t.Fatal(err)
	}
	if info := c.CachedInfo(); info.NumAckPending != 5 || info.NumWaiting != 0 {
		t.Errorf("with all slots held %d are handed out and %d pulls are open, want 5 and 0", info.NumAckPending, info.NumWaiting)
	}
	close(release)
	stop()
}

func TestRetryComesAgainAfterItsDelay(t *testing.T) {
	t.Parallel()
	q := open(t, jstest.WithTopology(t, topology.Config{}), laneDefaults)
	enqueue(t, q, 0, 1)
	leases := make(chan *Lease)
	consume(t, q, 2, func(l *Lease) { leases <- l })
	first := take(t, "the first try", leases)
	begun := time.Now()
	const delay = 300 * time.Millisecond
	if err := first.Retry(delay); err != nil {
		t.Fatal(err)
	}
	second := take(t, "the second try", leases)
	if took := time.Since(begun); took < delay {
		t.Errorf("it came again after %v, want at least %v", took, delay)
	}
	if got := second.Delivery(); got.Attempt != 2 || got.Sequence != first.Delivery().Sequence {
		t.Errorf("it came again as attempt %d of %d, want attempt 2 of %d", got.Attempt, got.Sequence, first.Delivery().Sequence)
	}
	if err := second.Kill("refused"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "kill", messages(q, 0))
}

// The server has counted what it sent as a try. A lane that is stopped must not
// burn it.
func TestAStoppedLaneHandsOutWhatTheServerHasSent(t *testing.T) {
	t.Parallel()
	q := open(t, jstest.WithTopology(t, topology.Config{}), LaneConfig{Lane: Shared("default", event.Normal), MaxDeliver: 1, AckWait: time.Minute})
	const total = 300
	enqueue(t, q, 0, total)
	var handled atomic.Int32
	started := make(chan struct{}, total)
	stop := consume(t, q, 50, func(l *Lease) {
		started <- struct{}{}
		handled.Add(1)
		if err := l.Done(); err != nil {
			t.Error(err)
		}
	})
	for range 20 {
		take(t, "a delivery", started)
	}
	stop()
	n := uint64(handled.Load())
	eventually(t, "the acknowledgements", messages(q, total-n))
	c, err := q.js.Consumer(t.Context(), topology.StreamDeliveries, "default_normal")
	if err != nil {
		t.Fatal(err)
	}
	if info := c.CachedInfo(); info.NumAckPending != 0 {
		t.Errorf("handled %d; the server has %d more handed out, want 0", n, info.NumAckPending)
	}
}

func TestConsumeWaitsForItsCalls(t *testing.T) {
	t.Parallel()
	q := open(t, jstest.WithTopology(t, topology.Config{}), laneDefaults)
	enqueue(t, q, 0, 1)
	begun, release := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- q.Consume(ctx, Shared("default", event.Normal), 1, func(l *Lease) {
			close(begun)
			<-release
			if err := l.Done(); err != nil {
				t.Error(err)
			}
		})
	}()
	take(t, "the call", begun)
	cancel()
	select {
	case err := <-done:
		t.Errorf("consume returned %v during a call", err)
	case <-time.After(100 * time.Millisecond):
	}
	close(release)
	if err := take(t, "the end", done); err != nil {
		t.Errorf("consume: got error %v, want nil", err)
	}
	eventually(t, "settle", messages(q, 0))
}

func TestConsumeSaysThatThereIsNoLane(t *testing.T) {
	t.Parallel()
	q := open(t, jstest.WithTopology(t, topology.Config{}), laneDefaults)
	if err := q.Consume(t.Context(), Shared("other", event.Normal), 1, func(*Lease) {}); !errors.Is(err, ErrNoLane) {
		t.Errorf("a lane that never was: got error %v, want ErrNoLane", err)
	}
	done := make(chan error, 1)
	leases := make(chan *Lease)
	go func() {
		done <- q.Consume(t.Context(), Shared("default", event.Normal), 1, func(l *Lease) {
			if err := l.Done(); err != nil {
				t.Error(err)
			}
			leases <- l
		})
	}()
	enqueue(t, q, 0, 1)
	take(t, "a delivery", leases)
	eventually(t, "remove the lane", func() error {
		if ok, err := q.RemoveLane(t.Context(), Shared("default", event.Normal)); err != nil || !ok {
			return fmt.Errorf("removed %v, error %w", ok, err)
		}
		return nil
	})
	if err := take(t, "the end", done); !errors.Is(err, ErrNoLane) {
		t.Errorf("a lane that was removed: got error %v, want ErrNoLane", err)
	}
}

func TestALiveLaneTakesNewSettings(t *testing.T) {
	t.Parallel()
	q := open(t, jstest.WithTopology(t, topology.Config{}), laneDefaults)
	enqueue(t, q, 0, 10)
	leases := make(chan *Lease, 10)
	consume(t, q, 1, func(l *Lease) { leases <- l })
	held := take(t, "a delivery", leases)
	c := LaneConfig{Lane: Shared("default", event.Normal), MaxDeliver: 9, AckWait: 45 * time.Second, Describe: map[string]string{"posthorn.schedule": "1s"}}
	if err := q.EnsureLane(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	got, err := q.js.Consumer(t.Context(), topology.StreamDeliveries, "default_normal")
	if err != nil {
		t.Fatal(err)
	}
	if cfg := got.CachedInfo().Config; cfg.MaxDeliver != 9 || cfg.AckWait != 45*time.Second || cfg.Metadata["posthorn.schedule"] != "1s" {
		t.Errorf("the consumer has MaxDeliver %d, AckWait %v, metadata %v", cfg.MaxDeliver, cfg.AckWait, cfg.Metadata)
	}
	if err := held.Done(); err != nil {
		t.Fatal(err)
	}
	for range 9 {
		if err := take(t, "a delivery", leases).Done(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "settle", messages(q, 0))
}

func TestALaneThatIsNotEmptyStays(t *testing.T) {
	t.Parallel()
	q := open(t, jstest.WithTopology(t, topology.Config{}), laneDefaults)
	enqueue(t, q, 0, 1)
	remove := func(want bool) {
		t.Helper()
		got, err := q.RemoveLane(t.Context(), Shared("default", event.Normal))
		if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("remove lane says %v, want %v", got, want)
		}
	}
	remove(false)
	leases := make(chan *Lease)
	stop := consume(t, q, 1, func(l *Lease) { leases <- l })
	l := take(t, "the delivery", leases)
	remove(false)
	if err := l.Done(); err != nil {
		t.Fatal(err)
	}
	stop()
	eventually(t, "settle", messages(q, 0))
	lanes, err := q.Lanes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]LaneState{{Lane: Shared("default", event.Normal)}}, lanes); diff != "" {
		t.Errorf("lanes (-want +got):\n%s", diff)
	}
	remove(true)
	remove(true) // it is gone already
}

func TestWhatIsNoDeliveryIsRemoved(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	q := open(t, js, laneDefaults)
	if _, err := js.Publish(t.Context(), "deliveries.shared.default.normal.erp", nil); err != nil {
		t.Fatal(err)
	}
	enqueue(t, q, 0, 3)
	consume(t, q, 1, func(l *Lease) {
		if err := l.Done(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "go on behind a message by hand", messages(q, 0))
}

func TestRemoveTakesADeliveryFromWhoeverHoldsIt(t *testing.T) {
	t.Parallel()
	q := open(t, jstest.WithTopology(t, topology.Config{}), laneDefaults)
	enqueue(t, q, 0, 1)
	for range 2 {
		if err := q.Remove(t.Context(), 1); err != nil {
			t.Errorf("remove: %v", err)
		}
	}
	if err := messages(q, 0)(); err != nil {
		t.Error(err)
	}
}

// The pulls of a connection that is lost are lost with it.
func TestALaneGoesOnAfterTheServerRestarts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	addr := jstest.Addr(t) // one that it gets again
	srv, err := embedded.Start(t.Context(), embedded.Config{Dir: dir, Listen: addr}, log)
	if err != nil {
		t.Fatal(err)
	}
	js := jstest.Connect(t, srv)
	if _, err := topology.Ensure(t.Context(), js, topology.Config{}); err != nil {
		t.Fatal(err)
	}
	q := open(t, js, laneDefaults)
	seen := make(chan string, 10)
	consume(t, q, 4, func(l *Lease) {
		if err := l.Done(); err != nil {
			t.Error(err)
		}
		seen <- l.Delivery().Event
	})
	enqueue(t, q, 0, 1)
	take(t, "a delivery before the restart", seen)
	if err := srv.Stop(); err != nil {
		t.Fatal(err)
	}
	if srv, err = embedded.Start(t.Context(), embedded.Config{Dir: dir, Listen: addr}, log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Stop(); err != nil {
			t.Error(err)
		}
	})
	begun := time.Now()
	enqueue(t, q, 1, 2)
	for got := ""; got != "ev_1"; { // the first may come again: its settling may be lost
		got = take(t, "a delivery after the restart", seen)
	}
	if took := time.Since(begun); took > pullExpires/2 {
		t.Errorf("it took %v, so a lost pull was waited for", took)
	}
}

func BenchmarkLane(b *testing.B) {
	q := open(b, jstest.WithTopology(b, topology.Config{}), laneDefaults)
	done := make(chan struct{}, 1024)
	consume(b, q, 128, func(l *Lease) {
		if err := l.Done(); err != nil {
			b.Error(err)
		}
		done <- struct{}{}
	})
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		for i := range b.N {
			p := q.Enqueue(delivery(i), "")
			if i%256 == 0 {
				if _, err := p.Wait(b.Context()); err != nil {
					b.Error(err)
				}
			}
		}
	}()
	for range b.N {
		<-done
	}
}
