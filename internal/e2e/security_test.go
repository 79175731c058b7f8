package e2e

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/oauth2-proxy/mockoidc"
)

// A policy's flow, from outside: a JWT of a real OpenID provider, a callout, a
// header's value. What ran is in the event's trace and in the rejections.
func TestAPolicyGuardsASource(t *testing.T) {
	t.Parallel()
	p := serve(t)
	provider, err := mockoidc.Run()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = provider.Shutdown() })
	callout := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct{ AccessToken string }
		if json.NewDecoder(r.Body).Decode(&q) != nil || q.AccessToken != "good-token" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(callout.Close)

	flow := `{"security":{"flow":[{"jwt":{"audience":"shop"}},{"accessToken":{"location":"HEADER","name":"X-Token"}},` +
		`{"disabled":true,"ipFilter":{"mode":"BLOCK","addresses":["0.0.0.0/0"]}},{"id":"key","headerValue":{"name":"X-Key","value":"hush-e2e-value"}}]}}`
	// Saved before its authorization is there, it says what is missing, and refuses.
	if out := p.must("PUT", "/api/v1/policies/partners", flow); !strings.Contains(out, "no JWT section") || strings.Contains(out, "hush") {
		t.Errorf("the policy is answered %s, want a warning and no value", out)
	}
	p.must("PUT", "/api/v1/sources/partner", `{"kind":"GENERIC","type":"partner.event","policy":"partners"}`)
	send := func(token, access, key string) (int, string) {
		status, out, err := p.call("POST", "/events/partner", `{"id":1}`, "Authorization", "Bearer "+token, "X-Token", access, "X-Key", key)
		if err != nil {
			t.Fatal(err)
		}
		return status, out
	}
	sign := func(aud string, until time.Duration) string {
		token, err := provider.Keypair.SignJWT(jwt.MapClaims{"iss": provider.Issuer(), "aud": aud, "exp": time.Now().Add(until).Unix()})
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	good := sign("shop", time.Hour)
	if status, out := send(good, "good-token", "hush-e2e-value"); status != http.StatusForbidden || !strings.Contains(out, "no JWT section") {
		t.Errorf("without an authorization: %d %s, want 403", status, out)
	}
	p.must("PUT", "/api/v1/authorizations/default", `{"oauth":{"url":"`+callout.URL+`","timeout":"10s"},"jwt":{"issuer":"`+provider.Issuer()+`"}}`)

	tests := []struct {
		name, token, access, key string
		status                   int
		says                     string
	}{
		{"all good", good, "good-token", "hush-e2e-value", 202, ""},
		{"expired", sign("shop", -time.Hour), "good-token", "hush-e2e-value", 401, "interceptor jwt"},
		{"for another audience", sign("other", time.Hour), "good-token", "hush-e2e-value", 401, "another audience"},
		{"a bad access token", good, "bad-token", "hush-e2e-value", 401, "interceptor accessToken"},
		{"a wrong key", good, "good-token", "wrong", 401, "interceptor headerValue"},
	}
	var accepted string
	for _, tt := range tests {
		status, out := send(tt.token, tt.access, tt.key)
		if status != tt.status || !strings.Contains(out, tt.says) {
			t.Errorf("%s: %d %s, want %d that says %q", tt.name, status, out, tt.status, tt.says)
		}
		if strings.Contains(out, tt.token) || strings.Contains(out, "hush") {
			t.Errorf("%s: a credential is in the answer %s", tt.name, out)
		}
		if status == 202 {
			accepted = id(t, out)
		}
	}
	trace := p.must("GET", "/api/v1/events/"+accepted+"/trace", "")
	for _, want := range []string{"interceptor[0]:jwt", "interceptor[1]:accessToken", "interceptor[2]:ipFilter", "skipped", "interceptor[3]:headerValue"} {
		if !strings.Contains(trace, want) {
			t.Errorf("the trace has no %s: %s", want, trace)
		}
	}
	if out := p.must("GET", "/api/v1/rejections?source=partner", ""); strings.Count(out, `"reason":"interceptor"`) != 5 {
		t.Errorf("rejections are %s, want five by interceptors", out)
	}

	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), bin, "policy", "simulate", "partners", "--source", "partner", "-H", "Authorization: Bearer "+good,
		"-H", "X-Token: good-token", "-H", "X-Key: wrong", "--server", p.http, "--key", p.key).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "refused with 401") || !strings.Contains(string(out), "skipped") || !strings.Contains(string(out), "retry 1 after") {
		t.Errorf("policy simulate: %v\n%s", err, out)
	}
	// And on what was recorded while it was in force.
	p.until("a request is recorded", 20*time.Second, func() bool {
		out, err = exec.CommandContext(t.Context(), bin, "policy", "simulate", "partners", "--source", "partner", "--last", "5",
			"--server", p.http, "--key", p.key).CombinedOutput()
		return err == nil && strings.Contains(string(out), "would be allowed")
	})
	if !strings.Contains(string(out), "was let through then") || !strings.Contains(string(out), "was answered 202") {
		t.Errorf("policy simulate --last: %s", out)
	}
	// The server that vouches is gone: what is remembered passes, the rest does not.
	callout.Close()
	if status, out := send(good, "good-token", "hush-e2e-value"); status != 202 {
		t.Errorf("a token that was asked about a moment ago: %d %s, want 202", status, out)
	}
	if status, out := send(good, "new-token", "hush-e2e-value"); status != 403 || !strings.Contains(out, "cannot be asked") {
		t.Errorf("a token that nobody can be asked about: %d %s, want 403", status, out)
	}
	if log := p.stderr.String(); strings.Contains(log, "hush") || strings.Contains(log, good) || strings.Contains(log, "new-token") {
		t.Error("a credential is in the log")
	}
}

