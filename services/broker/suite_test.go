package broker_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
	"github.com/posthornhq/posthorn/services/broker"
)

// Whether the broker is in this process or across the network makes no
// difference to who hands it events.
func TestLocalAndRemoteAreOne(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*rig) acceptor{
		"local":  func(r *rig) acceptor { return r.broker },
		"remote": func(r *rig) acceptor { return broker.NewClient(r.serve()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conforms(t, open)
		})
	}
}

func good() event.Event {
	return event.Event{Type: "order.created", Source: "shop", Tenant: "acme", Data: []byte(`{"total":1}`), Direction: event.Outgoing}
}

func conforms(t *testing.T, open func(*rig) acceptor) {
	t.Run("what is accepted is stored, with what the platform knows", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		got, err := open(r).Accept(t.Context(), good(), "")
		if err != nil {
			t.Fatal(err)
		}
		ev, err := r.store.Get(t.Context(), got.ID)
		if err != nil {
			t.Fatal(err)
		}
		if ev.Context != event.DefaultContext || ev.Tenant != "acme" || string(ev.Data) != `{"total":1}` || ev.SchemaVersion != 3 ||
			ev.TraceParent == "" || len(ev.CorrelationIDs) != 1 || ev.Received.IsZero() || got.Sequence != 1 || got.Duplicate {
			t.Errorf("stored %+v with receipt %+v", ev, got)
		}
	})
	t.Run("a type is stored in one form of its URI", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		a := open(r)
		for _, typ := range []string{"events://shop.example:9600/_/1/x", "shop.example/_/1/x", "Shop.Example/1/x", "shop.example/1/x"} {
			ev := good()
			ev.Type = typ
			got, err := a.Accept(t.Context(), ev, "")
			if err != nil {
				t.Fatal(err)
			}
			if ev, err := r.store.Get(t.Context(), got.ID); err != nil || ev.Type != "shop.example/1/x" {
				t.Errorf("%s is stored as %v (%v), want shop.example/1/x", typ, ev, err)
			}
		}
	})
	t.Run("without room on the disk the publisher is told at once", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		r.broker.Room = func() error { return errs.New(errs.Full, "the disk is full").Because("full") }
		for _, key := range []string{"", "k"} {
			_, err := open(r).Accept(t.Context(), good(), key)
			if kind, reason := errs.KindOf(err), errs.ReasonOf(err); reason != "full" || kind != errs.Full || errs.MessageOf(err) != "the disk is full" {
				t.Errorf("with key %q: %v (%v, %s), want that the disk is full", key, err, kind, reason)
			}
		}
	})
	t.Run("a key is one event for each source and direction", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		a := open(r)
		first, err := a.Accept(t.Context(), good(), "k")
		if err != nil {
			t.Fatal(err)
		}
		again, err := a.Accept(t.Context(), good(), "k")
		if err != nil || again.ID != first.ID || !again.Duplicate {
			t.Errorf("the repeat is answered %+v with error %v, want %s as a duplicate", again, err, first.ID)
		}
		other := good()
		other.Source = "other"
		incoming := good()
		incoming.Direction = event.Incoming
		for what, ev := range map[string]event.Event{"another source": other, "the other direction": incoming} {
			if got, err := a.Accept(t.Context(), ev, "k"); err != nil || got.Duplicate || got.ID == first.ID {
				t.Errorf("the key of %s is answered %+v with error %v, want a new event", what, got, err)
			}
		}
	})
	t.Run("many at once with one key are one event", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		a := open(r)
		var wg sync.WaitGroup
		ids := make([]string, 16)
		for i := range ids {
			wg.Go(func() {
				got, err := a.Accept(t.Context(), good(), "k")
				if err != nil {
					t.Error(err)
				}
				ids[i] = got.ID
			})
		}
		wg.Wait()
		for _, id := range ids {
			if id != ids[0] {
				t.Fatalf("answered with %v, want one ID", ids)
			}
		}
		if n := r.stored(topology.StreamEvents); n != 1 {
			t.Errorf("%d IDs are queued, want 1", n)
		}
	})
	t.Run("what is refused is neither stored nor queued, and is recorded", func(t *testing.T) {
		t.Parallel()
		tests := []struct {
			name   string
			change func(*event.Event)
			kind   errs.Kind
			reason string
			field  string
		}{
			{"no type", func(e *event.Event) { e.Type = "" }, errs.Invalid, "malformed", "type"},
			{"a wildcard for a type", func(e *event.Event) { e.Type = "order.*" }, errs.Invalid, "malformed", "type"},
			{"a URI that is none", func(e *event.Event) { e.Type = "shop.example/0/x" }, errs.Invalid, "malformed", "type"},
			{"a control character", func(e *event.Event) { e.Subject = "a\nb" }, errs.Invalid, "malformed", "subject"},
			{"a wrong context", func(e *event.Event) { e.Context = "A B" }, errs.Invalid, "", "context"},
			{"against its schema", func(e *event.Event) { e.Data = []byte(`{}`) }, errs.Invalid, "schema", "/total"},
			{"too large", func(e *event.Event) { e.Type, e.Data = "large", []byte(strings.Repeat("x", 1<<20+1)) }, errs.TooLarge, "too-large", ""},
		}
		r := newRig(t)
		a := open(r)
		for i, tt := range tests {
			ev := good()
			tt.change(&ev)
			_, err := a.Accept(t.Context(), ev, "")
			if errs.KindOf(err) != tt.kind || tt.reason != "" && errs.ReasonOf(err) != tt.reason {
				t.Errorf("%s: %v (%v, %s), want %v, %s", tt.name, err, errs.KindOf(err), errs.ReasonOf(err), tt.kind, tt.reason)
			}
			if v := errs.ViolationsOf(err); tt.field != "" && (len(v) != 1 || v[0].Field != tt.field) {
				t.Errorf("%s: violations %v, want one of %s", tt.name, v, tt.field)
			}
			if n := r.stored(topology.StreamRejections); n != uint64(i+1) {
				t.Errorf("%s: %d rejections recorded, want %d", tt.name, n, i+1)
			}
		}
		if events, ids := r.stored(topology.BucketStream(topology.BucketEvents)), r.stored(topology.StreamEvents); events+ids != 0 {
			t.Errorf("%d events stored and %d queued, want none", events, ids)
		}
	})
	t.Run("a refused event may be mended and sent under its key", func(t *testing.T) {
		t.Parallel()
		a := open(newRig(t))
		bad := good()
		bad.Data = []byte(`{}`)
		if _, err := a.Accept(t.Context(), bad, "k"); errs.KindOf(err) != errs.Invalid {
			t.Fatalf("the bad event: error %v, want it refused", err)
		}
		if got, err := a.Accept(t.Context(), good(), "k"); err != nil || got.Duplicate {
			t.Errorf("the mended event is answered %+v with error %v, want it accepted", got, err)
		}
	})
	t.Run("a batch is answered event by event", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		a := open(r)
		bad := good()
		bad.Type = ""
		results := a.AcceptAll(t.Context(), []event.Publish{{Event: good(), Key: "1"}, {Event: bad}, {Event: good(), Key: "1"}, {Event: good()}})
		if len(results) != 4 || results[0].Err != nil || errs.KindOf(results[1].Err) != errs.Invalid || results[3].Err != nil {
			t.Fatalf("answered %+v, want the second refused", results)
		}
		if !results[2].Receipt.Duplicate || results[2].Receipt.ID != results[0].Receipt.ID {
			t.Errorf("a key that is there twice is answered %+v and %+v, want a duplicate", results[0].Receipt, results[2].Receipt)
		}
		if n := r.stored(topology.StreamEvents); n != 2 {
			t.Errorf("%d IDs are queued, want 2", n)
		}
	})
	t.Run("a claim without its event is finished under its ID", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		const id = "ev_01ARZ3NDEKTSV4RRFFQ69G5FAV"
		if _, err := r.claims.Claim(t.Context(), "ingest:out/shop:k", id, time.Hour); err != nil {
			t.Fatal(err)
		}
		got, err := open(r).Accept(t.Context(), good(), "k")
		if err != nil || got.ID != id || got.Duplicate {
			t.Fatalf("answered %+v with error %v, want %s as a new event", got, err, id)
		}
		if _, err := r.store.Get(t.Context(), id); err != nil {
			t.Error(err)
		}
	})
	t.Run("a full store turns publishers away", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		s, err := r.js.Stream(t.Context(), topology.BucketStream(topology.BucketEvents))
		if err != nil {
			t.Fatal(err)
		}
		cfg := s.CachedInfo().Config
		cfg.MaxBytes = 1000
		if _, err := r.js.UpdateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		ev := good()
		ev.Type, ev.Data = "large", []byte(`"`+strings.Repeat("x", 2000)+`"`)
		if _, err := open(r).Accept(t.Context(), ev, ""); errs.KindOf(err) != errs.Full {
			t.Errorf("got %v (%v), want it full", err, errs.KindOf(err))
		}
	})
}

