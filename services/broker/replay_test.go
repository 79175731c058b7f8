package broker_test

import (
	"context"
	"fmt"
	"slices"
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
	"github.com/posthornhq/posthorn/pkg/replay"
	"github.com/posthornhq/posthorn/pkg/stream"
	"github.com/posthornhq/posthorn/services/broker"
)

// replays returns the jobs of a rig's broker.
func (r *rig) replays(cfg broker.ReplayConfig) *broker.Replays {
	r.t.Helper()
	kv, err := r.js.KeyValue(r.t.Context(), topology.BucketJobs)
	if err != nil {
		r.t.Fatal(err)
	}
	return broker.NewReplays(r.broker, r.js, replay.NewJobs(kv), cfg)
}

// working runs a worker until the test ends, or stop is called.
func (r *rig) working(w *broker.Replays) (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.Run(ctx); err != nil {
			r.t.Errorf("replays: %v", err)
		}
	})
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); wg.Wait() }) }
	r.t.Cleanup(stop)
	return stop
}

// fill accepts n events of each type, in turns, and returns their IDs.
func (r *rig) fill(n int, types ...string) []string {
	r.t.Helper()
	var ids []string
	for range n {
		for _, typ := range types {
			ids = append(ids, r.accept(event.Event{Type: typ, Source: "shop", Context: "default", Data: []byte(`{"total":1}`)}))
		}
	}
	return ids
}

// start starts a job that must be acceptable.
func (r *rig) start(w *broker.Replays, j replay.Job) replay.Job {
	r.t.Helper()
	j.CreatedBy = "test"
	got, err := w.Start(r.t.Context(), &j)
	if err != nil {
		r.t.Fatal(err)
	}
	return got
}

// becomes waits until a job is in a state.
func (r *rig) becomes(w *broker.Replays, id string, state replay.State) replay.Job {
	r.t.Helper()
	var j replay.Job
	eventually(r.t, "the replay is "+string(state), func() bool {
		var err error
		j, err = w.Get(r.t.Context(), id)
		return err == nil && j.State == state
	})
	return j
}

// deliveries returns what is queued, in order.
func (r *rig) deliveries() []event.Delivery {
	r.t.Helper()
	var queued []uint64
	err := stream.Each(r.t.Context(), r.js, topology.StreamDeliveries, topology.LiveDeliveries, time.Time{}, 1000, func(m *jetstream.RawStreamMsg) error {
		queued = append(queued, m.Sequence)
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	out := make([]event.Delivery, len(queued))
	for i, seq := range queued {
		if out[i], err = r.queue.Get(r.t.Context(), seq); err != nil {
			r.t.Fatal(err)
		}
	}
	return out
}

// named returns "<subscription> <event> <round>" of each delivery.
func named(all []event.Delivery) []string {
	out := make([]string, len(all))
	for i := range all {
		out[i] = fmt.Sprintf("%s %s %d", all[i].Subscription, all[i].Event, all[i].Round)
	}
	return out
}

func TestAPreviewCountsWhatAReplayWouldDo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.subscribe(t, `{"name":"orders","types":["order.*"],`+anywhere+`}`)
	r.catalog.subscribe(t, `{"name":"filtered","types":["#"],"filter":"data.total > 5.0",`+anywhere+`}`)
	r.catalog.subscribe(t, `{"name":"off","types":["#"],"disabled":true,`+anywhere+`}`)
	ids := r.fill(7, "order.paid", "invoice.sent")
	w := r.replays(broker.ReplayConfig{})
	tests := []struct {
		name               string
		job                replay.Job
		events, deliveries uint64
		examples           []string
	}{
		{"all", replay.Job{}, 14, 7, []string{ids[0], ids[2], ids[4], ids[6], ids[8]}},
		{"one type", replay.Job{Filter: replay.Filter{Types: []string{"invoice.sent"}}}, 7, 0, nil},
		{"patterns", replay.Job{Filter: replay.Filter{Types: []string{"#.sent", "order.*"}}}, 14, 7, []string{ids[0], ids[2], ids[4], ids[6], ids[8]}},
		{"a source", replay.Job{Filter: replay.Filter{Source: "other"}}, 0, 0, nil},
		{"a context", replay.Job{Filter: replay.Filter{Context: "default"}}, 14, 7, []string{ids[0], ids[2], ids[4], ids[6], ids[8]}},
		{"another context", replay.Job{Filter: replay.Filter{Context: "test"}}, 0, 0, nil},
		{"the future", replay.Job{Filter: replay.Filter{From: time.Now().Add(time.Hour)}}, 0, 0, nil},
		{"the past", replay.Job{Filter: replay.Filter{To: time.Now().Add(-time.Hour)}}, 0, 0, nil},
		{"IDs, one of which is not there", replay.Job{Filter: replay.Filter{IDs: []string{ids[2], ids[1], "ev_0"}}}, 2, 1, []string{ids[2]}},
		{"one subscription", replay.Job{Subscription: "orders"}, 14, 7, []string{ids[0], ids[2], ids[4], ids[6], ids[8]}},
		{"one whose filter lets nothing pass", replay.Job{Subscription: "filtered"}, 14, 0, nil},
		{"by force", replay.Job{Subscription: "filtered", Force: true}, 14, 14, ids[:5]},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := w.Preview(t.Context(), &tt.job)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(broker.Preview{Events: tt.events, Deliveries: tt.deliveries, Examples: tt.examples}, got); d != "" {
				t.Errorf("preview (-want +got):\n%s", d)
			}
		})
	}
	if n := r.stored(topology.StreamDeliveries); n != 0 {
		t.Errorf("%d deliveries are queued by previews, want none", n)
	}
}

func TestAReplayThatCannotBeIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.subscribe(t, `{"name":"off","types":["#"],"disabled":true,`+anywhere+`}`)
	w := r.replays(broker.ReplayConfig{})
	now := time.Now()
	tests := []struct {
		name, field string
		job         replay.Job
	}{
		{"no ID", "ids[1]", replay.Job{Filter: replay.Filter{IDs: []string{"ev_1", "x"}}}},
		{"an ID twice", "ids[1]", replay.Job{Filter: replay.Filter{IDs: []string{"ev_1", "ev_1"}}}},
		{"too many IDs", "ids", replay.Job{Filter: replay.Filter{IDs: make([]string, 1001)}}},
		{"IDs and more", "ids", replay.Job{Filter: replay.Filter{IDs: []string{"ev_1"}, Source: "shop"}}},
		{"no pattern", "types[0]", replay.Job{Filter: replay.Filter{Types: []string{"a..b"}}}},
		{"no source", "source", replay.Job{Filter: replay.Filter{Source: "A B"}}},
		{"no context", "context", replay.Job{Filter: replay.Filter{Context: "*"}}},
		{"a range that is empty", "to", replay.Job{Filter: replay.Filter{From: now, To: now}}},
		{"force for all", "force", replay.Job{Force: true}},
		{"a negative rate", "ratePerSecond", replay.Job{Rate: -1}},
		{"nobody", "subscription", replay.Job{Subscription: "nobody"}},
		{"one that is disabled", "subscription", replay.Job{Subscription: "off"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := w.Start(t.Context(), &tt.job)
			if errs.KindOf(err) != errs.Invalid || !strings.HasPrefix(err.Error(), tt.field+": ") {
				t.Errorf("answered %v, want an error about %s", err, tt.field)
			}
		})
	}
}

func TestAReplayDeliversAgainToAllWhoMatchNow(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ids := r.fill(3, "order.paid", "invoice.sent")
	r.catalog.subscribe(t, `{"name":"all","types":["#"],`+anywhere+`}`)
	r.catalog.subscribe(t, `{"name":"orders","types":["order.*"],"priority":"HIGH",`+anywhere+`}`)
	w := r.replays(broker.ReplayConfig{})
	job := r.start(w, replay.Job{Filter: replay.Filter{Types: []string{"order.*"}}})
	r.fill(1, "order.paid") // later than the replay, so not of it
	r.working(w)
	got := r.becomes(w, job.ID, replay.Done)
	if got.Total != 3 || got.Seen != 3 || got.Queued != 6 || got.Skipped != 0 || got.FinishedAt.IsZero() || got.Owner != "" || got.Error != "" {
		t.Errorf("the job is %+v, want 3 events seen and 6 deliveries queued", got)
	}
	all := r.deliveries()
	want := []string{}
	for _, id := range []string{ids[0], ids[2], ids[4]} {
		want = append(want, "all "+id+" 1000", "orders "+id+" 1000")
	}
	have := named(all)
	slices.Sort(have)
	slices.Sort(want)
	if d := cmp.Diff(want, have); d != "" {
		t.Errorf("queued (-want +got):\n%s", d)
	}
	for i := range all {
		if all[i].Priority != event.Low {
			t.Errorf("%s waits with priority %s, want it behind what is new", all[i].Key(), all[i].Priority)
		}
		// Written anew after it was accepted.
		if all[i].Revision <= 7 {
			t.Errorf("%s is of revision %d, want it written anew", all[i].Key(), all[i].Revision)
		}
	}
}

