package webhook

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/google/go-cmp/cmp"

	ce "github.com/cloudevents/sdk-go/v2/event"

	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/destination/cloudevent"
	"github.com/posthornhq/posthorn/pkg/event"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// An attributes is an event as the CNCF's SDK reads it, in comparable form.
type attributes struct {
	ID, Source, Type, Subject, ContentType, Schema, Time string
	Extensions                                           map[string]any
	Data                                                 string
}

func attributesOf(e *ce.Event) attributes {
	return attributes{
		ID: e.ID(), Source: e.Source(), Type: e.Type(), Subject: e.Subject(),
		ContentType: e.DataContentType(), Schema: e.DataSchema(), Time: e.Time().Format(time.RFC3339Nano),
		Extensions: e.Extensions(), Data: string(e.Data()),
	}
}

// An SDK of another project reads what is sent, so that nobody agrees with
// himself here.
func TestPeerReadsCloudEvents(t *testing.T) {
	t.Parallel()
	happened := time.Date(2026, 3, 4, 5, 6, 7, 890123000, time.FixedZone("", 3600))
	tests := []struct {
		name  string
		event event.Event
		want  attributes
	}{
		{
			"the least",
			event.Event{ID: "ev_01", Type: "order.created", Source: "shop", Received: now, Data: []byte(`{"a":1}`)},
			attributes{ID: "ev_01", Source: "shop", Type: "order.created", ContentType: "application/json", Time: "2021-02-25T15:02:10Z", Data: `{"a":1}`},
		},
		{
			"all attributes",
			event.Event{
				ID: "ev_01", Type: "com.auth0.log.ss", Source: "auth0", ExternalID: "90020", ExternalSource: "https://tenant.eu.auth0.com/",
				Subject: "auth0|1", DataSchema: "https://schemas.example/1", DataContentType: "application/json; charset=utf-8",
				Time: happened, Received: now, Extensions: map[string]string{"partitionkey": "p1", "sampledrate": "5"}, Data: []byte(`[1, 2]`),
			},
			attributes{
				ID: "90020", Source: "https://tenant.eu.auth0.com/", Type: "com.auth0.log.ss", Subject: "auth0|1", ContentType: "application/json; charset=utf-8",
				Schema: "https://schemas.example/1", Time: "2026-03-04T05:06:07.890123+01:00",
				Extensions: map[string]any{"partitionkey": "p1", "sampledrate": "5"}, Data: `[1, 2]`,
			},
		},
		{
			"numbers, order of keys and blanks survive",
			event.Event{ID: "ev_01", Type: "t", Source: "s", Received: now, Data: []byte("{\"z\": 9007199254740993,\n \"a\":1.10, \"a\":1e400}")},
			attributes{ID: "ev_01", Source: "s", Type: "t", ContentType: "application/json", Time: "2021-02-25T15:02:10Z", Data: "{\"z\": 9007199254740993,\n \"a\":1.10, \"a\":1e400}"},
		},
		{
			"JSON by suffix",
			event.Event{ID: "ev_01", Type: "t", Source: "s", Received: now, DataContentType: "application/vnd.api+json", Data: []byte(`{"a":1.0}`)},
			attributes{ID: "ev_01", Source: "s", Type: "t", ContentType: "application/vnd.api+json", Time: "2021-02-25T15:02:10Z", Data: `{"a":1.0}`},
		},
		{
			"text",
			event.Event{ID: "ev_01", Type: "t", Source: "s", Received: now, DataContentType: "text/plain", Data: []byte(`"hi"`)},
			attributes{ID: "ev_01", Source: "s", Type: "t", ContentType: "text/plain", Time: "2021-02-25T15:02:10Z", Data: `"hi"`},
		},
		{
			"bytes",
			event.Event{ID: "ev_01", Type: "t", Source: "s", Received: now, DataContentType: "image/png", Data: []byte("\x89PNG\x00\xff")},
			attributes{ID: "ev_01", Source: "s", Type: "t", ContentType: "image/png", Time: "2021-02-25T15:02:10Z", Data: "\x89PNG\x00\xff"},
		},
		{
			"what claims to be JSON and is not",
			event.Event{ID: "ev_01", Type: "t", Source: "s", Received: now, Data: []byte(`{"a":1}, "id":"evil"`)},
			attributes{ID: "ev_01", Source: "s", Type: "t", ContentType: "application/json", Time: "2021-02-25T15:02:10Z", Data: `{"a":1}, "id":"evil"`},
		},
		{
			"JSON that is not UTF-8",
			event.Event{ID: "ev_01", Type: "t", Source: "s", Received: now, Data: []byte("\"\xff\"")},
			attributes{ID: "ev_01", Source: "s", Type: "t", ContentType: "application/json", Time: "2021-02-25T15:02:10Z", Data: "\"\xff\""},
		},
		{
			"no data",
			event.Event{ID: "ev_01", Type: "t", Source: "s", Received: now},
			attributes{ID: "ev_01", Source: "s", Type: "t", ContentType: "application/json", Time: "2021-02-25T15:02:10Z"},
		},
		{
			"what only looks like an extension is left out",
			event.Event{ID: "ev_01", Type: "t", Source: "s", Received: now, Data: []byte(`1`), Extensions: map[string]string{
				"id": "evil", "data": "evil", "data_base64": "evil", "specversion": "9", "datacontenttype": "evil/evil", "Upper": "x", "a b": "x", "": "x", "ok": "yes",
			}},
			attributes{ID: "ev_01", Source: "s", Type: "t", ContentType: "application/json", Time: "2021-02-25T15:02:10Z", Data: `1`, Extensions: map[string]any{"ok": "yes"}},
		},
	}
	c := newClient(t, Config{})
	for _, tt := range tests {
		for _, format := range []posthornv1.Webhook_Format{posthornv1.Webhook_CLOUDEVENTS_BINARY, posthornv1.Webhook_CLOUDEVENTS_STRUCTURED} {
			if format == posthornv1.Webhook_CLOUDEVENTS_STRUCTURED && strings.HasSuffix(tt.event.DataContentType, "+json") {
				continue // which this SDK does not take for JSON (its issue 1273); see TestStructuredEmbedsWhatIsJSON
			}
			t.Run(tt.name+"/"+format.String(), func(t *testing.T) {
				t.Parallel()
				got := make(chan *ce.Event, 1)
				srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					if _, ok := r.Header["Ce-Datacontenttype"]; ok {
						t.Error("header ce-datacontenttype is sent; HTTP binary mode must not have it")
					}
					e, err := cehttp.NewEventFromHTTPRequest(r)
					if err != nil {
						t.Errorf("the peer cannot read it: %v", err)
					} else if err := e.Validate(); err != nil {
						t.Errorf("the peer finds it invalid: %v", err)
					}
					got <- e
				}))
				defer srv.Close()
				w := newWebhook(t, c, &posthornv1.Webhook{Url: srv.URL, Format: format})
				m := &destination.Message{Event: &tt.event, Delivery: &event.Delivery{Attempt: 1}, Now: now}
				if r := send(t, w, m); r.Verdict != destination.Accepted {
					t.Fatalf("result is %+v, want accepted", r)
				}
				if e := <-got; e != nil {
					if diff := cmp.Diff(tt.want, attributesOf(e)); diff != "" {
						t.Errorf("event at the peer (-want +got):\n%s", diff)
					}
				}
			})
		}
	}
}

