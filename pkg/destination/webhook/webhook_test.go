package webhook

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/netguard"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

const testSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// now is the time of the attempts: that of the Standard Webhooks vector.
var now = time.Unix(1614265330, 0).UTC()

func newClient(t testing.TB, cfg Config) *Client {
	t.Helper()
	c := NewClient(netguard.New(loopback), cfg)
	t.Cleanup(c.Close)
	return c
}

func newWebhook(t testing.TB, c *Client, spec *posthornv1.Webhook, secrets ...string) *Webhook {
	t.Helper()
	if len(secrets) == 0 {
		secrets = []string{testSecret}
	}
	w, err := New(c, spec, "orders-erp", secrets)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func newMessage(data string) *destination.Message {
	return &destination.Message{
		Event: &event.Event{
			ID: "ev_01", Type: "order.created", Source: "shop", Data: []byte(data),
			Received: now.Add(-time.Second),
		},
		Delivery: &event.Delivery{Event: "ev_01", Subscription: "orders-erp", Round: 1, Attempt: 1},
		Now:      now,
	}
}

// send makes one attempt with a deadline that only a hanging test reaches.
func send(t testing.TB, w *Webhook, m *destination.Message) destination.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return w.Send(ctx, m)
}

// A received request is what an endpoint saw.
type received struct {
	header http.Header
	method string
	path   string
	proto  string
	length int64
	body   string
}

// record answers 204 and hands on what came.
func record(t *testing.T) (http.Handler, <-chan received) {
	seen := make(chan received, 8)
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("reading the request: %v", err)
		}
		seen <- received{r.Header, r.Method, r.RequestURI, r.Proto, r.ContentLength, string(body)}
		rw.WriteHeader(http.StatusNoContent)
	}), seen
}

func standardSignature(secret, id, timestamp, body string) string {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		panic(err)
	}
	return "v1," + base64.StdEncoding.EncodeToString(mac(key, id+"."+timestamp+"."+body))
}

