package interceptor_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/interceptor"
)

func callout(url string) string {
	return `{"oauth":{"url":"` + url + `","timeout":"10s","cache":"60s"}}`
}

func introspection(url string) string {
	return `{"oauth":{"url":"` + url + `","mode":"INTROSPECTION","clientId":"me:too","clientSecret":"hush/secret","timeout":"10s","cache":"60s"}}`
}

// status answers with what credential asks for: "401" with 401, all else with 200.
func status(w http.ResponseWriter, r *http.Request) {
	var q struct{ AccessToken, ClientID string }
	_ = json.NewDecoder(r.Body).Decode(&q) // what is no question is answered like an empty one
	var code int
	if _, err := fmt.Sscan(q.AccessToken+q.ClientID, &code); err != nil {
		code = http.StatusOK
	}
	w.WriteHeader(code)
}

func TestWhereCredentialsAre(t *testing.T) {
	t.Parallel()
	s := serve(t, status)
	a := newAsker(t, authorize(t, callout(s.URL)), new(clock), interceptor.Config{})
	token := func(location string) string {
		return `[{"accessToken":{"location":"` + location + `","name":"token"}}]`
	}
	tests := []struct {
		name, flow, query string
		headers           []string
		kind              errs.Kind
		says              string
	}{
		{"a header", token("HEADER"), "", []string{"Token: good"}, 0, ""},
		{"a bearer's header", `[{"accessToken":{"location":"HEADER","name":"Authorization"}}]`, "", []string{"Authorization: bearer good"}, 0, ""},
		{"a header, and it is a cookie", token("HEADER"), "", []string{"Cookie: token=good"}, errs.Unauthenticated, "no token in its headers"},
		{"a cookie", token("COOKIE"), "", []string{"Cookie: a=b; token=good"}, 0, ""},
		{"either, a header", token("HEADER_OR_COOKIE"), "", []string{"Token: good"}, 0, ""},
		{"either, a cookie", token("HEADER_OR_COOKIE"), "", []string{"Cookie: token=good"}, 0, ""},
		{"either, and it is in the query", token("HEADER_OR_COOKIE"), "token=good", nil, errs.Unauthenticated, "headers, cookies"},
		{"the query", token("QUERY"), "a=b&token=good", nil, 0, ""},
		{"any, the query", token("ANY"), "token=good", nil, 0, ""},
		{"any, an old cookie beside a good header", token("ANY"), "", []string{"Cookie: token=401", "Token: good"}, 0, ""},
		{"any, all bad", token("ANY"), "token=403", []string{"Cookie: token=401"}, errs.Unauthenticated, "not valid"},
		{"nothing anywhere", token("ANY"), "", nil, errs.Unauthenticated, "headers, cookies, query"},
		{"too long", token("HEADER"), "", []string{"Token: " + strings.Repeat("x", 17<<10)}, errs.Unauthenticated, "longer"},
		{"a client ID", `[{"clientId":{"name":"client_id"}}]`, "client_id=good", nil, 0, ""},
		{"OAuth", `[{"oauth":{}}]`, "", []string{"client_id: c", "access_token: good"}, 0, ""},
		{"OAuth without a token", `[{"oauth":{}}]`, "", []string{"client_id: c"}, errs.Unauthenticated, "access_token"},
		{"OAuth without a client", `[{"oauth":{}}]`, "", []string{"access_token: good"}, errs.Unauthenticated, "client_id"},
		{"not valid", token("HEADER"), "", []string{"Token: 401"}, errs.Unauthenticated, "not valid"},
		{"not found", token("HEADER"), "", []string{"Token: 404"}, errs.Unauthenticated, "not valid"},
		{"not allowed", token("HEADER"), "", []string{"Token: 403"}, errs.Denied, "not allowed"},
		{"a redirect", token("HEADER"), "", []string{"Token: 302"}, errs.Denied, "cannot be asked"},
		{"a server error", token("HEADER"), "", []string{"Token: 500"}, errs.Denied, "cannot be asked"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := compile(t, tt.flow, nil, a)
			if tt.says == "" {
				passes(t, f, request(tt.query, tt.headers...))
			} else {
				refused(t, f, request(tt.query, tt.headers...), tt.kind, tt.says)
			}
		})
	}
}

