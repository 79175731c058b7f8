package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
)

// unsized hides its length, so that the request is sent in chunks.
func unsized(path, body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, path, io.NopCloser(strings.NewReader(body)))
	r.ContentLength = -1
	return r
}

// A publisher's mistakes reach neither the broker nor, where no source is
// meant, the record of rejections.
func TestGatewayRefuses(t *testing.T) {
	t.Parallel()
	short := post("/events/shop/a.b", `{}`)
	short.ContentLength = 10
	tests := []struct {
		name     string
		request  *http.Request
		status   int
		reason   string
		says     string
		recorded bool
	}{
		{"an unknown source", post("/events/nobody", `{}`), 404, "unknown-source", "there is no source", false},
		{"no source", post("/events/", `{}`), 404, "unknown-source", "there is no source", false},
		{"a source of another context", post("/events/staging/github", `{}`), 404, "unknown-source", "there is no source", false},
		{"another path", post("/nowhere", `{}`), 404, "not-found", "/events/<source>", false},
		{"another method", httptest.NewRequest(http.MethodGet, "/events/shop", nil), 405, "method", "POST", false},
		{"a disabled source", post("/events/old/a.b", `{}`), 403, "disabled", "old is disabled", true},
		{"a source that is a queue", post("/events/queue/a.b", `{}`), 403, "not-http", "AMQP", true},
		{"a wrong signature", post("/events/github", "Hello, World?", "X-GitHub-Event: push", "X-Hub-Signature-256: "+helloSignature),
			401, "signature", "does not match", true},
		{"no signature", post("/events/signed", `{"id":1}`), 401, "signature", "", true},
		{"no type", post("/events/shop", `{}`), 400, "malformed", "no type", true},
		{"no JSON", post("/events/shop/a.b", `{`), 400, "malformed", "", true},
		{"one byte too many", post("/events/shop/a.b", strings.Repeat(" ", 63)+"{}"), 413, "too-large", "64 bytes", true},
		{"one byte too many, in chunks", unsized("/events/shop/a.b", strings.Repeat(" ", 63)+"{}"), 413, "too-large", "64 bytes", true},
		{"less than was announced", short, 400, "malformed", "ended before", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, Config{MaxBytes: 64})
			w := r.do(tt.request)
			p := refusedWith(t, w, tt.status, tt.reason)
			if !strings.Contains(p.Detail, tt.says) {
				t.Errorf("detail is %q, want it to say %q", p.Detail, tt.says)
			}
			if got, want := w.Header().Get("Allow"), map[int]string{405: "POST"}[tt.status]; got != want {
				t.Errorf("Allow is %q, want %q", got, want)
			}
			if len(r.accept.accepted) != 0 {
				t.Errorf("the broker got %+v, want nothing", r.accept.accepted)
			}
			if got := len(r.rejecter.rejected); got != map[bool]int{true: 1}[tt.recorded] {
				t.Fatalf("%d rejections recorded, want it to be recorded: %v", got, tt.recorded)
			}
			if !tt.recorded {
				return
			}
			rej := r.rejecter.rejected[0]
			if rej.Status != tt.status || rej.Reason != tt.reason || rej.Detail != p.Detail || rej.Context != "default" {
				t.Errorf("rejection is %+v, want it to say what the answer does: %+v", rej, p)
			}
			if !r.rejecter.deadline {
				t.Error("recording has no deadline; the answer waits for it")
			}
		})
	}
}

func TestBodyOfExactlyTheLimitIsTaken(t *testing.T) {
	t.Parallel()
	body := strings.Repeat(" ", 62) + "{}"
	for name, req := range map[string]*http.Request{"sized": post("/events/shop/a.b", body), "in chunks": unsized("/events/shop/a.b", body)} {
		r := newRig(t, Config{MaxBytes: 64})
		if w := r.do(req); w.Code != http.StatusAccepted {
			t.Errorf("%s: answer is %d %s, want 202", name, w.Code, w.Body)
		} else if got := string(r.accept.accepted[0].Event.Data); got != body {
			t.Errorf("%s: data is %q, want %q", name, got, body)
		}
	}
}

// A person who looks into a refused signature wants to see what was checked and
// who sent it.
func TestRejectionSaysWhoAndWhy(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	req := post("/events/github", "{}", "X-GitHub-Event: push", "X-Hub-Signature-256: "+helloSignature, "X-Forwarded-For: 1.1.1.1, 203.0.113.9")
	req.RemoteAddr = "10.0.0.1:5000"
	r.do(req)
	if len(r.rejecter.rejected) != 1 {
		t.Fatalf("%d rejections, want 1", len(r.rejecter.rejected))
	}
	rej := r.rejecter.rejected[0]
	if rej.RemoteAddr != "203.0.113.9" || rej.Source != "github" || rej.At.IsZero() {
		t.Errorf("rejection is %+v, want one of github from 203.0.113.9", rej)
	}
	if len(rej.Receipt) != 1 || rej.Receipt[0].Outcome != "refused" {
		t.Errorf("receipt is %+v, want a step that refused", rej.Receipt)
	}
}

