package dispatcher_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/event"
)

// twin queues a second message of the delivery that send queues: one without the
// message ID by which the queue would know it.
func (r *rig) twin(ev *event.Event) {
	r.t.Helper()
	_, err := r.js.PublishMsg(r.t.Context(), &nats.Msg{
		Subject: topology.DeliverySubject("fast", event.Normal, "s"), Data: []byte(ev.ID),
		Header: nats.Header{topology.HeaderRevision: {"1"}},
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// depth waits until n messages are queued.
func (r *rig) depth(p *parts, n uint64) {
	r.t.Helper()
	eventually(r.t, strconv.FormatUint(n, 10)+" deliveries are queued", func() bool {
		d, err := p.queue.Depth(r.t.Context())
		return err == nil && d.Messages == n
	})
}

// held makes the endpoint hold every request until leave is called, and says
// when one is there.
func (e *endpoint) held(t *testing.T, answer func(n int, w http.ResponseWriter)) (entered <-chan struct{}, leave func()) {
	in, out := make(chan struct{}, 1000), make(chan struct{})
	var left atomic.Bool
	leave = func() {
		if left.CompareAndSwap(false, true) {
			close(out)
		}
	}
	t.Cleanup(leave) // before the server is closed, which waits for its requests
	e.answers(func(n int, w http.ResponseWriter) {
		in <- struct{}{}
		<-out
		if answer != nil {
			answer(n, w)
		}
	})
	return in, leave
}

// A second message of a delivery is dropped while the first is under way, after
// it is delivered, and after it is given up.
func TestASecondMessageOfADeliveryIsDropped(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		answer func(int, http.ResponseWriter)
		during bool
	}{
		{"while it is under way", nil, true},
		{"after it was delivered", nil, false},
		{"after it was given up", status(400), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			entered, leave := r.endpoint.held(t, tt.answer)
			p := r.parts()
			r.run(p)
			ev := r.send(p)
			<-entered
			if tt.during {
				r.twin(ev)
				r.depth(p, 1) // the twin is gone, the first still there
				leave()
				r.empty(p)
			} else {
				leave()
				r.empty(p)
				r.twin(ev)
				r.empty(p)
			}
			if n, a := r.endpoint.count(), r.attempts(p, ev, 1); n != 1 || len(a) != 1 {
				t.Errorf("%d requests are made and %d attempts recorded, want one of each", n, len(a))
			}
		})
	}
}

func TestAnExpectedStatusIsTheOnlySuccess(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		answer  int
		outcome event.Outcome
	}{
		{"the expected one", 201, event.Delivered},
		{"another success", 200, event.Refused},
		{"what is retried", 503, event.Retry},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.subscribe(`{"name":"s","policy":"fast","destination":{"webhook":{"expectedStatus":201}}}`)
			r.endpoint.answers(status(tt.answer))
			p := r.parts()
			r.run(p)
			ev := r.send(p)
			if a := r.attempts(p, ev, 1)[0]; a.Outcome != tt.outcome || a.Status != tt.answer {
				t.Errorf("answered %d: the outcome is %s with status %d, want %s", tt.answer, a.Outcome, a.Status, tt.outcome)
			}
			r.empty(p)
		})
	}
}

// What the endpoint asks for counts where it is later than the policy's own time.
func TestRetryAfterNeverMovesTheNextAttemptEarlier(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, retryAfter string
		status           int
		wait             time.Duration
	}{
		{"without", "", 503, time.Minute},
		{"sooner", "1", 429, time.Minute},
		{"at once", "0", 503, time.Minute},
		{"no time", "soon", 503, time.Minute},
		{"later", "120", 429, 2 * time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.catalog.put(t, `{"name":"slow","delivery":{"maxRetries":2,"retryOn":["5xx","429"],"backoff":{"initial":"60s","jitter":0}}}`)
			r.endpoint.answers(func(_ int, w http.ResponseWriter) {
				if tt.retryAfter != "" {
					w.Header().Set("Retry-After", tt.retryAfter)
				}
				w.WriteHeader(tt.status)
			})
			p := r.parts()
			r.run(p)
			a := r.attempts(p, r.send(p, func(d *event.Delivery) { d.Policy = "slow" }), 1)[0]
			// The wait begins when the answer is there.
			wait := a.NextAt.Sub(a.At.Add(a.Latency))
			if a.Outcome != event.Retry || wait < tt.wait || wait > tt.wait+10*time.Second {
				t.Errorf("outcome %s, to be tried again after %s, want %s", a.Outcome, wait, tt.wait)
			}
		})
	}
}

