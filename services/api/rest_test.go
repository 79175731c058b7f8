package api_test

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/services/api"
)

func TestUnknownPathsAndMethodsAreProblems(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, path := range []string{"/api", "/api/", "/api/v1", "/api/v1/none", "/api/v1/sources/", "/api/v1/sources/a/b", "/api/v1/events/x/none", "/api/v1/events:none", "/api/v2/sources"} {
		r.do("GET", path, "").problem(http.StatusNotFound, "")
	}
	tests := []struct{ method, path, allow string }{
		{"DELETE", "/api/v1/sources", "GET, POST"},
		{"POST", "/api/v1/sources/github", "DELETE, GET, PUT"},
		{"PUT", "/api/v1/events", "GET, POST"},
		{"GET", "/api/v1/events:batch", "POST"},
		{"POST", "/api/v1/whoami", "GET"},
		{"DELETE", "/api/v1/schemas/a/b", "GET, PUT"},
		{"POST", "/api/openapi.json", "GET, HEAD"},
	}
	for _, tt := range tests {
		if got := r.do(tt.method, tt.path, "{}").problem(http.StatusMethodNotAllowed, "").header.Get("Allow"); got != tt.allow {
			t.Errorf("%s %s: Allow %q, want %q", tt.method, tt.path, got, tt.allow)
		}
	}
}

func TestEverythingButTheDocumentWantsAKey(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	tests := []struct {
		name   string
		header []string
		want   int
	}{
		{"none", nil, 401},
		{"the key as bearer", []string{"Authorization: Bearer " + r.key}, 200},
		{"the key as JWT", []string{"Authorization: JWT " + r.key}, 200},
		{"the scheme in another case", []string{"Authorization: bearer " + r.key}, 200},
		{"another key", []string{"Authorization: Bearer " + r.key + "x"}, 401},
		{"an empty key", []string{"Authorization: Bearer "}, 401},
		{"another scheme", []string{"Authorization: Basic " + r.key}, 401},
		{"the key alone", []string{"Authorization: " + r.key}, 401},
		{"two keys", []string{"Authorization: Bearer " + r.key, "Authorization: Bearer x"}, 401},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := r.send("GET", "/api/v1/whoami", "", tt.header...).is(tt.want)
			if tt.want == 200 {
				a.has("name", "admin").has("roles.0", "admin")
				return
			}
			if got := a.problem(401, "").contains("Authorization: Bearer").header.Get("WWW-Authenticate"); !strings.HasPrefix(got, "Bearer") {
				t.Errorf("WWW-Authenticate %q, want Bearer", got)
			}
		})
	}
	for _, path := range []string{"/api/v1/events", "/api/v1/events:batch", "/api/v1/schemas:validate", "/api/v1/sources", "/api/v1/none"} {
		r.send("POST", path, "{not even JSON").problem(401, "")
	}
	if len(r.broker.got) > 0 {
		t.Error("the broker was asked without a key")
	}
	r.send("GET", "/api/openapi.json", "").is(200)
}

// The other side of the connection asks for the key itself, so that nobody gets
// around it by speaking gRPC.
func TestWithoutAnAuthenticatorTheServersAskForTheKey(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var err error
	if r.handler, err = api.NewHandler(t.Context(), r.local, nil, slog.New(slog.DiscardHandler), api.RESTConfig{}); err != nil {
		t.Fatal(err)
	}
	r.send("GET", "/api/v1/whoami", "").problem(401, "")
	r.send("POST", "/api/v1/events", `{"type":"t"}`).problem(401, "")
	r.send("POST", "/api/v1/events", `{"type":"t"}`, "Authorization: Bearer wrong-wrong-wrong").problem(401, "")
	r.do("POST", "/api/v1/events", `{"type":"t"}`).is(202)
	r.do("GET", "/api/v1/whoami", "").is(200).has("name", "admin")
}

// rules are the methods of rest.yaml, as "GET /api/v1/…".
func rules(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "proto", "posthorn", "v1", "rest.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		HTTP struct {
			Rules []map[string]string `yaml:"rules"`
		} `yaml:"http"`
	}
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, rule := range doc.HTTP.Rules {
		for _, method := range []string{"get", "put", "post", "delete"} {
			if path := rule[method]; path != "" {
				all = append(all, strings.ToUpper(method)+" "+path)
			}
		}
	}
	if len(all) < 20 {
		t.Fatalf("read %d rules of rest.yaml, want at least 20", len(all))
	}
	return all
}

