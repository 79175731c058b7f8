package broker_test

import (
	"strings"
	"testing"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
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
