package e2e

import (
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// An endpoint that fails, and is back, is told once each.
func TestAnEndpointThatFailsIsTold(t *testing.T) {
	t.Parallel()
	p := serve(t, "--dispatch-probe-interval", "200ms")
	ops := newSink(t, nil)
	var down atomic.Bool
	down.Store(true)
	s := newSink(t, func(int, *received) int {
		if down.Load() {
			return http.StatusServiceUnavailable
		}
		return http.StatusOK
	})
	p.must("PUT", "/api/v1/policies/quick", `{"delivery":{"maxRetries":10,"backoff":{"initial":"0.02s","max":"0.1s"}}}`)
	p.subscribe("operators", "posthorn.subscription.*", "OUTGOING", ops.URL, "")
	p.subscribe("shaky", "order.*", "OUTGOING", s.URL, `,"policy":"quick"`)
	p.must("POST", "/api/v1/events", `{"type":"order.created","data":{}}`)
	told := func(typ string) (n int, body string) {
		for _, r := range ops.all() {
			if r.header.Get("ce-type") == typ && r.header.Get("ce-subject") == "shaky" {
				n, body = n+1, string(r.body)
			}
		}
		return n, body
	}
	p.until("it is told that it fails", 30*time.Second, func() bool { n, _ := told("posthorn.subscription.failing"); return n == 1 })
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), bin, "lane", "list", "--server", p.http, "--key", p.key).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "shaky") || !strings.Contains(string(out), "failing") || !strings.Contains(string(out), "503") {
		t.Errorf("lane list: %v\n%s", err, out)
	}
	down.Store(false)
	// Another one, for if the first has used up its tries there is nothing to probe with.
	p.must("POST", "/api/v1/events", `{"type":"order.created","data":{}}`)
	p.until("it is told that it is back", 30*time.Second, func() bool { n, _ := told("posthorn.subscription.recovered"); return n == 1 })
	if n, body := told("posthorn.subscription.failing"); n != 1 || !strings.Contains(body, `"status":503`) || !strings.Contains(body, `"reason":"503"`) {
		t.Errorf("told %d times that it fails, last as %s", n, body)
	}
}

// Trouble with a subscription is told to those who ask for it.
func TestTroubleIsToldByEvents(t *testing.T) {
	t.Parallel()
	p := serve(t)
	ops, everything := newSink(t, nil), newSink(t, nil)
	refusing := newSink(t, func(int, *received) int { return http.StatusNotFound })
	gone := newSink(t, func(int, *received) int { return http.StatusGone })
	p.subscribe("operators", "posthorn.#", "OUTGOING", ops.URL, "")
	p.subscribe("everything", "#", "OUTGOING", everything.URL, "")
	p.subscribe("refusing", "order.*", "OUTGOING", refusing.URL, "")
	p.must("PUT", "/api/v1/subscriptions/gone", fmt.Sprintf(`{"types":["order.*"],"destination":{"webhook":{"url":%q,"disableOnGone":true}}}`, gone.URL))
	ev := id(t, p.must("POST", "/api/v1/events", `{"type":"order.created","data":{}}`))
	told := func() map[string]string {
		out := map[string]string{}
		for _, r := range ops.all() {
			out[r.header.Get("ce-type")+" "+r.header.Get("ce-subject")] = string(r.body)
		}
		return out
	}
	p.until("three alerts", 30*time.Second, func() bool { return len(told()) == 3 })
	got := told()
	for _, what := range []string{"posthorn.deadletter.created refusing", "posthorn.deadletter.created gone"} {
		if !strings.Contains(got[what], ev) || !strings.Contains(got[what], `"count":1`) {
			t.Errorf("%s says %s, want one dead letter of %s", what, got[what], ev)
		}
	}
	if body := got["posthorn.subscription.disabled gone"]; !strings.Contains(body, `"reason":"gone"`) {
		t.Errorf("told %v, want that gone was disabled", got)
	}
	for _, r := range everything.all() {
		if typ := r.header.Get("ce-type"); typ != "order.created" {
			t.Errorf("who takes everything got %s, want business events alone", typ)
		}
	}
}
