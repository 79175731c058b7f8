package broker_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/ledger"
	"github.com/posthornhq/posthorn/pkg/wire"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
	"github.com/posthornhq/posthorn/services/broker"
)

const anywhere = `"destination":{"webhook":{"url":"https://e.example"}}`

func (r *rig) accept(ev event.Event) string {
	r.t.Helper()
	got, err := r.broker.Accept(r.t.Context(), ev, "")
	if err != nil {
		r.t.Fatal(err)
	}
	return got.ID
}

func (r *rig) routed(n uint64) {
	r.t.Helper()
	eventually(r.t, "everything is routed", func() bool {
		c, err := r.js.Consumer(r.t.Context(), topology.StreamEvents, topology.ConsumerRouter)
		return err == nil && c.CachedInfo().AckFloor.Stream >= n
	})
}

func TestAnEventIsOneDeliveryForEachSubscriptionThatMatches(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.subscribe(t, `{"name":"twice","types":["order.*","#.created"],`+anywhere+`}`)
	r.catalog.subscribe(t, `{"name":"filtered","types":["#"],"filter":"data.total > 5.0",`+anywhere+`}`)
	r.catalog.subscribe(t, `{"name":"passing","types":["#"],"filter":"data.total == 1.0 && tenant == 'acme'",`+anywhere+`}`)
	r.catalog.subscribe(t, `{"name":"other","types":["invoice.*"],`+anywhere+`}`)
	r.catalog.subscribe(t, `{"name":"stranger","types":["#"],"tenant":"other",`+anywhere+`}`)
	r.route()
	id := r.accept(good())
	r.routed(1)
	got := map[string]int{}
	for seq := uint64(1); seq <= 4; seq++ {
		if d, err := r.queue.Get(t.Context(), seq); err == nil {
			got[d.Subscription]++
			if d.Event != id || d.Round != 1 || d.Revision == 0 {
				t.Errorf("queued %+v, want round 1 of %s with its revision", d, id)
			}
		}
	}
	if len(got) != 2 || got["twice"] != 1 || got["passing"] != 1 {
		t.Errorf("queued for %v, want once for twice and passing", got)
	}
}

func TestAnEventThatNobodyWantsIsMarked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.route()
	id := r.accept(good())
	r.routed(1)
	ev, err := r.store.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	attempts, err := r.ledger.Attempts(t.Context(), id, ev.Received.Add(-1e9))
	if err != nil || len(attempts) != 1 || attempts[0].Outcome != ledger.Unmatched {
		t.Errorf("recorded %+v with error %v, want it marked as unmatched", attempts, err)
	}
	if n := r.stored(topology.StreamDeliveries); n != 0 {
		t.Errorf("%d deliveries are queued, want none", n)
	}
}

// A router that died between queueing and acknowledging does it again, and the
// queue has each delivery once.
func TestRoutingAgainQueuesNothingTwice(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.subscribe(t, `{"name":"all","types":["#"],`+anywhere+`}`)
	stop := r.route()
	for range 20 {
		r.accept(good())
	}
	r.routed(20)
	stop()
	if err := r.js.DeleteConsumer(t.Context(), topology.StreamEvents, topology.ConsumerRouter); err != nil {
		t.Fatal(err)
	}
	r.route()
	r.routed(20)
	if n := r.stored(topology.StreamDeliveries); n != 20 {
		t.Errorf("%d deliveries are queued, want 20", n)
	}
}

// disk is a barrier that always holds.
type disk struct{}

func (disk) Wait(context.Context) error { return nil }

// After a clean stop the router goes on where it was, after an unclean one where
// everything is known to be on the disk.
func TestTheRouterGoesBackAfterAnUncleanStop(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.subscribe(t, `{"name":"all","types":["#"],`+anywhere+`}`)
	dir := t.TempDir()
	open := func(unclean bool) *broker.Checkpoint {
		t.Helper()
		cp, err := broker.OpenCheckpoint(dir)
		if err != nil {
			t.Fatal(err)
		}
		if cp.Unclean() != unclean {
			t.Errorf("the stop before is taken for unclean: %t, want %t", cp.Unclean(), unclean)
		}
		return cp
	}
	keep := func(cp *broker.Checkpoint, want string) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // so that it writes once
		// A write that takes too long leaves the checkpoint before.
		eventually(t, "the checkpoint is "+want, func() bool {
			if err := cp.Keep(ctx, r.js, disk{}, slog.New(slog.DiscardHandler)); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(dir, "router.checkpoint"))
			return err == nil && strings.TrimSpace(string(got)) == want
		})
	}
	cp := open(false)
	stop := r.route()
	for range 5 {
		r.accept(good())
	}
	r.routed(5)
	keep(cp, "5")
	for range 3 {
		r.accept(good())
	}
	r.routed(8)
	stop()

	cp = open(true) // it was not closed
	again, err := broker.PrepareRouter(t.Context(), r.js, cp)
	if err != nil || again != 3 {
		t.Errorf("%d events are looked at again with error %v, want the 3 after the checkpoint", again, err)
	}
	stop = r.route()
	r.routed(8)
	if n := r.stored(topology.StreamDeliveries); n != 8 {
		t.Errorf("%d deliveries are queued, want 8", n)
	}
	stop()
	keep(cp, "8")
	if err := cp.Close(); err != nil {
		t.Fatal(err)
	}
	if again, err := broker.PrepareRouter(t.Context(), r.js, open(false)); err != nil || again != 0 {
		t.Errorf("after a clean stop %d events are looked at again with error %v, want none", again, err)
	}
}

func TestAReplayIsANewRoundForThoseWhoMatchNow(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.subscribe(t, `{"name":"old","types":["order.*"],`+anywhere+`}`)
	r.route()
	id := r.accept(good())
	r.routed(1)
	r.catalog.index.Delete("old")
	r.catalog.subscribe(t, `{"name":"new","types":["order.*"],`+anywhere+`}`)
	n, err := r.broker.Replay(t.Context(), id)
	if err != nil || n != 1 {
		t.Fatalf("%d deliveries are queued with error %v, want 1", n, err)
	}
	d, err := r.queue.Get(t.Context(), 2)
	if err != nil || d.Subscription != "new" || d.Round != 2 {
		t.Errorf("queued %+v with error %v, want round 2 for new", d, err)
	}
}

// A new version of a schema is told to whoever takes the type.
func TestAVersionUpdateReachesSubscribersOfTheSchema(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.subscribe(t, `{"name":"exact","types":["shop.example/1/order"],"direction":"INCOMING","context":"testing",`+anywhere+`}`)
	r.catalog.subscribe(t, `{"name":"other","types":["shop.example/1/invoice"],`+anywhere+`}`)
	r.route()
	ev, key := broker.VersionUpdate(&posthornv1.Schema{Type: "shop.example/1/order", Version: 2}, []string{"total was added"})
	if ev.GetType() != "shop.example/1/_version" || key == "" {
		t.Errorf("the update is of type %s with key %q", ev.GetType(), key)
	}
	if _, err := r.broker.Own().Accept(t.Context(), wire.ToEvent(ev), key); err != nil {
		t.Fatal(err)
	}
	r.routed(1)
	d, err := r.queue.Get(t.Context(), 1)
	if err != nil || d.Subscription != "exact" || r.stored(topology.StreamDeliveries) != 1 {
		t.Errorf("queued %+v with error %v, want one delivery for exact", d, err)
	}
}