func TestRejectionThatIsNotRecordedChangesNoAnswer(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	r.rejecter.err = errors.New("nats: timeout")
	refusedWith(t, r.do(post("/events/github", `{}`)), http.StatusUnauthorized, "signature")
}

func TestRemoteAddress(t *testing.T) {
	t.Parallel()
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	tests := []struct {
		name, peer string
		forwarded  []string
		want       string
	}{
		{"no proxy", "203.0.113.9:1", nil, "203.0.113.9"},
		{"a stranger's claim", "203.0.113.9:1", []string{"1.1.1.1"}, "203.0.113.9"},
		{"behind a proxy", "10.0.0.1:1", []string{"203.0.113.9"}, "203.0.113.9"},
		{"behind a proxy that says nothing", "10.0.0.1:1", nil, "10.0.0.1"},
		{"behind two", "10.0.0.1:1", []string{"203.0.113.9, 10.0.0.2"}, "203.0.113.9"},
		{"behind two, a header each", "10.0.0.1:1", []string{"203.0.113.9", "10.0.0.2"}, "203.0.113.9"},
		{"a claim that a proxy passed on", "10.0.0.1:1", []string{"10.9.9.9, 203.0.113.9"}, "203.0.113.9"},
		{"nonsense", "10.0.0.1:1", []string{"203.0.113.9, unknown"}, "10.0.0.1"},
		{"IPv6", "[fd00::1]:1", []string{"2001:db8::9"}, "2001:db8::9"},
		{"a mapped peer", "[::ffff:10.0.0.1]:1", []string{"203.0.113.9"}, "203.0.113.9"},
	}
	g := &Gateway{cfg: Config{TrustedProxies: proxies}}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequest(http.MethodPost, "/", nil)
			r.RemoteAddr = tt.peer
			r.Header["X-Forwarded-For"] = tt.forwarded
			if got := g.remote(r); got != tt.want {
				t.Errorf("remote address is %s, want %s", got, tt.want)
			}
		})
	}
}

// The broker's answer decides whether a publisher sends again, so that the
// statuses matter more than the words. It has recorded what it refused.
func TestBrokerRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		err    error
		status int
		reason string
		again  string // Retry-After
	}{
		{"a schema", errs.New(errs.Invalid, "no").Because("schema").With(event.Violation{Field: "/total", Description: "is no number"}), 400, "schema", ""},
		{"size", errs.New(errs.TooLarge, "no").Because("too-large"), 413, "too-large", ""},
		{"a limit", errs.New(errs.Throttled, "no"), 429, "throttled", ""},
		{"no room", errFull, 503, "full", "5"},
		{"no store", fmt.Errorf("broker: %w", errs.New(errs.Unavailable, "no")), 503, "unavailable", "5"},
		{"no time", fmt.Errorf("broker: %w", context.DeadlineExceeded), 503, "unavailable", "5"},
		{"our fault", errors.New("nats: secret detail"), 500, "internal", "5"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, Config{})
			r.accept.refuse = func(context.Context, *event.Event) error { return tt.err }
			w := r.do(post("/events/shop/a.b", `{}`))
			p := refusedWith(t, w, tt.status, tt.reason)
			if d := cmp.Diff(errs.ViolationsOf(tt.err), p.Violations); d != "" {
				t.Errorf("violations (-want +got)\n%s", d)
			}
			if strings.Contains(w.Body.String(), "nats") {
				t.Errorf("answer %s shows the cause, which is for operators", w.Body)
			}
			if got := w.Header().Get("Retry-After"); got != tt.again {
				t.Errorf("Retry-After is %q, want %q", got, tt.again)
			}
			if len(r.rejecter.rejected) != 0 {
				t.Errorf("rejections are %+v; the broker records its own", r.rejecter.rejected)
			}
		})
	}
}

