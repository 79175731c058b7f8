package source

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/pattern"
	"github.com/posthornhq/posthorn/pkg/rawjson"
	"github.com/posthornhq/posthorn/pkg/signature"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// sound fails the test unless everything downstream can carry what was received:
// subjects, headers, JSON.
func sound(t *testing.T, b Batch, err error) {
	t.Helper()
	if err != nil {
		if errs.KindOf(err) == errs.Internal {
			t.Errorf("refused as our own failure: %v", err)
		}
		if len(b.Events) > 0 || b.Reply != nil {
			t.Errorf("refused with %v, and with %+v", err, b)
		}
		return
	}
	for _, in := range b.Events {
		ev := in.Event
		if err := pattern.ValidType(ev.Type); err != nil {
			t.Errorf("accepted: %v", err)
		}
		texts := []string{ev.ExternalID, ev.ExternalSource, ev.Subject, ev.DataContentType, ev.DataSchema}
		for name, value := range ev.Extensions {
			texts = append(texts, name, value)
		}
		for _, s := range texts {
			if !cleanText(s) {
				t.Errorf("accepted the attribute %q", s)
			}
		}
		if !utf8.ValidString(in.Key) {
			t.Errorf("accepted the key %q", in.Key)
		}
		if event.IsJSON(ev.DataContentType) && len(ev.Data) > 0 && !rawjson.Valid(ev.Data) {
			t.Errorf("accepted %q as JSON", ev.Data)
		}
		if _, err := json.Marshal(ev.Time); err != nil {
			t.Errorf("accepted a time that has no form: %v", err)
		}
	}
}

