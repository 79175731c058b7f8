package dispatcher_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	mirror "github.com/posthornhq/posthorn/pkg/catalog"
	"github.com/posthornhq/posthorn/pkg/commit"
	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/dedup"
	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/destination/webhook"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/ledger"
	"github.com/posthornhq/posthorn/pkg/netguard"
	"github.com/posthornhq/posthorn/pkg/queue"
	"github.com/posthornhq/posthorn/pkg/seal"
	"github.com/posthornhq/posthorn/pkg/store"
	"github.com/posthornhq/posthorn/pkg/subscription"
	"github.com/posthornhq/posthorn/services/broker"
	"github.com/posthornhq/posthorn/services/dispatcher"
)

// put writes a resource, and returns its revision.
func (m *model) put(kind, name string, doc map[string]any) uint64 {
	m.t.Helper()
	b, err := json.Marshal(doc)
	if err != nil {
		m.t.Fatal(err)
	}
	rev, err := m.config.Put(m.t.Context(), kind+"."+name, b)
	if err != nil {
		m.t.Fatal(err)
	}
	return rev
}

func (m *model) putPolicy(name string, delivery map[string]any) {
	m.t.Helper()
	m.policies[name] = delivery
	n, ok := delivery["maxRetries"].(int)
	if !ok {
		m.t.Fatal("a policy without retries")
	}
	m.retries[name] = append(m.retries[name], allowed{time.Now(), n})
	m.put("policies", name, map[string]any{"name": name, "delivery": delivery})
}

// revision is that of the newest change to the configuration.
func (m *model) revision() uint64 {
	m.t.Helper()
	s, err := m.config.Status(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	kv, ok := s.(*jetstream.KeyValueBucketStatus)
	if !ok {
		m.t.Fatal("a bucket without a stream")
	}
	return kv.StreamInfo().State.LastSeq
}

// see waits until the router knows of a change, and no longer: the dispatchers
// may be behind.
func (m *model) see(revision uint64) {
	m.t.Helper()
	if m.router == nil {
		return
	}
	if err := m.router.catalog.WaitFor(m.t.Context(), revision, 0); err != nil {
		m.t.Fatal(err)
	}
}

// routed waits until the router has routed what was accepted.
func (m *model) routed() {
	m.t.Helper()
	s, err := m.js.Stream(m.t.Context(), topology.StreamEvents)
	if err != nil {
		m.t.Fatal(err)
	}
	// What the consumer says is pending may be behind the stream.
	last := s.CachedInfo().State.LastSeq
	eventually(m.t, "everything is routed", func() bool {
		c, err := m.js.Consumer(m.t.Context(), topology.StreamEvents, topology.ConsumerRouter)
		return err == nil && c.CachedInfo().Delivered.Stream >= last && c.CachedInfo().NumAckPending == 0
	})
}

// base is what a broker and a dispatcher have in common.
type base struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	store   *store.Store
	queue   *queue.Queue
	ledger  *ledger.Ledger
	letters *deadletter.Letters
	claims  *dedup.KV
	lanes   *queue.OwnLanes
	catalog *mirror.Catalog
}

func (m *model) newBase() *base {
	m.t.Helper()
	must := func(err error) {
		m.t.Helper()
		if err != nil {
			m.t.Fatal(err)
		}
	}
	nc, err := nats.Connect(m.url, nats.Timeout(30*time.Second))
	must(err)
	m.t.Cleanup(nc.Close)
	b := &base{nc: nc}
	b.js, err = jetstream.New(nc, jetstream.WithDefaultTimeout(30*time.Second))
	must(err)
	b.store, err = store.New(nc, (*commit.Barrier)(nil), discard(), nil, store.Config{})
	must(err)
	b.queue, err = queue.New(nc, slog.New(&noted{slog.DiscardHandler, m, len(m.nodes) + 1}))
	must(err)
	b.ledger, err = ledger.New(nc)
	must(err)
	b.letters, err = deadletter.New(nc)
	must(err)
	b.claims = dedup.NewKV(b.js)
	kv, err := b.js.KeyValue(m.t.Context(), topology.BucketLanes)
	must(err)
	b.lanes = queue.NewOwnLanes(kv, discard())
	config, err := b.js.KeyValue(m.t.Context(), topology.BucketConfig)
	must(err)
	secrets, err := b.js.KeyValue(m.t.Context(), topology.BucketSecrets)
	must(err)
	sealer, err := seal.New(bytes.Repeat([]byte{7}, seal.KeySize))
	must(err)
	b.catalog, err = mirror.New(config, secrets, sealer, discard(), mirror.Config{})
	must(err)
	return b
}

