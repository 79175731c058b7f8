package dispatcher_test

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/queue"
	"github.com/posthornhq/posthorn/pkg/store"
)

// claimKeyOf is the key of a delivery's claim (ADR 4).
func claimKeyOf(id string, round int) string { return "delivery:" + id + ":s:" + strconv.Itoa(round) }

func TestADeliveryIsSentRecordedAndSettled(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.parts()
	r.run(p)
	ev := r.send(p)
	a := r.attempts(p, ev, 1)[0]
	if a.Outcome != event.Delivered || a.Status != 200 || a.Number != 1 || a.Subscription != "s" || a.Latency <= 0 || a.Queued.IsZero() {
		t.Errorf("recorded %+v", a)
	}
	r.empty(p)
	if claim, err := p.claims.Peek(t.Context(), claimKeyOf(ev.ID, 1)); err != nil || !claim.Done {
		t.Errorf("the claim is %+v with error %v, want it done", claim, err)
	}
}

func TestWhatBecomesOfAnAnswer(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		answer   func(n int, w http.ResponseWriter)
		attempts int
		reason   string // of the dead letter; empty for none
		disabled bool
	}{
		{"a failure that passes", func(n int, w http.ResponseWriter) {
			if n < 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}, 3, "", false},
		{"a failure that stays", status(503), 3, "exhausted", false},
		{"a refusal", status(400), 1, "refused", false},
		{"a redirect", status(302), 1, "refused", false},
		{"a connection that breaks", func(n int, w http.ResponseWriter) {
			if n < 2 {
				panic(http.ErrAbortHandler)
			}
		}, 2, "", false},
		{"gone", status(410), 1, "gone", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.subscribe(`{"name":"s","policy":"fast","destination":{"webhook":{"disableOnGone":true}}}`)
			r.endpoint.answers(tt.answer)
			p := r.parts()
			r.run(p)
			ev := r.send(p)
			if tt.reason != "" {
				if l := r.letter(p, ev.ID); l.Reason != tt.reason || l.Attempts != tt.attempts || l.Type != ev.Type || l.Source != "shop" {
					t.Errorf("dead letter %+v, want reason %s after %d attempts", l, tt.reason, tt.attempts)
				}
			}
			r.empty(p)
			got := r.attempts(p, ev, tt.attempts)
			if len(got) != tt.attempts || r.endpoint.count() < tt.attempts {
				t.Errorf("%d attempts recorded and %d requests made, want %d", len(got), r.endpoint.count(), tt.attempts)
			}
			for i, a := range got[:len(got)-1] {
				if a.Outcome != event.Retry || a.Number != i+1 || a.NextAt.Before(a.At) {
					t.Errorf("attempt %d is %+v, want a retry with the time of the next", i+1, a)
				}
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			if tt.disabled != (len(r.disabled) == 1) {
				t.Errorf("disabled %v, want it disabled: %t", r.disabled, tt.disabled)
			}
		})
	}
}

func TestRetryAfterMovesTheNextAttemptLater(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.endpoint.answers(func(n int, w http.ResponseWriter) {
		if n == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	p := r.parts()
	r.run(p)
	got := r.attempts(p, r.send(p), 2)
	if wait := got[1].At.Sub(got[0].At); wait < time.Second {
		t.Errorf("the second attempt came after %s, want at least the second that the endpoint asked for", wait)
	}
}

// A delivery that is older than its policy allows is given up, however many
// tries are left.
func TestADeliveryHasATimeLimit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.put(t, `{"name":"short","delivery":{"maxRetries":10,"retryOn":["5xx"],"backoff":{"initial":"30s","maxElapsed":"20s"}}}`)
	r.subscribe(`{"name":"s","policy":"short"}`)
	r.endpoint.answers(status(503))
	p := r.parts()
	r.run(p)
	ev := r.send(p, func(d *event.Delivery) { d.Policy = "short" })
	if l := r.letter(p, ev.ID); l.Reason != "exhausted" || l.Attempts != 1 {
		t.Errorf("dead letter %+v, want it exhausted after one attempt", l)
	}
}

// What is claimed as done is not sent again, and neither is a second message of a
// delivery that is under way.
func TestKnownDeliveriesAreNotSent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.parts()
	ev := r.send(p)
	if _, err := p.claims.Claim(t.Context(), claimKeyOf(ev.ID, 1), "1", time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := p.claims.Done(t.Context(), claimKeyOf(ev.ID, 1), "1", time.Hour); err != nil {
		t.Fatal(err)
	}
	r.run(p)
	r.empty(p)
	if n := r.endpoint.count(); n != 0 {
		t.Errorf("sent %d times, want never: it is done", n)
	}
	// A manual retry is a round of its own.
	r.enqueue(p, ev.ID, func(d *event.Delivery) { d.Round = 2 })
	r.empty(p)
	if n := r.endpoint.count(); n != 1 {
		t.Errorf("the second round is sent %d times, want once", n)
	}
}

// The claim of a message that a power loss took with it does not keep the
// delivery from being made.
func TestAClaimOfALostMessageIsTakenOver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.parts()
	ev := &event.Event{ID: store.NewID(), Type: "order.created", Source: "shop", Context: "default", Data: []byte(`{}`), Received: time.Now()}
	if _, err := r.store.Append(t.Context(), ev); err != nil {
		t.Fatal(err)
	}
	if _, err := p.claims.Claim(t.Context(), claimKeyOf(ev.ID, 1), "4711", time.Hour); err != nil {
		t.Fatal(err)
	}
	r.enqueue(p, ev.ID)
	r.run(p)
	r.empty(p)
	if n := r.endpoint.count(); n != 1 {
		t.Errorf("sent %d times, want once", n)
	}
}

