package api_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// Data that changes when a JSON library has read and written it.
var touchy = []struct{ name, data string }{
	{"a number beyond 2^53", `9007199254740993`},
	{"a trailing zero", `{"total":1.10}`},
	{"order of keys", `{"z":1,"a":2,"m":3}`},
	{"an exponent", `1E+2`},
	{"white space", "{ \"a\" :\n\t[ 1 , 2 ] }"},
	{"escapes", `"\u00e9\/\ud83d\ude00 <&>"`},
	{"the same key twice", `{"a":1,"a":2}`},
	{"null", `null`},
	{"brackets and quotes in strings", `{"a":"}]\"{[","b":[{"c":"\\"}]}`},
	{"an empty object", `{}`},
}

func TestPublishedDataIsTheBytesThatCame(t *testing.T) {
	t.Parallel()
	eachWay(t, testPublishedData)
}

func testPublishedData(t *testing.T, r *rig) {
	for _, tt := range touchy {
		t.Run(tt.name, func(t *testing.T) {
			before := len(r.broker.got)
			r.do("POST", "/api/v1/events", `{"type":"order.created","data":`+tt.data+`,"source":"shop"}`).
				is(http.StatusAccepted).has("id", fmt.Sprintf("ev_%d", before+1)).has("duplicate", false)
			r.do("POST", "/api/v1/events:batch", ` { "events" : [{"type":"a","data" : `+tt.data+` }, {"data":`+tt.data+`,"type":"b"}] } `).
				is(http.StatusAccepted).has("results.1.id", fmt.Sprintf("ev_%d", before+3))
			for i, e := range r.broker.got[before:] {
				if got := string(e.GetData()); got != tt.data {
					t.Errorf("event %d has data %s, want %s", i, got, tt.data)
				}
			}
		})
	}
}

func TestReadDataIsTheBytesThatCame(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.world.events = make(map[string]*event.Event)
	for i, tt := range touchy {
		id := fmt.Sprintf("ev_%d", i)
		r.world.events[id] = &event.Event{ID: id, Type: "order.created", Data: []byte(tt.data)}
		r.do("GET", "/api/v1/events/"+id, "").is(http.StatusOK).
			contains(`,"data":`+tt.data+"}\n").has("id", id).has("type", "order.created").lacks("dataBase64")
	}
	for _, e := range []*event.Event{
		{ID: "ev_text", DataContentType: "text/plain", Data: []byte("1")},
		{ID: "ev_broken", Data: []byte("{not JSON")},
		{ID: "ev_binary", DataContentType: "application/octet-stream", Data: []byte{0, 255}},
	} {
		r.world.events[e.ID] = e
		r.do("GET", "/api/v1/events/"+e.ID, "").is(http.StatusOK).
			has("dataBase64", base64.StdEncoding.EncodeToString(e.Data)).lacks(`"data":`)
	}
	r.world.events["ev_none"] = &event.Event{ID: "ev_none"}
	r.do("GET", "/api/v1/events/ev_none", "").is(http.StatusOK).lacks(`"data":`).lacks("dataBase64")
	r.do("GET", "/api/v1/events/ev_missing", "").problem(http.StatusNotFound, "")
}