// Too many requests are turned away, and told when to come again.
func TestASourcesRateHolds(t *testing.T) {
	t.Parallel()
	p := serve(t)
	p.must("PUT", "/api/v1/sources/slow", `{"kind":"GENERIC","type":"a.b","ratePerClient":0.01}`)
	codes := map[int]int{}
	for range 10 {
		status, _, err := p.call("POST", "/events/slow", `{}`)
		if err != nil {
			t.Fatal(err)
		}
		codes[status]++
	}
	if codes[202] < 1 || codes[202] > 2 || codes[429] < 8 {
		t.Errorf("answered %v, want one or two accepted and the rest 429", codes)
	}
}

// The platform's own events cannot be forged by whoever may publish, and what is
// refused is listed, by whichever entrance it came.
func TestWhatIsRefusedAtAnyEntranceIsListed(t *testing.T) {
	t.Parallel()
	p := serve(t)
	p.must("PUT", "/api/v1/sources/generic", `{"kind":"GENERIC","type":"a"}`)
	p.must("PUT", "/api/v1/sources/clouds", `{"kind":"CLOUDEVENTS"}`)
	const forged = `{"specversion":"1.0","id":"1","source":"posthorn","type":"posthorn.subscription.disabled","data":{}}`
	for _, one := range []struct{ path, contentType, body string }{
		{"/api/v1/events", "application/json", `{"type":"","data":1}`},
		{"/api/v1/events", "application/json", `{"type":"posthorn.subscription.disabled","subject":"orders","data":{}}`},
		{"/api/v1/events", "application/json", `{"type":"order._version","data":{}}`},
		{"/events/generic/posthorn.subscription.disabled", "application/json", `{}`},
		{"/events/clouds", "application/cloudevents+json", forged},
	} {
		status, out, err := p.call("POST", one.path, one.body, "Content-Type", one.contentType)
		if err != nil || status != 400 {
			t.Errorf("POST %s %s: got %d %s and error %v, want 400", one.path, one.body, status, out, err)
		}
	}
	p.must("POST", "/api/v1/events:batch", `{"events":[{"type":"posthorn.deadletter.created","data":{}}]}`)
	var list struct {
		Items []struct{ Reason, Type string }
	}
	if err := json.Unmarshal([]byte(p.must("GET", "/api/v1/rejections", "")), &list); err != nil {
		t.Fatal(err)
	}
	reasons := map[string]int{}
	for _, item := range list.Items {
		reasons[item.Reason]++
	}
	if reasons["reserved"] != 5 || reasons["malformed"] != 1 {
		t.Errorf("listed are %+v, want one rejection that is malformed and five of reserved types", list.Items)
	}
}
