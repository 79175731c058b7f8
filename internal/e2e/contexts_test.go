package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// S15: the default context adds no segment to the path, topics are enabled in each
// context by itself, and a subscriber gets the events of its own context alone.
func TestContextsAreApart(t *testing.T) {
	t.Parallel()
	p := serve(t)
	production, tested, outgoing := newSink(t, nil), newSink(t, nil), newSink(t, nil)
	p.must("PUT", "/api/v1/sources/shop", `{"kind":"GENERIC","topics":["order.created"],"contexts":[{"context":"testing","topics":["order.created","order.tried"]}]}`)
	p.subscribe("production", "#", "INCOMING", production.URL, "")
	p.subscribe("testing", "#", "INCOMING", tested.URL, `,"context":"testing"`)
	p.subscribe("outgoing", "#", "OUTGOING", outgoing.URL, `,"context":"testing"`)
	// Of any context, if there were a way: the name of a context is no pattern.
	if status, out := p.api("PUT", "/api/v1/subscriptions/every", `{"types":["#"],"context":"*","destination":{"webhook":{"url":"https://a.example"}}}`); status != http.StatusBadRequest {
		t.Errorf("a subscription to all contexts is answered %d %s, want 400", status, out)
	}

	send := func(path string) (int, string) {
		t.Helper()
		// The same key in each context: what is sent to two is two events.
		status, out, err := p.call("POST", path, `{"id":1}`, "Idempotency-Key", "k1-"+path[strings.LastIndex(path, "/")+1:])
		if err != nil {
			t.Fatal(err)
		}
		return status, out
	}
	ids := map[string]string{}
	for _, path := range []string{"/events/shop/order.created", "/events/testing/shop/order.created", "/events/testing/shop/order.tried"} {
		status, out := send(path)
		if status != http.StatusAccepted || strings.Contains(out, `"duplicate":true`) {
			t.Fatalf("POST %s is answered %d %s, want 202", path, status, out)
		}
		ids[path] = id(t, out)
	}
	for _, path := range []string{"/events/shop/order.tried", "/events/testing/shop/order.paid", "/events/staging/shop/order.created", "/events/default/order.created"} {
		if status, out := send(path); status != http.StatusNotFound {
			t.Errorf("POST %s is answered %d %s, want 404", path, status, out)
		}
	}
	sent := id(t, p.must("POST", "/api/v1/events", `{"type":"order.shipped","context":"testing","data":{}}`))
	ours := id(t, p.must("POST", "/api/v1/events", `{"type":"order.shipped","data":{}}`))

	p.until("each has what it is to have", 20*time.Second, func() bool {
		return production.count() >= 1 && tested.count() >= 2 && outgoing.count() >= 1
	})
	// What nobody was to get has been routed too, and found nobody.
	p.until("the one of ours is routed", 20*time.Second, func() bool {
		return strings.Contains(p.must("GET", "/api/v1/events/"+ours+"/trace", ""), "unmatched")
	})
	if production.count() != 1 || production.times(ids["/events/shop/order.created"]) != 1 {
		t.Errorf("the default context's subscriber got %d deliveries, want the one of its context", production.count())
	}
	if tested.count() != 2 || tested.times(ids["/events/testing/shop/order.created"]) != 1 || tested.times(ids["/events/testing/shop/order.tried"]) != 1 {
		t.Errorf("the testing context's subscriber got %d deliveries, want the two of its context", tested.count())
	}
	if outgoing.count() != 1 || outgoing.times(sent) != 1 {
		t.Errorf("the external subscriber of context testing got %d deliveries, want one", outgoing.count())
	}
	if list := p.must("GET", "/api/v1/events?context=testing", ""); strings.Count(list, `"id":`) != 3 || strings.Contains(list, ids["/events/shop/order.created"]) {
		t.Errorf("the events of context testing are %s, want three", list)
	}
}