// mirror runs the mirrors until ctx is done, and returns when they are ready.
func (b *base) mirror(ctx context.Context, t *testing.T, wg *sync.WaitGroup) {
	t.Helper()
	for name, run := range map[string]func(context.Context) error{"catalog": b.catalog.Run, "lanes": b.lanes.Run} {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	for _, ready := range []<-chan struct{}{b.catalog.Ready(), b.lanes.Ready()} {
		select {
		case <-ready:
		case <-time.After(30 * time.Second):
			t.Fatal("a mirror is not ready within 30s")
		}
	}
}

// routerNode is a broker with its router.
type routerNode struct {
	*base
	*broker.Broker
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

type anything struct{}

func (anything) ValidateContent(string, int, string, []byte) (int, []event.Violation) { return 0, nil }

func (m *model) newRouter() *routerNode {
	m.t.Helper()
	r := &routerNode{base: m.newBase()}
	r.lanes.OnChange(func(name string) {
		if s, there := r.lanes.Get(name); there {
			m.note("lane of %s is closing: %t, for %v, until %v", name, s.Closing, s.Reasons, time.Until(s.Until).Round(time.Millisecond))
		} else {
			m.note("lane of %s is gone", name)
		}
	})
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(m.t.Context())
	r.mirror(ctx, m.t, &r.wg)
	if _, err := broker.PrepareRouter(ctx, r.js, nil); err != nil {
		m.t.Fatal(err)
	}
	r.Broker = broker.New(broker.Deps{
		Store: r.store, Queue: r.queue, Ledger: r.ledger, Claims: r.claims, Schemas: anything{}, Catalog: r.catalog, Lanes: r.lanes, Log: discard(),
	}, broker.Config{})
	r.wg.Go(func() {
		if err := r.Run(ctx, r.js); err != nil {
			m.t.Errorf("router: %v", err)
		}
	})
	return r
}

func (r *routerNode) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	r.wg.Wait()
	r.Drain(context.WithoutCancel(t.Context()))
	r.nc.Close()
}

// node is a dispatcher.
type node struct {
	*base
	*dispatcher.Dispatcher
	number  int
	journal *journal
	client  *webhook.Client
	cancel  context.CancelFunc
	done    chan struct{}
	stopped bool
	dead    atomic.Bool
	died    time.Time     // set before dead
	end     chan struct{} // closed when it is killed
}

func (m *model) addNode() {
	m.t.Helper()
	n := &node{base: m.newBase(), number: len(m.nodes) + 1, journal: m.journal, done: make(chan struct{}), end: make(chan struct{})}
	n.client = webhook.NewClient(netguard.New([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}), webhook.Config{})
	m.t.Cleanup(n.client.Close)
	var err error
	n.Dispatcher, err = dispatcher.New(dispatcher.Deps{
		Events: n.store, Queue: n.queue, Lanes: n.lanes, Claims: marked{n.claims, n}, Ledger: n.ledger, Letters: n.letters, Catalog: n.catalog, Log: slog.New(&noted{slog.DiscardHandler, m, n.number}),
		Open: func(s *subscription.Subscription) (destination.Destination, error) {
			w, err := webhook.New(n.client, s.Spec.GetDestination().GetWebhook(), s.Name, []string{"hush-hush"})
			return tap{w, n}, err
		},
		Disable: func(context.Context, string) error { return errors.New("nothing is gone here") },
	}, dispatcher.Config{Concurrency: 16, ProbeInterval: 200 * time.Millisecond, Hold: 300 * time.Millisecond})
	if err != nil {
		m.t.Fatal(err)
	}
	n.catalog.OnChange(n.CatalogChanged)
	m.note("dispatcher %d begins", n.number)
	var ctx context.Context
	ctx, n.cancel = context.WithCancel(m.t.Context())
	var wg sync.WaitGroup
	n.mirror(ctx, m.t, &wg)
	for name, run := range map[string]func() error{
		"dispatcher": func() error { return n.Run(ctx) },
		"undertaker": func() error { return n.Bury(ctx, n.js) },
	} {
		wg.Go(func() {
			if err := run(); err != nil && !n.dead.Load() {
				m.t.Errorf("%s %d: %v", name, n.number, err)
			}
		})
	}
	go func() {
		defer close(n.done)
		wg.Wait()
	}()
	m.nodes = append(m.nodes, n)
}

// noted is a log of a dispatcher, of which the model keeps what is out of the ordinary.
type noted struct {
	slog.Handler
	m      *model
	number int
}

func (h *noted) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

func (h *noted) WithAttrs([]slog.Attr) slog.Handler { return h }

func (h *noted) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "dead letter" {
		return nil // the model has its own word on these
	}
	var b strings.Builder
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s", a)
		return true
	})
	h.m.warn("dispatcher %d: %s:%s", h.number, r.Message, &b)
	return nil
}

