package api_test

import (
	"context"
	"strings"
	"testing"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/wire"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// pullStub has two deliveries for subscription inbox, and takes every answer.
type pullStub struct {
	posthornv1.UnimplementedDeliveriesServer
}

func (*pullStub) Fetch(_ context.Context, r *posthornv1.FetchRequest) (*posthornv1.FetchResponse, error) {
	if r.GetSubscription() != "inbox" {
		return nil, wire.Status(errs.New(errs.Conflict, "subscription %q is disabled", r.GetSubscription()))
	}
	return &posthornv1.FetchResponse{Deliveries: []*posthornv1.PulledDelivery{
		{Event: &posthornv1.Event{Id: "ev_1", Type: "order.created", Data: []byte(`{"n":9007199254740993, "total":1.10}`)}, Attempt: 1, WebhookId: "ev_1", Token: "t1"},
		{Event: &posthornv1.Event{Id: "ev_2", DataContentType: "text/plain", Data: []byte("hello")}, Attempt: 2, WebhookId: "ev_2", Token: "t2"},
	}}, nil
}

func (*pullStub) Ack(_ context.Context, r *posthornv1.AckRequest) (*posthornv1.AckResponse, error) {
	return &posthornv1.AckResponse{Results: make([]*posthornv1.LeaseResult, len(r.GetTokens()))}, nil
}

func (*pullStub) Nack(context.Context, *posthornv1.NackRequest) (*posthornv1.NackResponse, error) {
	return nil, wire.Status(errs.New(errs.Stale, "the lease ran out"))
}

func (*pullStub) Extend(context.Context, *posthornv1.ExtendRequest) (*posthornv1.ExtendResponse, error) {
	return &posthornv1.ExtendResponse{}, nil
}

func TestFetchedDataIsTheBytesThatCame(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.do("POST", "/api/v1/subscriptions/inbox:fetch", `{"max":2,"wait":"1s"}`).is(200)
	a.contains(`"data":{"n":9007199254740993, "total":1.10}`).contains(`"dataBase64":"aGVsbG8="`)
	a.has("deliveries.0.token", "t1").has("deliveries.1.attempt", 2.0).has("deliveries.1.event.id", "ev_2")
	if strings.Contains(a.body, "null") {
		t.Errorf("the answer has a null: %s", a.body)
	}
	r.do("POST", "/api/v1/subscriptions/inbox:fetch", "").is(200)
	r.do("POST", "/api/v1/subscriptions/inbox:fetch", `{"maximum":2}`).is(400).contains("maximum")
	r.do("POST", "/api/v1/subscriptions/inbox:fetch", `{"subscription":"other"}`).is(400).contains("the path says")
	r.do("POST", "/api/v1/subscriptions/other:fetch", `{}`).is(409).contains("is disabled")
	r.do("POST", "/api/v1/subscriptions/inbox:nack", `{"token":"t1"}`).is(412).contains("ran out")
	r.do("POST", "/api/v1/subscriptions/inbox:ack", `{"tokens":["t1"]}`).is(200)
}