// A publisher that looks at the status alone must never take for safe what was
// lost, nor send for ever what can't succeed.
func TestBatchInPart(t *testing.T) {
	t.Parallel()
	invalid := errs.New(errs.Invalid, "bad total").Because("schema").With(event.Violation{Field: "/total", Description: "is no number"})
	down := errs.New(errs.Unavailable, "no store")
	const ok, bad, gone, dup = "t.ok", "t.bad", "t.gone", "t.dup"
	tests := []struct {
		name  string
		types []string
		want  string // body of a 202; else the reason
		code  int
	}{
		{"all", []string{ok, ok}, `{"ids":["ev_1","ev_2"],"duplicates":0,"dropped":0}`, 202},
		{"none", []string{}, `{"ids":[],"duplicates":0,"dropped":0}`, 202},
		{"a duplicate", []string{ok, dup}, `{"ids":["ev_1","ev_2"],"duplicates":1,"dropped":0}`, 202},
		{"one refused", []string{ok, bad, ok}, `{"ids":["ev_1","ev_2"],"duplicates":0,"dropped":0,"rejected":[` +
			`{"index":1,"detail":"bad total","violations":[{"field":"/total","description":"is no number"}]}]}`, 202},
		{"one a duplicate, one refused", []string{dup, bad}, `{"ids":["ev_1"],"duplicates":1,"dropped":0,"rejected":[` +
			`{"index":1,"detail":"bad total","violations":[{"field":"/total","description":"is no number"}]}]}`, 202},
		{"one stored, one lost", []string{ok, gone}, `{"ids":["ev_1"],"duplicates":0,"dropped":0,"rejected":[{"index":1,"detail":"no store"}]}`, 202},
		{"all refused", []string{bad, bad}, "schema", 400},
		{"all lost", []string{gone, gone}, "unavailable", 503},
		{"one refused, one lost", []string{bad, gone}, "unavailable", 503},
		{"one lost, one refused", []string{gone, bad}, "unavailable", 503},
		{"one a duplicate, one lost", []string{dup, gone}, "unavailable", 503},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, Config{})
			r.accept.refuse = func(_ context.Context, ev *event.Event) error {
				return map[string]error{bad: invalid, gone: down}[ev.Type]
			}
			r.accept.duplicate = func(ev *event.Event) bool { return ev.Type == dup }
			docs := make([]string, len(tt.types))
			for i, typ := range tt.types {
				docs[i] = fmt.Sprintf(`{"specversion":"1.0","id":"%d","source":"/s","type":%q}`, i, typ)
			}
			w := r.do(post("/events/cloud", "["+strings.Join(docs, ",")+"]", "Content-Type: application/cloudevents-batch+json"))
			if tt.code == http.StatusAccepted {
				answered(t, w, tt.code, tt.want)
				return
			}
			refusedWith(t, w, tt.code, tt.want)
		})
	}
}

func TestDuplicateIsAnsweredAsOne(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	r.accept.duplicate = func(*event.Event) bool { return true }
	answered(t, r.do(post("/events/shop/a.b", `{}`)), http.StatusAccepted, `{"id":"ev_1","ids":["ev_1"],"duplicate":true}`)
}

// What was begun is finished, whoever hangs up, but not without end.
func TestPublisherWhoHangsUpEndsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	ctx, hangUp := context.WithCancel(t.Context())
	r.accept.refuse = func(ctx context.Context, _ *event.Event) error {
		hangUp()
		if _, ok := ctx.Deadline(); !ok {
			t.Error("accepting has no deadline")
		}
		return ctx.Err()
	}
	if w := r.do(post("/events/shop/a.b", `{}`).WithContext(ctx)); w.Code != http.StatusAccepted {
		t.Errorf("answer is %d %s, want 202", w.Code, w.Body)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	r.do(post("/events/shop/a.b", `{}`))
	r.do(post("/events/shop/a.b", `{}`))
	r.do(post("/events/github", `{}`))
	r.do(post("/events/guess", `{}`))
	// A stranger's guesses are not names of sources: they would be labels for ever.
	const want = `
# HELP posthorn_gateway_rejected_total Requests that the gateway refused, by reason.
# TYPE posthorn_gateway_rejected_total counter
posthorn_gateway_rejected_total{reason="signature"} 1
posthorn_gateway_rejected_total{reason="unknown-source"} 1
# HELP posthorn_gateway_requests_total Requests of publishers, by source and status of the answer.
# TYPE posthorn_gateway_requests_total counter
posthorn_gateway_requests_total{code="202",source="shop"} 2
posthorn_gateway_requests_total{code="401",source="github"} 1
posthorn_gateway_requests_total{code="404",source=""} 1
`
	if err := testutil.GatherAndCompare(r.reg, strings.NewReader(want), "posthorn_gateway_requests_total", "posthorn_gateway_rejected_total"); err != nil {
		t.Error(err)
	}
	if n := testutil.CollectAndCount(r.reg, "posthorn_gateway_request_seconds"); n != 1 {
		t.Errorf("%d latency histograms, want 1", n)
	}
}
