package dispatcher_test

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/queue"
	"github.com/posthornhq/posthorn/pkg/store"
	"github.com/posthornhq/posthorn/pkg/subscription"
)

func to(sub string) func(*event.Delivery) {
	return func(d *event.Delivery) { d.Subscription = sub }
}

func own(sub string) func(*event.Delivery) {
	return func(d *event.Delivery) { d.Subscription, d.Own = sub, true }
}

// state waits until a lane is as wanted, and returns how it is.
func (r *rig) lane(p *parts, sub, what string, want func(s queue.OwnState, there bool) bool) {
	r.t.Helper()
	eventually(r.t, "the lane of "+sub+" is "+what, func() bool { return want(p.lanes.Get(sub)) })
}

func failing(s queue.OwnState, there bool) bool { return there && s.Has(queue.Failing) }

func gone(_ queue.OwnState, there bool) bool { return !there }

func TestAFailingEndpointHasALaneOfItsOwnAndOneProbeAtATime(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	// Its tries must last until everybody knows that it fails.
	r.catalog.put(t, `{"name":"patient","delivery":{"maxRetries":10,"timeout":"30s","retryOn":["5xx"],"backoff":{"initial":"0.4s","max":"0.4s","jitter":0}}}`)
	dead := newEndpoint(t)
	var down sync.Map
	down.Store("down", true)
	dead.answers(func(_ int, w http.ResponseWriter) {
		if _, ok := down.Load("down"); ok {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	r.subscribeTo(dead, `{"name":"dead","policy":"patient"}`)
	p, other := r.parts(), r.parts()
	r.run(p)
	r.run(other)
	patient := func(d *event.Delivery) { d.Policy = "patient" }
	first := r.send(p, to("dead"), patient)
	r.lane(p, "dead", "failing", failing)
	r.lane(other, "dead", "failing", failing)

	// What was routed before anybody knew, and after.
	var sent []string
	for i := range 40 {
		where := to("dead")
		if i%2 == 1 {
			where = own("dead")
		}
		sent = append(sent, r.send(p, where, patient).ID)
	}
	tried := dead.count()
	healthy := r.send(p)
	r.attempts(p, healthy, 1)
	eventually(t, "a probe", func() bool { return dead.count() > tried })
	// In the time of a probe or three, 40 deliveries with 10 retries each would have
	// been tried hundreds of times.
	if n := dead.count() - tried; n > 20 {
		t.Errorf("%d tries at an endpoint that fails, want a probe now and then", n)
	}

	down.Delete("down")
	for _, id := range append(sent, first.ID) {
		eventually(t, id+" is delivered", func() bool { return r.delivered(p, id, "dead") == 1 })
	}
	r.empty(p)
	r.lane(p, "dead", "given up", gone)
	r.lane(other, "dead", "given up", gone)
	lanes, err := p.queue.Lanes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lanes {
		if l.Subscription != "" {
			t.Errorf("consumer %s is left", l.Lane)
		}
	}
	for id, n := range r.deliveries(p, "dead") {
		if n != 1 {
			t.Errorf("%s was delivered %d times", id, n)
		}
	}
}

// deliveries counts the successful attempts of each event.
func (r *rig) deliveries(p *parts, sub string) map[string]int {
	r.t.Helper()
	n := map[string]int{}
	s, err := r.js.Stream(r.t.Context(), topology.StreamAttempts)
	if err != nil {
		r.t.Fatal(err)
	}
	info, err := s.Info(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
		m, err := s.GetMsg(r.t.Context(), seq)
		if err != nil {
			r.t.Fatal(err)
		}
		if strings.HasSuffix(m.Subject, "."+sub+".delivered") {
			id := string(m.Data)
			id = id[strings.Index(id, `"event":"`)+9:]
			n[id[:strings.IndexByte(id, '"')]]++
		}
	}
	return n
}

func (r *rig) delivered(p *parts, id, sub string) int {
	r.t.Helper()
	all, err := p.ledger.Attempts(r.t.Context(), id, time.Now().Add(-time.Hour))
	if err != nil {
		r.t.Fatal(err)
	}
	n := 0
	for _, a := range all {
		if a.Subscription == sub && a.Outcome == event.Delivered {
			n++
		}
	}
	return n
}

// With eight slots, and an endpoint that holds on to every request.
func TestAnEndpointThatHangsHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	leave := make(chan struct{})
	hanging := newEndpoint(t)
	hanging.answers(func(int, http.ResponseWriter) { <-leave })
	end := sync.OnceFunc(func() { close(leave) })
	t.Cleanup(end)
	r.catalog.put(t, `{"name":"long","delivery":{"maxRetries":5,"timeout":"30s","retryOn":["5xx"]}}`)
	r.subscribeTo(hanging, `{"name":"hanging","policy":"long"}`)
	p := r.parts()
	r.run(p)
	var stuck, healthy []*event.Event
	for range 100 {
		stuck = append(stuck, r.send(p, to("hanging")))
		healthy = append(healthy, r.send(p))
	}
	for _, ev := range healthy {
		r.attempts(p, ev, 1)
	}
	r.lane(p, "hanging", "open", func(s queue.OwnState, there bool) bool { return there && s.Has(queue.Slow) })
	end()
	for _, ev := range stuck {
		eventually(t, ev.ID+" is delivered", func() bool { return r.delivered(p, ev.ID, "hanging") == 1 })
	}
	r.empty(p)
	r.lane(p, "hanging", "given up", gone)
}

// A cap that stays full is the subscription's own affair.
func TestASubscriptionWithACapHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	leave := make(chan struct{})
	one := newEndpoint(t)
	var mu sync.Mutex
	now, most := 0, 0
	one.answers(func(int, http.ResponseWriter) {
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		<-leave
		mu.Lock()
		now--
		mu.Unlock()
	})
	end := sync.OnceFunc(func() { close(leave) })
	t.Cleanup(end)
	r.catalog.put(t, `{"name":"long","delivery":{"timeout":"30s"}}`)
	r.subscribeTo(one, `{"name":"one","policy":"long","maxInFlight":1}`)
	p := r.parts()
	r.run(p)
	for range 30 {
		r.send(p, to("one"), func(d *event.Delivery) { d.Policy = "long" })
	}
	var healthy []*event.Event
	for range 10 {
		healthy = append(healthy, r.send(p))
	}
	for _, ev := range healthy {
		r.attempts(p, ev, 1)
	}
	end()
	r.empty(p)
	if mu.Lock(); most > 1 {
		t.Errorf("%d requests at once, want 1", most)
	}
	mu.Unlock()
}

func TestAPausedSubscriptionKeepsItsDeliveries(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	e := newEndpoint(t)
	r.subscribeTo(e, `{"name":"paused","policy":"fast","paused":true}`)
	p := r.parts()
	r.run(p)
	for i := range 20 {
		where := to("paused") // by a router that has not heard of the pause
		if i%2 == 1 {
			where = own("paused")
		}
		r.send(p, where)
	}
	moved := func() bool {
		s, err := r.js.Stream(t.Context(), topology.StreamDeliveries)
		if err != nil {
			return false
		}
		info, err := s.Info(t.Context(), withSubjects("deliveries.lane.paused"))
		return err == nil && info.State.Subjects["deliveries.lane.paused"] == 20
	}
	eventually(t, "all wait in the lane", moved)
	r.attempts(p, r.send(p), 1)
	if n := e.count(); n > 0 {
		t.Errorf("%d requests to a subscription that is paused", n)
	}
	r.subscribeTo(e, `{"name":"paused","policy":"fast"}`)
	p.CatalogChanged()
	eventually(t, "all are delivered", func() bool { return e.count() == 20 })
	r.empty(p)
	r.lane(p, "paused", "given up", gone)
	if n := e.count(); n != 20 {
		t.Errorf("%d requests, want 20", n)
	}
}

// Two dispatchers keep one limit.
func TestARateIsExactWithTwoDispatchers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	e := newEndpoint(t)
	var mu sync.Mutex
	var at []time.Time
	e.answers(func(int, http.ResponseWriter) {
		mu.Lock()
		defer mu.Unlock()
		at = append(at, time.Now())
	})
	const rate, total = 20, 60
	r.subscribeTo(e, `{"name":"limited","policy":"fast","ratePerSecond":`+strconv.Itoa(rate)+`}`)
	p, other := r.parts(), r.parts()
	stalled := meterStalls(t)
	r.run(p)
	r.run(other)
	for range total {
		r.send(p, own("limited"))
	}
	eventually(t, "all are delivered", func() bool { return e.count() == total })
	r.empty(p)
	mu.Lock()
	defer mu.Unlock()
	slices.SortFunc(at, time.Time.Compare)
	// A request may be late by what the machine makes it, and the next one not: so
	// a window is longer by that.
	late := 500*time.Millisecond + stalled.worst()
	for i := range at {
		n := 0
		for _, other := range at[i:] {
			if other.Sub(at[i]) < time.Second-late {
				n++
			}
		}
		if most := rate + 1; n > most {
			t.Fatalf("%d requests within %s, want at most %d", n, time.Second-late, most)
		}
	}
	if took := at[len(at)-1].Sub(at[0]); took < (total-1)*time.Second/rate-late {
		t.Errorf("%d deliveries at %d a second took %s", total, rate, took)
	}
}

