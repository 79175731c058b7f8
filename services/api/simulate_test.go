package api_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/interceptor"
	"github.com/posthornhq/posthorn/pkg/recording"
)

const guarded = `{"security":{"flow":[
	{"ipFilter":{"mode":"ALLOW","addresses":["192.0.2.0/24"]}},
	{"id":"key","headerValue":{"name":"X-Key","value":"hush-value"}},
	{"id":"sig","hmac":{"header":"X-Sig","secret":"hush-secret"}},
	{"disabled":true,"jwt":{}}]}}`

func TestValuesOfInterceptorsAreWriteOnlyAndStay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const path = "/api/v1/policies/guarded"
	r.do("PUT", path, guarded).is(200).lacks("hush").has("secretCount", 2).has("security.flow.0.id", "ip-filter-1").has("security.flow.3.id", "jwt-1")
	r.do("GET", path, "").is(200).lacks("hush")
	if e, err := r.kv["config"].Get(t.Context(), "policies.guarded"); err != nil || strings.Contains(string(e.Value()), "hush") {
		t.Errorf("bucket config has %s (error %v), want no value in it", e.Value(), err)
	}
	// Moved, and without their values.
	again := `{"security":{"flow":[{"id":"sig","hmac":{"header":"X-Sig"}},{"id":"key","headerValue":{"name":"X-Key"}}]}}`
	r.do("PUT", path, again).is(200).has("secretCount", 2)
	r.do("POST", path+":simulate", `{"request":{"headers":{"X-Key":"hush-value"}}}`).is(200).lacks("hush").
		has("allowed", false).has("status", 401).has("verdicts.0.outcome", "refused").has("verdicts.0.id", "sig").has("verdicts.1.outcome", "")
	r.do("PUT", path, `{"security":{"flow":[{"id":"other","headerValue":{"name":"X-Key"}}]}}`).problem(400, "security.flow[0].headerValue.value")
	r.do("PUT", path, `{"security":{"flow":[{"ipFilter":{"mode":"ALLOW","addresses":["x"]}}]}}`).problem(400, "security.flow[0].ipFilter.addresses[0]")
}

func TestSimulate(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const path = "/api/v1/policies/guarded:simulate"
	r.do("POST", path, `{"request":{}}`).problem(404, "")
	r.do("PUT", "/api/v1/policies/guarded", strings.Replace(guarded, `{"security"`, `{"delivery":{"maxRetries":2,"backoff":{"initial":"2s"}},"security"`, 1)).is(200)
	body := `{"id":1}`
	request := func(address string) string {
		return `{"request":{"method":"POST","path":"/events/x?a=b","headers":{"x-key":"hush-value","x-sig":"` + signed("hush-secret", body) +
			`"},"body":"` + base64.StdEncoding.EncodeToString([]byte(body)) + `","remoteAddress":"` + address + `"}}`
	}
	r.do("POST", path, request("192.0.2.7")).is(200).has("allowed", true).has("status", 0).
		has("verdicts.0.outcome", "ok").has("verdicts.2.kind", "hmac").has("verdicts.3.outcome", "skipped").
		has("schedule.0", "2s").has("schedule.1", "4s").has("schedule.2", nil)
	r.do("POST", path, request("198.51.100.7")).is(200).has("allowed", false).has("status", 403).has("verdicts.0.outcome", "refused")
	r.do("POST", path, request("nowhere")).problem(400, "request.remoteAddress")
	// A draft keeps what is stored, and is not stored itself.
	draft := strings.TrimSuffix(request("198.51.100.7"), "}") + `,"draft":{"security":{"flow":[{"id":"key","headerValue":{"name":"X-Key"}}]}}}`
	r.do("POST", path, draft).is(200).has("allowed", true).has("verdicts.1", nil)
	r.do("GET", "/api/v1/policies/guarded", "").has("security.flow.1.id", "key")
	r.do("POST", path, `{"draft":{"security":{"flow":[{"hmac":{"tolerance":"1s"}}]}}}`).problem(400, "security.flow[0].hmac.tolerance")
	// The source's secrets are there for it, and its context's authorization.
	r.do("PUT", "/api/v1/sources/signed", `{"kind":"HMAC","context":"testing","type":"a","secrets":["hush-source"]}`).is(200)
	own := `{"source":"signed","draft":{"security":{"flow":[{"hmac":{"header":"X-Sig"}}]}},"request":{"headers":{"X-Sig":"` + signed("hush-source", "") + `"}}}`
	r.do("POST", path, own).is(200).has("allowed", true)
	r.do("POST", path, `{"source":"nobody","request":{}}`).problem(400, "source")
	r.do("POST", "/api/v1/policies/draft:simulate", `{"source":"signed","draft":{"security":{"flow":[{"oauth":{}}]}},"request":{"headers":{"client_id":"c","access_token":"t"}}}`).
		is(200).has("allowed", false).has("status", 403).contains(`context \"testing\" has no OAUTH section`)
}

