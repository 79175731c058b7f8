package gateway

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The policy's security decides, and what it did is in the receipt or in the
// rejection.
func TestAPolicysSecurityIsPassedBeforeAnythingIsRead(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		request *http.Request
		from    string
		status  int
		steps   string
	}{
		{"with the key", post("/events/keyed/a.b", `{}`, "X-Key: hush"), "192.0.2.1:1", 202, "interceptor[0]:ipFilter ok, interceptor[1]:headerValue ok"},
		{"without it", post("/events/keyed/a.b", `{}`), "192.0.2.1:1", 401, "interceptor[0]:ipFilter ok, interceptor[1]:headerValue refused"},
		{"without it, and the body is none", post("/events/keyed/a.b", `{`), "192.0.2.1:1", 401, "interceptor[0]:ipFilter ok, interceptor[1]:headerValue refused"},
		{"from a blocked address", post("/events/keyed/a.b", `{}`, "X-Key: hush"), "203.0.113.9:1", 403, "interceptor[0]:ipFilter refused"},
		{"from a blocked address by a proxy", post("/events/keyed/a.b", `{}`, "X-Key: hush", "X-Forwarded-For: 203.0.113.9"), "10.0.0.1:1", 403, "interceptor[0]:ipFilter refused"},
		{"by a proxy that says nothing", post("/events/keyed/a.b", `{}`, "X-Key: hush", "X-Forwarded-For: unknown"), "10.0.0.1:1", 403, "interceptor[0]:ipFilter refused"},
		{"a policy that is gone", post("/events/lost/a.b", `{}`), "192.0.2.1:1", 403, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
			tt.request.RemoteAddr = tt.from
			w := r.do(tt.request)
			if w.Code != tt.status {
				t.Fatalf("answered %d %s, want %d", w.Code, w.Body, tt.status)
			}
			if got := w.Header().Get("WWW-Authenticate") != ""; got != (tt.status == 401) {
				t.Errorf("WWW-Authenticate is %q with %d", w.Header().Get("WWW-Authenticate"), tt.status)
			}
			var steps []string
			if tt.status == 202 {
				for _, s := range r.accept.accepted[0].Event.Receipt {
					steps = append(steps, s.Name+" "+s.Outcome)
				}
			} else {
				if len(r.accept.accepted) > 0 || len(r.rejecter.rejected) != 1 {
					t.Fatalf("%d events accepted and %d rejected, want the one rejection", len(r.accept.accepted), len(r.rejecter.rejected))
				}
				for _, s := range r.rejecter.rejected[0].Receipt {
					steps = append(steps, s.Name+" "+s.Outcome)
				}
			}
			if got := strings.Join(steps, ", "); got != tt.steps {
				t.Errorf("steps are %q, want %q", got, tt.steps)
			}
			if strings.Contains(w.Body.String(), "hush") {
				t.Errorf("the secret is in the answer: %s", w.Body)
			}
		})
	}
}

func TestAChallengeIsAnsweredByItsSource(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	const body = `{"type":"url_verification","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"}`
	now := strconv.FormatInt(time.Now().Unix(), 10)
	mac := hmac.New(sha256.New, []byte("hush"))
	mac.Write([]byte("v0:" + now + ":" + body))
	w := r.do(post("/events/slack", body, "X-Slack-Request-Timestamp: "+now, "X-Slack-Signature: v0="+hex.EncodeToString(mac.Sum(nil))))
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P") {
		t.Errorf("answered %d %s, want the challenge", w.Code, w.Body)
	}
	if len(r.accept.accepted) > 0 {
		t.Errorf("it became an event: %+v", r.accept.accepted)
	}
	if w := r.do(post("/events/slack", body, "X-Slack-Request-Timestamp: "+now, "X-Slack-Signature: v0="+strings.Repeat("0", 64))); w.Code != http.StatusUnauthorized {
		t.Errorf("an unsigned challenge is answered %d, want 401", w.Code)
	}
}

func TestWebhookValidation(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	req := httptest.NewRequest(http.MethodOptions, "/events/cloud", nil)
	req.Header.Set("WebHook-Request-Origin", "sender.example")
	req.Header.Set("WebHook-Request-Rate", "120")
	w := r.do(req)
	if w.Code != http.StatusOK || w.Header().Get("WebHook-Allowed-Origin") != "sender.example" || w.Header().Get("WebHook-Allowed-Rate") != "120" || !strings.Contains(w.Header().Get("Allow"), "POST") {
		t.Errorf("answered %d with %v, want the origin and the rate allowed", w.Code, w.Header())
	}
	if w := r.do(httptest.NewRequest(http.MethodOptions, "/events/cloud", nil)); w.Code != http.StatusOK || w.Header().Get("WebHook-Allowed-Origin") != "" {
		t.Errorf("one that asks nothing is answered %d with %v", w.Code, w.Header())
	}
	if w := r.do(httptest.NewRequest(http.MethodOptions, "/events/nobody", nil)); w.Code != http.StatusNotFound {
		t.Errorf("an unknown source is answered %d, want 404", w.Code)
	}
}

func TestABatchHasALimit(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{MaxBatch: 2})
	one := `{"log_id":"1","data":{"type":"s"}}`
	w := r.do(post("/events/auth0", "["+one+","+one+","+one+"]", "Authorization: "+auth0Secret))
	if w.Code != http.StatusRequestEntityTooLarge || len(r.accept.accepted) > 0 {
		t.Errorf("answered %d and %d accepted, want 413 and none", w.Code, len(r.accept.accepted))
	}
}
