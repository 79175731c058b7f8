package source

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	ceevent "github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/google/go-cmp/cmp"

	"github.com/cloudevents/sdk-go/v2/binding"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

const (
	structuredType = "Content-Type: application/cloudevents+json; charset=utf-8"
	batchType      = "Content-Type: application/cloudevents-batch+json"
)

func cloudEventsSource(t testing.TB) *Source {
	return compile(t, &posthornv1.Source{Kind: posthornv1.Source_CLOUDEVENTS})
}

// binary returns a request in binary mode with the required headers.
func binary(body string, headers ...string) *Request {
	return request(body, append([]string{"ce-specversion: 1.0", "ce-id: 7", "ce-source: /s", "ce-type: t.x"}, headers...)...)
}

// envelope returns the JSON format with the required attributes and more.
func envelope(more string) string {
	return `{"specversion":"1.0","id":"7","source":"/s","type":"t.x"` + more + `}`
}

func basic(change func(*event.Event)) Incoming {
	in := Incoming{Event: event.Event{Type: "t.x", ExternalID: "7", ExternalSource: "/s"}, Key: "/s\x007"}
	if change != nil {
		change(&in.Event)
	}
	return in
}

func TestCloudEvents(t *testing.T) {
	t.Parallel()
	const exact = `{ "n":9007199254740993, "m" : 1.10,"n": 1 }`
	tests := []struct {
		name    string
		request *Request
		want    []Incoming
	}{
		{"binary, required headers alone", binary(""), []Incoming{basic(nil)}},
		{"binary, everything", binary(exact, "Content-Type: application/json", "CE-Subject: a/b", "ce-time: 2018-04-05T17:31:00.5+02:00",
			"ce-dataschema: https://example.com/s", "ce-comexampleext1: one", "ce-empty: "),
			[]Incoming{basic(func(ev *event.Event) {
				ev.Data, ev.DataContentType = []byte(exact), "application/json"
				ev.Subject, ev.DataSchema = "a/b", "https://example.com/s"
				ev.Time = time.Date(2018, 4, 5, 15, 31, 0, 5e8, time.UTC)
				ev.Extensions = map[string]string{"comexampleext1": "one", "empty": ""}
			})}},
		{"binary, percent-encoded", binary("", "ce-subject: Euro%20%E2%82%AC%20%f0%9f%98%80"),
			[]Incoming{basic(func(ev *event.Event) { ev.Subject = "Euro € 😀" })}},
		{"binary, quoted", binary("", `ce-subject: "a \"b\" \\ %20c"`),
			[]Incoming{basic(func(ev *event.Event) { ev.Subject = `a "b" \  c` })}},
		{"binary, not JSON", binary("<x/>", "Content-Type: application/xml"),
			[]Incoming{basic(func(ev *event.Event) { ev.Data, ev.DataContentType = []byte("<x/>"), "application/xml" })}},

		{"structured, data byte for byte", request(envelope(`, "data" : `+exact+` `), structuredType),
			[]Incoming{basic(func(ev *event.Event) { ev.Data = []byte(exact) })}},
		{"structured, content type in another case", request(envelope(`,"data":1`), "Content-Type: Application/CloudEvents+JSON"),
			[]Incoming{basic(func(ev *event.Event) { ev.Data = []byte("1") })}},
		{"structured, everything", request(envelope(`,"subject":"\u20ac","time":"2018-04-05t17:31:00z","dataschema":"s:1",
			"datacontenttype":"application/json","str":"","num":-42,"yes":true,"no":false,"data":"text"`), structuredType),
			[]Incoming{basic(func(ev *event.Event) {
				ev.Subject, ev.DataSchema, ev.DataContentType = "€", "s:1", "application/json"
				ev.Time = time.Date(2018, 4, 5, 17, 31, 0, 0, time.UTC)
				ev.Extensions = map[string]string{"str": "", "num": "-42", "yes": "true", "no": "false"}
				ev.Data = []byte(`"text"`)
			})}},
		{"structured, null is absent", request(envelope(`,"subject":null,"time":null,"ext":null,"data":null,"data_base64":"AAE="`), structuredType),
			[]Incoming{basic(func(ev *event.Event) { ev.Data, ev.DataContentType = []byte{0, 1}, "application/octet-stream" })}},
		{"structured, text", request(envelope(`,"datacontenttype":"text/plain","data":"a\n\u00e9"`), structuredType),
			[]Incoming{basic(func(ev *event.Event) { ev.Data, ev.DataContentType = []byte("a\né"), "text/plain" })}},
		{"structured, JSON in what is said to be no JSON", request(envelope(`,"datacontenttype":"application/avro","data":{"a":1.0}`), structuredType),
			[]Incoming{basic(func(ev *event.Event) { ev.Data, ev.DataContentType = []byte(`{"a":1.0}`), "application/avro" })}},
		{"structured, base64 of JSON", request(envelope(`,"data_base64":"eyJhIjoxLjB9"`), structuredType),
			[]Incoming{basic(func(ev *event.Event) { ev.Data = []byte(`{"a":1.0}`) })}},
		{"structured, base64 of something else", request(envelope(`,"datacontenttype":"image/png","data_base64":"/wA="`), structuredType),
			[]Incoming{basic(func(ev *event.Event) { ev.Data, ev.DataContentType = []byte{0xff, 0}, "image/png" })}},
		{"structured, names with escapes", request(strings.Replace(envelope(`,"data":1`), `"id"`, `"\u0069d"`, 1), structuredType),
			[]Incoming{basic(func(ev *event.Event) { ev.Data = []byte("1") })}},

		{"batch of none", request(" [ ] ", batchType), nil},
		{"batch of two", request(" [ "+envelope(`,"data":`+exact)+" ,\n"+envelope(`,"data":2`)+"]", batchType),
			[]Incoming{
				basic(func(ev *event.Event) { ev.Data = []byte(exact) }),
				basic(func(ev *event.Event) { ev.Data = []byte("2") }),
			}},
	}
	s := cloudEventsSource(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			diff(t, receive(t, s, tt.request), tt.want)
		})
	}
}