// In order of acceptance, with failures, by several dispatchers of which one stops.
func TestAnOrderedSubscriptionGetsItsEventsInOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	e := newEndpoint(t)
	var mu sync.Mutex
	var got []string
	tries := map[string]int{}
	r.catalog.put(t, `{"name":"stubborn","delivery":{"maxRetries":10,"timeout":"30s","retryOn":["5xx"],"backoff":{"initial":"0.001s","max":"0.002s","jitter":0}}}`)
	r.subscribeTo(e, `{"name":"ordered","policy":"stubborn","ordered":true}`)
	e.handle(func(h http.Header, w http.ResponseWriter) {
		mu.Lock()
		defer mu.Unlock()
		id := h.Get("Ce-Id")
		if tries[id]++; tries[id] < 3 && len(got)%5 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		got = append(got, id)
	})
	p, other := r.parts(), r.parts()
	r.run(p)
	stop := r.run(other)
	var want []string
	for i := range 100 {
		want = append(want, r.send(p, own("ordered")).ID)
		if i == 60 {
			stop()
		}
	}
	r.empty(p)
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Each key in order, while another one waits for its retries.
func TestKeysAreInOrderAndInParallel(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	e := newEndpoint(t)
	r.catalog.put(t, `{"name":"stubborn","delivery":{"maxRetries":10,"timeout":"30s","retryOn":["5xx"],"backoff":{"initial":"0.001s","max":"0.002s","jitter":0}}}`)
	r.subscribeTo(e, `{"name":"keyed","policy":"stubborn","ordered":true,"orderingKey":"subject"}`)
	var mu sync.Mutex
	got := map[string][]string{}
	blocked := true
	e.handle(func(h http.Header, w http.ResponseWriter) {
		mu.Lock()
		defer mu.Unlock()
		key := h.Get("Ce-Subject")
		if key == "0" && blocked {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		got[key] = append(got[key], h.Get("Ce-Id"))
	})
	sub, _ := r.catalog.Subscription("keyed")
	p, other := r.parts(), r.parts()
	want := map[string][]string{}
	part := func(key string) int {
		return sub.Part(t.Context(), subscription.NewFacts(&event.Event{Subject: key}))
	}
	for i := range 60 {
		key := strconv.Itoa(i % 6)
		ev := &event.Event{ID: store.NewID(), Type: "a", Subject: key, Source: "shop", Context: "default", Data: []byte(`{}`), Received: time.Now()}
		if _, err := r.store.Append(t.Context(), ev); err != nil {
			t.Fatal(err)
		}
		r.enqueue(p, ev.ID, own("keyed"), func(d *event.Delivery) { d.Part = part(key) })
		want[key] = append(want[key], ev.ID)
	}
	r.run(p)
	r.run(other)
	for key := range want {
		if part(key) == part("0") {
			continue
		}
		eventually(t, "key "+key+" is delivered while another one fails", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(got[key]) == len(want[key])
		})
	}
	mu.Lock()
	blocked = false
	mu.Unlock()
	r.empty(p)
	mu.Lock()
	defer mu.Unlock()
	for key := range want {
		if !slices.Equal(got[key], want[key]) && key != "0" {
			t.Errorf("key %s got\n%v\nwant\n%v", key, got[key], want[key])
		}
	}
	// What was tried too often is a dead letter, and the rest in order.
	i := 0
	for _, id := range want["0"] {
		if i < len(got["0"]) && got["0"][i] == id {
			i++
		}
	}
	if i != len(got["0"]) {
		t.Errorf("key 0 got %v, want it in the order of %v", got["0"], want["0"])
	}
}