func TestTheDocumentHasEveryRouteAndEveryRouteAnswers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.world.events = map[string]*event.Event{"thing": {ID: "thing"}}
	r.world.trace = &api.Trace{ID: "thing"}
	doc := r.send("GET", "/api/openapi.json", "").is(200)
	var paths struct {
		Paths map[string]map[string]any
	}
	if err := json.Unmarshal([]byte(doc.body), &paths); err != nil {
		t.Fatal(err)
	}
	pattern := regexp.MustCompile(`=\*\*|\w+\.`)
	for _, rule := range rules(t) {
		method, path, _ := strings.Cut(rule, " ")
		inDoc := regexp.MustCompile(`\{[^}]*\}`).ReplaceAllStringFunc(path, func(p string) string { return pattern.ReplaceAllString(p, "") })
		if paths.Paths[inDoc][strings.ToLower(method)] == nil {
			t.Errorf("%s %s is not in the document", method, inDoc)
		}
		concrete := regexp.MustCompile(`\{[^}]*\}`).ReplaceAllString(path, "thing")
		a := r.do(method, concrete, "{}")
		if a.status >= 500 || a.status == 405 || a.status == 404 && strings.Contains(a.body, "openapi.json") {
			t.Errorf("%s answers %d: %s", rule, a.status, a.body)
		}
	}
}

func TestTheDocumentSaysWhatProtobufCannot(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	doc := r.send("GET", "/api/openapi.json", "").is(200)
	doc.has("info.title", "Posthorn Master API").has("securityDefinitions.bearer.in", "header")
	for _, def := range []string{"v1PublishEventRequest", "v1Event", "v1ValidateEventForSchemaRequest"} {
		doc.has("definitions."+def+".properties.data.type", nil).has("definitions."+def+".properties.dataBase64.format", "byte")
	}
	doc.has("definitions.Problem.type", "object").lacks("rpcStatus").lacks("{policy.name}").lacks("EventBroker")
	doc.contains(`"202":`).contains(`"201":`).contains(`"204":`).contains(`"If-Match"`).contains(`"dryRun"`)
	// Whoever generates a client must find every definition that is referred to.
	for _, ref := range regexp.MustCompile(`#/definitions/(\w+)`).FindAllStringSubmatch(doc.body, -1) {
		if doc.field("definitions."+ref[1]) == nil {
			t.Errorf("definition %s is referred to and not there", ref[1])
		}
	}
}

