package dispatcher_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/commit"
	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/dedup"
	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/destination/webhook"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/ledger"
	"github.com/posthornhq/posthorn/pkg/netguard"
	"github.com/posthornhq/posthorn/pkg/policy"
	"github.com/posthornhq/posthorn/pkg/queue"
	"github.com/posthornhq/posthorn/pkg/store"
	"github.com/posthornhq/posthorn/pkg/subscription"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
	"github.com/posthornhq/posthorn/services/dispatcher"
)

// rig is what a dispatcher works with, on a real JetStream server.
type rig struct {
	t        *testing.T
	js       jetstream.JetStream
	store    *store.Store
	catalog  *catalog
	endpoint *endpoint
	server   interface{ URL() string }

	mu       sync.Mutex
	disabled []string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	s := jstest.Start(t, t.TempDir())
	r := &rig{t: t, js: jstest.Connect(t, s), catalog: newCatalog(t), endpoint: newEndpoint(t), server: s}
	if _, err := topology.Ensure(t.Context(), r.js, topology.Config{}); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.store, err = store.New(r.js.Conn(), (*commit.Barrier)(nil), discard(), nil, store.Config{}); err != nil {
		t.Fatal(err)
	}
	r.catalog.put(t, `{"name":"fast","delivery":{"maxRetries":2,"timeout":"30s","retryOn":["5xx"],"backoff":{"initial":"0.001s","max":"0.002s","jitter":0}}}`)
	r.subscribe(`{"name":"s","policy":"fast"}`)
	return r
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// warnings is a log of which the test keeps what is out of the ordinary; it is shown
// if the test fails.
func warnings(t *testing.T) *slog.Logger {
	w := &untilEnd{w: t.Output()}
	t.Cleanup(w.end)
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// untilEnd drops what is written after the test.
type untilEnd struct {
	mu sync.Mutex
	w  io.Writer
}

func (u *untilEnd) Write(b []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.w.Write(b)
}

func (u *untilEnd) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.w = io.Discard
}

// subscribe fills in what every subscription here has in common.
func (r *rig) subscribe(doc string) { r.subscribeTo(r.endpoint, doc) }

func (r *rig) subscribeTo(e *endpoint, doc string) {
	r.t.Helper()
	spec := new(posthornv1.Subscription)
	if err := protojson.Unmarshal([]byte(doc), spec); err != nil {
		r.t.Fatal(err)
	}
	if spec.Destination == nil {
		spec.Destination = &posthornv1.Destination{Kind: &posthornv1.Destination_Webhook{Webhook: &posthornv1.Webhook{}}}
	}
	spec.GetDestination().GetWebhook().Url = e.URL
	spec.Types = []string{"#"}
	s, err := subscription.Compile(spec, []string{"hush-hush"})
	if err != nil {
		r.t.Fatal(err)
	}
	r.catalog.index.Put(s)
}

// parts is one dispatcher's, on a connection of its own.
type parts struct {
	nc      *nats.Conn
	queue   *queue.Queue
	ledger  *ledger.Ledger
	letters *deadletter.Letters
	claims  *dedup.KV
	lanes   *queue.OwnLanes
	*dispatcher.Dispatcher
}

func (r *rig) parts() *parts {
	r.t.Helper()
	nc, err := nats.Connect(r.server.URL(), nats.Timeout(30*time.Second))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(nc.Close)
	p := &parts{nc: nc}
	must := func(err error) {
		r.t.Helper()
		if err != nil {
			r.t.Fatal(err)
		}
	}
	p.queue, err = queue.New(nc, warnings(r.t))
	must(err)
	p.ledger, err = ledger.New(nc)
	must(err)
	p.letters, err = deadletter.New(nc)
	must(err)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(30*time.Second))
	must(err)
	p.claims = dedup.NewKV(js)
	kv, err := js.KeyValue(r.t.Context(), topology.BucketLanes)
	must(err)
	p.lanes = queue.NewOwnLanes(kv, discard())
	client := webhook.NewClient(netguard.New([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}), webhook.Config{})
	r.t.Cleanup(client.Close)
	p.Dispatcher, err = dispatcher.New(dispatcher.Deps{
		Events: r.store, Queue: p.queue, Lanes: p.lanes, Claims: p.claims, Ledger: p.ledger, Letters: p.letters, Catalog: r.catalog, Log: warnings(r.t),
		Open: func(s *subscription.Subscription) (destination.Destination, error) {
			return webhook.New(client, s.Spec.GetDestination().GetWebhook(), s.Name, s.Secrets)
		},
		Disable: func(_ context.Context, name string) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.disabled = append(r.disabled, name)
			return nil
		},
	}, dispatcher.Config{Concurrency: 8, ProbeInterval: 2 * time.Second, Hold: time.Second})
	must(err)
	return p
}

// run dispatches until the test ends, or stop is called.
func (r *rig) run(p *parts) (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	js, err := jetstream.New(p.nc, jetstream.WithDefaultTimeout(30*time.Second))
	if err != nil {
		r.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.Run(ctx); err != nil {
			r.t.Errorf("dispatcher: %v", err)
		}
	})
	wg.Go(func() {
		if err := p.lanes.Run(ctx); err != nil {
			r.t.Errorf("lanes: %v", err)
		}
	})
	wg.Go(func() {
		if err := p.Bury(ctx, js); err != nil {
			r.t.Errorf("undertaker: %v", err)
		}
	})
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); wg.Wait() }) }
	r.t.Cleanup(stop)
	return stop
}

