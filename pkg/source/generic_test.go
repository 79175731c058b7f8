package source

import (
	"strings"
	"testing"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func TestGeneric(t *testing.T) {
	t.Parallel()
	const exact = `{ "z": 9007199254740993, "a" : 1.10, "z": 2 }`
	tests := []struct {
		name    string
		request *Request
		want    Incoming
	}{
		{"JSON, byte for byte", request(exact, "Content-Type: application/json").to("order.created"),
			Incoming{Event: event.Event{Type: "order.created", DataContentType: "application/json", Data: []byte(exact)}}},
		{"no content type is JSON", request(exact).to("order.created"),
			Incoming{Event: event.Event{Type: "order.created", Data: []byte(exact)}}},
		{"a topic with slashes", request("1").to("community.certes.dev/github/1/push"),
			Incoming{Event: event.Event{Type: "community.certes.dev/github/1/push", Data: []byte("1")}}},
		{"the configured type", request("1"),
			Incoming{Event: event.Event{Type: "configured", Data: []byte("1")}}},
		{"text", request("{not json", "Content-Type: text/plain; charset=utf-8"),
			Incoming{Event: event.Event{Type: "configured", DataContentType: "text/plain; charset=utf-8", Data: []byte("{not json")}}},
		{"bytes", request("\xff\x00", "Content-Type: application/octet-stream"),
			Incoming{Event: event.Event{Type: "configured", DataContentType: "application/octet-stream", Data: []byte("\xff\x00")}}},
		{"an idempotency key", request("1", "Idempotency-Key: k-1"),
			Incoming{Event: event.Event{Type: "configured", Data: []byte("1")}, Key: "k-1"}},
		{"no data", request("", "Content-Type: application/json"),
			Incoming{Event: event.Event{Type: "configured", DataContentType: "application/json"}}},
		{"a CloudEvent in binary mode", request("1", "ce-specversion: 1.0", "ce-id: 7", "ce-source: /s", "ce-type: t.x").to("ignored"),
			Incoming{Event: event.Event{Type: "t.x", ExternalID: "7", ExternalSource: "/s", Data: []byte("1")}, Key: "/s\x007"}},
		{"a CloudEvent in structured mode", request(`{"specversion":"1.0","id":"7","source":"/s","type":"t.x"}`,
			"Content-Type: application/cloudevents+json"),
			Incoming{Event: event.Event{Type: "t.x", ExternalID: "7", ExternalSource: "/s"}, Key: "/s\x007"}},
	}
	s := compile(t, &posthornv1.Source{Kind: posthornv1.Source_GENERIC, Type: "configured"})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			diff(t, receive(t, s, tt.request), []Incoming{tt.want})
		})
	}
}

func TestGenericRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		request *Request
		want    string
	}{
		{"no type", request("1"), "put it in the path"},
		{"a topic that is no type", request("1").to("order..created"), "topic"},
		{"a topic with a blank", request("1").to("order created"), "topic"},
		{"a topic that is too long", request("1").to(strings.Repeat("a", 1025)), "topic"},
		{"bad JSON", request("{", "Content-Type: application/json").to("a"), "not valid JSON"},
		{"bad JSON of another media type", request("{", "Content-Type: application/problem+JSON; a=b").to("a"), "not valid JSON"},
		{"bad JSON without content type", request("a=b").to("a"), "Content-Type"},
		{"two documents", request("{}{}").to("a"), "not valid JSON"},
		{"JSON that is not UTF-8", request("\"\xff\"").to("a"), "not valid JSON"},
		{"a key that is too long", request("1", "Idempotency-Key: "+strings.Repeat("k", 2049)).to("a"), "Idempotency-Key"},
		{"a key that is not UTF-8", request("1", "Idempotency-Key: \xff").to("a"), "Idempotency-Key"},
		{"half a CloudEvent", request("1", "ce-id: 7").to("a"), "ce-specversion"},
	}
	s := compile(t, &posthornv1.Source{Kind: posthornv1.Source_GENERIC})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, err := s.Receive(tt.request)
			refused(t, b, err, errs.Invalid, "malformed", tt.want)
		})
	}
}