func TestListsOfEventsAndDeadLetters(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r.world.summaries = []api.EventSummary{{ID: "ev_1", Type: "order.created", Direction: event.Incoming, Received: at, Sequence: 9007199254740993, Status: "delivered"}}
	r.do("GET", "/api/v1/events?type=order.*&source=shop&status=failed&from=2026-01-01T00:00:00Z&to=2026-02-01T00:00:00Z&limit=7&cursor=c&direction=INCOMING&tenant=acme&context=testing", "").
		is(200).has("items.0.id", "ev_1").has("items.0.direction", "INCOMING").has("items.0.sequence", "9007199254740993").has("nextCursor", "next")
	want := api.EventQuery{
		Type: "order.*", Source: "shop", Status: "failed", Context: "testing", Tenant: "acme", Direction: new(event.Incoming),
		From: at.AddDate(0, 0, -1).Truncate(24 * time.Hour), To: time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC), Limit: 7, Cursor: "c",
	}
	if diff := cmp.Diff(want, r.world.asked); diff != "" {
		t.Errorf("query differs (-want +got):\n%s", diff)
	}

	r.world.deadLetters = []event.DeadLetter{{ID: "17", Event: "ev_1", Subscription: "erp", Reason: "exhausted", Status: 503, At: at}}
	r.do("GET", "/api/v1/deadletters?status=5xx&subscription=erp&eventId=ev_1", "").is(200).
		has("items.0.id", "17").has("items.0.eventId", "ev_1").has("items.0.status", 503).has("nextCursor", "")
	wantDead := api.DeadLetterQuery{Subscription: "erp", Event: "ev_1", Status: "5xx", Limit: api.DefaultLimit}
	if diff := cmp.Diff(wantDead, r.world.asked); diff != "" {
		t.Errorf("query differs (-want +got):\n%s", diff)
	}
	r.world.deadLetters = nil
	r.do("GET", "/api/v1/deadletters", "").is(200).has("items", []any{})

	r.do("POST", "/api/v1/deadletters:retry", `{"ids":["17","404"]}`).is(200).
		has("retried", 1).has("results.0.round", 2).has("results.1.error.code", 5)
	r.do("POST", "/api/v1/deadletters:retry", `{}`).problem(400, "ids")
	r.do("POST", "/api/v1/deadletters:retry", `{"ids":["1"],"status":"5xx"}`).problem(400, "ids")
	r.do("POST", "/api/v1/deadletters:retry", `{"status":"6xx"}`).problem(400, "status")
	r.do("DELETE", "/api/v1/deadletters", "").problem(400, "ids")
	r.do("POST", "/api/v1/events/ev_1:replay", "").is(200).has("deliveries", 3)
	if r.world.asked != "ev_1" {
		t.Errorf("replayed %v, want ev_1", r.world.asked)
	}

	r.world.rejections = []event.Rejection{{ID: "3", Source: "github", Status: 401, Reason: "signature", At: at, Violations: []event.Violation{{Field: "f", Description: "d"}}}}
	r.do("GET", "/api/v1/rejections?source=github", "").is(200).has("items.0.reason", "signature").has("items.0.violations.0.field", "f")

	r.world.trace = &api.Trace{ID: "ev_1", Status: "retrying", Entries: []api.TraceEntry{
		{At: at, Step: "attempt", Subscription: "erp", Round: 1, Attempt: &event.Attempt{Number: 2, Outcome: event.Retry, Response: "\xff"}},
	}}
	r.do("GET", "/api/v1/events/ev_1/trace", "").is(200).has("entries.0.attempt.outcome", "retry").has("entries.0.attempt.response", "\uFFFD")

	for path, field := range map[string]string{
		"/api/v1/events?status=none":                                              "status",
		"/api/v1/events?direction=sideways":                                       "direction",
		"/api/v1/events?type=a..b":                                                "type",
		"/api/v1/events?limit=0x":                                                 "limit",
		"/api/v1/events?from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z":        "to",
		"/api/v1/events?from=yesterday":                                           "from",
		"/api/v1/deadletters?status=9xx":                                          "status",
		"/api/v1/deadletters?subscription=A":                                      "subscription",
		"/api/v1/rejections?source=A.b":                                           "source",
		"/api/v1/rejections?from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z":    "to",
		"/api/v1/deadletters?from=2026-02-01T00:00:00Z&to=2026-01-01T00%3A00:00Z": "to",
	} {
		r.do("GET", path, "").problem(400, field)
	}
}

func TestDeadLettersAreRetriedAndDeletedByFilter(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.world.deadLetters = []event.DeadLetter{{ID: "17"}, {ID: "404"}, {ID: "18"}}
	r.do("POST", "/api/v1/deadletters:retry", `{"subscription":"erp","status":"5xx","eventId":"ev_1","context":"testing"}`).is(200).
		has("retried", 2).has("results.0.id", "18").has("results.1.error.code", 5)
	if diff := cmp.Diff([]string{"18", "404", "17"}, r.world.asked); diff != "" {
		t.Errorf("retried (-want +got):\n%s", diff)
	}
	r.do("POST", "/api/v1/deadletters:retry", `{"all":true,"dryRun":true}`).is(200).has("retried", 3).has("results", []any{})
	if _, listed := r.world.asked.(api.DeadLetterQuery); !listed {
		t.Errorf("a dry run ended with %v, want a list", r.world.asked)
	}
	r.do("DELETE", "/api/v1/deadletters?subscription=erp&dryRun=true", "").is(200).has("deleted", 3)
	if len(r.world.removed) != 0 {
		t.Errorf("a dry run removed %v", r.world.removed)
	}
	r.do("DELETE", "/api/v1/deadletters?subscription=erp", "").is(200).has("deleted", 2)
	r.do("DELETE", "/api/v1/deadletters?ids=19&ids=20", "").is(200).has("deleted", 2)
	r.do("DELETE", "/api/v1/deadletters/21", "").is(204)
	r.do("DELETE", "/api/v1/deadletters/404", "").problem(404, "")
	if diff := cmp.Diff([]string{"17", "18", "19", "20", "21", "404", "404"}, slices.Sorted(slices.Values(r.world.removed))); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
}