func TestPublishCarriesEveryField(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	r.do("POST", "/api/v1/events", `{"type":"order.created","tenant":"acme","source":"shop","context":"testing","subject":"42",
		"time":"2026-01-02T03:04:05.6Z","dataContentType":"text/csv","dataBase64":"YSxi","idempotencyKey":"again",
		"extensions":{"region":"eu\u002d1"},"dataSchema":"https://example.com/s"}`, "Traceparent: "+trace).
		is(http.StatusAccepted).has("duplicate", true)
	got := r.broker.got[0]
	have := []string{
		got.GetType(), got.GetTenant(), got.GetSource(), got.GetContext(), got.GetSubject(), got.GetTime().AsTime().Format("15:04:05.0"),
		got.GetDataContentType(), string(got.GetData()), r.broker.keys[0], got.GetExtensions()["region"], got.GetDataSchema(),
		got.GetDirection().String(), got.GetTraceparent(),
	}
	want := []string{"order.created", "acme", "shop", "testing", "42", "03:04:05.6", "text/csv", "a,b", "again", "eu-1", "https://example.com/s", "OUTGOING", trace}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("the broker's event differs (-want +got):\n%s", diff)
	}

	r.do("POST", "/api/v1/events", `{"type":"t","dataContentType":"text/plain","data":"a\nb"}`, "Idempotency-Key: of-the-header").is(http.StatusAccepted)
	if got := string(r.broker.got[1].GetData()); got != "a\nb" || r.broker.keys[1] != "of-the-header" {
		t.Errorf("text is %q under key %q, want %q under %q", got, r.broker.keys[1], "a\nb", "of-the-header")
	}
}

func TestWrongPublishesAreRefused(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, body, field string
		status            int
	}{
		{"an unknown field", `{"type":"t","data":1,"colour":"red"}`, "colour", 400},
		{"another spelling", `{"Type":"t"}`, "Type", 400},
		{"a field that is there twice", `{"type":"t","data":1,"data":2}`, "data", 400},
		{"data in both forms", `{"type":"t","data":1,"dataBase64":"MQ=="}`, "dataBase64", 400},
		{"what is not base64", `{"type":"t","dataBase64":"?"}`, "dataBase64", 400},
		{"an object as text", `{"type":"t","dataContentType":"text/plain","data":{}}`, "data", 400},
		{"no type", `{"data":1}`, "type", 400},
		{"a type that is no string", `{"type":1}`, "type", 400},
		{"a time that is none", `{"type":"t","time":"yesterday"}`, "time", 400},
		{"an extension that is no string", `{"type":"t","extensions":{"n":1}}`, "extensions.n", 400},
		{"extensions that are no object", `{"type":"t","extensions":[]}`, "extensions", 400},
		{"what is no JSON", `{"type":"t","data":01}`, "", 400},
		{"what follows the value", `{"type":"t"}{}`, "", 400},
		{"a list", `[]`, "", 400},
		{"nothing", ``, "", 400},
		{"too much data", `{"type":"t","data":"` + strings.Repeat("x", 1<<20) + `"}`, "", 413},
		{"a body beyond all", `{"type":"t","data":"` + strings.Repeat("x", 2<<20) + `"}`, "", 413},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.do("POST", "/api/v1/events", tt.body).problem(tt.status, tt.field)
			if len(r.broker.got) > 0 {
				t.Error("the broker was asked all the same")
			}
			if tt.field != "" && tt.field != "type" {
				r.do("POST", "/api/v1/events:batch", `{"events":[{"type":"fine"},`+tt.body+`]}`).problem(tt.status, "events[1]."+tt.field)
			}
		})
	}
}

func TestABatchIsAnsweredEventByEvent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.do("POST", "/api/v1/events:batch", `{"events":[{"type":"a","idempotencyKey":"k"},{"data":1},{"type":"c"}]}`).is(http.StatusAccepted)
	a.has("results.0.id", "ev_1").has("results.1.error.code", 3).has("results.1.error.violations.0.field", "type").has("results.1.id", nil).has("results.2.id", "ev_2")
	if got := r.broker.keys[0]; got != "k" {
		t.Errorf("idempotency key %q, want k", got)
	}
	r.do("POST", "/api/v1/events:batch", `{"events":[]}`).problem(http.StatusBadRequest, "events")
	r.do("POST", "/api/v1/events:batch", `{"events":{}}`).problem(http.StatusBadRequest, "events")
	r.do("POST", "/api/v1/events:batch", `{"evnts":[]}`).problem(http.StatusBadRequest, "evnts")
	r.do("POST", "/api/v1/events:batch", `{"events":[`+strings.Repeat(`{"type":"t"},`, 1000)+`{"type":"t"}]}`).problem(http.StatusBadRequest, "events")
}

