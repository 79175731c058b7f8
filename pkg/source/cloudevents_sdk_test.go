package source

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"github.com/cloudevents/sdk-go/v2/binding"
	ceevent "github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/cloudevents/sdk-go/v2/types"

	"github.com/posthornhq/posthorn/pkg/event"
)

// fromSDK returns the request that the SDK makes of an event.
func fromSDK(t *testing.T, sent ceevent.Event, structured bool) *Request {
	t.Helper()
	ctx := t.Context()
	if structured {
		ctx = binding.WithForceStructured(ctx)
	}
	req, err := cehttp.NewHTTPRequestFromEvent(ctx, "http://localhost/", sent)
	if err != nil {
		t.Fatal(err)
	}
	if req.Body == nil { // an event without data
		return &Request{Method: req.Method, Header: req.Header, Now: now}
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		t.Fatal(err)
	}
	return &Request{Method: req.Method, Header: req.Header, Body: body, Now: now}
}

// What a sender wrote is what arrives. The SDK leaves the encoding of headers,
// section 3.1.3.2 of the HTTP protocol binding, to who calls it.
func TestAttributesFromTheSDK(t *testing.T) {
	t.Parallel()
	s := cloudEventsSource(t)
	for _, value := range []string{
		"Euro € 😀", "plain", `"quoted"`, `back\slash`, `a"b`, "100%", "%41", "%2541", "%C0%A0", "a%", "blank between", "é ü ß", "~!@#$^&*()", "日本語", "a,b;c=d",
	} {
		for _, structured := range []bool{false, true} {
			encoded := value
			if !structured {
				encoded = encodeHeader(value)
			}
			sent := ceevent.New()
			sent.SetID(encoded)
			sent.SetSource("/s")
			sent.SetType("t.x")
			sent.SetSubject(encoded)
			sent.SetExtension("ext", encoded)
			want := event.Event{Type: "t.x", ExternalID: value, ExternalSource: "/s", Subject: value, Extensions: map[string]string{"ext": value}}
			diff(t, receive(t, s, fromSDK(t, sent, structured)), []Incoming{{Event: want, Key: "/s\x00" + value}})
		}
	}
}

func TestDataFromTheSDK(t *testing.T) {
	t.Parallel()
	s := cloudEventsSource(t)
	tests := []struct {
		name, contentType string
		data              []byte
	}{
		{"JSON", "application/json", []byte(`{"n":9007199254740993,"m":1.10}`)},
		{"JSON that is a string", "application/json", []byte(`"text"`)},
		{"JSON null", "application/json", []byte(`null`)},
		{"JSON of another kind", "application/vnd.shop+json", []byte(`[1]`)},
		{"text", "text/plain", []byte("a\n\"é\"")},
		{"XML", "application/xml", []byte("<x>é</x>")},
		{"bytes", "application/octet-stream", []byte{0, 255, 128}},
	}
	for _, tt := range tests {
		for mode, structured := range map[string]bool{"binary": false, "structured": true} {
			t.Run(tt.name+", "+mode, func(t *testing.T) {
				t.Parallel()
				sent := ceevent.New()
				sent.SetID("7")
				sent.SetSource("/s")
				sent.SetType("t.x")
				if err := sent.SetData(tt.contentType, tt.data); err != nil {
					t.Fatal(err)
				}
				got := receive(t, s, fromSDK(t, sent, structured))[0].Event
				if !bytes.Equal(got.Data, tt.data) || got.DataContentType != tt.contentType {
					t.Errorf("data is %q of %s, want %q of %s", got.Data, got.DataContentType, tt.data, tt.contentType)
				}
			})
		}
	}
}

// Publishers that use the SDK and encode nothing are understood wherever the
// rules leave a doubt about what they mean.
func TestAttributesThatTheSDKDidNotEncode(t *testing.T) {
	t.Parallel()
	s := cloudEventsSource(t)
	for _, value := range []string{"Euro € 😀", "100%", "a%", "50% off", "blank between", `a "b" c`, `back\slash`} {
		sent := ceevent.New()
		sent.SetID("7")
		sent.SetSource("/s")
		sent.SetType("t.x")
		sent.SetSubject(value)
		if got := receive(t, s, fromSDK(t, sent, false))[0].Event.Subject; got != value {
			t.Errorf("subject is %q, want %q", got, value)
		}
	}
}