// send stores an event and queues it for subscription s.
func (r *rig) send(p *parts, change ...func(*event.Delivery)) *event.Event {
	r.t.Helper()
	ev := &event.Event{ID: store.NewID(), Type: "order.created", Source: "shop", Context: "default", Data: []byte(`{}`), Received: time.Now()}
	if _, err := r.store.Append(r.t.Context(), ev); err != nil {
		r.t.Fatal(err)
	}
	r.enqueue(p, ev.ID, change...)
	return ev
}

func (r *rig) enqueue(p *parts, id string, change ...func(*event.Delivery)) {
	r.t.Helper()
	d := event.Delivery{Event: id, Subscription: "s", Round: 1, Policy: "fast", Priority: event.Normal, Revision: 1}
	for _, f := range change {
		f(&d)
	}
	put := p.queue.Enqueue(&d, "")
	if _, err := put.Wait(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// attempts waits until n are recorded, and returns them.
func (r *rig) attempts(p *parts, ev *event.Event, n int) []event.Attempt {
	r.t.Helper()
	var got []event.Attempt
	eventually(r.t, fmt.Sprint(n, " attempts of ", ev.ID), func() bool {
		var err error
		if got, err = p.ledger.Attempts(r.t.Context(), ev.ID, ev.Received.Add(-time.Minute)); err != nil {
			r.t.Fatal(err)
		}
		return len(got) >= n
	})
	return got
}

// letter waits until there is a dead letter of an event.
func (r *rig) letter(p *parts, id string) event.DeadLetter {
	r.t.Helper()
	var got []event.DeadLetter
	eventually(r.t, "a dead letter of "+id, func() bool {
		var err error
		if got, _, err = p.letters.List(r.t.Context(), deadletter.Query{Event: id, Limit: 10}); err != nil {
			r.t.Fatal(err)
		}
		return len(got) > 0
	})
	if len(got) > 1 {
		r.t.Errorf("%d dead letters, want one: %+v", len(got), got)
	}
	return got[0]
}

// empty waits until nothing is queued.
func (r *rig) empty(p *parts) {
	r.t.Helper()
	eventually(r.t, "the queue is empty", func() bool {
		d, err := p.queue.Depth(r.t.Context())
		return err == nil && d.Messages == 0
	})
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	within(t, 30*time.Second, what, f)
}

func within(t *testing.T, most time.Duration, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(most)
	for !f() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", most, what)
		}
	}
}

// catalog has what a test put into it.
type catalog struct {
	index    *subscription.Index
	mu       sync.Mutex
	policies map[string]*policy.Policy
}

func newCatalog(t *testing.T) *catalog {
	t.Helper()
	c := &catalog{index: subscription.NewIndex(), policies: map[string]*policy.Policy{}}
	p, err := policy.Compile(policy.Default())
	if err != nil {
		t.Fatal(err)
	}
	c.policies[p.Name] = p
	return c
}

func (c *catalog) put(t *testing.T, doc string) {
	t.Helper()
	spec := new(posthornv1.Policy)
	if err := protojson.Unmarshal([]byte(doc), spec); err != nil {
		t.Fatal(err)
	}
	p, err := policy.Compile(spec)
	if err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.policies[p.Name] = p
}

func (c *catalog) Subscription(name string) (*subscription.Subscription, bool) {
	s := c.index.Get(name)
	return s, s != nil
}

func (c *catalog) Policy(name string) *policy.Policy {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.policies[name]; ok {
		return p
	}
	return c.policies[policy.DefaultName]
}

func (c *catalog) Delivery(p *policy.Policy, _, _ string) *policy.Policy { return p }

func (c *catalog) Subscriptions() *subscription.Index { return c.index }

func (c *catalog) Policies() (all []*policy.Policy) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.policies {
		all = append(all, p)
	}
	return all
}

// An endpoint answers with what a test says, 200 by itself, and keeps what it got.
type endpoint struct {
	*httptest.Server
	mu     sync.Mutex
	got    []http.Header
	answer func(n int, w http.ResponseWriter)
	look   func(h http.Header, w http.ResponseWriter)
}

func newEndpoint(t *testing.T) *endpoint {
	t.Helper()
	e := &endpoint{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // a body that breaks off is the sender's to notice
		e.mu.Lock()
		e.got = append(e.got, r.Header.Clone())
		n, answer, look := len(e.got), e.answer, e.look
		e.mu.Unlock()
		if look != nil {
			look(r.Header, w)
		}
		if answer != nil {
			answer(n, w)
		}
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) answers(f func(n int, w http.ResponseWriter)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answer = f
}

// handle answers by what a request says.
func (e *endpoint) handle(f func(h http.Header, w http.ResponseWriter)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.look = f
}

func withSubjects(filter string) jetstream.StreamInfoOpt { return jetstream.WithSubjectFilter(filter) }

func status(code int) func(int, http.ResponseWriter) {
	return func(_ int, w http.ResponseWriter) { w.WriteHeader(code) }
}

func (e *endpoint) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.got)
}

// times counts the requests of each event.
func (e *endpoint) times() map[string]int {
	e.mu.Lock()
	defer e.mu.Unlock()
	times := map[string]int{}
	for _, h := range e.got {
		times[h.Get("Webhook-Id")]++
	}
	return times
}
