package broker_test

import (
	"strings"
	"testing"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/ledger"
)

func TestReasonsOfABatchTravel(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, open func(*rig) acceptor) {
		ev := good()
		ev.Data = []byte(`{}`)
		got := open(newRig(t)).AcceptAll(t.Context(), []event.Publish{{Event: ev}})
		if errs.ReasonOf(got[0].Err) != "schema" {
			t.Errorf("the reason is %q, want schema", errs.ReasonOf(got[0].Err))
		}
	})
}

func TestAFullStoreTurnsABatchAway(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, open func(*rig) acceptor) {
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
		for i, res := range open(r).AcceptAll(t.Context(), []event.Publish{{Event: ev}, {Event: ev}}) {
			if errs.KindOf(res.Err) != errs.Full {
				t.Errorf("event %d: %v (%v), want it full", i, res.Err, errs.KindOf(res.Err))
			}
		}
	})
}

// What the platform tells of itself is nobody else's to say, by whatever door.
func TestNobodySpeaksForThePlatform(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, open func(*rig) acceptor) {
		r := newRig(t)
		a := open(r)
		wrong := func(name string, ev event.Event, field string) {
			t.Helper()
			_, err := a.Accept(t.Context(), ev, "")
			batch := a.AcceptAll(t.Context(), []event.Publish{{Event: ev}})
			for door, err := range map[string]error{"alone": err, "in a batch": batch[0].Err} {
				if v := errs.ViolationsOf(err); errs.KindOf(err) != errs.Invalid || errs.ReasonOf(err) != "reserved" || len(v) != 1 || v[0].Field != field {
					t.Errorf("%s, %s: got error %v (%s), want that its %s is reserved", name, door, err, errs.ReasonOf(err), field)
				}
			}
		}
		types := []string{"posthorn.subscription.disabled", "posthorn.x", "posthorn", "posthorn/1/x", "order._version", "shop.example/1/_version", "_version"}
		for _, d := range []event.Direction{event.Incoming, event.Outgoing} {
			for _, typ := range types {
				wrong(d.String()+" "+typ, event.Event{Type: typ, Source: "shop", Direction: d, Data: []byte("{}")}, "type")
			}
		}
		wrong("its source", event.Event{Type: "a", Source: "posthorn", Direction: event.Outgoing, Data: []byte("{}")}, "source")
		all, _, err := r.ledger.Rejections(t.Context(), ledger.Query{Limit: 100})
		if want := 2 * (2*len(types) + 1); err != nil || len(all) != want {
			t.Errorf("%d rejections are recorded with error %v, want %d", len(all), err, want)
		}
		for _, typ := range []string{"posthorns.x", "x.posthorn", "order.my_version", "order._version.x"} {
			if _, err := a.Accept(t.Context(), event.Event{Type: typ, Direction: event.Outgoing, Data: []byte("{}")}, ""); err != nil {
				t.Errorf("%s: %v", typ, err)
			}
		}
		for _, typ := range types {
			if _, err := r.broker.Own().Accept(t.Context(), event.Event{Type: typ, Source: "posthorn", Direction: event.Outgoing, Data: []byte("{}")}, ""); err != nil {
				t.Errorf("%s by the platform itself: %v", typ, err)
			}
		}
	})
}
