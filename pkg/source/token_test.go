package source

import (
	"testing"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func TestHeaderToken(t *testing.T) {
	t.Parallel()
	source := func(s *posthornv1.HeaderSettings) *Source {
		return compile(t, &posthornv1.Source{Kind: posthornv1.Source_HEADER, Type: "configured", Header: s}, "new", "s3cret")
	}
	bearer := source(&posthornv1.HeaderSettings{Name: "Authorization", Prefix: "Bearer ", IdHeader: "X-Id", TypePointer: "/kind"})
	plain := source(&posthornv1.HeaderSettings{Name: "X-Token", IdPointer: "/id", TypeHeader: "X-Type"})
	none := source(&posthornv1.HeaderSettings{Name: "X-Token"})
	tests := []struct {
		name    string
		source  *Source
		request *Request
		want    event.Event
		key     string
	}{
		{"an ID in a header, a type in the body", bearer, request(`{"kind":"a.b"}`, "Authorization: Bearer s3cret", "X-Id: 7"),
			event.Event{Type: "a.b", ExternalID: "7"}, "7"},
		{"an ID in the body, a type in a header", plain, request(`{"id":9007199254740993}`, "X-Token: s3cret", "X-Type: t"),
			event.Event{Type: "t", ExternalID: "9007199254740993"}, "9007199254740993"},
		{"neither", none, request(`text`, "X-Token: s3cret", "Idempotency-Key: k", "Content-Type: text/plain"), event.Event{Type: "configured"}, "k"},
		{"a topic", none, request(`{}`, "X-Token: s3cret").to("topic"), event.Event{Type: "topic"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			oneEvent(t, tt.source, tt.request, tt.want, tt.key)
		})
	}
	for _, value := range []string{"s3cret", "bearer s3cret", "Bearer  s3cret", "Bearer ", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret"} {
		b, err := bearer.Receive(request(`{`, "Authorization: "+value))
		refused(t, b, err, errs.Unauthenticated, "signature", "Authorization")
	}
}

func TestJSONField(t *testing.T) {
	t.Parallel()
	s := compile(t, &posthornv1.Source{Kind: posthornv1.Source_JSON_FIELD, Type: "configured", JsonField: &posthornv1.JsonFieldSettings{
		Pointer: "/meta/a~1b", IdPointer: "/id", TypePointer: "/type",
	}}, "new", "s3cret")
	oneEvent(t, s, request(`{"id":"7","type":"t.x", "meta":{"a/b":"s3cret"}}`), event.Event{Type: "t.x", ExternalID: "7"}, "7")
	oneEvent(t, s, request(`{"meta":{"a/b":"s\u0033cret"}}`, "Content-Type: text/plain"), event.Event{Type: "configured"}, "")

	tests := []struct{ name, body string }{
		{"nothing", ``},
		{"no JSON", `s3cret`},
		{"bad JSON after the secret", `{"meta":{"a/b":"s3cret"}`},
		{"two documents", `{"meta":{"a/b":"s3cret"}}{}`},
		{"not UTF-8", "{\"meta\":{\"a/b\":\"s3cret\"},\"x\":\"\xff\"}"},
		{"no field", `{"meta":{}}`},
		{"an array", `["s3cret"]`},
		{"another secret", `{"meta":{"a/b":"secret"}}`},
		{"an empty one", `{"meta":{"a/b":""}}`},
		{"null", `{"meta":{"a/b":null}}`},
		{"an object", `{"meta":{"a/b":{"x":"s3cret"}}}`},
		{"the secret first, another last", `{"meta":{"a/b":"s3cret","a/b":"x"}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, err := s.Receive(request(tt.body))
			refused(t, b, err, errs.Unauthenticated, "signature", "/meta/a~1b")
		})
	}
}

// Topics are enabled source by source, and so context by context.
func TestTopics(t *testing.T) {
	t.Parallel()
	some := &posthornv1.Source{Kind: posthornv1.Source_GENERIC, Type: "configured", Topics: []string{"order.created", "order.paid", "events://shop.example/_/1/x"}}
	all := &posthornv1.Source{Kind: posthornv1.Source_GENERIC, Type: "configured"}
	tests := []struct {
		name, topic string
		spec        *posthornv1.Source
		ok          bool
	}{
		{"listed", "order.paid", some, true},
		{"none named", "", some, true},
		{"not listed", "order.deleted", some, false},
		{"another case", "Order.paid", some, false},
		{"part of one", "order", some, false},
		{"another form of a URI", "Shop.Example/1/x", some, true},
		{"another URI", "shop.example/2/x", some, false},
		{"no list", "order.deleted", all, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, err := compile(t, tt.spec).Receive(request(`{}`).to(tt.topic))
			if !tt.ok {
				refused(t, b, err, errs.NotFound, "unknown-topic", `topic "`+tt.topic+`" is not enabled at source test`)
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
	// Of every kind, but only to those who are known.
	stripe := compile(t, &posthornv1.Source{Kind: posthornv1.Source_STRIPE, Topics: []string{"a"}}, stripeSecret)
	b, err := stripe.Receive(fromStripe(`{"type":"charge.succeeded"}`).to("b"))
	refused(t, b, err, errs.NotFound, "unknown-topic", `topic "b"`)
	b, err = stripe.Receive(request(`{}`).to("b"))
	refused(t, b, err, errs.Unauthenticated, "signature", "Stripe-Signature")
}