// structured writes an event in the JSON format.
func structured(t *testing.T, ev event.Event) string {
	t.Helper()
	doc := map[string]any{"specversion": "1.0"}
	for name, value := range ev.Extensions {
		doc[name] = value
	}
	for name, value := range map[string]string{
		"id": ev.ExternalID, "source": ev.ExternalSource, "type": ev.Type, "subject": ev.Subject,
		"dataschema": ev.DataSchema, "datacontenttype": ev.DataContentType,
	} {
		if value != "" {
			doc[name] = value
		}
	}
	if !ev.Time.IsZero() {
		doc["time"] = ev.Time.Format(time.RFC3339Nano)
	}
	if ev.Data != nil {
		doc["data_base64"] = base64.StdEncoding.EncodeToString(ev.Data)
	}
	out, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// What parses, parses as the same once it is written again; and in a batch it is
// what it is alone.
func FuzzCloudEventsStructured(f *testing.F) {
	for _, more := range []string{"", `,"data":{"a":1.0}`, `,"data":"x","datacontenttype":"text/plain"`, `,"data_base64":"AAE="`,
		`,"data":null,"time":null`, `,"time":"2018-04-05t17:31:00+01:00"`, `,"ext":-1,"yes":true,"s":"\u20ac"`, `,"data":1,"data_base64":"AA=="`,
		`,"time":"9999-12-31T23:59:59-01:00"`, `,"subject":"\ud800"`, `,"datacontenttype":"application/json","data_base64":""`} {
		f.Add(envelope(more), envelope(""))
	}
	f.Add("[]", "")
	f.Add("{\"id\":\"\xff\"}", "null")
	s := cloudEventsSource(f)
	f.Fuzz(func(t *testing.T, doc, other string) {
		b, err := s.Receive(request(doc, structuredType))
		sound(t, b, err)
		if err == nil {
			ev := b.Events[0].Event
			again := receive(t, s, request(structured(t, ev), structuredType))
			if d := cmp.Diff(b.Events, again, cmp.Comparer(bytes.Equal)); d != "" {
				t.Errorf("%s written again is another (-first +again)\n%s", doc, d)
			}
		}
		if !rawjson.Valid([]byte(doc)) || !rawjson.Valid([]byte(other)) {
			return
		}
		o, otherErr := s.Receive(request(other, structuredType))
		batch, batchErr := s.Receive(request(" [\n"+doc+" , "+other+"\t]", batchType))
		sound(t, batch, batchErr)
		if (batchErr == nil) != (err == nil && otherErr == nil) {
			t.Fatalf("batch: %v; alone: %v, %v", batchErr, err, otherErr)
		}
		if batchErr == nil {
			if d := cmp.Diff(append(b.Events, o.Events...), batch.Events); d != "" {
				t.Errorf("a batch is another than its events alone (-alone +batch)\n%s", d)
			}
		}
	})
}

func FuzzCloudEventsBatch(f *testing.F) {
	for _, body := range []string{"", "[]", "[", "[[]]", " [ null ] ", "[" + envelope("") + "]", "[" + envelope(`,"data":[1,{"a":"]"}]`) + "," + envelope("") + "]", `["]"]`} {
		f.Add(body)
	}
	s := cloudEventsSource(f)
	f.Fuzz(func(t *testing.T, body string) {
		b, err := s.Receive(request(body, batchType))
		sound(t, b, err)
		if err != nil {
			return
		}
		var list []json.RawMessage
		if err := json.Unmarshal([]byte(body), &list); err != nil || len(list) != len(b.Events) {
			t.Errorf("%d events of %q, which has %d elements, error %v", len(b.Events), body, len(list), err)
		}
	})
}

// What headers say once they are encoded by the rules is what comes out, and
// what comes out of any headers is the same once encoded.
func FuzzCloudEventsBinary(f *testing.F) {
	for _, v := range []string{"", "Euro € 😀", "Euro%20%E2%82%AC", "%C0%A0", `"quoted \" \\"`, "100%", "a\x00b", "\xff", "\u0080"} {
		f.Add(v, "/s", "t.x", v, v, "application/json", []byte(`{}`))
	}
	f.Add("7", "", "a..b", "", "2018-04-05T17:31:00Z", "text/plain", []byte("{"))
	s := cloudEventsSource(f)
	f.Fuzz(func(t *testing.T, id, source, typ, ext, when, contentType string, body []byte) {
		send := func(encode func(string) string) (Batch, error) {
			h := http.Header{"Ce-Specversion": {"1.0"}, "Ce-Id": {encode(id)}, "Ce-Source": {encode(source)}, "Ce-Type": {encode(typ)},
				"Ce-Ext": {encode(ext)}, "Content-Type": {contentType}}
			if when != "" {
				h["Ce-Time"] = []string{encode(when)}
			}
			return s.Receive(&Request{Header: h, Body: body, Now: now})
		}
		if isCloudEvents(http.Header{"Content-Type": {contentType}}) {
			return // structured
		}
		raw, err := send(func(s string) string { return s })
		sound(t, raw, err)
		if err == nil {
			in := raw.Events[0]
			id, source, typ, ext, when = in.Event.ExternalID, in.Event.ExternalSource, in.Event.Type, in.Event.Extensions["ext"], ""
			if !in.Event.Time.IsZero() {
				when = in.Event.Time.Format(time.RFC3339Nano)
			}
		}
		encoded, encodedErr := send(encodeHeader)
		sound(t, encoded, encodedErr)
		if err == nil {
			if d := cmp.Diff(raw.Events, encoded.Events); encodedErr != nil || d != "" {
				t.Errorf("encoded it is another, error %v (-raw +encoded)\n%s", encodedErr, d)
			}
		}
		if encodedErr == nil {
			ev := encoded.Events[0].Event
			if got, want := []string{ev.ExternalID, ev.ExternalSource, ev.Type, ev.Extensions["ext"]}, []string{id, source, typ, ext}; !reflect.DeepEqual(got, want) {
				t.Errorf("attributes are %q, want %q", got, want)
			}
		}
	})
}

// Records are the same events in whatever form they come, and data are a part of
// the body, byte for byte.
func FuzzAuth0(f *testing.F) {
	for _, r := range []string{auth0Record("1", "s"), `{"log_id":"1","data":{"type":"f"}}`, `{"data":{"type":""}}`, `{"data":[]}`, `{}`, `{"logs":{}}`,
		`{"log_id":1,"data":{"type":"a b","hostname":"x/y","date":"never","user_id":"\u0000"}}`, "[]", "{", `{"data":{"type":"s"},"data":{"type":"fp"}}`} {
		f.Add(r)
	}
	s := compile(f, &posthornv1.Source{Kind: posthornv1.Source_AUTH0}, auth0Secret)
	f.Fuzz(func(t *testing.T, record string) {
		b, err := s.Receive(fromAuth0(record))
		sound(t, b, err)
		for _, in := range b.Events {
			if !strings.Contains(record, string(in.Event.Data)) || !strings.HasPrefix(in.Event.Type, auth0TypePrefix) {
				t.Errorf("event %+v is not of the body %q", in, record)
			}
		}
		if !rawjson.Valid([]byte(record)) || !strings.HasPrefix(record, "{") || rawjson.Begins(member([]byte(record), "logs"), '[') {
			return
		}
		for _, body := range []string{"[" + record + "," + record + "]", record + "\n" + record, record + record, `{"logs":[` + record + "," + record + "]}"} {
			two, twoErr := s.Receive(fromAuth0(body))
			if (twoErr == nil) != (err == nil) {
				t.Fatalf("%q: %v; the record alone: %v", body, twoErr, err)
			}
			if d := cmp.Diff(slices.Concat(b.Events, b.Events), two.Events); err == nil && d != "" {
				t.Errorf("%q is another than its records alone (-alone +together)\n%s", body, d)
			}
		}
	})
}

// A pointer is written as it was read, and leads where one that walks through
// decoded JSON gets to.
func FuzzJSONPointer(f *testing.F) {
	const doc = `{"a":{"b":[1,"x",{"":null}]},"a/b":"~","c~1":2,"a":{"b":[0,"\u0041"]},"1":1}`
	for _, p := range []string{"", "/", "/a/b/1", "/a~1b", "/c~01", "/a/b/01", "/a/b/-", "a", "/~", "/~2", "/1", "/a/b/1/0"} {
		f.Add(p, doc)
	}
	f.Add("/", `{"\ud800":1,"":[]}`)
	escape := strings.NewReplacer("~", "~0", "/", "~1")
	f.Fuzz(func(t *testing.T, pointer, doc string) {
		tokens, err := parsePointer(pointer)
		if err != nil {
			return
		}
		var again strings.Builder
		for _, token := range tokens {
			again.WriteString("/" + escape.Replace(token))
		}
		if again.String() != pointer {
			t.Errorf("%q is written again as %q", pointer, again.String())
		}
		found := resolve([]byte(doc), tokens)
		if !rawjson.Valid([]byte(doc)) {
			return // no panic is enough
		}
		want, ok := walk(decode(t, doc), tokens)
		switch {
		case !ok && found != nil:
			t.Errorf("%q leads to %s in %s, want nowhere", pointer, found, doc)
		case ok && found == nil:
			t.Errorf("%q leads nowhere in %s, want %v", pointer, doc, want)
		case ok:
			if got := decode(t, string(found)); !reflect.DeepEqual(got, want) {
				t.Errorf("%q leads to %v in %s, want %v", pointer, got, doc, want)
			}
		}
	})
}

func decode(t *testing.T, doc string) any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(doc))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%q: %v", doc, err)
	}
	return v
}

