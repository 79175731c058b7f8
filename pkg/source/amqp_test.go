package source

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/pattern"
	"github.com/posthornhq/posthorn/pkg/rawjson"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func queueSource(t testing.TB, typ string) *Source {
	t.Helper()
	return compile(t, &posthornv1.Source{Kind: posthornv1.Source_AMQP, Type: typ,
		Amqp: &posthornv1.AmqpSource{Url: "amqps://rabbit.example", Username: "u", Queue: "q"}}, "hush")
}

func TestTheBrokerOfASource(t *testing.T) {
	t.Parallel()
	endpoint, spec, ok := queueSource(t, "").AMQP()
	if !ok || endpoint.Address != "rabbit.example:5671" || !endpoint.TLS || endpoint.Vhost != "/" || endpoint.Username != "u" || endpoint.Password != "hush" ||
		spec.GetQueue() != "q" || Prefetch(spec) != DefaultPrefetch {
		t.Errorf("broker is %+v (%v), settings are %v", endpoint, ok, spec)
	}
	if strings.Contains(endpoint.String(), "hush") {
		t.Errorf("%s shows the password", endpoint)
	}
	if _, _, ok := compile(t, &posthornv1.Source{Kind: posthornv1.Source_GENERIC}).AMQP(); ok {
		t.Error("a generic source has a broker")
	}
	if _, err := queueSource(t, "").Receive(request("{}")); !errors.Is(err, error(ErrNotHTTP)) {
		t.Errorf("a request is refused with %v, want %v", err, ErrNotHTTP)
	}
}

func TestTheTypeOfAMessage(t *testing.T) {
	t.Parallel()
	ce := map[string]any{"cloudEvents:specversion": "1.0", "cloudEvents_id": "1", "cloudevents:source": "/s", "cloudEvents:type": "ce.type"}
	tests := []struct {
		name, configured string
		m                Message
		want             string // "" if it is refused
	}{
		{"a CloudEvent's", "", Message{Type: "prop", RoutingKey: "key", Exchange: "x", Headers: ce}, "ce.type"},
		{"a structured CloudEvent's", "", Message{Type: "prop", ContentType: "application/cloudevents+json; charset=utf-8",
			Body: []byte(`{"specversion":"1.0","id":"1","source":"/s","type":"doc.type"}`)}, "doc.type"},
		{"the property", "conf", Message{Type: "prop", RoutingKey: "key", Exchange: "x"}, "prop"},
		{"the routing key", "conf", Message{RoutingKey: "key.a", Exchange: "x"}, "key.a"},
		{"the source's", "conf", Message{Exchange: "x"}, "conf"},
		{"the source's, for the default exchange", "conf", Message{RoutingKey: "q"}, "conf"},
		{"the queue's name at last", "", Message{RoutingKey: "q"}, "q"},
		{"none", "", Message{}, ""},
		{"a property that is none", "conf", Message{Type: "a b"}, ""},
		{"a routing key that is none", "", Message{RoutingKey: "a..b", Exchange: "x"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in, err := queueSource(t, tt.configured).ReceiveMessage(&tt.m)
			if tt.want == "" {
				refused(t, Batch{}, err, errs.Invalid, "malformed", "")
			} else if err != nil || in.Event.Type != tt.want {
				t.Errorf("type is %q (%v), want %q", in.Event.Type, err, tt.want)
			}
		})
	}
}

func TestTheDataOfAMessage(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name            string
		m               Message
		contentType     string
		refused         string
		encodedType     string
		amqpContentType string
	}{
		{"JSON", Message{ContentType: "application/json", Body: []byte(`{"n":1.10}`)}, "application/json", "", "", ""},
		{"JSON without saying so", Message{Body: []byte(`{"n":1.10}`)}, "", "", "", ""},
		{"bytes without saying so", Message{Body: []byte{0xff, 0}}, "application/octet-stream", "", "", ""},
		{"JSON that is none", Message{ContentType: "application/json", Body: []byte(`{`)}, "", "not valid JSON", "", ""},
		{"encoded JSON", Message{ContentType: "application/json", ContentEncoding: "gzip", Body: []byte{0x1f, 0x8b}}, "application/octet-stream", "", "gzip", "application/json"},
		{"a charset as encoding", Message{ContentType: "application/json", ContentEncoding: "UTF-8", Body: []byte(`1`)}, "application/json", "", "UTF-8", ""},
		{"text", Message{ContentType: "text/plain", Body: []byte(`{`)}, "text/plain", "", "", ""},
		{"a content type that no header has", Message{ContentType: "a\nb", Body: []byte(`{`)}, "", "content-type", "", ""},
		{"a batch", Message{ContentType: "application/cloudevents-batch+json", Body: []byte(`[]`)}, "", "content-type", "", ""},
		{"a document that is none", Message{ContentType: "application/cloudevents+json", Body: []byte(`{`)}, "", "not valid JSON", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in, err := queueSource(t, "a.b").ReceiveMessage(&tt.m)
			if tt.refused != "" {
				refused(t, Batch{}, err, errs.Invalid, "malformed", tt.refused)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			ev := in.Event
			if ev.DataContentType != tt.contentType || string(ev.Data) != string(tt.m.Body) {
				t.Errorf("data are %q of %q, want the body as it came of %q", ev.Data, ev.DataContentType, tt.contentType)
			}
			if ev.Extensions["amqpcontentencoding"] != tt.encodedType || ev.Extensions["amqpcontenttype"] != tt.amqpContentType {
				t.Errorf("extensions are %v", ev.Extensions)
			}
		})
	}
}