// sees waits until a dispatcher knows of all changes to the configuration.
func (n *node) sees(m *model) {
	m.t.Helper()
	if err := n.catalog.WaitFor(m.t.Context(), m.revision(), 0); err != nil {
		m.t.Fatal(err)
	}
}

// stop ends a dispatcher in order; what it has begun goes on to its end.
func (n *node) stop() {
	n.stopped = true
	n.cancel()
}

// kill ends a dispatcher as kill -9 does, as far as others can see: nothing leaves
// it any more, and what was on its way breaks off.
func (n *node) kill() {
	n.died = time.Now()
	n.dead.Store(true)
	close(n.end)
	n.nc.Close()
	n.cancel()
}

// tap writes down what is sent.
type tap struct {
	destination.Destination
	n *node
}

func (t tap) Send(ctx context.Context, msg *destination.Message) destination.Result {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-t.n.end:
			cancel()
		case <-ctx.Done():
		}
	}()
	if t.n.dead.Load() {
		return destination.Result{ErrorClass: destination.ClassConnect, Err: errors.New("killed")}
	}
	s := t.n.journal.begin(t.n, msg.Delivery)
	res := t.Destination.Send(ctx, msg)
	t.n.journal.end(s, &res)
	return res
}

// marked writes down which deliveries are marked as done.
type marked struct {
	*dedup.KV
	n *node
}

func (c marked) Done(ctx context.Context, key, owner string, ttl time.Duration) error {
	err := c.KV.Done(ctx, key, owner, ttl)
	if err == nil {
		c.n.journal.done(key)
	}
	return err
}

// behaviour is how an endpoint answers.
type behaviour int32

const (
	well behaviour = iota
	failing500
	refusing
	hanging
	throttling
	wavering
	slow
)

func (b behaviour) String() string {
	return [...]string{"well", "failing", "refusing", "hanging", "throttling", "wavering", "slow"}[b]
}

// A site is an endpoint, and what it got.
type site struct {
	*httptest.Server
	mu       sync.Mutex
	now      behaviour
	changed  chan struct{}
	accepted []string // IDs in the order in which they were answered with success first
	known    map[string]bool
	strays   []string // requests to somebody else
}

func newSite(t *testing.T, name string) *site {
	t.Helper()
	s := &site{changed: make(chan struct{}), known: map[string]bool{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // a body that breaks off is the sender's to notice
		id := r.Header.Get("Webhook-Id")
		if strings.TrimPrefix(r.URL.Path, "/") != name {
			s.mu.Lock()
			s.strays = append(s.strays, r.URL.Path+" "+id)
			s.mu.Unlock()
		}
		s.answer(w, r, id)
	}))
	t.Cleanup(s.Close)
	return s
}

// others returns the requests that were meant for somebody else.
func (s *site) others() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.strays)
}

func (s *site) set(b behaviour) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = b
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *site) answer(w http.ResponseWriter, r *http.Request, id string) {
	s.mu.Lock()
	b, changed := s.now, s.changed
	s.mu.Unlock()
	switch b {
	case wavering:
		if rand.IntN(2) == 0 {
			b = failing500
		}
	case hanging:
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	case slow:
		select {
		case <-time.After(time.Duration(20+rand.IntN(180)) * time.Millisecond):
		case <-r.Context().Done():
			return
		}
	}
	switch b {
	case failing500:
		w.WriteHeader(http.StatusInternalServerError)
	case refusing:
		w.WriteHeader(http.StatusUnprocessableEntity)
	case throttling:
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
	default:
		s.mu.Lock()
		if !s.known[id] {
			s.known[id] = true
			s.accepted = append(s.accepted, id)
		}
		s.mu.Unlock()
	}
}