// The order is that of acceptance, over the edges of pages.
func TestANewSubscriptionGetsEverythingFromTheBeginning(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var ids []string
	for range 3 {
		batch := make([]event.Publish, 400)
		for i := range batch {
			batch[i].Event = event.Event{Type: "order.paid", Source: "shop", Context: "default", Data: []byte(`{}`)}
		}
		for _, res := range r.broker.AcceptAll(t.Context(), batch) {
			if res.Err != nil {
				t.Fatal(res.Err)
			}
			ids = append(ids, res.Receipt.ID)
		}
	}
	r.catalog.subscribe(t, `{"name":"other","types":["#"],`+anywhere+`}`)
	r.catalog.subscribe(t, `{"name":"new","types":["order.*"],"ordered":true,`+anywhere+`}`)
	w := r.replays(broker.ReplayConfig{})
	r.working(w)
	r.becomes(w, r.start(w, replay.Job{Subscription: "new"}).ID, replay.Done)
	var want []string
	for _, id := range ids {
		want = append(want, "new "+id+" 1000")
	}
	all := r.deliveries()
	if d := cmp.Diff(want, named(all)); d != "" {
		t.Errorf("queued (-want +got):\n%s", d)
	}
	if !all[0].Own {
		t.Error("an ordered delivery is in the shared lane, want it in its own")
	}
}

func TestEventsThatAreGoneAreSkipped(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ids := r.fill(2, "order.paid")
	r.catalog.subscribe(t, `{"name":"all","types":["#"],`+anywhere+`}`)
	kv, err := r.js.KeyValue(t.Context(), topology.BucketEvents)
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Purge(t.Context(), ids[0]); err != nil {
		t.Fatal(err)
	}
	w := r.replays(broker.ReplayConfig{})
	r.working(w)
	got := r.becomes(w, r.start(w, replay.Job{}).ID, replay.Done)
	if got.Total != 2 || got.Seen != 2 || got.Queued != 1 || got.Skipped != 1 {
		t.Errorf("the job is %+v, want one of two skipped", got.Progress)
	}
	got = r.becomes(w, r.start(w, replay.Job{Filter: replay.Filter{IDs: []string{ids[1], ids[0]}}}).ID, replay.Done)
	if got.Total != 2 || got.Queued != 1 || got.Skipped != 1 {
		t.Errorf("the job by IDs is %+v, want one of two skipped", got.Progress)
	}
	want := []string{"all " + ids[1] + " 1000", "all " + ids[1] + " 2000"}
	if d := cmp.Diff(want, named(r.deliveries())); d != "" {
		t.Errorf("queued (-want +got):\n%s", d)
	}
}