func TestCloudEventsRefuses(t *testing.T) {
	t.Parallel()
	good := envelope("")
	without := func(member string) *Request {
		return request(strings.Replace(good, member, `"x":""`, 1), structuredType)
	}
	tests := []struct {
		name    string
		request *Request
		want    string
	}{
		{"no CloudEvent at all", request("{}", "Content-Type: application/json"), "neither ce- headers"},
		{"binary, no id", request("", "ce-specversion: 1.0", "ce-source: /s", "ce-type: t"), "ce-id: is required"},
		{"binary, no source", request("", "ce-specversion: 1.0", "ce-id: 7", "ce-type: t"), "ce-source: is required"},
		{"binary, no type", request("", "ce-specversion: 1.0", "ce-id: 7", "ce-source: /s"), "ce-type: is required"},
		{"binary, no specversion", request("", "ce-id: 7", "ce-source: /s", "ce-type: t"), "ce-specversion: is required"},
		{"binary, an older version", request("", "ce-specversion: 0.3", "ce-id: 7", "ce-source: /s", "ce-type: t"), `"0.3"`},
		{"binary, an empty id", request("", "ce-specversion: 1.0", "ce-id: ", "ce-source: /s", "ce-type: t"), "ce-id: is empty"},
		{"binary, ce-datacontenttype", binary("1", "ce-datacontenttype: application/json"), "ce-datacontenttype"},
		{"binary, overlong UTF-8", binary("", "ce-subject: %C0%A0"), "ce-subject: the value is not valid UTF-8"},
		{"binary, cut UTF-8", binary("", "ce-subject: %E2%82"), "ce-subject: the value is not valid UTF-8"},
		{"binary, raw bytes that are not UTF-8", binary("", "ce-subject: \xe9"), "ce-subject: the value is not valid UTF-8"},
		{"binary, a control character", binary("", "ce-subject: a%00b"), "control characters"},
		{"binary, a header twice", binary("", "ce-id: 8"), "ce-id: the header is there more than once"},
		{"binary, an odd name", binary("", "ce-my-ext: 1"), "ce-my-ext: is not the name of an attribute"},
		{"binary, an attribute called data", binary("", "ce-data: 1"), "ce-data: is not the name of an attribute"},
		{"binary, bad JSON", binary("{", "Content-Type: application/json"), "not valid JSON"},
		{"binary, a bad time", binary("", "ce-time: yesterday"), "RFC 3339"},
		{"binary, a time that UTC moves out of the calendar", binary("", "ce-time: 9999-12-31T23:59:59-01:00"), "RFC 3339"},
		{"binary, a type with blanks", request("", "ce-specversion: 1.0", "ce-id: 7", "ce-source: /s", "ce-type: a%20b"), "ce-type"},

		{"structured, no id", without(`"id":"7"`), "id: is required"},
		{"structured, no source", without(`"source":"/s"`), "source: is required"},
		{"structured, no type", without(`"type":"t.x"`), "type: is required"},
		{"structured, no specversion", without(`"specversion":"1.0"`), "specversion: is required"},
		{"structured, a null id", request(strings.Replace(good, `"7"`, "null", 1), structuredType), "id: is required"},
		{"structured, an empty type", request(strings.Replace(good, `"t.x"`, `""`, 1), structuredType), "type: is empty"},
		{"structured, a number as id", request(strings.Replace(good, `"7"`, "7", 1), structuredType), "id: is not a string"},
		{"structured, a number as version", request(strings.Replace(good, `"1.0"`, "1.0", 1), structuredType), "specversion: is not a string"},
		{"structured, id twice", request(envelope(`,"id":"8"`), structuredType), "id: is there more than once"},
		{"structured, an extension twice", request(envelope(`,"x":"","x":"1"`), structuredType), "x: is there more than once"},
		{"structured, data twice", request(envelope(`,"data":1,"data":2`), structuredType), "data: is there more than once"},
		{"structured, data and data_base64", request(envelope(`,"data":1,"data_base64":"AA=="`), structuredType), "not both"},
		{"structured, bad base64", request(envelope(`,"data_base64":"?"`), structuredType), "data_base64"},
		{"structured, base64 that is no string", request(envelope(`,"data_base64":1`), structuredType), "data_base64"},
		{"structured, base64 of bad JSON", request(envelope(`,"datacontenttype":"application/json","data_base64":"ew=="`), structuredType), "data_base64"},
		{"structured, upper case in a name", request(envelope(`,"myExt":"1"`), structuredType), "myExt: is not the name"},
		{"structured, an extension that is an object", request(envelope(`,"ext":{}`), structuredType), "ext: is neither"},
		{"structured, an extension that is a fraction", request(envelope(`,"ext":1.5`), structuredType), "ext: is neither"},
		{"structured, an array", request("["+good+"]", structuredType), "is a JSON object"},
		{"structured, bad JSON", request(good[1:], structuredType), "not valid JSON"},
		{"structured, not UTF-8", request(envelope(",\"data\":\"\xff\""), structuredType), "not valid JSON"},
		{"structured, nothing", request("", structuredType), "not valid JSON"},
		{"structured, XML", request("<x/>", "Content-Type: application/cloudevents+xml"), "application/cloudevents+xml"},

		{"batch, one event", request(good, batchType), "is a JSON array"},
		{"batch, bad JSON", request("["+good+",]", batchType), "not valid JSON"},
		{"batch, the second without id", request("["+good+","+strings.Replace(good, `"id"`, `"di"`, 1)+"]", batchType), "[1].id: is required"},
		{"batch, the third no object", request("["+good+","+good+",3]", batchType), "[2]: a CloudEvent is a JSON object"},
		{"batch, XML", request("", "Content-Type: application/cloudevents-batch+xml"), "application/cloudevents-batch+xml"},
	}
	s := cloudEventsSource(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, err := s.Receive(tt.request)
			refused(t, b, err, errs.Invalid, "malformed", tt.want)
		})
	}
}