// Retries are over when the server has handed out the last one, and the record
// of each says which it was.
func TestEachAttemptIsRecordedAsWhatItWas(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.endpoint.answers(func(n int, w http.ResponseWriter) {
		w.WriteHeader(500 + n)
		_, _ = w.Write([]byte("no\xff" + strconv.Itoa(n))) // the sender sees what it gets
	})
	p := r.parts()
	r.run(p)
	ev := r.send(p)
	l := r.letter(p, ev.ID)
	got := r.attempts(p, ev, 3)
	for i, want := range []event.Outcome{event.Retry, event.Retry, event.Exhausted} {
		a := got[i]
		if a.Outcome != want || a.Number != i+1 || a.Status != 501+i || a.Response != "no\uFFFD"+strconv.Itoa(i+1) || a.Error == "" {
			t.Errorf("attempt %d is %+v, want outcome %s, status %d and the answer", i+1, a, want, 501+i)
		}
		if a.NextAt.IsZero() != (want == event.Exhausted) {
			t.Errorf("attempt %d is to be followed at %s", i+1, a.NextAt)
		}
	}
	if l.Status != 503 || l.Attempts != 3 || l.Round != 1 {
		t.Errorf("dead letter %+v, want the status of the third attempt", l)
	}
}

// The server counts a delivery as given up though it was made: its dispatcher
// died between the claim's mark and the lease's end.
func TestAnAdvisoryOfWhatWasDeliveredIsNoDeadLetter(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.parts()
	done, died := r.send(p), r.send(p)
	if err := p.claims.Done(t.Context(), claimKeyOf(done.ID, 1), "1", time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := p.claims.Claim(t.Context(), claimKeyOf(died.ID, 1), "2", time.Hour); err != nil {
		t.Fatal(err)
	}
	r.advise("MAX_DELIVERIES", map[string]any{"stream": topology.StreamDeliveries, "consumer": "fast_normal", "stream_seq": 1, "deliveries": 3})
	// What is settled already, and what nobody can read, stops nothing.
	r.advise("MAX_DELIVERIES", map[string]any{"stream": topology.StreamDeliveries, "consumer": "fast_normal", "stream_seq": 4711, "deliveries": 3})
	r.advise("MAX_DELIVERIES", "not an advisory")
	r.advise("MAX_DELIVERIES", map[string]any{"stream": topology.StreamDeliveries, "consumer": "fast_normal", "stream_seq": 2, "deliveries": 3})
	// The same twice: advisories are handed out at least once.
	r.advise("MAX_DELIVERIES", map[string]any{"stream": topology.StreamDeliveries, "consumer": "fast_normal", "stream_seq": 2, "deliveries": 3})
	stop := r.bury(p)
	if l := r.letter(p, died.ID); l.Reason != "max-deliveries" || l.Attempts != 3 {
		t.Errorf("dead letter %+v, want reason max-deliveries after 3 tries", l)
	}
	r.empty(p)
	eventually(t, "all advisories are dealt with", func() bool {
		c, err := r.js.Consumer(t.Context(), topology.StreamAdvisories, topology.ConsumerAdvisories)
		return err == nil && c.CachedInfo().NumPending == 0 && c.CachedInfo().NumAckPending == 0
	})
	stop()
	if n := r.messages(topology.StreamDeadLetters); n != 1 {
		t.Errorf("%d dead letters, want the one of what was not delivered", n)
	}
	if claim, err := p.claims.Peek(t.Context(), claimKeyOf(died.ID, 1)); err != nil || !claim.Done {
		t.Errorf("the claim of the dead letter is %+v with error %v, want it done: its message may come again", claim, err)
	}
}

// advise publishes what the server says in an advisory.
func (r *rig) advise(kind string, body any) {
	r.t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.js.Publish(r.t.Context(), "$JS.EVENT.ADVISORY.CONSUMER."+kind+"."+topology.StreamDeliveries+".fast_normal", data); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) messages(stream string) uint64 {
	r.t.Helper()
	s, err := r.js.Stream(r.t.Context(), stream)
	if err != nil {
		r.t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

// A delivery that a dispatcher ends for good leaves the server's word and one
// dead letter, not another by the undertaker.
func TestATerminatedDeliveryIsOneDeadLetter(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.endpoint.answers(status(400))
	p := r.parts()
	stop := r.run(p)
	ev := r.send(p)
	r.letter(p, ev.ID)
	r.empty(p)
	var said struct {
		Reason string `json:"reason"`
		Seq    uint64 `json:"stream_seq"`
	}
	eventually(t, "the server says that it is terminated", func() bool {
		s, err := r.js.Stream(t.Context(), topology.StreamAdvisories)
		if err != nil {
			return false
		}
		m, err := s.GetLastMsgForSubject(t.Context(), "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED."+topology.StreamDeliveries+".fast_normal")
		return err == nil && json.Unmarshal(m.Data, &said) == nil
	})
	if said.Reason != "refused" || said.Seq != 1 {
		t.Errorf("the advisory is %+v, want reason refused of delivery 1", said)
	}
	// The undertaker deals with an advisory behind it, so it has passed this one.
	later := r.send(p)
	r.letter(p, later.ID)
	r.advise("MAX_DELIVERIES", map[string]any{"stream": topology.StreamDeliveries, "consumer": "fast_normal", "stream_seq": 2, "deliveries": 1})
	eventually(t, "all advisories are dealt with", func() bool {
		c, err := r.js.Consumer(t.Context(), topology.StreamAdvisories, topology.ConsumerAdvisories)
		return err == nil && c.CachedInfo().AckFloor.Consumer == 1
	})
	stop()
	if n := r.messages(topology.StreamDeadLetters); n != 2 {
		t.Errorf("%d dead letters, want one for each of two refusals", n)
	}
	if l := r.letter(p, ev.ID); l.Reason != "refused" {
		t.Errorf("dead letter %+v, want it refused", l)
	}
}

// A stop waits for the attempts that are being made, and makes no new one.
func TestAStopWaitsForAttempts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	// In an own lane, where an attempt keeps its slot however long it takes.
	r.subscribe(`{"name":"s","policy":"fast","ratePerSecond":1000}`)
	entered, leave := r.endpoint.held(t, nil)
	p := r.parts()
	stop := r.run(p)
	const n = 8 // all slots
	var evs []*event.Event
	for range n {
		evs = append(evs, r.send(p, own("s")))
	}
	for range n {
		<-entered
	}
	waiting := r.send(p, own("s")) // without a slot
	stopped := make(chan struct{})
	go func() {
		stop()
		close(stopped)
	}()
	// A dispatcher that cuts its attempts short, or does not wait, would be done.
	select {
	case <-stopped:
		t.Error("it ended while attempts were being made")
	case <-time.After(200 * time.Millisecond):
	}
	leave()
	<-stopped
	for _, ev := range evs {
		if a := r.attempts(p, ev, 1); len(a) != 1 || a[0].Outcome != event.Delivered {
			t.Errorf("attempts of %s are %+v, want one that delivered", ev.ID, a)
		}
	}
	if times := r.endpoint.times(); times[waiting.ID] != 0 || len(times) != n {
		t.Errorf("%d events are sent, the one without a slot %d times, want the %d that were under way", len(times), times[waiting.ID], n)
	}
	d, err := p.queue.Get(t.Context(), n+1)
	if err != nil || d.Event != waiting.ID {
		t.Errorf("the queue has %+v with error %v, want the delivery that had no slot", d, err)
	}
	next := r.parts()
	r.run(next)
	r.empty(next)
	if a := r.attempts(next, waiting, 1); a[0].Number != 1 {
		t.Errorf("the next dispatcher's attempt is number %d, want 1: the stop used up no try", a[0].Number)
	}
}

// What is queued for a subscription that is disabled or deleted meanwhile goes
// to the dead letters, from where it can be retried when it is back.
func TestADisabledSubscriptionGetsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.parts()
	ev := r.send(p)
	r.subscribe(`{"name":"s","policy":"fast","disabled":true}`)
	r.run(p)
	if l := r.letter(p, ev.ID); l.Reason != "no-subscription" || l.Type != ev.Type {
		t.Errorf("dead letter %+v, want reason no-subscription", l)
	}
	r.subscribe(`{"name":"s","policy":"fast"}`)
	r.enqueue(p, ev.ID, func(d *event.Delivery) { d.Round = 2 })
	if a := r.attempts(p, ev, 1)[0]; a.Outcome != event.Delivered || a.Round != 2 {
		t.Errorf("when it is back: %+v, want round 2 delivered", a)
	}
	r.empty(p)
}

// A subscription has no more attempts in flight than it allows, and the lane's
// other slots are for others.
func TestASubscriptionsOwnLimitHolds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.subscribe(`{"name":"s","policy":"fast","maxInFlight":2}`)
	r.subscribe(`{"name":"free","policy":"fast"}`)
	entered, leave := r.endpoint.held(t, nil)
	p := r.parts()
	r.run(p)
	for range 4 {
		r.send(p)
	}
	<-entered
	<-entered
	other := r.send(p, func(d *event.Delivery) { d.Subscription = "free" })
	<-entered
	if times := r.endpoint.times(); len(times) != 3 || times[other.ID] != 1 {
		t.Errorf("in flight are %v, want two of the limited subscription and %s of the other", times, other.ID)
	}
	leave()
	r.empty(p)
	if n := r.endpoint.count(); n != 5 {
		t.Errorf("%d requests are made, want 5", n)
	}
}

