package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The names in a request are part of subjects, and NATS ends the connection of whoever
// sends it too long a one. Whoever may read one thing could end the process by that.
func TestALongNameCostsItsRequestAlone(t *testing.T) {
	t.Parallel()
	p := serve(t)
	long := strings.Repeat("a", 5000)
	refused := func(method, path, body string, header ...string) {
		t.Helper()
		status, out, err := p.call(method, path, body, header...)
		if err != nil {
			t.Fatalf("%s %.60s: %v; log:\n%s", method, path, err, tail(p.stderr.String()))
		}
		if status >= 500 {
			t.Errorf("%s %.60s: got %d, want an answer about the request: %.300s", method, path, status, out)
		}
	}
	var doc struct {
		Paths map[string]map[string]struct {
			Parameters []struct{ Name, In string }
		}
	}
	if err := json.Unmarshal([]byte(p.must("GET", "/api/openapi.json", "")), &doc); err != nil {
		t.Fatal(err)
	}
	parameter := regexp.MustCompile(`\{\w+\}`)
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		for method, op := range doc.Paths[path] {
			method = strings.ToUpper(method)
			for _, name := range []string{long, "ev_" + long, "replay_" + long, "x%0D%0APUB%20x%200", "%3E", "*"} {
				if parameter.MatchString(path) {
					refused(method, parameter.ReplaceAllString(path, name), "{}")
				}
			}
			if !parameter.MatchString(path) && strings.HasSuffix(path, "s") && method == http.MethodGet {
				for _, q := range op.Parameters {
					if q.In == "query" {
						refused(method, path+"?"+q.Name+"="+long, "")
					}
				}
			}
		}
	}
	for _, one := range []struct{ path, body string }{
		{"sources", `{"name":%q,"kind":"GENERIC"}`},
		{"sources", `{"name":"s","kind":"GENERIC","policy":%q}`},
		{"sources", `{"name":"s","kind":"GENERIC","context":%q}`},
		{"subscriptions", `{"name":"s","types":["a"],"context":%q,"destination":{"pull":{}}}`},
		{"subscriptions", `{"name":"s","types":["a"],"policy":%q,"destination":{"pull":{}}}`},
		{"users", `{"name":%q,"password":"correct horse battery"}`},
		{"keys", `{"name":%q,"roles":["events:read"]}`},
		{"signin", `{"name":%q,"password":"x"}`},
		{"events", `{"type":%q,"data":1}`},
		{"events", `{"type":"a","source":%q,"data":1}`},
		{"events", `{"type":"a","context":%q,"data":1}`},
		{"events", `{"type":"a","tenant":%q,"data":1}`},
		{"events", `{"type":"a","idempotencyKey":%q,"data":1}`},
		{"events:batch", `{"events":[{"type":%q,"data":1}]}`},
		{"deadletters:retry", `{"ids":[%q]}`},
		{"deadletters:retry", `{"subscription":%q}`},
		{"replays", `{"filter":{"context":%q}}`},
		{"replays", `{"filter":{"ids":[%q]}}`},
		{"replays", `{"subscription":%q}`},
		{"schemas:validate", `{"type":%q,"data":1}`},
		{"policies/default:simulate", `{"source":%q}`},
		{"policies/default:simulate", `{"source":%q,"lastRequests":3}`},
	} {
		refused("POST", "/api/v1/"+one.path, fmt.Sprintf(one.body, long))
	}
	p.must("PUT", "/api/v1/sources/generic", `{"kind":"GENERIC","type":"a"}`)
	refused("POST", "/events/"+long, "{}")
	refused("POST", "/events/default/"+long, "{}")
	refused("POST", "/events/generic/"+long, "{}")
	refused("POST", "/events/generic", "{}", "Idempotency-Key", long)
	refused("POST", "/events/generic", "{}", "X-Correlation-Id", long)
	refused("POST", "/api/v1/events", `{"type":"a","data":1}`, "Idempotency-Key", long)

	select {
	case err := <-p.exited:
		p.exited <- err
		t.Fatalf("the process ended: %v; log:\n%s", err, tail(p.stderr.String()))
	default:
	}
	if log := p.stderr.String(); strings.Contains(log, "control line") || strings.Contains(log, "connection to NATS is lost") {
		t.Errorf("a request cost a connection to NATS; log:\n%s", tail(log))
	}
	p.must("POST", "/events/generic", "{}")
	p.must("GET", "/api/v1/sources/generic", "")
}
