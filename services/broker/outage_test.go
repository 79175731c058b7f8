package broker_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc/metadata"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/dedup"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/source"
	"github.com/posthornhq/posthorn/pkg/store"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
	"github.com/posthornhq/posthorn/services/broker"
)

// gate is a barrier that a test holds shut, or breaks.
type gate struct {
	open    chan struct{}
	broken  atomic.Bool
	waiting atomic.Int64
}

func newGate() *gate { return &gate{open: make(chan struct{})} }

func (g *gate) Wait(ctx context.Context) error {
	if g.broken.Load() {
		return errors.New("the disk is gone")
	}
	g.waiting.Add(1)
	defer g.waiting.Add(-1)
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lost are claims whose backend is out of reach while down is set.
type lost struct {
	dedup.Claims
	down atomic.Bool
}

func (l *lost) Claim(ctx context.Context, key, owner string, ttl time.Duration) (dedup.Claim, error) {
	if l.down.Load() {
		return dedup.Claim{}, errs.New(errs.Unavailable, "the claims do not answer")
	}
	return l.Claims.Claim(ctx, key, owner, ttl)
}

// over replaces the rig's broker by one with another barrier and other claims.
func (r *rig) over(barrier store.Barrier, claims dedup.Claims) {
	r.t.Helper()
	log := slog.New(slog.DiscardHandler)
	events, err := store.New(r.js.Conn(), barrier, log, nil, store.Config{MaxBytes: 1 << 20})
	if err != nil {
		r.t.Fatal(err)
	}
	r.store = events
	r.broker = broker.New(broker.Deps{
		Store: events, Queue: r.queue, Ledger: r.ledger, Claims: claims, Schemas: totals{}, Catalog: r.catalog, Log: log,
	}, broker.Config{})
	r.t.Cleanup(func() { r.broker.Drain(context.WithoutCancel(r.t.Context())) })
}

// both runs a test against the broker here and there.
func both(t *testing.T, test func(t *testing.T, open func(*rig) acceptor)) {
	t.Helper()
	t.Run("local", func(t *testing.T) {
		t.Parallel()
		test(t, func(r *rig) acceptor { return r.broker })
	})
	t.Run("remote", func(t *testing.T) {
		t.Parallel()
		test(t, func(r *rig) acceptor { return broker.NewClient(r.serve()) })
	})
}

// What was not made durable is not accepted, though it may be stored: the next
// try under its key finishes it under the ID of the first.
func TestAnEventThatIsNotDurableIsFinishedByTheNextTry(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, open func(*rig) acceptor) {
		r, g := newRig(t), newGate()
		close(g.open)
		g.broken.Store(true)
		r.over(g, r.claims)
		a := open(r)
		if got, err := a.Accept(t.Context(), good(), "k"); errs.KindOf(err) != errs.Unavailable || got.ID != "" {
			t.Errorf("with a broken barrier it is answered %+v with error %v (%v), want no receipt and unavailable", got, err, errs.KindOf(err))
		}
		for i, res := range a.AcceptAll(t.Context(), []event.Publish{{Event: good(), Key: "b1"}, {Event: good(), Key: "b2"}}) {
			if errs.KindOf(res.Err) != errs.Unavailable || res.Receipt.ID != "" {
				t.Errorf("event %d of a batch is answered %+v, want no receipt and unavailable", i, res)
			}
		}
		g.broken.Store(false)
		ids := map[string]bool{}
		for _, key := range []string{"k", "b1", "b2"} {
			got, err := a.Accept(t.Context(), good(), key)
			if err != nil {
				t.Errorf("the next try of %s: %v", key, err)
			}
			ids[got.ID] = true
		}
		if n := r.stored(topology.StreamEvents); n != 3 || len(ids) != 3 {
			t.Errorf("%d IDs are queued and %d answered, want the 3 of the first tries", n, len(ids))
		}
		if n := r.stored(topology.StreamRejections); n != 0 {
			t.Errorf("%d rejections are recorded, want none: it was the platform's fault", n)
		}
	})
}

// Without claims nothing with a key is accepted, and everything without one is.
func TestWithoutClaimsOnlyWhatHasNoKeyIsAccepted(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, open func(*rig) acceptor) {
		r := newRig(t)
		claims := &lost{Claims: r.claims}
		claims.down.Store(true)
		g := newGate()
		close(g.open)
		r.over(g, claims)
		a := open(r)
		if _, err := a.Accept(t.Context(), good(), "k"); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("with a key: error %v (%v), want it unavailable", err, errs.KindOf(err))
		}
		got := a.AcceptAll(t.Context(), []event.Publish{{Event: good(), Key: "k"}, {Event: good()}})
		if errs.KindOf(got[0].Err) != errs.Unavailable || got[1].Err != nil {
			t.Errorf("a batch is answered %+v, want the one with a key unavailable and the other accepted", got)
		}
		if n := r.stored(topology.StreamEvents); n != 1 {
			t.Errorf("%d IDs are queued, want that of the event without a key", n)
		}
		claims.down.Store(false)
		if got, err := a.Accept(t.Context(), good(), "k"); err != nil || got.Duplicate {
			t.Errorf("when they are back it is answered %+v with error %v, want a new event", got, err)
		}
	})
}