func TestTooManyEventsInOneRequest(t *testing.T) {
	t.Parallel()
	body := "[" + strings.Repeat(envelope("")+",", maxEvents) + envelope("") + "]"
	b, err := cloudEventsSource(t).Receive(request(body, batchType))
	refused(t, b, err, errs.TooLarge, "too-large", "20000 events")
}

// Structured data keeps its place in memory too: nothing is copied or written anew.
func TestStructuredDataIsASliceOfTheBody(t *testing.T) {
	t.Parallel()
	r := request(envelope(`,"data":{"a":1}`), structuredType)
	data := receive(t, cloudEventsSource(t), r)[0].Event.Data
	r.Body[strings.Index(string(r.Body), `{"a"`)+2] = 'b'
	if string(data) != `{"b":1}` {
		t.Errorf("data is %s after the body was changed, want {\"b\":1}", data)
	}
	if cap(data) != len(data) {
		t.Errorf("data has capacity %d beyond its %d bytes; an append would write into the body", cap(data), len(data))
	}
}

// The SDK of the CNCF is the peer: what it sends, in each mode, is what arrives.
func TestTheSDKAsPublisher(t *testing.T) {
	t.Parallel()
	sent := ceevent.New()
	sent.SetID("id-1")
	sent.SetSource("https://example.com/shop")
	sent.SetType("order.created")
	sent.SetSubject("orders/7 100% – ok")
	sent.SetTime(time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC))
	sent.SetDataSchema("https://example.com/schema")
	sent.SetExtension("tenant", "acme")
	sent.SetExtension("count", 3)
	if err := sent.SetData("application/json", json.RawMessage(`{"n":9007199254740993,"m":1.10}`)); err != nil {
		t.Fatal(err)
	}
	want := Incoming{Key: "https://example.com/shop\x00id-1", Event: event.Event{
		Type: "order.created", ExternalID: "id-1", ExternalSource: "https://example.com/shop", Subject: "orders/7 100% – ok",
		Time: time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC), DataSchema: "https://example.com/schema", DataContentType: "application/json",
		Extensions: map[string]string{"tenant": "acme", "count": "3"}, Data: []byte(`{"n":9007199254740993,"m":1.10}`),
	}}

	tests := []struct {
		name string
		make func() (*http.Request, error)
		want []Incoming
	}{
		{"binary", func() (*http.Request, error) {
			return cehttp.NewHTTPRequestFromEvent(t.Context(), "http://localhost/", sent)
		}, []Incoming{want}},
		{"structured", func() (*http.Request, error) {
			return cehttp.NewHTTPRequestFromEvent(binding.WithForceStructured(t.Context()), "http://localhost/", sent)
		}, []Incoming{want}},
		{"batch", func() (*http.Request, error) {
			return cehttp.NewHTTPRequestFromEvents(t.Context(), "http://localhost/", []ceevent.Event{sent, sent})
		}, []Incoming{want, want}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			req, err := tt.make()
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(req.Body)
			if err != nil {
				t.Fatal(err)
			}
			for _, kind := range []posthornv1.Source_Kind{posthornv1.Source_CLOUDEVENTS, posthornv1.Source_GENERIC} {
				s := compile(t, &posthornv1.Source{Kind: kind})
				got := receive(t, s, &Request{Method: req.Method, Header: req.Header, Body: body, Now: now})
				if d := cmp.Diff(tt.want, got); d != "" {
					t.Errorf("%v (-want +got)\n%s", kind, d)
				}
			}
		})
	}
}