func TestErrorsOfTheBrokerKeepTheirKind(t *testing.T) {
	t.Parallel()
	tests := []struct {
		kind       errs.Kind
		status     int
		retryAfter string
	}{
		{errs.Internal, 500, ""},
		{errs.Invalid, 400, ""},
		{errs.Denied, 403, ""},
		{errs.NotFound, 404, ""},
		{errs.Conflict, 409, ""},
		{errs.Stale, 412, ""},
		{errs.TooLarge, 413, ""},
		{errs.Throttled, 429, "1"},
		{errs.Full, 503, "1"},
		{errs.Unavailable, 503, "1"},
	}
	for _, tt := range tests {
		t.Run(tt.kind.String(), func(t *testing.T) {
			t.Parallel()
			eachWay(t, func(t *testing.T, r *rig) {
				r.broker.err = errs.Wrap(fmt.Errorf("nats: secret cause"), tt.kind, "what a client may know").Because("why")
				a := r.do("POST", "/api/v1/events", `{"type":"t"}`).problem(tt.status, "").lacks("secret cause").has("type", "urn:posthorn:problem:why")
				if got := a.header.Get("Retry-After"); got != tt.retryAfter {
					t.Errorf("Retry-After %q, want %q", got, tt.retryAfter)
				}
			})
		})
	}
}

func TestSchemasPassAsTheyCame(t *testing.T) {
	t.Parallel()
	const schema = `{ "$schema":"https://json-schema.org/draft/2020-12/schema", "maximum": 1.10, "z":1,"a":2 }`
	tests := []struct{ name, path, eventType, body string }{
		{"the schema itself", "order.created", "order.created", schema},
		{"wrapped", "order.created", "order.created", `{"schema":` + schema + `}`},
		{"a type with slashes", "community.certes.dev/github/1/push", "community.certes.dev/github/1/push", schema},
		{"a type with escaped slashes", "community.certes.dev%2Fgithub%2F1%2Fpush", "community.certes.dev/github/1/push", schema},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			path := "/api/v1/schemas/" + tt.path
			r.do("GET", path, "").problem(http.StatusNotFound, "")
			r.do("PUT", path+"?dryRun=true", tt.body).is(http.StatusOK).contains(`"definition":`+schema).has("schema.version", 1)
			got := r.schemas.stored
			if got.GetDefinition() != schema || got.GetType() != tt.eventType || !got.GetDryRun() {
				t.Errorf("the registry got %v, want type %s, definition %s and a dry run", got, tt.eventType, schema)
			}
			r.do("GET", path+"?version=1", "").is(http.StatusOK).contains(`"definition":`+schema).has("versions.0", 1)
			if got := r.schemas.got; got.GetType() != tt.eventType || got.GetVersion() != 1 {
				t.Errorf("the registry was asked for %v, want %s in version 1", got, tt.eventType)
			}
			r.do("GET", "/api/v1/schemas?prefix=order&limit=7", "").is(http.StatusOK).contains(`"definition":`+schema).has("items.0.type", tt.eventType)
			if got := r.schemas.listed; got.GetPrefix() != "order" || got.GetLimit() != 7 {
				t.Errorf("the registry was asked to list %v, want prefix order and limit 7", got)
			}
		})
	}
	r := newRig(t)
	r.do("PUT", "/api/v1/schemas/t", `{"type":`).problem(http.StatusBadRequest, "")
	r.do("PUT", "/api/v1/schemas/t?dryRun=perhaps", `{}`).problem(http.StatusBadRequest, "dryRun")
	r.do("GET", "/api/v1/schemas/t?version=x", "").problem(http.StatusBadRequest, "version")
	// A schema that has a property of that name is not wrapped.
	r.do("PUT", "/api/v1/schemas/t", `{"schema":{},"type":"object"}`).is(http.StatusOK)
	if got := r.schemas.stored.GetDefinition(); got != `{"schema":{},"type":"object"}` {
		t.Errorf("stored %s, want the whole body", got)
	}
}