// What is wrong with an event of a batch is as clear as with an event alone.
func TestABatchRefusesAsASingleEventIsRefused(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, open func(*rig) acceptor) {
		r := newRig(t)
		a := open(r)
		tests := []struct {
			name   string
			change func(*event.Event)
		}{
			{"no type", func(e *event.Event) { e.Type = "" }},
			{"against its schema", func(e *event.Event) { e.Data = []byte(`{}`) }},
			{"too large", func(e *event.Event) { e.Type, e.Data = "large", []byte(strings.Repeat("x", 1<<20+1)) }},
			{"a wrong context", func(e *event.Event) { e.Context = "A B" }},
		}
		for _, tt := range tests {
			ev := good()
			tt.change(&ev)
			_, alone := a.Accept(t.Context(), ev, "")
			of := a.AcceptAll(t.Context(), []event.Publish{{Event: good()}, {Event: ev}})
			if of[0].Err != nil {
				t.Errorf("%s: the good event beside it is refused: %v", tt.name, of[0].Err)
			}
			if got, want := errs.KindOf(of[1].Err), errs.KindOf(alone); got != want {
				t.Errorf("%s: in a batch it is %v, alone %v", tt.name, got, want)
			}
			if got, want := errs.MessageOf(of[1].Err), errs.MessageOf(alone); got != want {
				t.Errorf("%s: in a batch it says %q, alone %q", tt.name, got, want)
			}
			if diff := cmp.Diff(errs.ViolationsOf(alone), errs.ViolationsOf(of[1].Err), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s: violations (-alone +in a batch):\n%s", tt.name, diff)
			}
		}
	})
}

// An event keeps its direction, context and the rest on every way in.
func TestABatchKeepsWhatItsEventsSay(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, open func(*rig) acceptor) {
		r := newRig(t)
		want := []event.Event{
			{Type: "a", Source: "shop", Direction: event.Incoming, Context: "testing", Tenant: "acme", Subject: "s", Data: []byte(`{"n":9007199254740993}`)},
			{Type: "b", Direction: event.Outgoing, Data: []byte("not JSON"), DataContentType: "text/plain", ExternalID: "1", ExternalSource: "/x", Extensions: map[string]string{"k": "v"}},
		}
		batch := make([]event.Publish, len(want))
		for i := range want {
			batch[i].Event = want[i]
		}
		// What the platform says where nobody said anything.
		want[1].Source, want[1].Context = "anonymous", event.DefaultContext
		for i, res := range open(r).AcceptAll(t.Context(), batch) {
			if res.Err != nil {
				t.Fatal(res.Err)
			}
			got, err := r.store.Get(t.Context(), res.Receipt.ID)
			if err != nil {
				t.Fatal(err)
			}
			own := cmpopts.IgnoreFields(event.Event{}, "ID", "Received", "CorrelationIDs", "TraceParent", "TraceState")
			if diff := cmp.Diff(&want[i], got, own, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("event %d (-want +got):\n%s", i, diff)
			}
		}
	})
}

func TestASourceSaysWhatItsSchemaMeans(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, typ, source string
		mode              posthornv1.Source_SchemaMode
		required          bool
		kind              errs.Kind // of the refusal
		accepted          bool
		step              string // outcome of the schema's step
	}{
		{"reject", "order.created", "shop", posthornv1.Source_REJECT, false, errs.Invalid, false, ""},
		{"by itself", "order.created", "shop", posthornv1.Source_SCHEMA_MODE_UNSPECIFIED, false, errs.Invalid, false, ""},
		{"warn", "order.created", "shop", posthornv1.Source_WARN, false, 0, true, "warn"},
		{"off", "order.created", "shop", posthornv1.Source_OFF, false, 0, true, ""},
		{"required and there is none", "free", "shop", posthornv1.Source_REJECT, true, errs.Invalid, false, ""},
		{"not required and there is none", "free", "shop", posthornv1.Source_REJECT, false, 0, true, ""},
		{"a source that is not known", "order.created", "nobody", posthornv1.Source_OFF, false, errs.Invalid, false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			s, err := source.Compile(&posthornv1.Source{Name: "shop", Kind: posthornv1.Source_GENERIC, SchemaMode: tt.mode, SchemaRequired: tt.required}, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.catalog.sources["shop"] = s
			ev := event.Event{Type: tt.typ, Source: tt.source, Direction: event.Incoming, Data: []byte(`{}`)}
			got, err := r.broker.Accept(t.Context(), ev, "")
			if (err == nil) != tt.accepted || !tt.accepted && errs.KindOf(err) != tt.kind {
				t.Fatalf("answered %+v with error %v, want it accepted: %t", got, err, tt.accepted)
			}
			if !tt.accepted {
				return
			}
			kept, err := r.store.Get(t.Context(), got.ID)
			if err != nil {
				t.Fatal(err)
			}
			step := ""
			for _, s := range kept.Receipt {
				if s.Name == "schema" {
					step = s.Outcome
				}
			}
			if step != tt.step || kept.SchemaVersion != 0 {
				t.Errorf("the schema's step is %q and the version %d, want %q and none", step, kept.SchemaVersion, tt.step)
			}
		})
	}
}