// encodeHeader is the encoding of the HTTP protocol binding, section 3.1.3.2.
func encodeHeader(s string) string {
	var out strings.Builder
	for _, b := range []byte(s) {
		if b <= ' ' || b >= 0x7f || b == '"' || b == '%' {
			out.WriteString("%" + strings.ToUpper(strconv.FormatUint(uint64(b)|0x100, 16)[1:]))
			continue
		}
		out.WriteByte(b)
	}
	return out.String()
}

func TestDecodeHeader(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, in, want string
		ok             bool
	}{
		{"of the specification", "Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀", true},
		{"hex in lower case", "%e2%82%ac", "€", true},
		{"one round only", "%2541", "%41", true},
		{"a percent sign alone", "100%", "100%", true},
		{"a percent sign before no hex", "100%zz%+1", "100%zz%+1", true},
		{"UTF-8 as it is", "€", "€", true},
		{"quoted", `"a b"`, "a b", true},
		{"quoted, empty", `""`, "", true},
		{"half a quote", `"a`, `"a`, true},
		{"one quote", `"`, `"`, true},
		{"overlong", "%C0%A0", "", false},
		{"a surrogate", "%ED%A0%80", "", false},
		{"latin-1", "caf\xe9", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, ok := decodeHeader(tt.in)
			if ok != tt.ok || ok && got != tt.want {
				t.Errorf("%q decodes to %q, %v; want %q, %v", tt.in, got, ok, tt.want, tt.ok)
			}
		})
	}
}

func FuzzDecodeHeader(f *testing.F) {
	for _, s := range []string{"", "Euro € 😀", "%C0%A0", "%", "%2", "%25", `"a\"`, `"\"`, "a%20b", "%ED%A0%80", "\x00\x7f", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, ok := decodeHeader(s); ok && !utf8.ValidString(got) {
			t.Errorf("%q decodes to %q, which is not UTF-8", s, got)
		}
		if !utf8.ValidString(s) {
			return
		}
		encoded := encodeHeader(s)
		if i := strings.IndexFunc(encoded, func(r rune) bool { return r > unicode.MaxASCII || r <= ' ' }); i >= 0 {
			t.Fatalf("%q is encoded as %q", s, encoded)
		}
		if got, ok := decodeHeader(encoded); !ok || got != s {
			t.Errorf("%q comes back as %q, %v", s, got, ok)
		}
	})
}