func TestTheKeyAndTheMarksOfAMessage(t *testing.T) {
	t.Parallel()
	s := queueSource(t, "a.b")
	in, err := s.ReceiveMessage(&Message{MessageID: "m-1", Redelivered: true, Timestamp: now, Headers: map[string]any{
		"traceparent": "x", "cloudEvents:amqpredelivered": "false", "cloudEvents:amqpheaders": "{}", "X-\u0085": []any{"\x7f", map[string]any{"<": nil}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if in.Key != "m-1" || in.Event.ExternalID != "m-1" || !in.Event.Time.Equal(now) {
		t.Errorf("key is %q, event %+v", in.Key, in.Event)
	}
	diff(t, in.Event.Extensions, map[string]string{"amqpmessageid": "m-1", "amqpredelivered": "true", "amqpheaders": `{"X-\u0085":["\u007f",{"<":null}]}`})

	in, err = s.ReceiveMessage(&Message{Headers: map[string]any{"cloudEvents:amqpredelivered": "true"}})
	if err != nil || in.Key != "" || in.Event.Extensions["amqpredelivered"] != "" {
		t.Errorf("key is %q, extensions are %v (%v): what was redelivered on another way is no matter", in.Key, in.Event.Extensions, err)
	}
	in, err = s.ReceiveMessage(&Message{MessageID: "m-1", Headers: map[string]any{
		"cloudEvents:specversion": "1.0", "cloudEvents:id": "1", "cloudEvents:source": "/s", "cloudEvents:type": "c", "cloudEvents:time": now, "cloudEvents:count": int64(3),
	}})
	if err != nil || in.Key != "/s\x001" || !in.Event.Time.Equal(now) || in.Event.Extensions["count"] != "3" {
		t.Errorf("key is %q, event %+v (%v)", in.Key, in.Event, err)
	}
	for name, m := range map[string]Message{
		"message-id":        {MessageID: "a\nb"},
		"headers":           {Headers: map[string]any{"x": strings.Repeat("x", 8<<10)}},
		"amqpreplyto":       {ReplyTo: "\xff"},
		"cloudEvents:id":    {Headers: map[string]any{"cloudEvents:specversion": "1.0"}},
		"cloudEvents:a-b":   {Headers: map[string]any{"cloudEvents:a-b": "c"}},
		"datacontenttype":   {Headers: map[string]any{"cloudEvents:datacontenttype": "c"}},
		"cloudEvents:count": {Headers: map[string]any{"cloudEvents:count": "1", "cloudEvents_count": "2"}},
	} {
		_, err := s.ReceiveMessage(&m)
		if err == nil || errs.ReasonOf(err) != "malformed" || !strings.Contains(err.Error(), name) {
			t.Errorf("error is %v, want one about %s", err, name)
		}
	}
}

// Whatever comes out of a queue is refused, or can be carried on.
func FuzzMessage(f *testing.F) {
	f.Add("x", "order.created", "application/json", "", "m-1", "", "cloudEvents:id", "1", []byte(`{}`))
	f.Add("", "q", "application/cloudevents+json", "", "", "a.b", "x-death", "\xff", []byte(`{"specversion":"1.0","id":"1","source":"/s","type":"t"}`))
	f.Add("", "", "", "gzip", "", "", "", "\u0085", []byte{0xff})
	s := queueSource(f, "")
	f.Fuzz(func(t *testing.T, exchange, key, contentType, encoding, id, typ, header, value string, body []byte) {
		m := &Message{Exchange: exchange, RoutingKey: key, ContentType: contentType, ContentEncoding: encoding, MessageID: id, Type: typ,
			Timestamp: time.Unix(int64(len(body))<<30, 0), Headers: map[string]any{header: value}, Body: body}
		in, err := s.ReceiveMessage(m)
		if err != nil {
			if errs.KindOf(err) != errs.Invalid {
				t.Errorf("refused as %v: %v", errs.KindOf(err), err)
			}
			return
		}
		ev := in.Event
		if err := pattern.ValidType(ev.Type); err != nil {
			t.Errorf("accepted: %v", err)
		}
		for name, v := range ev.Extensions {
			if name != "amqpheaders" && !cleanText(v) || !utf8.ValidString(v) || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Errorf("accepted the attribute %s: %q", name, v)
			}
		}
		if h := ev.Extensions["amqpheaders"]; h != "" && !json.Valid([]byte(h)) {
			t.Errorf("headers became %q", h)
		}
		if !utf8.ValidString(in.Key) || !cleanText(ev.ExternalID) || !cleanText(ev.DataContentType) {
			t.Errorf("accepted %+v with key %q", ev, in.Key)
		}
		if event.IsJSON(ev.DataContentType) && len(ev.Data) > 0 && !rawjson.Valid(ev.Data) {
			t.Errorf("accepted %q as JSON", ev.Data)
		}
		if _, err := json.Marshal(ev.Time); err != nil {
			t.Errorf("accepted a time that has no form: %v", err)
		}
	})
}
