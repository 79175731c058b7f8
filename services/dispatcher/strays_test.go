package dispatcher_test

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/queue"
)

// A router that had not heard of the policy's end put it there.
func TestWhatIsQueuedByAPolicyThatIsGoneIsDelivered(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.parts()
	ev := r.send(p, func(d *event.Delivery) { d.Policy = "gone" })
	r.run(p)
	r.attempts(p, ev, 1)
	r.empty(p)
}

// Each process hears of a new subscription in its own time.
func TestADeliveryForASubscriptionThatIsNotKnownYetWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.parts()
	r.run(p)
	ev := r.send(p, to("new"))
	eventually(t, "the delivery is leased", func() bool {
		lanes, err := p.queue.Lanes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lanes {
			if l.Pending > 0 {
				return true
			}
		}
		return false
	})
	r.subscribe(`{"name":"new","policy":"fast"}`)
	r.attempts(p, ev, 1)
	r.empty(p)
	if letters, _, err := p.letters.List(t.Context(), deadletter.Query{Limit: 10}); err != nil || len(letters) > 0 {
		t.Errorf("dead letters %+v, error %v", letters, err)
	}
}

// The dispatcher died on the last try, which was a move; the copy goes on.
func TestADeliveryThatWasMovedOnItsLastTryIsNoDeadLetter(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.parts()
	lane := queue.Shared("fast", event.Normal)
	if err := p.queue.EnsureLane(t.Context(), queue.LaneConfig{Lane: lane, MaxDeliver: 1, AckWait: time.Second}); err != nil {
		t.Fatal(err)
	}
	ev := r.send(p)
	if _, err := p.queue.Take(t.Context(), lane, 1, func(l *queue.Lease) {
		if err := p.queue.Copy(t.Context(), l, 0); err != nil {
			t.Error(err)
		}
		copied := strconv.FormatUint(l.Delivery().Sequence+1, 10)
		if _, err := p.claims.Claim(t.Context(), "delivery:"+ev.ID+":s:1", copied, time.Minute); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	js, err := jetstream.New(p.nc, jetstream.WithDefaultTimeout(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		if err := p.Bury(ctx, js); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the original is gone, and the copy is there", func() bool {
		s, err := r.js.Stream(t.Context(), topology.StreamDeliveries)
		if err != nil {
			t.Fatal(err)
		}
		st := s.CachedInfo().State
		return st.Msgs == 1 && st.FirstSeq == st.LastSeq
	})
	if letters, _, err := p.letters.List(t.Context(), deadletter.Query{Limit: 10}); err != nil || len(letters) > 0 {
		t.Errorf("dead letters %+v, error %v", letters, err)
	}
}

func TestAFailureDoesNotShortenTheTimeThatTheEndpointAskedFor(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	e := newEndpoint(t)
	goOn, all := make(chan struct{}), make(chan struct{})
	end := sync.OnceFunc(func() { close(goOn) })
	t.Cleanup(end)
	e.answers(func(n int, w http.ResponseWriter) {
		if n == 8 {
			close(all)
		}
		if n == 1 {
			<-all // before anybody knows
			w.Header().Set("Retry-After", "600")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		<-goOn
		w.WriteHeader(http.StatusInternalServerError)
	})
	r.catalog.put(t, `{"name":"both","delivery":{"timeout":"30s","retryOn":["429","5xx"]}}`)
	r.subscribeTo(e, `{"name":"busy","policy":"both"}`)
	p := r.parts()
	for range 8 {
		r.send(p, to("busy"), func(d *event.Delivery) { d.Policy = "both" })
	}
	r.run(p)
	r.lane(p, "busy", "throttled", func(s queue.OwnState, there bool) bool { return there && s.Has(queue.Throttled) })
	end()
	r.lane(p, "busy", "failing too", failing)
	if s, _ := p.lanes.Get("busy"); time.Until(s.Until) < 9*time.Minute {
		t.Errorf("it is tried again in %v, and asked for 10 minutes", time.Until(s.Until))
	}
}

// What waits for its turn in an ordered lane keeps its place, and its only try, when
// the subscription is edited.
func TestEditsOfALimitedOrderedSubscriptionUseUpNoTries(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.put(t, `{"name":"once","delivery":{"maxRetries":0,"timeout":"30s"}}`)
	e := newEndpoint(t)
	edit := func(p *parts, rest string) {
		r.subscribeTo(e, `{"name":"slowly","policy":"once","ordered":true,`+rest+`}`)
		if p != nil {
			p.CatalogChanged()
		}
	}
	edit(nil, `"ratePerSecond":0.01`)
	p := r.parts()
	r.run(p)
	var sent []string
	for range 3 {
		sent = append(sent, r.send(p, own("slowly")).ID)
	}
	eventually(t, "the first is delivered", func() bool { return e.count() == 1 })
	eventually(t, "the second waits for its turn", func() bool {
		lanes, err := p.queue.Lanes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lanes {
			if l.Subscription != "" && l.Pending == 1 && l.Waiting == 1 {
				return true
			}
		}
		return false
	})
	for _, rest := range []string{`"ratePerSecond":0.02`, `"ratePerSecond":0.03`, `"ratePerSecond":0.02,"paused":true`, `"ratePerSecond":0.02`} {
		edit(p, rest)
	}
	edit(p, `"ratePerSecond":0`)
	eventually(t, "all are delivered", func() bool { return e.count() == 3 })
	r.empty(p)
	for i, h := range e.headers() {
		if h.Get("Webhook-Id") != sent[i] {
			t.Errorf("request %d is %s, want %s", i, h.Get("Webhook-Id"), sent[i])
		}
	}
	if letters, _, err := p.letters.List(t.Context(), deadletter.Query{Limit: 10}); err != nil || len(letters) > 0 {
		t.Errorf("dead letters %+v, error %v", letters, err)
	}
}

func (e *endpoint) headers() []http.Header {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.got)
}

// A delivery can be moved twice before the end of the first move is heard of: the
// message that has the claim is then not the one that the copy was made of. The copy
// must not be taken for a duplicate of it, or both are gone.
func TestADeliveryThatWasMovedTwiceWaitsForTheFirstMessage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.put(t, `{"name":"brief","delivery":{"timeout":"0.2s"}}`)
	r.subscribe(`{"name":"moved","policy":"brief"}`)
	p := r.parts()
	shared := queue.Shared("fast", event.Normal)
	if err := p.queue.EnsureLane(t.Context(), queue.LaneConfig{Lane: shared, MaxDeliver: 3, AckWait: 10 * time.Minute}); err != nil {
		t.Fatal(err)
	}
	lane := queue.LaneConfig{Lane: queue.Own("moved", 0), MaxDeliver: 10, AckWait: 2 * time.Second}
	if err := p.queue.EnsureLane(t.Context(), lane); err != nil {
		t.Fatal(err)
	}
	ev := r.send(p, to("moved"))
	take := func(from queue.Lane, handle func(*queue.Lease)) {
		t.Helper()
		if n, err := p.queue.Take(t.Context(), from, 1, handle); err != nil || n != 1 {
			t.Fatalf("took %d, error %v", n, err)
		}
	}
	var first *queue.Lease
	take(shared, func(l *queue.Lease) {
		first = l
		if _, err := p.claims.Claim(t.Context(), "delivery:"+ev.ID+":moved:1", strconv.FormatUint(l.Delivery().Sequence, 10), time.Hour); err != nil {
			t.Error(err)
		}
		if err := p.queue.Copy(t.Context(), l, 0); err != nil { // its end is on its way
			t.Error(err)
		}
	})
	take(lane.Lane, func(l *queue.Lease) {
		if err := p.queue.Move(t.Context(), l, 0); err != nil {
			t.Error(err)
		}
	})
	r.run(p)
	eventually(t, "the copy of the copy is put off", func() bool {
		c, err := r.js.Consumer(t.Context(), topology.StreamDeliveries, lane.String())
		return err == nil && c.CachedInfo().Delivered.Consumer >= 3
	})
	if n := r.endpoint.count(); n > 0 {
		t.Errorf("%d requests while the first message is there", n)
	}
	if err := first.Done(); err != nil {
		t.Fatal(err)
	}
	r.empty(p)
	if n := r.endpoint.count(); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}
