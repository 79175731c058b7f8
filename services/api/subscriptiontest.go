package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/pattern"
	"github.com/posthornhq/posthorn/pkg/policy"
	"github.com/posthornhq/posthorn/pkg/subscription"
	"github.com/posthornhq/posthorn/pkg/wire"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// A Tester opens the destinations that test events are sent to. It is satisfied by
// what opens them for the dispatcher.
type Tester interface {
	Open(sub *subscription.Subscription) (destination.Destination, error)
}

// TestType is the type of test events for subscriptions that ask for patterns only.
const TestType = "posthorn.test"

const (
	// maxTestData bounds the data that a test may bring, in bytes.
	maxTestData = 256 << 10
	// maxShownBody is how much of what was sent is answered.
	maxShownBody = 64 << 10
)

// TestSubscription makes one attempt at a subscription's destination, with what is
// stored and not with what this process has in force: they are the same but for the
// moment after an edit, and then the newest is what somebody wants to test.
func (s subscriptionServer) TestSubscription(ctx context.Context, req *posthornv1.TestSubscriptionRequest) (*posthornv1.TestSubscriptionResponse, error) {
	out, err := s.test(ctx, req)
	return out, s.status(ctx, err)
}

func (s subscriptionServer) test(ctx context.Context, req *posthornv1.TestSubscriptionRequest) (*posthornv1.TestSubscriptionResponse, error) {
	sub, err := s.stored(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	p, err := s.policyOf(ctx, sub)
	if err != nil {
		return nil, err
	}
	ev, err := testEvent(sub, req)
	if err != nil {
		return nil, err
	}
	dest, err := s.r.api.deps.Tester.Open(sub)
	if err != nil {
		if errs.KindOf(err) == errs.Internal {
			return nil, errs.Wrap(err, errs.Invalid, "the destination of subscription %q is none that events are sent to", sub.Name)
		}
		return nil, err
	}
	parent, _ := traceOf(ctx)
	m := &destination.Message{
		Event: ev, TraceParent: parent, Now: ev.Received,
		Delivery: &event.Delivery{Event: ev.ID, Subscription: sub.Name, Round: 1, Attempt: 1, Policy: p.Name, Priority: sub.Priority, Queued: ev.Received},
	}
	sendCtx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	res := dest.Send(sendCtx, m)
	s.log.InfoContext(ctx, "a test event was sent", "subscription", sub.Name, "who", caller(ctx), "event", ev.ID, "status", res.Status, "class", res.ErrorClass, "err", res.Err)
	out := &posthornv1.TestSubscriptionResponse{
		Ok: res.Verdict == destination.Accepted, Sent: sent(ctx, dest, m), Status: int32(res.Status), Response: validText(res.Response),
		Latency: wire.Duration(res.Latency), ErrorClass: res.ErrorClass, Outcome: string(res.Outcome(p.Retryable)),
	}
	if res.Err != nil {
		out.Error = res.Err.Error()
	}
	return out, nil
}

// stored returns a subscription as it is stored, with its credentials.
func (s subscriptionServer) stored(ctx context.Context, name string) (*subscription.Subscription, error) {
	cur, err := s.r.current(ctx, name)
	if err != nil {
		return nil, err
	}
	if cur.value == nil {
		return nil, s.r.notFound(name)
	}
	spec := proto.CloneOf(cur.value)
	var list []string
	if s.r.secrets.count(spec) > 0 {
		if list, err = s.r.storedSecrets(ctx, name); err != nil {
			return nil, err
		}
	}
	signing, err := subscription.FillCredentials(spec, list)
	if errors.Is(err, subscription.ErrCredentialsMissing) {
		return nil, errs.Wrap(err, errs.Unavailable, "the credentials of subscription %q are just being stored; try again", name)
	}
	if err != nil {
		return nil, err
	}
	return subscription.Compile(spec, signing)
}

func (s subscriptionServer) policyOf(ctx context.Context, sub *subscription.Subscription) (*policy.Policy, error) {
	cur, err := s.r.api.policies.current(ctx, sub.Policy)
	if err != nil {
		return nil, err
	}
	if cur.value == nil {
		return policy.Compile(policy.Default())
	}
	return policy.Compile(cur.value)
}

// testEvent makes an event that the subscription could get.
func testEvent(sub *subscription.Subscription, req *posthornv1.TestSubscriptionRequest) (*event.Event, error) {
	typ := req.GetType()
	if typ == "" {
		typ = concreteType(sub.Spec.GetTypes())
	}
	typ, err := pattern.ParseType(typ)
	if err != nil {
		return nil, errs.Field("type", "%v", err)
	}
	data := []byte(`{"test":true}`)
	if req.GetData() != nil {
		raw, err := protojson.Marshal(req.GetData())
		if err != nil {
			return nil, errs.Field("data", "is not JSON")
		}
		var compact bytes.Buffer // protojson puts blanks where it likes
		if err := json.Compact(&compact, raw); err != nil {
			return nil, errs.Field("data", "is not JSON")
		}
		data = compact.Bytes()
	}
	if len(data) > maxTestData {
		return nil, errs.Field("data", "has %d bytes, at most %d are allowed in a test", len(data), maxTestData)
	}
	return &event.Event{
		ID: "test_" + strings.ToLower(rand.Text()), Type: typ, Source: "posthorn", Direction: sub.Direction, Context: sub.Context, Tenant: sub.Tenant,
		DataContentType: "application/json", Data: data, Received: time.Now(),
	}, nil
}

// concreteType returns the first of a subscription's types that is no pattern.
func concreteType(types []string) string {
	for _, t := range types {
		if _, err := pattern.ParseType(t); err == nil {
			return t
		}
	}
	return TestType
}

// sent describes what was sent, as far as the destination can say.
func sent(ctx context.Context, dest destination.Destination, m *destination.Message) *posthornv1.TestSubscriptionResponse_Sent {
	p, ok := dest.(destination.Preparer)
	if !ok {
		return &posthornv1.TestSubscriptionResponse_Sent{Target: dest.String()}
	}
	r := p.Prepare(ctx, m)
	out := &posthornv1.TestSubscriptionResponse_Sent{Method: r.Method, Target: r.Target, Body: validText(r.Body[:min(len(r.Body), maxShownBody)])}
	for _, h := range r.Header {
		out.Headers = append(out.Headers, &posthornv1.TestSubscriptionResponse_Sent_Header{Name: h.Name, Value: validText([]byte(h.Value))})
	}
	return out
}

func validText(b []byte) string { return strings.ToValidUTF8(string(b), "\uFFFD") }