func TestWhatCannotBeDeliveredIsADeadLetter(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.parts()
	r.run(p)
	orphan := r.send(p, func(d *event.Delivery) { d.Subscription = "deleted" })
	if l := r.letter(p, orphan.ID); l.Reason != "no-subscription" {
		t.Errorf("without its subscription: %+v, want reason no-subscription", l)
	}
	missing := store.NewID()
	r.enqueue(p, missing)
	if l := r.letter(p, missing); l.Reason != "missing" {
		t.Errorf("without its event: %+v, want reason missing", l)
	}
	r.empty(p)
}

// A delivery whose dispatcher dies on the last try is handed out no more; the
// server's advisory brings it to the dead letters.
func TestADeliveryThatDiesWithItsDispatcherOnTheLastTry(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.put(t, `{"name":"once","delivery":{"maxRetries":0}}`)
	p := r.parts()
	// What a dispatcher that dies at once leaves: tries that nobody answers.
	if err := p.queue.EnsureLane(t.Context(), queue.LaneConfig{Lane: queue.Shared("once", event.Normal), MaxDeliver: 1, AckWait: 100 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	ev := r.send(p, func(d *event.Delivery) { d.Policy = "once" })
	cons, err := r.js.Consumer(t.Context(), topology.StreamDeliveries, laneConsumer(t, r.js))
	if err != nil {
		t.Fatal(err)
	}
	batch, err := cons.Fetch(1)
	if err != nil {
		t.Fatal(err)
	}
	for range batch.Messages() { // taken, and never answered
	}
	eventually(t, "the server says that there is no try left", func() bool {
		// A pull makes it look.
		if more, err := cons.Fetch(1, jetstream.FetchMaxWait(50*time.Millisecond)); err == nil {
			for range more.Messages() {
				t.Error("it is handed out again")
			}
		}
		s, err := r.js.Stream(t.Context(), topology.StreamAdvisories)
		return err == nil && s.CachedInfo().State.Msgs > 0
	})
	r.run(p)
	if l := r.letter(p, ev.ID); l.Reason != "max-deliveries" || l.Attempts != 1 {
		t.Errorf("dead letter %+v, want reason max-deliveries", l)
	}
	r.empty(p)
	if n := r.endpoint.count(); n != 0 {
		t.Errorf("it was sent %d times, want never", n)
	}
}

// laneConsumer finds the one consumer that there is.
func laneConsumer(t *testing.T, js jetstream.JetStream) string {
	t.Helper()
	s, err := js.Stream(t.Context(), topology.StreamDeliveries)
	if err != nil {
		t.Fatal(err)
	}
	for name := range s.ConsumerNames(t.Context()).Name() {
		return name
	}
	t.Fatal("DELIVERIES has no consumer")
	return ""
}

// A stop cuts no attempt short and burns no lease.
func TestAStopDrains(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	entered, leave := make(chan struct{}, 8), make(chan struct{})
	r.endpoint.answers(func(int, http.ResponseWriter) {
		entered <- struct{}{}
		<-leave
	})
	p := r.parts()
	stop := r.run(p)
	var evs []*event.Event
	for range 4 {
		evs = append(evs, r.send(p))
	}
	for range 4 {
		<-entered
	}
	stopped := make(chan struct{})
	go func() {
		stop()
		close(stopped)
	}()
	close(leave)
	<-stopped
	for _, ev := range evs {
		if a := r.attempts(p, ev, 1); len(a) != 1 || a[0].Outcome != event.Delivered {
			t.Errorf("attempts of %s are %+v, want one that delivered", ev.ID, a)
		}
	}
	r.empty(p)
}

// An edit of the policy is in force for what is queued already.
func TestAnEditedPolicyIsInForce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.put(t, `{"name":"fast","delivery":{"maxRetries":10,"retryOn":["5xx"],"backoff":{"initial":"0.2s","max":"0.2s","jitter":0}}}`)
	r.endpoint.answers(status(503))
	p := r.parts()
	r.run(p)
	ev := r.send(p)
	r.attempts(p, ev, 1)
	r.catalog.put(t, `{"name":"fast","delivery":{"maxRetries":1,"retryOn":["5xx"],"backoff":{"initial":"0.001s","max":"0.001s","jitter":0}}}`)
	p.CatalogChanged()
	if l := r.letter(p, ev.ID); l.Attempts > 5 {
		t.Errorf("given up after %d attempts, want by the edited policy", l.Attempts)
	}
}

// Two dispatchers share the queue; one loses its connection and is gone. All is
// delivered, and twice only what it had in its hands.
func TestOneOfTwoDispatchersVanishes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.put(t, `{"name":"fast","delivery":{"maxRetries":3,"timeout":"10s","retryOn":["5xx"],"backoff":{"initial":"0.001s","max":"0.002s"}}}`)
	one, other := r.parts(), r.parts()
	stopOne := r.run(one)
	r.run(other)
	const n = 200
	var evs []*event.Event
	for i := range n {
		evs = append(evs, r.send(other))
		if i == n/2 {
			one.nc.Close()
		}
	}
	// What it had in its hands comes again when the leases have run out.
	within(t, 2*time.Minute, "everything is delivered", func() bool { return len(r.endpoint.times()) == n })
	stopOne()
	twice := 0
	for _, ev := range evs {
		if times := r.endpoint.times()[ev.ID]; times > 1 {
			twice++
		}
	}
	if twice > 16 {
		t.Errorf("%d of %d are delivered twice, want no more than were in its hands", twice, n)
	}
}