func TestWhatAnOrderedSubscriptionDoesWithWhatCannotSucceed(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, doc string
		blocks    bool
	}{
		{"a dead letter", `{"name":"ordered","policy":"fast","ordered":true}`, false},
		{"a block", `{"name":"ordered","policy":"fast","ordered":true,"onExhausted":"BLOCK"}`, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			e := newEndpoint(t)
			r.subscribeTo(e, tt.doc)
			p := r.parts()
			bad := r.send(p, own("ordered"))
			good := r.send(p, own("ordered"))
			var open sync.Map
			e.handle(func(h http.Header, w http.ResponseWriter) {
				if _, ok := open.Load("open"); !ok && h.Get("Ce-Id") == bad.ID {
					w.WriteHeader(http.StatusBadRequest)
				}
			})
			r.run(p)
			if tt.blocks {
				// More often than any policy allows.
				r.attempts(p, bad, 5)
				if n := r.delivered(p, good.ID, "ordered"); n != 0 {
					t.Error("the next one passed")
				}
				open.Store("open", true)
				eventually(t, "both are delivered", func() bool {
					return r.delivered(p, bad.ID, "ordered") == 1 && r.delivered(p, good.ID, "ordered") == 1
				})
			} else {
				eventually(t, "the next one is delivered", func() bool { return r.delivered(p, good.ID, "ordered") == 1 })
				if l := r.letter(p, bad.ID); l.Reason != "refused" || l.Subscription != "ordered" || l.Policy != "fast" {
					t.Errorf("the dead letter is %+v", l)
				}
			}
			r.empty(p)
		})
	}
}