func TestDataIsValidatedAsItCame(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.do("POST", "/api/v1/schemas:validate", `{"type":"order.created","version":2,"data":{"total": 1.10}}`).
		is(http.StatusOK).has("valid", false).has("violations.0.field", "/total")
	if got := r.schemas.validated; string(got.GetData()) != `{"total": 1.10}` || got.GetVersion() != 2 || got.GetType() != "order.created" {
		t.Errorf("the registry got %v", got)
	}
	r.do("POST", "/api/v1/schemas:validate", `{"type":"t","dta":1}`).problem(http.StatusBadRequest, "dta")
	r.do("POST", "/api/v1/schemas:validate", `{"type":"t","version":"new"}`).problem(http.StatusBadRequest, "version")
}

func TestProtobufSchemasOverREST(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const text = "syntax = \"proto3\";\nmessage Order { string id = 1; }\n"
	quoted, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	const path = "/api/v1/schemas/shop.example/1/order"
	r.do("PUT", path, `{"kind":"PROTOBUF","definition":`+string(quoted)+`,"message":"Order"}`).is(200).has("schema.kind", "PROTOBUF").has("schema.message", "Order")
	want := &posthornv1.StoreSchemaRequest{Type: "shop.example/1/order", Kind: posthornv1.Schema_PROTOBUF, Definition: text, Message: "Order"}
	if diff := cmp.Diff(want, r.schemas.stored, protocmp.Transform()); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
	r.do("GET", path, "").is(200).has("schema.definition", text)
	r.do("PUT", path, `{"kind":"PROTOBUF","descriptorSet":"CgFh"}`).is(200)
	if got := string(r.schemas.stored.GetDescriptorSet()); got != "\n\x01a" {
		t.Errorf("the descriptor set is %q, want its bytes", got)
	}
	r.do("PUT", path, `{"kind":"JSON_SCHEMA","definition":{"type":"object"}}`).is(200)
	if got := r.schemas.stored; got.GetDefinition() != `{"type":"object"}` || got.GetKind() != posthornv1.Schema_JSON_SCHEMA {
		t.Errorf("stored %v, want the JSON Schema as it came", got)
	}
	r.do("PUT", path, `{"kind":"AVRO","definition":"x"}`).problem(400, "kind")
	r.do("PUT", path, `{"kind":"PROTOBUF","descriptorSet":"!"}`).problem(400, "descriptorSet")
	r.do("PUT", path, `{"kind":"PROTOBUF","definition":7}`).problem(400, "definition")
	r.do("PUT", path, `{"kind":"PROTOBUF","massage":"Order"}`).problem(400, "massage")
}

// Without a content type data is JSON, so what is not must not go without one.
func TestDataThatIsNoJSONIsNotCalledSo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, tt := range []struct{ event, want string }{
		{`{"type":"a","dataBase64":"aGVsbG8="}`, "application/octet-stream"},
		{`{"type":"a","dataBase64":"aGVsbG8=","dataContentType":"text/plain"}`, "text/plain"},
		{`{"type":"a","dataBase64":"eyJhIjoxfQ=="}`, ""},
		{`{"type":"a","data":{"a":1}}`, ""},
		{`{"type":"a"}`, ""},
	} {
		r.do("POST", "/api/v1/events", tt.event).is(202)
		r.do("POST", "/api/v1/events:batch", `{"events":[`+tt.event+`]}`).is(202)
		for _, got := range r.broker.got[len(r.broker.got)-2:] {
			if got.GetDataContentType() != tt.want {
				t.Errorf("%s is of content type %q, want %q", tt.event, got.GetDataContentType(), tt.want)
			}
		}
	}
}