// The trace of a call goes on in its event, unless the event has its own.
func TestTheTraceOfACallIsThatOfItsEvent(t *testing.T) {
	t.Parallel()
	const call, own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-11111111111111111111111111111111-2222222222222222-01"
	r := newRig(t)
	c := posthornv1.NewEventBrokerClient(r.serve())
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", call)
	for _, tt := range []struct{ has, want string }{{"", call[3:35]}, {own, own[3:35]}} {
		resp, err := c.SendOutgoingEvent(ctx, &posthornv1.SendOutgoingEventRequest{Event: &posthornv1.Event{Type: "a", Traceparent: tt.has}})
		if err != nil {
			t.Fatal(err)
		}
		ev, err := r.store.Get(t.Context(), resp.GetReceipt().GetId())
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(ev.TraceParent, tt.want) {
			t.Errorf("an event with trace %q has %q, want trace %s", tt.has, ev.TraceParent, tt.want)
		}
	}
}

// window is how many messages of a stream the broker takes up without having
// answered.
const window = 512

// A stream whose answers do not come is not read on: the producer is held back,
// and the broker holds no more than its window.
func TestAStreamIsHeldBackWhileItsAnswersWait(t *testing.T) {
	t.Parallel()
	r, g := newRig(t), newGate()
	r.over(g, r.claims)
	st, err := posthornv1.NewEventBrokerClient(r.serve()).Publish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Large enough that what is on its way in buffers is far from all.
	const n = 3000
	data := []byte(`"` + strings.Repeat("x", 2000) + `"`)
	var sent atomic.Int64
	failed := make(chan error, 1)
	go func() {
		for range n {
			if err := st.Send(&posthornv1.PublishRequest{Event: &posthornv1.Event{Type: "large", Data: data}}); err != nil {
				failed <- err
				return
			}
			sent.Add(1)
		}
		failed <- st.CloseSend()
	}()
	eventually(t, "the window is full", func() bool { return g.waiting.Load() >= window })
	// Nothing moves any more when two looks in a row, well apart, see the same.
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for before := int64(-1); before != sent.Load(); <-look.C {
		before = sent.Load()
	}
	// One more waits for its turn.
	if w := g.waiting.Load(); w > window+2 || sent.Load() == n {
		t.Errorf("%d events are taken up and %d of %d sent, want %d at most and the producer held back", w, sent.Load(), n, window+2)
	}
	close(g.open)
	seqs := map[uint64]bool{}
	for i := range n {
		res, err := st.Recv()
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		seqs[res.GetReceipt().GetSequence()] = true
	}
	if err := <-failed; err != nil {
		t.Error(err)
	}
	if len(seqs) != n || r.stored(topology.StreamEvents) != n {
		t.Errorf("%d events answered and %d queued, want %d", len(seqs), r.stored(topology.StreamEvents), n)
	}
}

// An answer that is ready waits for those before it.
func TestAnswersOfAStreamComeInTurn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g := newGate()
	r.over(g, r.claims)
	st, err := posthornv1.NewEventBrokerClient(r.serve()).Publish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// The first waits for the disk; the second is refused at once.
	for _, typ := range []string{"first", ""} {
		if err := st.Send(&posthornv1.PublishRequest{Event: &posthornv1.Event{Type: typ}}); err != nil {
			t.Fatal(err)
		}
	}
	// And the third is no event at all.
	if err := st.Send(&posthornv1.PublishRequest{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second is refused", func() bool { return r.stored(topology.StreamRejections) == 1 && g.waiting.Load() == 1 })
	close(g.open)
	var refused []bool
	for range 3 {
		res, err := st.Recv()
		if err != nil {
			t.Fatal(err)
		}
		refused = append(refused, res.GetRefusal() != nil)
	}
	if diff := cmp.Diff([]bool{false, true, true}, refused); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
}