func walk(v any, tokens []string) (any, bool) {
	for _, token := range tokens {
		switch here := v.(type) {
		case map[string]any:
			next, ok := here[token]
			if !ok {
				return nil, false
			}
			v = next
		case []any:
			n, err := strconv.Atoi(token)
			if err != nil || n < 0 || n >= len(here) || strconv.Itoa(n) != token {
				return nil, false
			}
			v = here[n]
		default:
			return nil, false
		}
	}
	return v, true
}

// Whatever a provider signs becomes sound events or is refused, and is refused
// as soon as a byte of it is another.
func FuzzProviders(f *testing.F) {
	for _, body := range []string{"", "{}", slackVector, twilioVector, `{"type":"url_verification","challenge":"x"}`, "payload=%7B%22type%22:%22a%22%7D", "%zz",
		`{"id":"evt_1","type":"charge.succeeded","created":1e9,"data":{"object":{"id":"ch_1"}}}`, `{"type":"event_callback","event":{"type":"a"},"event_time":-99999999999}`,
		`{"MessageSid":"SM\u0000","type":1,"created":253402300800}`} {
		f.Add([]byte(body), "application/json", "orders/create")
		f.Add([]byte(body), "application/x-www-form-urlencoded", "Merge Request Hook")
	}
	f.Add([]byte("["+envelope("")+"]"), "application/cloudevents-batch+json", "\xff")
	sources := map[string]*Source{
		"stripe":   compile(f, &posthornv1.Source{Kind: posthornv1.Source_STRIPE, Type: "t"}, stripeSecret),
		"slack":    compile(f, &posthornv1.Source{Kind: posthornv1.Source_SLACK, Type: "t"}, slackSecret),
		"shopify":  compile(f, &posthornv1.Source{Kind: posthornv1.Source_SHOPIFY}, "hush"),
		"standard": compile(f, &posthornv1.Source{Kind: posthornv1.Source_STANDARD_WEBHOOKS, Type: "t"}, standardSecret),
		"gitlab":   compile(f, &posthornv1.Source{Kind: posthornv1.Source_GITLAB}, standardSecret),
		"twilio":   compile(f, &posthornv1.Source{Kind: posthornv1.Source_TWILIO, Type: "t"}, twilioToken),
	}
	f.Fuzz(func(t *testing.T, body []byte, contentType, name string) {
		headers := []string{"Content-Type: " + contentType, "X-Shopify-Topic: " + name, "X-Gitlab-Event: " + name}
		standard := fromStandard(t, standardSecret, "webhook", string(body), headers...)
		requests := map[string]*Request{
			"stripe": fromStripe(string(body), headers...), "slack": fromSlack(string(body), headers...), "shopify": fromShopify(string(body), headers...),
			"standard": standard, "gitlab": standard, "twilio": fromTwilioJSON(string(body), headers...),
		}
		for provider, r := range requests {
			b, err := sources[provider].Receive(r)
			sound(t, b, err)
			// Of a form Twilio signs the fields, so this is no form of its.
			if errs.KindOf(err) == errs.Unauthenticated && err != nil && (provider != "twilio" || !isForm(r.Header)) {
				t.Errorf("%s: what is signed is refused: %v", provider, err)
			}
			changed := *r
			changed.Body = append(bytes.Clone(body), 'x')
			if provider == "twilio" && isForm(r.Header) {
				continue
			}
			if _, err := sources[provider].Receive(&changed); errs.KindOf(err) != errs.Unauthenticated {
				t.Errorf("%s: with another body the error is %v, want one that it is not verified", provider, err)
			}
		}
		if b, err := sources["twilio"].Receive(fromTwilioForm(body)); err == nil {
			sound(t, b, err)
		}
	})
}

// fromTwilioForm signs what can be read of a form.
func fromTwilioForm(body []byte) *Request {
	r := request(string(body), formType).called(twilioURL)
	values, err := url.ParseQuery(string(body))
	if err == nil {
		r.Header.Set(signature.HeaderTwilio, signTwilio(twilioURL, values))
	}
	return r
}