// Without its URL an interceptor refuses everything, and saving says so (S8).
func TestAPolicyThatNobodyCanAskForIsSaidWhenItIsSaved(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const path = "/api/v1/policies/p"
	r.do("PUT", path, `{"security":{"flow":[{"jwt":{}},{"disabled":true,"oauth":{}}]}}`).is(200).contains(`context \"default\" has no JWT section`).lacks("OAUTH")
	r.do("PUT", "/api/v1/authorizations/default", `{"jwt":{"issuer":"https://auth.example"}}`).is(200)
	r.do("GET", path, "").is(200).lacks("JWT section")
	r.do("PUT", "/api/v1/sources/s", `{"kind":"GENERIC","context":"testing","policy":"p"}`).is(http.StatusOK)
	r.do("GET", path, "").is(200).contains(`context \"testing\" has no JWT section`).lacks(`context \"default\"`)
}

// The last requests of a source, whose credentials nobody has any more.
func TestSimulateOnRecordedRequests(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const path = "/api/v1/policies/guarded:simulate"
	r.do("PUT", "/api/v1/policies/guarded", `{"security":{"flow":[{"id":"key","headerValue":{"name":"X-Key","value":"hush-value"}}]}}`).is(200)
	r.do("PUT", "/api/v1/sources/shop", `{"kind":"GENERIC","type":"a","policy":"guarded"}`).is(200)
	r.do("POST", path, `{"source":"shop","lastRequests":5}`).is(200).has("allowed", false).has("recorded.0", nil).contains("No request of source shop was recorded")

	flow, ok := r.catalog.Flow("guarded")
	if !ok {
		t.Fatal("the policy is not in force")
	}
	record := func(at int64, answered int, client, key string) {
		t.Helper()
		req := &interceptor.Request{Header: http.Header{"X-Key": {key}}}
		steps, _ := flow.Check(t.Context(), req)
		data, err := json.Marshal(&recording.Request{
			Source: "shop", Context: "default", Policy: "guarded", At: time.Unix(at, 0), Method: "POST", Path: "/events/shop", Query: []string{"q"},
			Header: map[string]string{"X-Key": interceptor.Stripped}, Client: netip.MustParseAddr(client), Size: 2, Answered: answered, Decisions: flow.Decisions(steps),
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.js.Publish(t.Context(), topology.RequestSubject("shop", answered >= 400), data); err != nil {
			t.Fatal(err)
		}
	}
	record(1, 202, "192.0.2.1", "hush-value")
	record(2, 401, "192.0.2.2", "hush-wrong")
	record(3, 202, "203.0.113.3", "hush-value")

	got := r.do("POST", path, `{"source":"shop","lastRequests":5}`).is(200).lacks("hush").has("allowed", false).has("recorded.3", nil)
	got.has("recorded.0.remoteAddress", "203.0.113.3").has("recorded.0.outcome", "allowed").has("recorded.0.verdicts.0.outcome", "ok").
		has("recorded.0.headers.X-Key", "(stripped)").has("recorded.0.query.0", "q").has("recorded.0.answered", 202)
	got.has("recorded.1.outcome", "refused").has("recorded.1.status", 401).contains("it was refused then")
	// A draft: the filter runs for real, of a key that is new nobody can say.
	draft := func(doc string) string {
		return `{"source":"shop","lastRequests":1,"draft":{"security":{"flow":[` + doc + `]}}}`
	}
	const key = `{"id":"key","headerValue":{"name":"X-Key"}}`
	r.do("POST", path, draft(`{"ipFilter":{"mode":"ALLOW","addresses":["192.0.2.0/24"]}},`+key)).is(200).
		has("recorded.0.outcome", "refused").has("recorded.0.status", 403).has("recorded.0.verdicts.1.outcome", "").has("recorded.1", nil)
	r.do("POST", path, draft(key)).is(200).has("allowed", true).has("recorded.0.outcome", "allowed")
	r.do("POST", path, draft(`{"id":"key","headerValue":{"name":"X-Key","value":"hush-new"}}`)).is(200).lacks("hush").
		has("allowed", false).has("recorded.0.outcome", "unknown").has("recorded.0.verdicts.0.outcome", "unknown")

	for body, field := range map[string]string{
		`{"lastRequests":5}`:                                "source",
		`{"lastRequests":41,"source":"shop"}`:               "lastRequests",
		`{"lastRequests":-1,"source":"shop"}`:               "lastRequests",
		`{"lastRequests":1,"source":"shop","request":{}}`:   "request",
		`{"lastRequests":1,"source":"nobody","request":{}}`: "request",
		`{"lastRequests":1,"source":"nobody"}`:              "source",
	} {
		r.do("POST", path, body).problem(400, field)
	}
}
