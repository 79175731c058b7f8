package store

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/stream"
)

// idsOnEvents returns the bodies on EVENTS, in order.
func idsOnEvents(t testing.TB, js jetstream.JetStream) []string {
	t.Helper()
	var ids []string
	err := stream.Each(t.Context(), js, topology.StreamEvents, "events.>", time.Time{}, 100, func(m *jetstream.RawStreamMsg) error {
		ids = append(ids, string(m.Data))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func TestAppendStoresTheEventAndQueuesItsIDAlone(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	ev := newEvent(`{"secret":"not on EVENTS"}`)
	ev.Tenant, ev.SchemaVersion, ev.TraceParent = "acme", 3, "00-1-2-01"
	p := mustAppend(t, open(t, js, Config{}), ev)

	st, err := js.Stream(t.Context(), topology.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	m, err := st.GetMsg(t.Context(), p.Sequence)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(m.Data); got != ev.ID {
		t.Errorf("the body on EVENTS is %q, want the ID %q", got, ev.ID)
	}
	if want := "events.out.default.order.created"; m.Subject != want {
		t.Errorf("the subject is %s, want %s", m.Subject, want)
	}
	for k, want := range map[string]string{
		topology.HeaderType: "order.created", topology.HeaderSource: "shop", topology.HeaderTenant: "acme",
		topology.HeaderSchema: "3", topology.HeaderTrace: "00-1-2-01", topology.HeaderPayload: "",
		topology.HeaderRevision: strconv.FormatUint(p.Revision, 10), jetstream.MsgIDHeader: ev.ID,
	} {
		if got := m.Header.Get(k); got != want {
			t.Errorf("header %s is %q, want %q", k, got, want)
		}
	}
	got, err := open(t, js, Config{}).Get(t.Context(), ev.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ev, got); diff != "" {
		t.Errorf("the stored event (-want +got):\n%s", diff)
	}
}

// While the bucket does not take the event, its ID must not be queued.
func TestAnIDIsNeverQueuedBeforeItsEventIsStored(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{EventsBytes: 1})
	_, err := open(t, js, Config{}).Append(t.Context(), newEvent(`{}`))
	if errs.KindOf(err) != errs.Full || errs.ReasonOf(err) != "full" {
		t.Errorf("append to a bucket without room: got error %v, want one of kind full", err)
	}
	if got := idsOnEvents(t, js); len(got) != 0 {
		t.Errorf("on EVENTS are %v, want nothing", got)
	}
}

type brokenBarrier struct{}

func (brokenBarrier) Wait(context.Context) error { return fmt.Errorf("disk gone") }

func TestWhatIsNotDurableIsNotAccepted(t *testing.T) {
	t.Parallel()
	s := open(t, jstest.WithTopology(t, topology.Config{}), Config{})
	s.barrier = brokenBarrier{}
	if _, err := s.Append(t.Context(), newEvent(`{}`)); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("append: got error %v, want one of kind unavailable", err)
	}
	if _, err := s.AppendAll(t.Context(), []*event.Event{newEvent(`1`), newEvent(`2`)}); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("append all: got error %v, want one of kind unavailable", err)
	}
}

func TestAppendTwiceIsOnce(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	s, ev := open(t, js, Config{}), newEvent(`{}`)
	first, again := mustAppend(t, s, ev), mustAppend(t, s, ev)
	if first != again {
		t.Errorf("the second append is at %+v, want %+v", again, first)
	}
	if got := idsOnEvents(t, js); len(got) != 1 {
		t.Errorf("on EVENTS are %v, want one", got)
	}
}

func TestResumeFinishesWhatAnEarlierTryBegan(t *testing.T) {
	t.Parallel()
	stored := func(t *testing.T, s *Store, ev *event.Event) {
		value, payload, err := s.prepare(t.Context(), ev)
		if err != nil {
			t.Fatal(err)
		}
		put := s.create(ev.ID, value, payload)
		if _, err := s.created(t.Context(), ev.ID, &put, payload); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name     string
		begin    func(*testing.T, *Store, *event.Event)
		age      time.Duration
		was      bool
		revision uint64
	}{
		{"died before it was stored", func(*testing.T, *Store, *event.Event) {}, 0, false, 1},
		{"died between the bucket and EVENTS", stored, 0, false, 1},
		{"the same, long ago: written anew, ahead of retention", stored, time.Hour, false, 2},
		{"died after EVENTS", func(t *testing.T, s *Store, ev *event.Event) { mustAppend(t, s, ev) }, 0, true, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			js := jstest.WithTopology(t, topology.Config{})
			ev := newEvent(`"more than ten bytes"`)
			ev.Received = ev.Received.Add(-tt.age)
			tt.begin(t, open(t, js, Config{Threshold: 10}), ev)
			// Another process goes on, with what the publisher sent again.
			p, was, err := open(t, js, Config{Threshold: 10}).Resume(t.Context(), ev)
			if err != nil {
				t.Fatal(err)
			}
			if was != tt.was || p.Revision != tt.revision || p.Sequence != 1 {
				t.Errorf("resume: got %v at %+v, want %v at revision %d, sequence 1", was, p, tt.was, tt.revision)
			}
			if diff := cmp.Diff([]string{ev.ID}, idsOnEvents(t, js)); diff != "" {
				t.Errorf("on EVENTS (-want +got):\n%s", diff)
			}
			got, err := open(t, js, Config{}).Get(t.Context(), ev.ID)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(ev.Data), string(got.Data)); diff != "" {
				t.Errorf("data (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAppendAllTakesMoreThanTheServersBatch(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	s := open(t, js, Config{})
	var evs []*event.Event
	var want []string
	for i := range 1500 {
		evs = append(evs, newEvent(strconv.Itoa(i)))
		want = append(want, evs[i].ID)
	}
	at, err := s.AppendAll(t.Context(), evs)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, idsOnEvents(t, js)); diff != "" {
		t.Errorf("on EVENTS (-want +got):\n%s", diff)
	}
	for i, p := range at {
		if p.Revision == 0 || p.Sequence != uint64(i+1) {
			t.Fatalf("event %d is at %+v, want a revision and sequence %d", i, p, i+1)
		}
	}
	fresh := open(t, js, Config{})
	for _, i := range []int{0, 999, 1000, 1499} {
		got, err := fresh.Get(t.Context(), want[i])
		if err != nil {
			t.Fatal(err)
		}
		if string(got.Data) != strconv.Itoa(i) {
			t.Errorf("data of event %d is %q", i, got.Data)
		}
	}
}

func TestAppendAllQueuesNoneWhereOneIsRefused(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	s := open(t, js, Config{MaxBytes: 10})
	_, err := s.AppendAll(t.Context(), []*event.Event{newEvent(`1`), newEvent(strings.Repeat("x", 11)), newEvent(`3`)})
	if errs.KindOf(err) != errs.TooLarge {
		t.Errorf("got error %v, want one of kind too-large", err)
	}
	if got := idsOnEvents(t, js); len(got) != 0 {
		t.Errorf("on EVENTS are %v, want nothing", got)
	}
	if got := state(t, js, "KV_events").Msgs; got != 0 {
		t.Errorf("%d events are stored, want 0", got)
	}
}

func TestLargeDataGoesToTheObjectStore(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	s := open(t, js, Config{Threshold: 1000, MaxBytes: 300_000})
	tests := []struct {
		name   string
		size   int
		object bool
	}{
		{"at the threshold", 1000, false},
		{"above it", 1001, true},
		{"in several chunks", 300_000, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ev := newEvent(string(bytes.Repeat([]byte{'x', '\n', 0}, tt.size/3+1)[:tt.size]))
			before := state(t, js, objectsStream).Msgs
			mustAppend(t, s, ev)
			if got := state(t, js, objectsStream).Msgs > before; got != tt.object {
				t.Errorf("%d B went to the object store: %v, want %v", tt.size, got, tt.object)
			}
			got, err := open(t, js, Config{}).Get(t.Context(), ev.ID)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Data, ev.Data) {
				t.Errorf("read back %d B that differ from the %d B written", len(got.Data), len(ev.Data))
			}
		})
	}
}

func TestAnEventAboveTheLimitIsRefusedBeforeAnythingIsStored(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	s := open(t, js, Config{Threshold: 10, MaxBytes: 20})
	_, err := s.Append(t.Context(), newEvent(strings.Repeat("x", 21)))
	if errs.KindOf(err) != errs.TooLarge {
		t.Errorf("got error %v, want one of kind too-large", err)
	}
	for _, name := range []string{"KV_events", objectsStream, topology.StreamEvents} {
		if n := state(t, js, name).Msgs; n != 0 {
			t.Errorf("%s has %d messages, want 0", name, n)
		}
	}
}

// A full bucket must not fill the object store with what it refuses.
func TestTheDataOfARefusedEventDoesNotStay(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{EventsBytes: 1})
	_, err := open(t, js, Config{Threshold: 10}).Append(t.Context(), newEvent(strings.Repeat("x", 5000)))
	if errs.KindOf(err) != errs.Full {
		t.Errorf("got error %v, want one of kind full", err)
	}
	if n := state(t, js, objectsStream).Msgs; n != 0 {
		t.Errorf("object store payloads has %d messages, want 0", n)
	}
}