// The same request, read by the SDK and by us.
func TestRequestsReadAsTheSDKReadsThem(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		request *Request
	}{
		{"binary", binary(`{}`, "Content-Type: application/json", "ce-subject: a", "ce-ext: 1")},
		{"binary, names in any case", request("x", "CE-ID: 7", "Ce-Source: /s", "ce-TYPE: t.x", "Ce-SpecVersion: 1.0", "content-type: text/plain")},
		{"binary, a time with an offset", binary("", "ce-time: 2018-04-05T17:31:00.5+02:00")},
		{"structured", request(envelope(`,"subject":"é","data":{"a":[1]},"datacontenttype":"application/json"`), structuredType)},
		{"structured, null is absent", request(envelope(`,"subject":null,"datacontenttype":null`), structuredType)},
		{"structured, data_base64", request(envelope(`,"datacontenttype":"image/png","data_base64":"/wA="`), structuredType)},
		{"structured, text", request(envelope(`,"datacontenttype":"text/plain","data":"a\u00e9"`), structuredType)},
		{"structured, numbers and booleans", request(envelope(`,"num":-42,"yes":true`), structuredType)},
	}
	s := cloudEventsSource(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost/", bytes.NewReader(tt.request.Body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header = tt.request.Header
			theirs, err := cehttp.NewEventFromHTTPRequest(req)
			if err != nil {
				t.Fatal(err)
			}
			ours := receive(t, s, tt.request)[0].Event
			want := event.Event{
				ExternalID: theirs.ID(), ExternalSource: theirs.Source(), Type: theirs.Type(), Subject: theirs.Subject(),
				DataContentType: theirs.DataContentType(), Data: theirs.Data(), DataSchema: theirs.DataSchema(),
			}
			if !theirs.Time().IsZero() {
				want.Time = theirs.Time().UTC()
			}
			for name := range theirs.Extensions() {
				value, err := types.Format(theirs.Extensions()[name])
				if err != nil {
					t.Fatal(err)
				}
				if want.Extensions == nil {
					want.Extensions = map[string]string{}
				}
				want.Extensions[name] = value
			}
			diff(t, ours, want)
		})
	}
}

// What the binding forbids is refused by both.
func TestRequestsRefusedAsTheSDKRefusesThem(t *testing.T) {
	t.Parallel()
	s := cloudEventsSource(t)
	for name, r := range map[string]*Request{
		"no id":                   request("", "ce-specversion: 1.0", "ce-source: /s", "ce-type: t"),
		"no source":               request("", "ce-specversion: 1.0", "ce-id: 7", "ce-type: t"),
		"no type":                 request("", "ce-specversion: 1.0", "ce-id: 7", "ce-source: /s"),
		"no specversion":          request("", "ce-id: 7", "ce-source: /s", "ce-type: t"),
		"an unknown specversion":  request("", "ce-specversion: 2.0", "ce-id: 7", "ce-source: /s", "ce-type: t"),
		"a bad time":              binary("", "ce-time: noon"),
		"structured, no id":       request(`{"specversion":"1.0","source":"/s","type":"t"}`, structuredType),
		"structured, a null type": request(`{"specversion":"1.0","id":"7","source":"/s","type":null}`, structuredType),
		"structured, an array":    request(`[]`, structuredType),
		"structured, bad base64":  request(envelope(`,"data_base64":"?"`), structuredType),
		"structured, bad JSON":    request(`{`, structuredType),
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost/", bytes.NewReader(r.Body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = r.Header
		theirs, err := cehttp.NewEventFromHTTPRequest(req)
		if err == nil && theirs.Validate() == nil {
			t.Errorf("%s: the SDK accepts it", name)
		}
		if _, err := s.Receive(r); err == nil {
			t.Errorf("%s: accepted, want it refused as by the SDK", name)
		}
	}
}
