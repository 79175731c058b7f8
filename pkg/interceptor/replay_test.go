package interceptor_test

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/interceptor"
)

// past makes of a request what a recording keeps of it, which the flow then has
// checked.
func past(t *testing.T, then *interceptor.Flow, answered int, client, query string, headers ...string) *interceptor.Past {
	t.Helper()
	r := &interceptor.Request{RawQuery: query, Header: http.Header{}, Body: []byte(`{"secret":"hush"}`), Now: epoch}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	if client != "" {
		r.Client = netip.MustParseAddr(client)
	}
	steps, _ := then.Check(t.Context(), r)
	p := &interceptor.Past{Decisions: then.Decisions(steps), Answered: answered}
	p.Request = *r
	p.Body, p.Header = nil, http.Header{}
	for name := range r.Header {
		p.Header.Set(name, interceptor.Stripped)
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	for name := range values {
		values.Set(name, interceptor.Stripped)
	}
	p.RawQuery = values.Encode()
	return p
}

func TestReplay(t *testing.T) {
	t.Parallel()
	asker := newAsker(t, authorize(t, `{"oauth":{"url":"http://127.0.0.1:1"}}`), new(clock), interceptor.Config{})
	secrets := map[string]string{"key": "hush", "sig": "hush", "field": "hush"}
	flow := func(doc string) *interceptor.Flow { return compile(t, doc, secrets, asker) }
	const (
		key   = `{"id":"key","headerValue":{"name":"X-Key"}}`
		field = `{"id":"field","jsonField":{"path":"/secret"}}`
		ips   = `{"id":"ips","ipFilter":{"mode":"ALLOW","addresses":["192.0.2.0/24"]}}`
	)
	good := past(t, flow("["+key+","+field+"]"), 202, "192.0.2.1", "", "X-Key: hush")
	bad := past(t, flow("["+key+"]"), 401, "192.0.2.1", "", "X-Key: wrong")
	if len(good.Decisions) != 2 || len(bad.Decisions) != 1 || bad.Decisions[0].Outcome != "refused" {
		t.Fatalf("decisions are %+v and %+v", good.Decisions, bad.Decisions)
	}
	tests := []struct {
		name, flow string
		past       *interceptor.Past
		want       string // outcomes
		kind       errs.Kind
		says       string // in the last step
	}{
		{"what was let through is again", "[" + key + "," + field + "]", good, "ok ok", 0, "was not recorded; it was let through then: value at /secret"},
		{"moved, behind a filter that is new", "[" + ips + "," + key + "]", good, "ok ok", 0, "let through then: value of X-Key"},
		{"what was refused is again", "[" + key + "]", bad, "refused", errs.Unauthenticated, "it was refused then: the value of X-Key does not match"},
		{"an address that is not allowed", "[" + ips + "," + key + "]", past(t, nil, 202, "203.0.113.1", ""), "refused", errs.Denied, "not on the allow list"},
		{"an address that is not known", "[" + ips + "]", past(t, nil, 202, "", ""), "refused", errs.Denied, "not known"},
		{"a header that was not there", `[{"id":"key","headerValue":{"name":"X-Other"}}]`, good, "refused", errs.Unauthenticated, "no X-Other header"},
		{"another header under the ID, which was there", `[{"id":"key","headerValue":{"name":"X-Key2"}}]`, past(t, flow("["+key+"]"), 202, "", "", "X-Key: hush", "X-Key2: x"), "unknown", 0, "nobody can say"},
		{"one that is new goes on to the next", `[{"id":"sig","hmac":{"header":"X-Key"}},` + ips + `]`, good, "unknown ok", 0, "allow list"},
		{"a signature that was not there", `[{"id":"sig","hmac":{"header":"X-Sig"}}]`, good, "refused", errs.Unauthenticated, "no X-Sig header"},
		{"a time that was not there", `[{"id":"sig","hmac":{"header":"X-Key","timestampHeader":"X-Time"}}]`, good, "refused", errs.Unauthenticated, "no X-Time header"},
		{"a signature without a secret", `[{"id":"none","hmac":{"header":"X-Key"}}]`, good, "refused", errs.Denied, "has a secret"},
		{"a field that is new", `[{"id":"field","jsonField":{"path":"/other"}}]`, good, "unknown", 0, "the body was not recorded"},
		{"a token in the query", `[{"accessToken":{"location":"QUERY","name":"token"}}]`, past(t, nil, 202, "", "token=hush"), "unknown", 0, "nobody can say"},
		{"no token in the query", `[{"accessToken":{"location":"QUERY","name":"token"}}]`, good, "refused", errs.Unauthenticated, "no token in its query"},
		{"a client ID", `[{"clientId":{"location":"HEADER","name":"X-Key"}}]`, good, "unknown", 0, "nobody can say"},
		{"half of OAuth", `[{"oauth":{}}]`, past(t, nil, 202, "", "", "client_id: me"), "refused", errs.Unauthenticated, "access_token"},
		{"OAuth", `[{"oauth":{}}]`, past(t, nil, 202, "", "", "client_id: me", "access_token: hush"), "unknown", 0, "nobody can say"},
		{"a JWT that nobody could verify", `[{"jwt":{}}]`, past(t, nil, 202, "", "", "Authorization: Bearer x"), "refused", errs.Denied, "no JWT section"},
		{"disabled", `[{"disabled":true,"id":"key","headerValue":{"name":"X-Other"}}]`, good, "skipped", 0, "disabled"},
		{"nothing to pass", `[]`, good, "", 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			steps, all, err := flow(tt.flow).Replay(t.Context(), tt.past)
			var outcomes []string
			for _, s := range steps {
				outcomes = append(outcomes, s.Outcome)
			}
			if got := strings.Join(outcomes, " "); got != tt.want {
				t.Errorf("outcomes are %q, want %q: %+v", got, tt.want, steps)
			}
			if len(steps) > 0 && !strings.Contains(steps[len(steps)-1].Detail, tt.says) {
				t.Errorf("the last step says %q, want %q in it", steps[len(steps)-1].Detail, tt.says)
			}
			refused := strings.HasSuffix(tt.want, "refused")
			if refused != (err != nil) || refused && errs.KindOf(err) != tt.kind {
				t.Errorf("error is %v of kind %v, want one: %t", err, errs.KindOf(err), refused)
			}
			if all == strings.Contains(tt.want, "unknown") {
				t.Errorf("all are known: %t, with %s", all, tt.want)
			}
		})
	}
}

func TestAFlowSaysWhatItReads(t *testing.T) {
	t.Parallel()
	asker := newAsker(t, authorize(t, `{}`), new(clock), interceptor.Config{})
	f := compile(t, `[{"headerValue":{"name":"x-key"}},{"hmac":{"timestampHeader":"X-Time"}},{"jwt":{}},{"oauth":{}},
		{"accessToken":{"location":"HEADER_OR_COOKIE","name":"User-Agent"}},{"disabled":true,"headerValue":{"name":"X-Off"}},
		{"clientId":{"location":"QUERY","name":"X-Query"}},{"ipFilter":{"mode":"BLOCK","addresses":["192.0.2.1"]}}]`, nil, asker)
	for name, want := range map[string]bool{
		"X-Key": true, "X-Signature": true, "X-Time": true, "Authorization": true, "client_id": true, "Access_token": true, "User-Agent": true,
		"Cookie": true, "X-Off": false, "X-Query": false, "X-Forwarded-For": false, "Accept": false,
	} {
		if got := f.Reads(name); got != want {
			t.Errorf("reads %s: %t, want %t", name, got, want)
		}
	}
	if (*interceptor.Flow)(nil).Reads("Authorization") {
		t.Error("no flow reads a header")
	}
}