func TestGetFindsNothingWhereNothingIs(t *testing.T) {
	t.Parallel()
	s := open(t, jstest.WithTopology(t, topology.Config{}), Config{})
	for _, id := range []string{NewID(), "", "ev_", "x_1234", "ev_a.b", "ev_>", "ev_*", "ev_" + strings.Repeat("a", 62)} {
		if ev, err := s.Get(t.Context(), id); errs.KindOf(err) != errs.NotFound {
			t.Errorf("get %q: got %v and error %v, want one of kind not-found", id, ev, err)
		}
	}
}

// A replica that lags answers "not found" to a direct get; here no replica
// answers it at all, and the leader must be asked.
func TestGetAsksTheLeaderWhereTheReplicaHasNothing(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	ev := newEvent(`{}`)
	mustAppend(t, open(t, js, Config{}), ev)
	st, err := js.Stream(t.Context(), "KV_events")
	if err != nil {
		t.Fatal(err)
	}
	cfg := st.CachedInfo().Config
	cfg.AllowDirect = false
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	// In the place of a replica that has not got there yet.
	sub, err := js.Conn().Subscribe("$JS.API.DIRECT.GET.KV_events.>", lagging(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sub.Unsubscribe(); err != nil {
			t.Error(err)
		}
	})
	got, err := open(t, js, Config{}).Get(t.Context(), ev.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != ev.ID {
		t.Errorf("got %s, want %s", got.ID, ev.ID)
	}
}

func TestTheCacheHoldsRecentEventsInBoundedMemory(t *testing.T) {
	t.Parallel()
	c := newCache(20 * (overhead + 10))
	var evs []*event.Event
	for range 100 {
		evs = append(evs, newEvent("0123456789"))
		c.put(evs[len(evs)-1])
	}
	for i, ev := range evs[90:] {
		if c.get(ev.ID) != ev {
			t.Errorf("the %dth of the last ten is not in the cache", i)
		}
	}
	if c.get(evs[0].ID) != nil {
		t.Error("the first of a hundred is still there, want it forgotten")
	}
	if n := len(c.young) + len(c.old); n > 20 {
		t.Errorf("the cache holds %d events, want at most 20", n)
	}
	big := newEvent(strings.Repeat("x", 1<<20))
	c.put(big)
	if c.get(big.ID) != nil {
		t.Error("an event above the cache's size is in it")
	}
}

func TestTouchKeepsTheEventUnderANewRevision(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	s, ev := open(t, js, Config{}), newEvent(`{"n":1.0}`)
	p := mustAppend(t, s, ev)
	got, revision, err := s.Touch(t.Context(), ev.ID)
	if err != nil {
		t.Fatal(err)
	}
	if revision <= p.Revision {
		t.Errorf("the revision after touch is %d, want above %d", revision, p.Revision)
	}
	if diff := cmp.Diff(ev, got); diff != "" {
		t.Errorf("the touched event (-want +got):\n%s", diff)
	}
	if _, _, err := s.Touch(t.Context(), NewID()); errs.KindOf(err) != errs.NotFound {
		t.Errorf("touch of what is not there: got error %v, want one of kind not-found", err)
	}
}

// Many deliveries of one event may be retried at the same moment, by many.
func TestManyTouchAnEventAtOnce(t *testing.T) {
	t.Parallel()
	s, ev := open(t, jstest.WithTopology(t, topology.Config{}), Config{}), newEvent(`{"n":1.0}`)
	p := mustAppend(t, s, ev)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			got, revision, err := s.Touch(t.Context(), ev.ID)
			if err != nil || revision <= p.Revision || got.ID != ev.ID {
				t.Errorf("touch: got %v, revision %d and error %v, want one above %d", got, revision, err, p.Revision)
			}
		})
	}
	wg.Wait()
}

func TestIDsAreValidUniqueAndSortByTime(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 1000 {
		id := NewID()
		if !ValidID(id) || len(id) != 29 || seen[id] {
			t.Fatalf("ID %q is not valid, not of 29 characters or not new", id)
		}
		seen[id] = true
	}
}

func BenchmarkAppend(b *testing.B) {
	s := open(b, jstest.WithTopology(b, topology.Config{}), Config{})
	data := strings.Repeat("x", 512)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Append(b.Context(), newEvent(data)); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// A publisher that loses patience sends one event of a batch again while the batch
// is under way, and it is finished under its ID: the others must not be lost.
func TestABatchOfWhichOneIsQueuedAlreadyQueuesTheOthers(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	s := open(t, js, Config{})
	evs := []*event.Event{newEvent("1"), newEvent("2"), newEvent("3")}
	mustAppend(t, s, evs[1])
	if _, err := s.AppendAll(t.Context(), evs); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{evs[1].ID, evs[0].ID, evs[2].ID}, idsOnEvents(t, js)); diff != "" {
		t.Errorf("IDs on EVENTS (-want +got):\n%s", diff)
	}
}