func TestAReplayKeepsItsRateAndCanBeCancelled(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fill(50, "order.paid")
	r.catalog.subscribe(t, `{"name":"all","types":["#"],`+anywhere+`}`)
	w := r.replays(broker.ReplayConfig{Lease: 500 * time.Millisecond})
	r.working(w)
	begun := time.Now()
	job := r.start(w, replay.Job{Rate: 5})
	eventually(t, "five are queued", func() bool { return r.stored(topology.StreamDeliveries) >= 5 })
	// The first is free, each other one costs a fifth of a second.
	stored := r.stored(topology.StreamDeliveries)
	took := time.Since(begun)
	if most := 1 + uint64(took.Seconds()*5); stored > most+1 {
		t.Errorf("%d are queued after %s, want at most %d", stored, took, most+1)
	}
	got, err := w.Cancel(t.Context(), job.ID)
	if err != nil || got.State != replay.Cancelled || got.FinishedAt.IsZero() {
		t.Fatalf("cancelled: %+v, %v", got, err)
	}
	if _, err := w.Cancel(t.Context(), job.ID); err != nil {
		t.Errorf("cancelled twice: %v, want no error", err)
	}
	eventually(t, "the worker has left it", func() bool {
		got, err = w.Get(t.Context(), job.ID)
		return err == nil && got.Owner == ""
	})
	if got.State != replay.Cancelled || got.Queued == 0 || got.Queued >= 50 || got.Queued != r.stored(topology.StreamDeliveries) {
		t.Errorf("the job is %s with %d queued, and the queue has %d", got.State, got.Queued, r.stored(topology.StreamDeliveries))
	}
	done := r.start(w, replay.Job{Filter: replay.Filter{Types: []string{"none"}}})
	r.becomes(w, done.ID, replay.Done)
	if _, err := w.Cancel(t.Context(), done.ID); errs.KindOf(err) != errs.Conflict {
		t.Errorf("cancelling what is done: %v, want a conflict", err)
	}
	if _, err := w.Cancel(t.Context(), "replay_x"); errs.KindOf(err) != errs.NotFound {
		t.Errorf("cancelling what never was: %v, want not found", err)
	}
	page, next, err := w.List(t.Context(), "", 1, "")
	if err != nil || len(page) != 1 || page[0].ID != done.ID || next == "" {
		t.Fatalf("listed %+v, %q, %v, want the newest alone", page, next, err)
	}
	page, next, err = w.List(t.Context(), "", 1, next)
	if err != nil || len(page) != 1 || page[0].ID != job.ID || next != "" {
		t.Errorf("listed %+v, %q, %v, want the older one, and the end", page, next, err)
	}
}

// A worker whose connection is cut in the middle is as good as killed: it writes
// nothing more. Some of what it queued was delivered before another takes over, some
// is in the queue still.
func TestAReplayGoesOnElsewhereWhereItWasLeft(t *testing.T) {
	t.Parallel()
	s := jstest.Start(t, t.TempDir())
	js := jstest.Connect(t, s)
	if _, err := topology.Ensure(t.Context(), js, topology.Config{}); err != nil {
		t.Fatal(err)
	}
	r := newRigOn(t, js)
	const n = 1500
	ids := map[string]bool{}
	for len(ids) < n {
		batch := make([]event.Publish, 500)
		for i := range batch {
			batch[i].Event = event.Event{Type: "order.paid", Source: "shop", Context: "default", Data: []byte(`{}`)}
		}
		for _, res := range r.broker.AcceptAll(t.Context(), batch) {
			ids[res.Receipt.ID] = true
		}
	}
	doomed := newRigOn(t, jstest.Connect(t, s))
	for _, c := range []*catalog{r.catalog, doomed.catalog} {
		c.subscribe(t, `{"name":"all","types":["#"],`+anywhere+`}`)
	}
	// Slow enough to be cut in the middle of a page.
	const lease = time.Second
	first := doomed.replays(broker.ReplayConfig{Lease: lease})
	stop := doomed.working(first)
	job := r.start(first, replay.Job{Rate: 400})
	eventually(t, "a part is queued", func() bool { return r.stored(topology.StreamDeliveries) >= 600 })
	doomed.js.Conn().Close()
	cut := r.deliveries()

	// Every second one is delivered meanwhile: recorded, and gone from the queue. The
	// server forgets the names of what it has, as it does after half a minute.
	for i := range cut {
		if i%2 == 0 {
			continue
		}
		p, err := r.ledger.Record(&event.Attempt{Event: cut[i].Event, Subscription: "all", Round: cut[i].Round, Number: 1, Outcome: event.Delivered, At: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := r.queue.Remove(t.Context(), cut[i].Sequence); err != nil {
			t.Fatal(err)
		}
	}
	forgetDuplicates(t, js)

	left, err := first.Get(context.WithoutCancel(t.Context()), job.ID)
	if err == nil {
		t.Errorf("the cut worker reads %+v, want an error", left)
	}
	second := r.replays(broker.ReplayConfig{Lease: lease})
	if left, err = second.Get(t.Context(), job.ID); err != nil || left.Position >= uint64(len(cut)) {
		t.Errorf("the job was left at %d of %d queued (%v), want some that are queued and not written", left.Position, len(cut), err)
	}
	r.working(second)
	got := r.becomes(second, job.ID, replay.Done)
	stop()
	if got.Total != n || got.Seen != n || got.Queued != n {
		t.Errorf("the job is %+v, want %d of all", got.Progress, n)
	}
	times := map[string]int{}
	for i := range cut {
		if i%2 == 1 {
			times[cut[i].Event]++
		}
	}
	for _, d := range r.deliveries() {
		times[d.Event]++
		if d.Round != 1000 {
			t.Fatalf("%s is of another round", d.Key())
		}
	}
	for id := range ids {
		if times[id] != 1 {
			t.Errorf("%s is delivered or queued %d times, want once", id, times[id])
		}
	}
}

// forgetDuplicates has the server forget the message IDs on DELIVERIES.
func forgetDuplicates(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	s, err := js.Stream(t.Context(), topology.StreamDeliveries)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.Duplicates = 100 * time.Millisecond
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
}

func TestTwoReplaysAtOnceAreTwoRounds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ids := r.fill(120, "order.paid")
	r.catalog.subscribe(t, `{"name":"all","types":["#"],`+anywhere+`}`)
	w := r.replays(broker.ReplayConfig{})
	a, b := r.start(w, replay.Job{}), r.start(w, replay.Job{})
	r.working(w)
	r.working(r.replays(broker.ReplayConfig{}))
	r.becomes(w, a.ID, replay.Done)
	r.becomes(w, b.ID, replay.Done)
	count := map[string]int{}
	for _, name := range named(r.deliveries()) {
		count[name]++
	}
	for _, id := range ids {
		if count["all "+id+" 1000"] != 1 || count["all "+id+" 2000"] != 1 {
			t.Errorf("%s is queued %d and %d times, want once in each round", id, count["all "+id+" 1000"], count["all "+id+" 2000"])
		}
	}
	if len(count) != 2*len(ids) {
		t.Errorf("%d different deliveries are queued, want %d", len(count), 2*len(ids))
	}
}

// The lease is an hour: it is handed on, not waited for.
func TestAWorkerThatStopsHandsItsReplaysOn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fill(60, "order.paid")
	r.catalog.subscribe(t, `{"name":"all","types":["#"],`+anywhere+`}`)
	cfg := broker.ReplayConfig{Lease: time.Hour}
	first := r.replays(cfg)
	stop := r.working(first)
	job := r.start(first, replay.Job{Rate: 20})
	eventually(t, "some are queued", func() bool { return r.stored(topology.StreamDeliveries) >= 5 })
	stop()
	left, err := first.Get(t.Context(), job.ID)
	if err != nil || left.State != replay.Running || left.Owner != "" || left.Queued != r.stored(topology.StreamDeliveries) {
		t.Fatalf("left as %+v, %v; want it with nobody, and %d queued", left, err, r.stored(topology.StreamDeliveries))
	}
	second := r.replays(cfg)
	r.working(second)
	got := r.becomes(second, job.ID, replay.Done)
	if n := r.stored(topology.StreamDeliveries); got.Queued != 60 || n != 60 {
		t.Errorf("%d are counted and %d queued, want 60", got.Queued, n)
	}
}

