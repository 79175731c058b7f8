package e2e

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// C16: how often a delivery is tried again is the default policy's, unless an
// override of its source or type says otherwise; the most specific wins; and a
// subscription that names a policy of its own goes by that.
func TestBackoffIsOverriddenBySourceAndType(t *testing.T) {
	t.Parallel()
	p := serve(t, "--dispatch-probe-interval", "50ms")
	fails := newSink(t, func(int, *received) int { return http.StatusServiceUnavailable })
	quick := `,"backoff":{"strategy":"LINEAR","initial":"0.020s","max":"0.050s","jitter":0}`
	p.must("PUT", "/api/v1/backoffs/all", `{"maxRetries":1`+quick+`}`)
	p.must("PUT", "/api/v1/backoffs/shop", `{"source":"shop","maxRetries":2}`)
	// More than the default policy's five: the queue must hand out as often.
	p.must("PUT", "/api/v1/backoffs/orders", `{"type":"order.#","maxRetries":8}`)
	p.must("PUT", "/api/v1/backoffs/shop-orders", `{"type":"order.#","source":"shop","maxRetries":0}`)
	p.must("PUT", "/api/v1/policies/own", `{"delivery":{"maxRetries":3`+quick+`}}`)
	for _, source := range []string{"shop", "crm"} {
		p.must("PUT", "/api/v1/sources/"+source, `{"kind":"GENERIC"}`)
	}
	p.subscribe("standard", "#", "INCOMING", fails.URL+"/standard", "")
	p.subscribe("named", "#", "INCOMING", fails.URL+"/named", `,"policy":"own"`)
	tests := []struct {
		name, path string
		want       int // attempts of the subscription that names no policy
	}{
		{"neither", "/events/crm/user.created", 2},
		{"a source", "/events/shop/user.created", 3},
		{"a type", "/events/crm/order.created", 9},
		{"both", "/events/shop/order.created", 1},
	}
	for _, tt := range tests {
		status, out, err := p.call("POST", tt.path, `{}`)
		if err != nil || status != http.StatusAccepted {
			t.Fatalf("%s: answered %d %s, %v", tt.name, status, out, err)
		}
		event := id(t, out)
		var dead string
		p.until(tt.name+": both are given up", 60*time.Second, func() bool {
			dead = p.must("GET", "/api/v1/deadletters?eventId="+event, "")
			return strings.Count(dead, `"attempts":`) == 2
		})
		for _, want := range []int{tt.want, 4} {
			if !strings.Contains(dead, `"attempts":`+strconv.Itoa(want)+`,`) {
				t.Errorf("%s: no delivery was given up after %d attempts: %s", tt.name, want, dead)
			}
		}
	}
}
