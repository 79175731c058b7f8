package broker_test

import (
	"slices"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/stream"
	"github.com/posthornhq/posthorn/services/broker"
)

// lane returns the events that wait in a subscription's own lane, in their order.
func (r *rig) lane(sub string) []string {
	r.t.Helper()
	var ids []string
	if _, err := stream.From(r.t.Context(), r.js, topology.StreamDeliveries, topology.OwnDeliverySubject(sub, 0), 1, 1000, func(m *jetstream.RawStreamMsg) error {
		ids = append(ids, string(m.Data))
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
	return ids
}

// What a broker that died held comes again later than what came after it.
func TestOrderedDeliveriesAreQueuedInTheOrderOfAcceptance(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.subscribe(t, `{"name":"ordered","types":["#"],"ordered":true,`+anywhere+`}`)
	r.catalog.subscribe(t, `{"name":"paused","types":["#"],"paused":true,`+anywhere+`}`)
	if _, err := broker.PrepareRouter(t.Context(), r.js, nil); err != nil {
		t.Fatal(err)
	}
	consumer, err := r.js.Consumer(t.Context(), topology.StreamEvents, topology.ConsumerRouter)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for range 10 {
		want = append(want, r.accept(good()))
	}
	held, err := consumer.Fetch(5)
	if err != nil {
		t.Fatal(err)
	}
	var msgs []jetstream.Msg
	for m := range held.Messages() {
		msgs = append(msgs, m)
	}
	r.route()
	eventually(t, "what has no order is routed", func() bool { return len(r.lane("paused")) == 5 })
	for range 10 {
		want = append(want, r.accept(good()))
	}
	eventually(t, "what has no order is routed", func() bool { return len(r.lane("paused")) == 15 })
	if got := r.lane("ordered"); len(got) > 0 {
		t.Errorf("%d deliveries passed those that are held", len(got))
	}
	// One was routed before that broker died.
	if err := msgs[2].Ack(); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{4, 0, 3, 1} {
		if err := msgs[i].Nak(); err != nil {
			t.Fatal(err)
		}
	}
	want = slices.Delete(want, 2, 3)
	eventually(t, "all are routed", func() bool { return len(r.lane("ordered")) == len(want) })
	if got := r.lane("ordered"); !slices.Equal(got, want) {
		t.Errorf("queued\n%v\nwant\n%v", got, want)
	}
	r.routed(20)
}