func TestAReplayWithoutItsSubscriptionFails(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fill(3, "order.paid")
	r.catalog.subscribe(t, `{"name":"all","types":["#"],`+anywhere+`}`)
	kv, err := r.js.KeyValue(t.Context(), topology.BucketJobs)
	if err != nil {
		t.Fatal(err)
	}
	w := r.replays(broker.ReplayConfig{Lease: 200 * time.Millisecond})
	job := r.start(w, replay.Job{Subscription: "all"})
	// A young one waits, since this process may not have heard of the subscription yet.
	young := r.start(w, replay.Job{Subscription: "all"})
	job.CreatedAt = job.CreatedAt.Add(-time.Hour)
	if err := replay.NewJobs(kv).Save(t.Context(), &job); err != nil {
		t.Fatal(err)
	}
	r.catalog.index.Delete("all")
	r.working(w)
	if got := r.becomes(w, job.ID, replay.Failed); !strings.Contains(got.Error, "all is deleted or disabled") || got.FinishedAt.IsZero() {
		t.Errorf("failed as %+v, want the reason", got)
	}
	eventually(t, "the young one says what it waits for", func() bool {
		got, err := w.Get(t.Context(), young.ID)
		return err == nil && got.State == replay.Running && strings.HasPrefix(got.Error, "waits: subscription all")
	})
	r.catalog.subscribe(t, `{"name":"all","types":["#"],`+anywhere+`}`)
	if got := r.becomes(w, young.ID, replay.Done); got.Queued != 3 || got.Error != "" {
		t.Errorf("done as %+v, want 3 queued and no error", got)
	}
}