// The JSON event format wants the data of "…+json" as a JSON value.
func TestStructuredEmbedsWhatIsJSON(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, mediaType, data, want string }{
		{"suffix", "application/vnd.api+json", `{"a":1.10}`, `"data":{"a":1.10}}`},
		{"suffix and parameter", "application/vnd.api+JSON ; v=1", `9007199254740993`, `"data":9007199254740993}`},
		{"text/json", "Text/JSON", `[]`, `"data":[]}`},
		{"only almost", "application/jsonl", `1`, `"data_base64":"MQ=="}`},
		{"nothing but the suffix", "+json", `1`, `"data_base64":"MQ=="}`},
		{"suffix and no JSON", "application/vnd.api+json", `{`, `"data_base64":"ew=="}`},
		{"JSON that is not UTF-8", "application/json", "\"\xff\"", `"data_base64":"Iv8i"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := string(cloudevent.Structured(&event.Event{ID: "ev_01", DataContentType: tt.mediaType, Data: []byte(tt.data)}))
			if !json.Valid([]byte(got)) || !strings.HasSuffix(got, tt.want) {
				t.Errorf("structured is %s, want JSON that ends with %s", got, tt.want)
			}
		})
	}
}

func TestRawIsTheDataAlone(t *testing.T) {
	t.Parallel()
	handler, seen := record(t)
	srv := httptest.NewServer(handler)
	defer srv.Close()
	m := newMessage("a,b\r\n1,2")
	m.Event.DataContentType = "text/csv"
	m.Event.Extensions = map[string]string{"partitionkey": "p1"}
	w := newWebhook(t, newClient(t, Config{}), &posthornv1.Webhook{Url: srv.URL, Format: posthornv1.Webhook_RAW})
	if r := send(t, w, m); r.Verdict != destination.Accepted {
		t.Fatalf("result is %+v, want accepted", r)
	}
	got := <-seen
	if got.body != "a,b\r\n1,2" || got.header.Get("Content-Type") != "text/csv" {
		t.Errorf("got %q as %q, want the data as text/csv", got.body, got.header.Get("Content-Type"))
	}
	for key := range got.header {
		if strings.HasPrefix(key, "Ce-") {
			t.Errorf("header %s is sent with the data alone", key)
		}
	}
	if got, want := got.header.Get("Webhook-Signature"), standardSignature(testSecret, "ev_01", "1614265330", "a,b\r\n1,2"); got != want {
		t.Errorf("webhook-signature is %q, want %q", got, want)
	}
}

// The signature is over what is sent, not over what it was made of.
func TestStructuredIsSignedAsSent(t *testing.T) {
	t.Parallel()
	w := newWebhook(t, newClient(t, Config{}), &posthornv1.Webhook{Url: "https://erp.example", Format: posthornv1.Webhook_CLOUDEVENTS_STRUCTURED})
	req := w.newRequest(t.Context(), newMessage(`{"a":1}`))
	body, err := io.ReadAll(req.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := req.Header.Get("Webhook-Signature"), standardSignature(testSecret, "ev_01", "1614265330", string(body)); got != want {
		t.Errorf("webhook-signature is %q, want %q", got, want)
	}
	again, err := req.GetBody()
	if err != nil {
		t.Fatal(err)
	}
	if repeated, err := io.ReadAll(again); err != nil || string(repeated) != string(body) {
		t.Errorf("GetBody gives %q, %v; want the same %q", repeated, err, body)
	}
}

func TestAttributesAreEncoded(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, in, want string }{
		{"plain", "order.created/1", "order.created/1"},
		{"the specification's example", "Euro € 😀", "Euro%20%E2%82%AC%20%F0%9F%98%80"},
		{"quote and percent", `a"b%20c`, "a%22b%2520c"},
		{"no header can be split", "a\r\nX-Evil: 1", "a%0D%0AX-Evil:%201"},
		{"delete and null", "\x7f\x00", "%7F%00"},
		{"the ends of what is plain", "!~", "!~"},
		{"not UTF-8", "a\xc0\xa0b", "a%EF%BF%BDb"},
		{"empty", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := cloudevent.Encode(tt.in)
			if got != tt.want {
				t.Errorf("cloudevent.Encode(%q) = %q, want %q", tt.in, got, tt.want)
			}
			if back, err := url.PathUnescape(got); err != nil || back != strings.ToValidUTF8(tt.in, "\uFFFD") {
				t.Errorf("decoded it is %q, %v; want %q", back, err, tt.in)
			}

			var doc map[string]any
			if err := json.Unmarshal(cloudevent.Structured(&event.Event{ID: "ev_01", Subject: tt.in, Data: []byte(`{}`)}), &doc); err != nil {
				t.Fatalf("structured with subject %q: %v", tt.in, err)
			}
			subject, _ := doc["subject"].(string)
			if want := strings.ToValidUTF8(tt.in, "\uFFFD"); subject != want && tt.name != "not UTF-8" {
				t.Errorf("structured subject is %q, want %q", subject, want)
			}
		})
	}
}

// An event that was accepted must be deliverable, whatever its publisher put
// into the fields that become headers.
func TestStrangeFieldsDoNotStopAnEvent(t *testing.T) {
	t.Parallel()
	handler, seen := record(t)
	srv := httptest.NewServer(handler)
	defer srv.Close()
	w := newWebhook(t, newClient(t, Config{}), &posthornv1.Webhook{Url: srv.URL})
	m := newMessage(`{}`)
	m.TraceParent = "00-\r\nX-Evil: 1"
	m.Event.TraceState = "\x00"
	m.Event.CorrelationIDs = []string{"a\nb"}
	m.Event.DataContentType = "text/plain\r\nX-Evil: 1"
	if r := send(t, w, m); r.Verdict != destination.Accepted {
		t.Fatalf("result is %+v, want accepted", r)
	}
	h := (<-seen).header
	if got := h.Get("Content-Type"); got != "application/octet-stream" {
		t.Errorf("content type is %q, want application/octet-stream", got)
	}
	for _, key := range []string{"X-Evil", "Traceparent", "Tracestate", "X-Correlation-Id"} {
		if v, ok := h[key]; ok {
			t.Errorf("%s is sent as %q, want it left out", key, v)
		}
	}
}
