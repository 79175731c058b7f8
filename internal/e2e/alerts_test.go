package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

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
