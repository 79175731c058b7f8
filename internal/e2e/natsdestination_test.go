package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/jstest"
)

// A subscriber that speaks NATS gets its events into a stream of its own server, also
// if the stream is only made after the first attempt.
func TestEventsAreDeliveredToANATSStream(t *testing.T) {
	t.Parallel()
	p := newPlatform(t, filepath.Join(t.TempDir(), "data"))
	p.start()
	p.ready()
	foreign := jstest.Start(t, t.TempDir())
	nc, err := nats.Connect(foreign.URL(), nats.Timeout(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	p.must("PUT", "/api/v1/policies/patient", `{"delivery":{"maxRetries":10,"backoff":{"strategy":"LINEAR","initial":"0.2s","max":"1s"}}}`)
	p.must("PUT", "/api/v1/subscriptions/bus", `{"types":["order.*"],"policy":"patient","destination":{"nats":{
		"url":"`+foreign.URL()+`","subject":"shop.{type}.{tenant}","jetstream":true}}}`)

	// A test says at once what deliveries would come to.
	if got := p.must("POST", "/api/v1/subscriptions/bus:test", `{}`); !strings.Contains(got, "no stream takes this subject") {
		t.Errorf("without a stream the test says %s", got)
	}
	id := field(t, p.must("POST", "/api/v1/events", `{"type":"order.created","tenant":"acme","data":{"n":9007199254740993}}`), "id")
	p.untilStatus(id, "retrying")
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "SHOP", Subjects: []string{"shop.>"}})
	if err != nil {
		t.Fatal(err)
	}
	p.untilStatus(id, "delivered")
	msg, err := stream.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if msg.Subject != "shop.order.created.acme" || string(msg.Data) != `{"n":9007199254740993}` || msg.Header.Get("Nats-Msg-Id") != id || msg.Header.Get("ce-type") != "order.created" {
		t.Errorf("the stream has %s with %v and %s", msg.Subject, msg.Header, msg.Data)
	}
	if got := p.must("POST", "/api/v1/subscriptions/bus:test", `{"type":"order.test"}`); !strings.Contains(got, `shop.order.test._`) || !strings.Contains(got, `"outcome":"delivered"`) {
		t.Errorf("with a stream the test says %s", got)
	}

	// The platform's own server is reachable here; its streams are not.
	own := p.nats
	p.must("PUT", "/api/v1/subscriptions/own", `{"types":["none"],"destination":{"nats":{"url":"`+own+`","subject":"events.in.default.{type}"}}}`)
	if got := p.must("POST", "/api/v1/subscriptions/own:test", `{}`); !strings.Contains(got, "belongs to the platform's own streams") {
		t.Errorf("a delivery into the platform's own streams: %s", got)
	}
	if err := p.stop(40 * time.Second); err != nil {
		t.Fatal(err)
	}
}

// Who sends is a process that did not start the server that all work with.
func TestADispatcherElsewhereKnowsThePlatformsOwnSubjects(t *testing.T) {
	t.Parallel()
	r := newRoles(t)
	gw := r.run("gateway,api,registry,broker")
	r.run("dispatcher")
	gw.must("PUT", "/api/v1/subscriptions/own", `{"types":["order.*"],"destination":{"nats":{"url":"`+r.url+`","subject":"deliveries.lane.x"}}}`)
	if got := gw.must("POST", "/api/v1/subscriptions/own:test", `{}`); !strings.Contains(got, "belongs to the platform's own streams") {
		t.Errorf("a test event into the platform's own streams: %s", got)
	}
	id := field(t, gw.must("POST", "/api/v1/events", `{"type":"order.created","data":{}}`), "id")
	gw.untilStatus(id, "failed")
	if got := gw.must("GET", "/api/v1/deadletters?subscription=own", ""); !strings.Contains(got, "belongs to the platform's own streams") {
		t.Errorf("a delivery into the platform's own streams: %s", got)
	}
}