// An edit changes what the server lives by, too: without it a longer policy
// would end at the old one's last try.
func TestALongerPolicyIsTheServersToo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.put(t, `{"name":"fast","delivery":{"maxRetries":0,"retryOn":["5xx"]}}`)
	entered, leave := r.endpoint.held(t, func(n int, w http.ResponseWriter) {
		if n < 4 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	p := r.parts()
	r.run(p)
	ev := r.send(p)
	<-entered
	r.catalog.put(t, `{"name":"fast","delivery":{"maxRetries":5,"retryOn":["404","5xx"],"timeout":"7s","backoff":{"initial":"0.001s","max":"0.001s"}}}`)
	p.CatalogChanged()
	eventually(t, "the consumer has the new settings", func() bool {
		c, err := r.js.Consumer(t.Context(), topology.StreamDeliveries, topology.LaneConsumer("fast", event.Normal))
		if err != nil {
			return false
		}
		cfg := c.CachedInfo().Config
		return cfg.MaxDeliver == 6 && cfg.AckWait == 17*time.Second
	})
	// The attempt in flight goes by the policy under which it began.
	leave()
	if l := r.letter(p, ev.ID); l.Reason != "exhausted" || l.Attempts != 1 {
		t.Errorf("dead letter %+v, want it exhausted by the policy it began with", l)
	}
	next := r.send(p)
	if a := r.attempts(p, next, 3); a[2].Outcome != event.Delivered {
		t.Errorf("the next event: %+v, want it delivered at the third try", a)
	}
	r.empty(p)
}

// A lane whose consumer somebody deletes is made again.
func TestADeletedConsumerIsMadeAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.parts()
	r.run(p)
	r.attempts(p, r.send(p), 1)
	r.empty(p)
	if err := r.js.DeleteConsumer(t.Context(), topology.StreamDeliveries, topology.LaneConsumer("fast", event.Normal)); err != nil {
		t.Fatal(err)
	}
	if a := r.attempts(p, r.send(p), 1)[0]; a.Outcome != event.Delivered {
		t.Errorf("afterwards: %+v, want it delivered", a)
	}
	r.empty(p)
}

// What is queued by a policy that is deleted is delivered, and its lane goes.
func TestAPolicyThatIsGoneLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.parts()
	stop := r.run(p)
	r.attempts(p, r.send(p), 1)
	r.empty(p)
	stop()
	ev := r.send(p)
	// The Master API deletes no policy that a subscription names.
	r.subscribe(`{"name":"s","policy":"default"}`)
	r.catalog.mu.Lock()
	delete(r.catalog.policies, "fast")
	r.catalog.mu.Unlock()
	next := r.parts()
	r.run(next)
	if a := r.attempts(next, ev, 1)[0]; a.Outcome != event.Delivered {
		t.Errorf("what was queued: %+v, want it delivered", a)
	}
	r.empty(next)
	eventually(t, "its lane is gone", func() bool {
		next.CatalogChanged()
		_, err := r.js.Consumer(t.Context(), topology.StreamDeliveries, topology.LaneConsumer("fast", event.Normal))
		return errors.Is(err, jetstream.ErrConsumerNotFound)
	})
}

// bury runs the undertaker alone.
func (r *rig) bury(p *parts) (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.Bury(ctx, r.js); err != nil {
			r.t.Errorf("undertaker: %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	r.t.Cleanup(stop)
	return stop
}
