package api_test

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
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
