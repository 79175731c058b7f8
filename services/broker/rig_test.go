package broker_test

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/commit"
	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/dedup"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/ledger"
	"github.com/posthornhq/posthorn/pkg/queue"
	"github.com/posthornhq/posthorn/pkg/source"
	"github.com/posthornhq/posthorn/pkg/store"
	"github.com/posthornhq/posthorn/pkg/subscription"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
	"github.com/posthornhq/posthorn/services/broker"
)

// An acceptor is a broker, here or there.
type acceptor interface {
	Accept(ctx context.Context, ev event.Event, key string) (event.Receipt, error)
	AcceptAll(ctx context.Context, batch []event.Publish) []event.Result
}

// rig is a broker on a real JetStream server.
type rig struct {
	t       *testing.T
	js      jetstream.JetStream
	catalog *catalog
	store   *store.Store
	queue   *queue.Queue
	ledger  *ledger.Ledger
	letters *deadletter.Letters
	claims  *dedup.KV
	broker  *broker.Broker
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigOn(t, jstest.WithTopology(t, topology.Config{}))
}

// newRigOn is newRig on a server that has all assets.
func newRigOn(t *testing.T, js jetstream.JetStream) *rig {
	t.Helper()
	r := &rig{t: t, js: js, catalog: &catalog{index: subscription.NewIndex(), sources: map[string]*source.Source{}}}
	nc, log := r.js.Conn(), slog.New(slog.DiscardHandler)
	var err error
	if r.store, err = store.New(nc, (*commit.Barrier)(nil), log, nil, store.Config{MaxBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	if r.queue, err = queue.New(nc, log); err != nil {
		t.Fatal(err)
	}
	if r.ledger, err = ledger.New(nc); err != nil {
		t.Fatal(err)
	}
	if r.letters, err = deadletter.New(nc); err != nil {
		t.Fatal(err)
	}
	r.claims = dedup.NewKV(r.js)
	r.broker = broker.New(broker.Deps{
		Store: r.store, Queue: r.queue, Ledger: r.ledger, Claims: r.claims, Schemas: totals{}, Catalog: r.catalog, Log: log,
	}, broker.Config{})
	t.Cleanup(func() { r.broker.Drain(context.WithoutCancel(t.Context())) })
	return r
}

// serve offers the broker over gRPC until the test ends.
func (r *rig) serve() *grpc.ClientConn {
	r.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(8 << 20))
	broker.NewServer(r.broker, nil).Register(s)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(l); err != nil {
			r.t.Errorf("serve: %v", err)
		}
	})
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = conn.Close()
		s.Stop()
		wg.Wait()
	})
	return conn
}

// route runs the router until the test ends, or stop is called.
func (r *rig) route() (stop func()) {
	r.t.Helper()
	if _, err := broker.PrepareRouter(r.t.Context(), r.js, nil); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.broker.Run(ctx, r.js); err != nil {
			r.t.Errorf("router: %v", err)
		}
	})
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); wg.Wait() }) }
	r.t.Cleanup(stop)
	return stop
}

// stored returns how many messages a stream has.
func (r *rig) stored(stream string) uint64 {
	r.t.Helper()
	s, err := r.js.Stream(r.t.Context(), stream)
	if err != nil {
		r.t.Fatal(err)
	}
	info, err := s.Info(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return info.State.Msgs
}

// eventually waits for a condition that shows itself only in JetStream.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !f() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 20s: %s", what)
		}
	}
}

// catalog has what a test put into it.
type catalog struct {
	index   *subscription.Index
	sources map[string]*source.Source
}

func (c *catalog) Source(_, name string) (*source.Source, bool) {
	s, ok := c.sources[name]
	return s, ok
}

func (c *catalog) Subscription(name string) (*subscription.Subscription, bool) {
	s := c.index.Get(name)
	return s, s != nil
}

func (c *catalog) Subscriptions() *subscription.Index { return c.index }

func (c *catalog) subscribe(t *testing.T, doc string) {
	t.Helper()
	spec := new(posthornv1.Subscription)
	if err := protojson.Unmarshal([]byte(doc), spec); err != nil {
		t.Fatal(err)
	}
	s, err := subscription.Compile(spec, []string{"hush-hush"})
	if err != nil {
		t.Fatal(err)
	}
	c.index.Put(s)
}

// totals is a schema of type order.created: the data must have a total.
type totals struct{}

func (totals) ValidateContent(typ string, _ int, _ string, data []byte) (int, []event.Violation) {
	if typ != "order.created" {
		return 0, nil
	}
	if string(data) == `{"total":1}` {
		return 3, nil
	}
	return 3, []event.Violation{{Field: "/total", Description: "is missing"}}
}