func mac(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

func TestRequestOnTheWire(t *testing.T) {
	t.Parallel()
	handler, seen := record(t)
	srv := httptest.NewServer(handler)
	defer srv.Close()

	m := newMessage(`{"id":1}`)
	m.TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	m.Event.TraceState = "a=b"
	m.Event.CorrelationIDs = []string{"ext.1-5f9b3a10-0123456789abcdef01234567", "gw.1-5f9b3a10-0123456789abcdef01234567"}
	m.Delivery.Attempt = 3
	spec := &posthornv1.Webhook{
		Url:     strings.Replace(srv.URL, "http://", "http://ann:pa%20ss@", 1) + "/hooks?token=t#part",
		Headers: map[string]string{"x-env": "prod"},
	}
	w := newWebhook(t, newClient(t, Config{Version: "1.2.3"}), spec, "hush")
	if r := send(t, w, m); r.Verdict != destination.Accepted || r.Err != nil {
		t.Fatalf("result is %+v, want accepted", r)
	}

	got := <-seen
	want := received{
		method: "POST", path: "/hooks?token=t", proto: "HTTP/1.1", length: 8, body: `{"id":1}`,
		header: http.Header{
			"Authorization":     {"Basic " + base64.StdEncoding.EncodeToString([]byte("ann:pa ss"))},
			"Ce-Id":             {"ev_01"},
			"Ce-Source":         {"shop"},
			"Ce-Specversion":    {"1.0"},
			"Ce-Time":           {"2021-02-25T15:02:09Z"},
			"Ce-Type":           {"order.created"},
			"Content-Length":    {"8"},
			"Content-Type":      {"application/json"},
			"Hmac-Sig":          {"SHA256 5672948d9b0bb8de626568e7e449ed70154217d90c378dcb825cc2135fc649e6"},
			"Traceparent":       {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
			"Tracestate":        {"a=b"},
			"User-Agent":        {"Posthorn/1.2.3"},
			"Webhook-Attempt":   {"3"},
			"Webhook-Id":        {"ev_01"},
			"Webhook-Signature": {standardSignature("hush", "ev_01", "1614265330", `{"id":1}`)},
			"Webhook-Timestamp": {"1614265330"},
			"X-Correlation-Id":  {"ext.1-5f9b3a10-0123456789abcdef01234567, gw.1-5f9b3a10-0123456789abcdef01234567"},
			"X-Env":             {"prod"},
		},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(received{})); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

func TestStandardWebhooksVector(t *testing.T) {
	t.Parallel()
	w := newWebhook(t, newClient(t, Config{}), &posthornv1.Webhook{Url: "https://erp.example", Format: posthornv1.Webhook_RAW})
	m := newMessage(`{"test": 2432232314}`)
	m.Event.ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	got := w.newRequest(t.Context(), m).Header.Get("Webhook-Signature")
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("webhook-signature is %q, want %q", got, want)
	}
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	const body = `{"id":1}`
	c := newClient(t, Config{})
	hmacSig := func(secret string) string { return "SHA256 " + hex.EncodeToString(mac([]byte(secret), body)) }
	second := "whsec_" + base64.StdEncoding.EncodeToString([]byte("another key of some length"))
	private := "whsk_" + base64.StdEncoding.EncodeToString(make([]byte, 32))

	tests := []struct {
		name      string
		secrets   []string
		signature string // "" to look at the count alone
		count     int
		hmac      string
	}{
		{"one", []string{testSecret}, standardSignature(testSecret, "ev_01", "1614265330", body), 1, hmacSig(testSecret)},
		{"without prefix", []string{testSecret[6:]}, standardSignature(testSecret, "ev_01", "1614265330", body), 1, hmacSig(testSecret[6:])},
		{
			"two during rotation, in their order", []string{second, testSecret},
			standardSignature(second, "ev_01", "1614265330", body) + " " + standardSignature(testSecret, "ev_01", "1614265330", body), 2, hmacSig(second),
		},
		{
			"not base64: as it stands", []string{"It's a Secret to Everybody"},
			"v1," + base64.StdEncoding.EncodeToString(mac([]byte("It's a Secret to Everybody"), "ev_01.1614265330."+body)), 1, hmacSig("It's a Secret to Everybody"),
		},
		{"a private key, and no shared secret", []string{private}, "", 1, ""},
		{"a private key before a shared secret", []string{private, testSecret}, "", 2, hmacSig(testSecret)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWebhook(t, c, &posthornv1.Webhook{Url: "https://erp.example"}, tt.secrets...)
			h := w.newRequest(t.Context(), newMessage(body)).Header
			got := h.Get("Webhook-Signature")
			if n := len(strings.Fields(got)); n != tt.count {
				t.Errorf("webhook-signature %q has %d signatures, want %d", got, n, tt.count)
			}
			if tt.signature != "" && got != tt.signature {
				t.Errorf("webhook-signature is %q, want %q", got, tt.signature)
			}
			if got := h.Get("HMAC-SIG"); got != tt.hmac {
				t.Errorf("HMAC-SIG is %q, want %q", got, tt.hmac)
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	c := newClient(t, Config{})
	const ok = "https://erp.example/hooks"
	tests := []struct {
		name    string
		spec    *posthornv1.Webhook
		secrets []string
		field   string
	}{
		{"no URL", &posthornv1.Webhook{}, nil, "destination.webhook.url"},
		{"no scheme", &posthornv1.Webhook{Url: "erp.example/hooks"}, nil, "destination.webhook.url"},
		{"another scheme", &posthornv1.Webhook{Url: "ftp://ann:hunter2@erp.example"}, nil, "destination.webhook.url"},
		{"no host", &posthornv1.Webhook{Url: "https:///hooks?hunter2"}, nil, "destination.webhook.url"},
		{"a port and no host", &posthornv1.Webhook{Url: "https://:443/"}, nil, "destination.webhook.url"},
		{"a slash in the password", &posthornv1.Webhook{Url: "https://ann:hunter2/3@erp.example"}, nil, "destination.webhook.url"},
		{"a control character", &posthornv1.Webhook{Url: "https://erp.example/\r\nhunter2"}, nil, "destination.webhook.url"},
		{"an unknown format", &posthornv1.Webhook{Url: ok, Format: 9}, nil, "destination.webhook.format"},
		{"a status that ends nothing", &posthornv1.Webhook{Url: ok, ExpectedStatus: 100}, nil, "destination.webhook.expectedStatus"},
		{"a negative status", &posthornv1.Webhook{Url: ok, ExpectedStatus: -1}, nil, "destination.webhook.expectedStatus"},
		{"a status beyond 599", &posthornv1.Webhook{Url: ok, ExpectedStatus: 600}, nil, "destination.webhook.expectedStatus"},
		{"a header without a name", &posthornv1.Webhook{Url: ok, Headers: map[string]string{"": "x"}}, nil, "destination.webhook.headers"},
		{"a header that splits", &posthornv1.Webhook{Url: ok, Headers: map[string]string{"X-Key": "hunter2\r\nX-Evil: 1"}}, nil, "destination.webhook.headers"},
		{"a header's name that splits", &posthornv1.Webhook{Url: ok, Headers: map[string]string{"X-Key: hunter2\r\nA": "1"}}, nil, "destination.webhook.headers"},
		{"our signature", &posthornv1.Webhook{Url: ok, Headers: map[string]string{"webhook-signature": "v1,hunter2"}}, nil, "destination.webhook.headers"},
		{"our other signature", &posthornv1.Webhook{Url: ok, Headers: map[string]string{"HMAC-SIG": "hunter2"}}, nil, "destination.webhook.headers"},
		{"an attribute of the event", &posthornv1.Webhook{Url: ok, Headers: map[string]string{"ce-id": "hunter2"}}, nil, "destination.webhook.headers"},
		{"the connection's", &posthornv1.Webhook{Url: ok, Headers: map[string]string{"transfer-encoding": "chunked"}}, nil, "destination.webhook.headers"},
		{"what makes net/http repeat requests", &posthornv1.Webhook{Url: ok, Headers: map[string]string{"idempotency-key": "hunter2"}}, nil, "destination.webhook.headers"},
		{"no secret", &posthornv1.Webhook{Url: ok}, []string{}, "secrets"},
		{"an empty secret", &posthornv1.Webhook{Url: ok}, []string{""}, "secrets"},
		{"an empty second secret", &posthornv1.Webhook{Url: ok}, []string{testSecret, ""}, "secrets"},
		{"a prefix and nothing", &posthornv1.Webhook{Url: ok}, []string{"whsec_"}, "secrets"},
		{"a prefix and no base64", &posthornv1.Webhook{Url: ok}, []string{"whsec_hunter2!"}, "secrets"},
		{"a public key", &posthornv1.Webhook{Url: ok}, []string{"whpk_" + base64.StdEncoding.EncodeToString(make([]byte, 32))}, "secrets"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			secrets := tt.secrets
			if secrets == nil {
				secrets = []string{testSecret}
			}
			_, err := New(c, tt.spec, "orders-erp", secrets)
			if errs.KindOf(err) != errs.Invalid || err == nil {
				t.Fatalf("error is %v, want an invalid one", err)
			}
			if v := errs.ViolationsOf(err); len(v) != 1 || v[0].Field != tt.field {
				t.Errorf("violations are %v, want one of field %q", v, tt.field)
			}
			// Names of headers are not secret; values, URLs and secrets are.
			if strings.Contains(err.Error(), "hunter2") && !strings.Contains(tt.name, "name that splits") {
				t.Errorf("error %q repeats a credential", err)
			}
		})
	}
}

func TestStringIsWithoutCredentials(t *testing.T) {
	t.Parallel()
	c := newClient(t, Config{})
	tests := []struct{ name, url, want string }{
		{"plain", "https://erp.example/hooks", "https://erp.example/hooks"},
		{"port", "http://erp.example:8080", "http://erp.example:8080"},
		{"user and password", "https://ann:hunter2@erp.example/hooks", "https://erp.example/hooks"},
		{"query", "https://erp.example/hooks?key=hunter2", "https://erp.example/hooks"},
		{"fragment", "https://erp.example/hooks#hunter2", "https://erp.example/hooks"},
		{"escaped path", "https://erp.example/a%2Fb%20c", "https://erp.example/a%2Fb%20c"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := newWebhook(t, c, &posthornv1.Webhook{Url: tt.url}).String(); got != tt.want {
				t.Errorf("String() = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestStatuses(t *testing.T) {
	t.Parallel()
	c := newClient(t, Config{})
	date := now.Add(90 * time.Minute).Format(http.TimeFormat)
	tests := []struct {
		name     string
		spec     *posthornv1.Webhook
		status   int
		header   http.Header
		verdict  destination.Verdict
		gone     bool
		after    time.Duration
		slack    time.Duration // by which after may be shorter: the latency
		errorHas string
	}{
		{name: "200", status: 200, verdict: destination.Accepted},
		{name: "202", status: 202, verdict: destination.Accepted},
		{name: "299", status: 299, verdict: destination.Accepted},
		{name: "retry-after with success means nothing", status: 200, header: http.Header{"Retry-After": {"7"}}, verdict: destination.Accepted},
		{name: "the expected 2xx", spec: &posthornv1.Webhook{ExpectedStatus: 204}, status: 204, verdict: destination.Accepted},
		{name: "another 2xx than expected", spec: &posthornv1.Webhook{ExpectedStatus: 204}, status: 200, verdict: destination.Answered, errorHas: "answered 200 OK, expected 204"},
		{name: "an expected 409", spec: &posthornv1.Webhook{ExpectedStatus: 409}, status: 409, verdict: destination.Accepted},
		{name: "an expected 410 is not gone", spec: &posthornv1.Webhook{ExpectedStatus: 410, DisableOnGone: true}, status: 410, verdict: destination.Accepted},
		{name: "404", status: 404, verdict: destination.Answered, errorHas: "answered 404 Not Found"},
		{name: "a status without a name", status: 499, verdict: destination.Answered, errorHas: "answered 499"},
		{name: "503", status: 503, verdict: destination.Answered, errorHas: "answered 503 Service Unavailable"},
		{name: "503 with seconds", status: 503, header: http.Header{"Retry-After": {"7"}}, verdict: destination.Answered, after: 7 * time.Second, errorHas: "503"},
		{name: "429 with a date", status: 429, header: http.Header{"Retry-After": {date}}, verdict: destination.Answered, after: 90 * time.Minute, slack: time.Minute, errorHas: "429"},
		{name: "410", status: 410, verdict: destination.Answered, errorHas: "410"},
		{name: "410 that disables", spec: &posthornv1.Webhook{DisableOnGone: true}, status: 410, verdict: destination.Answered, gone: true, errorHas: "410"},
		{name: "404 does not disable", spec: &posthornv1.Webhook{DisableOnGone: true}, status: 404, verdict: destination.Answered, errorHas: "404"},
		{
			name: "redirect", status: 302, header: http.Header{"Location": {"http://ann:hunter2@127.0.0.1:1/next?key=hunter2"}},
			verdict: destination.Answered, errorHas: "answered 302 Found to http://127.0.0.1:1/next; redirects are not followed",
		},
		{name: "308", status: 308, header: http.Header{"Location": {"/hooks/"}}, verdict: destination.Answered, errorHas: "redirects are not followed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			requests := make(chan string, 4)
			srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				requests <- r.URL.Path
				maps.Copy(rw.Header(), tt.header)
				rw.WriteHeader(tt.status)
			}))
			defer srv.Close()
			spec := &posthornv1.Webhook{Url: srv.URL + "/hooks?key=hunter2"}
			if tt.spec != nil {
				spec.ExpectedStatus, spec.DisableOnGone = tt.spec.ExpectedStatus, tt.spec.DisableOnGone
			}
			r := send(t, newWebhook(t, c, spec), newMessage(`{}`))
			if r.Verdict != tt.verdict || r.Status != tt.status || r.Gone != tt.gone || r.ErrorClass != "" {
				t.Errorf("result is %+v, want verdict %d, status %d, gone %t and no error class", r, tt.verdict, tt.status, tt.gone)
			}
			if r.RetryAfter > tt.after || r.RetryAfter < tt.after-tt.slack {
				t.Errorf("retry after %s, want %s", r.RetryAfter, tt.after)
			}
			if r.Latency <= 0 {
				t.Errorf("latency is %s, want some", r.Latency)
			}
			switch {
			case tt.errorHas == "" && r.Err != nil:
				t.Errorf("error is %v, want none", r.Err)
			case tt.errorHas != "" && (r.Err == nil || !strings.Contains(r.Err.Error(), tt.errorHas)):
				t.Errorf("error is %v, want it to say %q", r.Err, tt.errorHas)
			case r.Err != nil && strings.Contains(r.Err.Error(), "hunter2"):
				t.Errorf("error %q repeats a credential", r.Err)
			}
			if len(requests) != 1 {
				t.Errorf("%d requests were made, want 1", len(requests))
			}
		})
	}
}

func TestParseRetryAfter(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		value string
		want  time.Duration
	}{
		{"none", "", 0},
		{"seconds", "120", 2 * time.Minute},
		{"zero", "0", 0},
		{"a day", "86400", 24 * time.Hour},
		{"more than a day", "86401", 24 * time.Hour},
		{"what overflows a duration", "9223372036854775807", 24 * time.Hour},
		{"what overflows 64 bits", "99999999999999999999999", 24 * time.Hour},
		{"negative", "-5", 0},
		{"fraction", "1.5", 0},
		{"words", "soon", 0},
		{"date", "Thu, 25 Feb 2021 15:03:10 GMT", time.Minute},
		{"date of RFC 850", "Thursday, 25-Feb-21 15:03:10 GMT", time.Minute},
		{"past date", "Thu, 25 Feb 2021 15:00:00 GMT", 0},
		{"far date", "Sun, 25 Feb 2091 15:00:00 GMT", 24 * time.Hour},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := parseRetryAfter(tt.value, now); got != tt.want {
				t.Errorf("parseRetryAfter(%q) = %s, want %s", tt.value, got, tt.want)
			}
		})
	}
}

// A subscriber who tells repeats by webhook-id needs the signature to be fresh
// and the ID to stay.
func TestRepeatsAreSignedAgain(t *testing.T) {
	t.Parallel()
	w := newWebhook(t, newClient(t, Config{}), &posthornv1.Webhook{Url: "https://erp.example"})
	m := newMessage(`{}`)
	first := w.newRequest(t.Context(), m).Header
	m.Now = m.Now.Add(time.Hour)
	m.Delivery.Attempt = 2
	second := w.newRequest(t.Context(), m).Header
	if a, b := first.Get("Webhook-Id"), second.Get("Webhook-Id"); a != b {
		t.Errorf("webhook-id is %q, then %q", a, b)
	}
	if got, want := second.Get("Webhook-Signature"), standardSignature(testSecret, "ev_01", "1614268930", `{}`); got != want {
		t.Errorf("second webhook-signature is %q, want %q", got, want)
	}
}

func TestBlockedWithoutAllow(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	c := NewClient(netguard.New(nil), Config{})
	defer c.Close()
	for _, url := range []string{srv.URL, strings.Replace(srv.URL, "127.0.0.1", "localhost", 1), "http://169.254.169.254/latest/meta-data/"} {
		r := send(t, newWebhook(t, c, &posthornv1.Webhook{Url: url}), newMessage(`{}`))
		if r.ErrorClass != destination.ClassBlocked || r.Verdict != destination.NoAnswer || !errors.Is(r.Err, netguard.ErrBlocked) {
			t.Errorf("result for %s is %+v, want blocked", url, r)
		}
		if !strings.Contains(r.Err.Error(), "--allow-net") {
			t.Errorf("error %q does not say how to allow it", r.Err)
		}
	}
}

// The claims are those of the policy document (S16); its vector is in pkg/signature.
func TestJWTSignature(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, header, issuer  string
		wantHeader, wantBegin string
		wantIssuer            string
	}{
		{"by default", "", "", "X-Signature-Jwt", "", "posthorn"},
		{"in a header of choice", "x-jws", "staging", "X-Jws", "", "staging"},
		{"as a bearer token", "authorization", "staging", "Authorization", "Bearer ", "staging"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, got := record(t)
			srv := httptest.NewServer(h)
			defer srv.Close()
			w := newWebhook(t, newClient(t, Config{}), &posthornv1.Webhook{
				Url: srv.URL, JwtSignature: &posthornv1.JwtSignature{Header: tt.header, Issuer: tt.issuer},
			}, "hush-hush")
			send(t, w, newMessage(`{"id":1}`))
			req := <-got
			token, ok := strings.CutPrefix(req.header.Get(tt.wantHeader), tt.wantBegin)
			parts := strings.Split(token, ".")
			if !ok || len(parts) != 3 {
				t.Fatalf("header %s is %q, want a JWT after %q", tt.wantHeader, req.header.Get(tt.wantHeader), tt.wantBegin)
			}
			claims, err := base64.RawURLEncoding.DecodeString(parts[1])
			if err != nil {
				t.Fatal(err)
			}
			want := `{"iss":"` + tt.wantIssuer + `","sub":"orders-erp","jti":"ev_01","c_hash":"037c9214eef74cc3887f3a4f085b4e17d76280dafd273b0ee160c09c4ba1cfd4","iat":1614265330}`
			if string(claims) != want {
				t.Errorf("claims are %s, want %s", claims, want)
			}
			sum := hmac.New(sha256.New, []byte("hush-hush"))
			sum.Write([]byte(parts[0] + "." + parts[1]))
			if sig := base64.RawURLEncoding.EncodeToString(sum.Sum(nil)); sig != parts[2] {
				t.Errorf("signature is %s, want %s", parts[2], sig)
			}
		})
	}
	for name, spec := range map[string]*posthornv1.Webhook{
		"a header of the platform": {Url: "https://e.example", JwtSignature: &posthornv1.JwtSignature{Header: "webhook-id"}},
		"no name of a header":      {Url: "https://e.example", JwtSignature: &posthornv1.JwtSignature{Header: "a b"}},
		"a header that is set":     {Url: "https://e.example", Headers: map[string]string{"X-A": "b"}, JwtSignature: &posthornv1.JwtSignature{Header: "x-a"}},
	} {
		if _, err := New(newClient(t, Config{}), spec, "s", []string{"hush-hush"}); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: got error %v, want it refused", name, err)
		}
	}
}