func TestACalloutSaysWhatItAsks(t *testing.T) {
	t.Parallel()
	s := serve(t, status)
	known := authorize(t, `{"oauth":{"url":"`+s.URL+`/check?a=b","clientId":"me:too","clientSecret":"hush/secret"}}`)
	a := newAsker(t, known, new(clock), interceptor.Config{})
	passes(t, compile(t, `[{"oauth":{}}]`, nil, a), request("", "client_id: c", "access_token: Bearer good"))
	r, body := s.saw()
	if want := `{"accessToken":"good","clientId":"c","context":"default","kind":"oauth"}`; body != want {
		t.Errorf("asked %s, want %s", body, want)
	}
	if r.Method != http.MethodPost || r.URL.String() != "/check?a=b" || r.Header.Get("Content-Type") != "application/json" {
		t.Errorf("asked with %s %s of type %s", r.Method, r.URL, r.Header.Get("Content-Type"))
	}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("me%3Atoo:hush%2Fsecret"))
	if got := r.Header.Get("Authorization"); got != want {
		t.Errorf("authorized by %s, want %s", got, want)
	}
}

func TestIntrospection(t *testing.T) {
	t.Parallel()
	at := func(d time.Duration) int64 { return epoch.Add(d).Unix() }
	answers := map[string]string{
		"good":      fmt.Sprintf(`{"active":true,"client_id":"c","exp":%d}`, at(time.Hour)),
		"unnamed":   `{"active":true}`,
		"inactive":  `{"active":false}`,
		"expired":   fmt.Sprintf(`{"active":true,"exp":%d}`, at(-time.Second)),
		"early":     fmt.Sprintf(`{"active":true,"nbf":%d}`, at(time.Minute)),
		"anothers":  `{"active":true,"client_id":"d"}`,
		"c":         `{"active":true}`,
		"gone":      `{"active":false}`,
		"no answer": `not JSON with a token in it`,
	}
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		_, _ = w.Write([]byte(answers[r.PostForm.Get("token")]))
	})
	a := newAsker(t, authorize(t, introspection(s.URL)), new(clock), interceptor.Config{Failures: 1000})
	tests := []struct {
		name, flow string
		headers    []string
		kind       errs.Kind
		says       string
	}{
		{"an active token", `[{"accessToken":{"name":"token"}}]`, []string{"Token: good"}, 0, ""},
		{"an inactive token", `[{"accessToken":{"name":"token"}}]`, []string{"Token: inactive"}, errs.Unauthenticated, "not active"},
		{"an expired token", `[{"accessToken":{"name":"token"}}]`, []string{"Token: expired"}, errs.Unauthenticated, "expired"},
		{"a token of tomorrow", `[{"accessToken":{"name":"token"}}]`, []string{"Token: early"}, errs.Unauthenticated, "not good yet"},
		{"no answer", `[{"accessToken":{"name":"token"}}]`, []string{"Token: no answer"}, errs.Denied, "cannot be asked"},
		{"a client", `[{"clientId":{"name":"client"}}]`, []string{"Client: c"}, 0, ""},
		{"a client that is gone", `[{"clientId":{"name":"client"}}]`, []string{"Client: gone"}, errs.Unauthenticated, "not active"},
		{"both", `[{"oauth":{}}]`, []string{"client_id: c", "access_token: good"}, 0, ""},
		{"a token of another client", `[{"oauth":{}}]`, []string{"client_id: c", "access_token: anothers"}, errs.Unauthenticated, "another client"},
		{"a token of nobody, and a client that is one", `[{"oauth":{}}]`, []string{"client_id: c", "access_token: unnamed"}, 0, ""},
		{"a token of nobody, and a client that is none", `[{"oauth":{}}]`, []string{"client_id: gone", "access_token: unnamed"}, errs.Unauthenticated, "client ID is not active"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := compile(t, tt.flow, nil, a)
			if tt.says == "" {
				passes(t, f, request("", tt.headers...))
			} else {
				refused(t, f, request("", tt.headers...), tt.kind, tt.says, "hush", "with a token in it")
			}
		})
	}
	passes(t, compile(t, `[{"clientId":{"name":"client"}}]`, nil, newAsker(t, authorize(t, introspection(s.URL)), new(clock), interceptor.Config{})), request("", "Client: c"))
	r, body := s.saw()
	if v := form(t, body); v.Get("token") != "c" || v.Get("token_type_hint") != "client_id" || len(v) != 2 {
		t.Errorf("asked %v, want the client ID with its hint", v)
	}
	if user, password, ok := r.BasicAuth(); !ok || user != "me%3Atoo" || password != "hush%2Fsecret" {
		t.Errorf("authorized by %q and %q, want them form-encoded", user, password)
	}
}