// An endpoint that asks to be left alone is.
func TestRetryAfterHoldsForAllDeliveries(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	e := newEndpoint(t)
	r.catalog.put(t, `{"name":"many","delivery":{"maxRetries":5,"timeout":"30s","retryOn":["429"],"backoff":{"initial":"0.001s","max":"0.002s","jitter":0}}}`)
	r.subscribeTo(e, `{"name":"shy","policy":"many"}`)
	var mu sync.Mutex
	var asked time.Time
	early := 0
	e.answers(func(n int, w http.ResponseWriter) {
		mu.Lock()
		defer mu.Unlock()
		if n == 1 {
			asked = time.Now()
			w.Header().Set("Retry-After", "2")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		if time.Since(asked) < 1900*time.Millisecond {
			early++
		}
	})
	p := r.parts()
	r.run(p)
	many := func(d *event.Delivery) { d.Policy = "many" }
	r.send(p, to("shy"), many)
	r.lane(p, "shy", "throttled", func(s queue.OwnState, there bool) bool { return there && s.Has(queue.Throttled) })
	for range 20 {
		r.send(p, to("shy"), many)
	}
	eventually(t, "all are delivered", func() bool { return e.count() == 22 })
	mu.Lock()
	defer mu.Unlock()
	if early > 0 {
		t.Errorf("%d requests before the time that the endpoint asked for", early)
	}
}

// A dispatcher that dies in the middle of a move leaves two messages of one
// delivery, of which the first may have been tried before; one of them is sent.
func TestAMoveThatWasBrokenOffIsOneDelivery(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.put(t, `{"name":"fast","delivery":{"maxRetries":5,"timeout":"10s","backoff":{"initial":"0.001s","max":"0.002s"}}}`)
	e := newEndpoint(t)
	r.subscribeTo(e, `{"name":"s","policy":"fast"}`)
	p := r.parts()
	if err := p.queue.EnsureLane(t.Context(), queue.LaneConfig{Lane: queue.Shared("fast", event.Normal), MaxDeliver: 6, AckWait: time.Second}); err != nil {
		t.Fatal(err)
	}
	const total = 10
	for range total {
		r.send(p)
	}
	// The copy, without the acknowledgement.
	if _, err := p.queue.Take(t.Context(), queue.Shared("fast", event.Normal), total, func(l *queue.Lease) {
		if err := p.queue.Copy(t.Context(), l, 0); err != nil {
			t.Error(err)
		}
		if dl := l.Delivery(); dl.Sequence%2 == 0 {
			if _, err := p.claims.Claim(t.Context(), "delivery:"+dl.Event+":s:1", strconv.FormatUint(dl.Sequence, 10), time.Minute); err != nil {
				t.Error(err)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	r.run(p)
	r.empty(p)
	if e.count() != total {
		t.Errorf("%d requests for %d deliveries", e.count(), total)
	}
	letters, _, err := p.letters.List(t.Context(), deadletter.Query{Limit: 10})
	if err != nil || len(letters) > 0 {
		t.Errorf("dead letters %+v, error %v", letters, err)
	}
}

// fill queues n events of each priority, in turns, each for the subscription of the
// priority's name, which is the event's subject too.
func (r *rig) fill(p *parts, n int, priorities []event.Priority) {
	r.t.Helper()
	for range n {
		for _, prio := range priorities {
			ev := &event.Event{ID: store.NewID(), Type: "a", Subject: prio.String(), Source: "shop", Context: "default", Data: []byte(`{}`), Received: time.Now()}
			if _, err := r.store.Append(r.t.Context(), ev); err != nil {
				r.t.Fatal(err)
			}
			r.enqueue(p, ev.ID, to(prio.String()), func(d *event.Delivery) { d.Priority = prio })
		}
	}
}

// The share of each priority, where all wait.
func TestPrioritiesShareTheSlots(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	e := newEndpoint(t)
	for _, prio := range []string{"HIGH", "NORMAL", "LOW"} {
		r.subscribeTo(e, `{"name":"`+strings.ToLower(prio)+`","policy":"fast","priority":"`+prio+`"}`)
	}
	var mu sync.Mutex
	var order []string
	e.handle(func(h http.Header, _ http.ResponseWriter) {
		mu.Lock()
		order = append(order, h.Get("Ce-Subject"))
		mu.Unlock()
		// Long enough for all to wait, not so long that it counts as slow.
		<-time.After(10 * time.Millisecond)
	})
	p := r.parts()
	r.fill(p, 400, event.Priorities())
	r.run(p)
	r.empty(p)
	mu.Lock()
	defer mu.Unlock()
	// At the beginning one lane may be there before another.
	from := 0
	for _, prio := range event.Priorities() {
		from = max(from, slices.Index(order, prio.String()))
	}
	n := map[string]int{}
	for _, prio := range order[from : from+130] {
		n[prio]++
	}
	// 80:40:10 of 130, but for what the machine makes of it.
	if n["high"] < 55 || n["normal"] < 25 || n["low"] < 3 || n["low"] > 30 {
		t.Errorf("of 130 from number %d: %v, want about 80 high, 40 normal, 10 low", from, n)
	}
}

// What is left of a subscription that is disabled or deleted while its endpoint fails
// becomes dead letters, once each, and is not turned over and over.
func TestWhatIsLeftOfAFailingSubscriptionIsDead(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*rig){
		"disabled": func(r *rig) { r.subscribe(`{"name":"failing","policy":"patient","disabled":true}`) },
		"deleted":  func(r *rig) { r.catalog.index.Delete("failing") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.endpoint.answers(status(http.StatusServiceUnavailable))
			r.catalog.put(t, `{"name":"patient","delivery":{"maxRetries":10,"timeout":"30s","retryOn":["5xx"],"backoff":{"initial":"0.2s","max":"0.2s","jitter":0}}}`)
			r.subscribe(`{"name":"failing","policy":"patient"}`)
			p := r.parts()
			r.run(p)
			r.send(p, to("failing"), func(d *event.Delivery) { d.Policy = "patient" })
			r.lane(p, "failing", "failing", failing)
			const n = 40
			for range n - 1 {
				r.send(p, own("failing"))
			}
			before := r.written()
			end(r)
			p.CatalogChanged()
			eventually(t, "all are dead letters", func() bool { return r.messages(topology.StreamDeadLetters) == n })
			r.empty(p)
			if more := r.written() - before; more > 2*n {
				t.Errorf("%d deliveries were queued %d times more", n, more)
			}
		})
	}
}

// written is how many deliveries were queued so far.
func (r *rig) written() uint64 {
	r.t.Helper()
	s, err := r.js.Stream(r.t.Context(), topology.StreamDeliveries)
	if err != nil {
		r.t.Fatal(err)
	}
	return s.CachedInfo().State.LastSeq
}

// A priority that has less in flight than it may have waits for its share: what is
// free for the time of a pull is not another's.
func TestNoPriorityTakesMoreThanItsShare(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	e := newEndpoint(t)
	for _, prio := range []string{"NORMAL", "LOW"} {
		r.subscribeTo(e, `{"name":"`+strings.ToLower(prio)+`","policy":"fast","priority":"`+prio+`"}`)
	}
	var mu sync.Mutex
	var order []string
	e.handle(func(h http.Header, _ http.ResponseWriter) {
		mu.Lock()
		order = append(order, h.Get("Ce-Subject"))
		mu.Unlock()
		<-time.After(30 * time.Millisecond) // see above
	})
	p := r.parts()
	r.fill(p, 600, []event.Priority{event.Normal, event.Low})
	r.run(p)
	r.empty(p)
	mu.Lock()
	defer mu.Unlock()
	n := map[string]int{}
	for _, prio := range order[50:450] {
		n[prio]++
	}
	// 4:1 is 320 and 80.
	if n["low"] > 110 || n["low"] < 50 {
		t.Errorf("of 400: %v, want about 320 normal, 80 low", n)
	}
}

// blocking is a log whose word of a new lane takes until it is let go.
type blocking struct {
	slog.Handler
	once           sync.Once
	entered, leave chan struct{}
}

func (b *blocking) Enabled(context.Context, slog.Level) bool { return true }

func (b *blocking) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "a subscription has a lane of its own" {
		b.once.Do(func() { close(b.entered) })
		<-b.leave
	}
	return nil
}

func TestRunWaitsForWhoIsolatesASubscription(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	answer := make(chan struct{})
	r.endpoint.answers(func(int, http.ResponseWriter) { <-answer })
	p := r.parts()
	log := &blocking{Handler: slog.DiscardHandler, entered: make(chan struct{}), leave: make(chan struct{})}
	p.Dispatcher.Log = slog.New(log)
	stop := r.run(p)
	for range 40 {
		r.send(p)
	}
	select {
	case <-log.entered:
	case <-time.After(30 * time.Second):
		t.Error("the subscription was not isolated")
	}
	close(answer)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stop()
	}()
	select {
	case <-stopped:
		t.Error("Run returned while a subscription was being isolated")
	case <-time.After(500 * time.Millisecond):
	}
	close(log.leave)
	<-stopped
}

// The delivery at the head of a lane that is blocked is the one that can show that the
// endpoint is back: it waits no longer than a probe, whatever the backoff.
func TestABlockedLaneIsTriedAsOftenAsAProbe(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	e := newEndpoint(t)
	r.catalog.put(t, `{"name":"slow","delivery":{"maxRetries":2,"timeout":"30s","retryOn":["5xx"],"backoff":{"initial":"200s","max":"300s"}}}`)
	r.subscribeTo(e, `{"name":"blocked","policy":"slow","ordered":true,"onExhausted":"BLOCK"}`)
	e.answers(func(n int, w http.ResponseWriter) {
		if n == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	p := r.parts()
	r.run(p)
	first, second := r.send(p, own("blocked")), r.send(p, own("blocked"))
	eventually(t, "both are delivered", func() bool {
		return r.delivered(p, first.ID, "blocked") == 1 && r.delivered(p, second.ID, "blocked") == 1
	})
	r.empty(p)
}