// What only the wire has: status codes with details, and the stream.
func TestStatusesAndTheStream(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := posthornv1.NewEventBrokerClient(r.serve())
	_, err := c.SendOutgoingEvent(t.Context(), &posthornv1.SendOutgoingEventRequest{Event: &posthornv1.Event{Type: "order.created", Data: []byte(`{}`)}})
	if status.Code(err) != codes.InvalidArgument || len(status.Convert(err).Details()) == 0 {
		t.Errorf("a bad event is answered %v with %d details, want InvalidArgument with some", err, len(status.Convert(err).Details()))
	}
	if _, err := c.HandleIncomingMessage(t.Context(), &posthornv1.HandleIncomingEventRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("no event is answered %v, want InvalidArgument", err)
	}
	st, err := c.Publish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const n = 2000 // more than the window
	go func() {
		for i := range n {
			ev := &posthornv1.Event{Type: "order.created", Source: "shop", Data: []byte(`{"total":1}`)}
			if i%7 == 3 {
				ev.Data = []byte(`{}`)
			}
			if st.Send(&posthornv1.PublishRequest{Event: ev}) != nil {
				return // the receiver sees why
			}
		}
		_ = st.CloseSend()
	}()
	var got, want []bool
	for i := range n {
		res, err := st.Recv()
		if err != nil {
			t.Fatal(err)
		}
		got, want = append(got, res.GetRefusal() == nil), append(want, i%7 != 3)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("answers in the order of the messages (-want +got):\n%s", diff)
	}
}