func TestAnswersAreRememberedForAsLongAsTheyMay(t *testing.T) {
	t.Parallel()
	jwt := func(d time.Duration) string {
		claims := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, epoch.Add(d).Unix()))
		return "e30." + claims + ".x"
	}
	tests := []struct {
		name, token, control string
		fresh, stale         time.Duration // still remembered then; no longer
	}{
		{"for the authorization's time", "good", "", 59 * time.Second, 60 * time.Second},
		{"a no, briefly", "401", "", 4 * time.Second, 5 * time.Second},
		{"as the answer says, if that is shorter", "good", `private, max-age=10`, 9 * time.Second, 10 * time.Second},
		{"not longer than that", "good", "max-age=600", 59 * time.Second, 60 * time.Second},
		{"not at all", "good", "no-store", -1, 0},
		{"as long as the token lives", jwt(20 * time.Second), "", 19 * time.Second, 20 * time.Second},
		{"trouble, never", "500", "", -1, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", tt.control)
				status(w, r)
			})
			c := new(clock)
			f := compile(t, `[{"accessToken":{"name":"token"}}]`, nil, newAsker(t, authorize(t, callout(s.URL)), c, interceptor.Config{}))
			ask := func() { _, _ = f.Check(t.Context(), request("", "Token: "+tt.token)) } // whatever the answer
			ask()
			if tt.fresh >= 0 {
				c.move(tt.fresh)
				ask()
				if n := s.asked.Load(); n != 1 {
					t.Fatalf("after %s asked %d times, want once", tt.fresh, n)
				}
				c.move(tt.stale - tt.fresh)
			}
			ask()
			if n := s.asked.Load(); n != 2 {
				t.Errorf("after %s asked %d times, want twice", tt.stale, n)
			}
		})
	}
}

// One asks for all, and its going away does not disturb the others.
func TestOneCallForAllThatWait(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	s := serve(t, func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-leave
	})
	f := compile(t, `[{"accessToken":{"name":"token"}}]`, nil, newAsker(t, authorize(t, callout(s.URL)), new(clock), interceptor.Config{}))
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := f.Check(ctx, request("", "Token: good"))
		first <- err
	}()
	<-entered
	var wg sync.WaitGroup
	failed := make(chan error, 20)
	for range 20 {
		wg.Go(func() {
			_, err := f.Check(t.Context(), request("", "Token: good"))
			failed <- err
		})
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("who went away is told %v, want its own end", err)
	}
	close(leave)
	wg.Wait()
	close(failed)
	for err := range failed {
		if err != nil {
			t.Errorf("one that waited is refused: %v", err)
		}
	}
	if n := s.asked.Load(); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
}

// A server that fails is left alone for a while, and everything is refused.
func TestTheBreakerOpensAndCloses(t *testing.T) {
	t.Parallel()
	s := serve(t, status)
	fails := func(openFor time.Duration) *interceptor.Flow {
		t.Helper()
		f := compile(t, `[{"accessToken":{"name":"token"}}]`, nil,
			newAsker(t, authorize(t, callout(s.URL)), new(clock), interceptor.Config{Failures: 3, OpenFor: openFor}))
		for range 3 {
			refused(t, f, request("", "Token: 503"), errs.Denied, "cannot be asked")
		}
		return f
	}
	open := fails(time.Hour)
	refused(t, open, request("", "Token: good"), errs.Denied, "left alone")
	if n := s.asked.Load(); n != 3 {
		t.Errorf("asked %d times, want 3", n)
	}
	f := fails(time.Millisecond)
	deadline := time.Now().Add(30 * time.Second)
	for {
		_, err := f.Check(t.Context(), request("", "Token: good"))
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("still refused: %v", err)
		}
		<-time.After(5 * time.Millisecond)
	}
	refused(t, open, request("", "Token: good"), errs.Denied, "left alone")
}

func TestWithoutAnURLEverythingIsRefused(t *testing.T) {
	t.Parallel()
	known := authorize(t, `{"jwt":{"jwksUrl":"http://127.0.0.1:1"}}`)
	known["other"] = authorize(t, callout("http://127.0.0.1:1"))["default"]
	a := newAsker(t, known, new(clock), interceptor.Config{})
	for flow, says := range map[string]string{
		`[{"accessToken":{"name":"token"}}]`: `context "default" has no OAUTH section`,
		`[{"clientId":{"name":"token"}}]`:    `context "default" has no OAUTH section`,
		`[{"oauth":{}}]`:                     `context "default" has no OAUTH section`,
	} {
		refused(t, compile(t, flow, nil, a), request("", "Token: x", "client_id: c", "access_token: x"), errs.Denied, says)
	}
	r := request("", "Token: a.b.c")
	r.Context = "other"
	refused(t, compile(t, `[{"jwt":{"location":"HEADER","name":"token"}}]`, nil, a), r, errs.Denied, `context "other" has no JWT section`)
	r.Context = "nowhere"
	refused(t, compile(t, `[{"jwt":{"location":"HEADER","name":"token"}}]`, nil, a), r, errs.Denied, `context "nowhere" has no JWT section`)
	r = request("", "Token: good")
	r.Context = "other"
	refused(t, compile(t, `[{"accessToken":{"name":"token"}}]`, nil, a), r, errs.Denied, "cannot be asked")
}