func TestABodyThatCameTooSlowlyIsToldSo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, path := range []string{"/api/v1/events", "/api/v1/sources", "/api/v1/signin"} {
		late := io.MultiReader(strings.NewReader("{"), iotest.ErrReader(os.ErrDeadlineExceeded))
		req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, late)
		req.Header.Set("Authorization", "Bearer "+r.key)
		w := httptest.NewRecorder()
		r.handler.ServeHTTP(w, req)
		a := answer{t: t, what: "POST " + path, status: w.Code, header: w.Header(), body: w.Body.String()}
		a.problem(http.StatusRequestTimeout, "").has("type", "urn:posthorn:problem:too-slow")
		if got := w.Header().Get("Connection"); got != "close" {
			t.Errorf("%s: header Connection is %q, want close", path, got)
		}
	}
}

func TestAnErrorNamesTheWholePathOfItsField(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, tt := range []struct{ path, body, field string }{
		{"policies/p", `{"delivery":{"backoff":{"strategy":"SLOW"}}}`, "delivery.backoff.strategy"},
		{"policies/p", `{"delivery":{"timeout":"soon"}}`, "delivery.timeout"},
		{"policies/p", `{"delivery":{"maxRetries":"many"}}`, "delivery.maxRetries"},
		{"policies/p", `{"delivery":{"retries":5}}`, "delivery.retries"},
		{"policies/p", `{"delivery":[]}`, "delivery"},
		{"policies/p", `{"delivery":{"retryOn":["5xx",429]}}`, "delivery.retryOn[1]"},
		{"policies/p", `{"security":{"flow":[{"jwt":{}},{"ipFilter":{"mode":"MAYBE"}}]}}`, "security.flow[1].ipFilter.mode"},
		{"policies/p", "{\"description\":\"\u00fc\u00fc\",\n \"delivery\": {\"backoff\":\n\t{\"jitter\":\"x\"}}}", "delivery.backoff.jitter"},
		{"sources/s", `{"kind":"GENERIC","contexts":["testing"]}`, "contexts[0]"},
		{"sources/s", `{"kind":"FAX"}`, "kind"},
		{"sources/s", `{"kind":"GENERIC","contexts":[{"context":"a"},{"context":{}}]}`, "contexts[1].context"},
		{"sources/s", `{"nosuch":1}`, "nosuch"},
		{"subscriptions/s", `{"types":["a"],"destination":{"webhook":{"headers":{"a":1}}}}`, "destination.webhook.headers.a"},
		{"settings", `{"flags":{"x":"yes"}}`, "flags.x"},
	} {
		r.do("PUT", "/api/v1/"+tt.path, tt.body).problem(400, tt.field).lacks("(line ").lacks("proto:")
	}
}

func TestIfNoneMatchReplacesNothing(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, r *rig) {
		for path, body := range map[string]string{
			"/api/v1/sources/s": `{"kind":"GENERIC"}`, "/api/v1/policies/p": `{}`, "/api/v1/users/ann": `{"roles":["events:read"],"password":"correct horse"}`,
		} {
			etag := r.do("PUT", path, body, "If-None-Match: *").is(200).header.Get("ETag")
			r.do("PUT", path, body, "If-None-Match: *").problem(412, "")
			r.do("PUT", path, body, "If-None-Match: "+etag).problem(412, "")
			if got := r.do("GET", path, "").is(200).header.Get("ETag"); got != etag {
				t.Errorf("%s has etag %s after it, want %s as before", path, got, etag)
			}
			r.do("PUT", path, body, `If-None-Match: "1000000"`).is(200)
		}
		// What is built in is there.
		r.do("PUT", "/api/v1/policies/default", `{}`, "If-None-Match: *").problem(412, "")
		r.do("PUT", "/api/v1/settings", `{}`, "If-None-Match: *").problem(412, "")
	})
}
