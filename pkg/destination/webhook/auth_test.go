package webhook

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/certs/certstest"
	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/errs"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func bearer(token string) *posthornv1.WebhookAuth {
	return &posthornv1.WebhookAuth{Kind: &posthornv1.WebhookAuth_Bearer_{Bearer: &posthornv1.WebhookAuth_Bearer{Token: &token}}}
}

func basic(user, password string) *posthornv1.WebhookAuth {
	return &posthornv1.WebhookAuth{Kind: &posthornv1.WebhookAuth_Basic_{Basic: &posthornv1.WebhookAuth_Basic{Username: user, Password: &password}}}
}

func oauth2Of(url, secret string) *posthornv1.WebhookAuth {
	return &posthornv1.WebhookAuth{Kind: &posthornv1.WebhookAuth_Oauth2{Oauth2: &posthornv1.WebhookAuth_OAuth2{
		TokenUrl: url, ClientId: "me", ClientSecret: &secret, Scopes: []string{"a", "b"}, Audience: "erp",
	}}}
}

func TestAuthorizationOnTheWire(t *testing.T) {
	t.Parallel()
	handler, seen := record(t)
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	c := newClient(t, Config{})
	for want, auth := range map[string]*posthornv1.WebhookAuth{
		"Bearer hush": bearer("hush"),
		"Basic " + base64.StdEncoding.EncodeToString([]byte("ann:hu:sh")): basic("ann", "hu:sh"),
	} {
		w := newWebhook(t, c, &posthornv1.Webhook{Url: srv.URL, Auth: auth})
		if r := send(t, w, newMessage(`{}`)); r.Verdict != destination.Accepted {
			t.Fatalf("result is %+v, want accepted", r)
		}
		if got := (<-seen).header.Get("Authorization"); got != want {
			t.Errorf("Authorization is %q, want %q", got, want)
		}
	}
}

// An issuer is an OAuth2 token endpoint that counts.
type issuer struct {
	*httptest.Server
	asked atomic.Int64
	// answer writes what the nth question is answered with. Default a token "t<n>"
	// that lives for an hour.
	answer func(n int64, rw http.ResponseWriter, r *http.Request)
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{answer: func(n int64, rw http.ResponseWriter, _ *http.Request) { writeToken(rw, n, `"expires_in":3600`) }}
	i.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		i.answer(i.asked.Add(1), rw, r)
	}))
	t.Cleanup(i.Close)
	return i
}

func writeToken(rw http.ResponseWriter, n int64, more string) {
	rw.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(rw, `{"access_token":"t%d","token_type":"bearer",%s}`, n, more)
}

// An endpoint takes the tokens that it is told to and keeps those that it saw.
func newEndpoint(t *testing.T, takes func(token string) bool) (url string, seen func() []string) {
	t.Helper()
	var mu sync.Mutex
	var all []string
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Error(err)
		}
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		mu.Lock()
		all = append(all, token)
		mu.Unlock()
		if !takes(token) {
			rw.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), all...)
	}
}

func anyToken(string) bool { return true }

func TestATokenIsAskedForOnceByManyAndKept(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	var form atomic.Pointer[http.Request]
	i.answer = func(n int64, rw http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		form.Store(r)
		writeToken(rw, n, `"expires_in":3600`)
	}
	url, seen := newEndpoint(t, anyToken)
	w := newWebhook(t, newClient(t, Config{}), &posthornv1.Webhook{Url: url, Auth: oauth2Of(i.URL, "hush")})
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			if r := send(t, w, newMessage(`{}`)); r.Verdict != destination.Accepted {
				t.Errorf("result is %+v, want accepted", r)
			}
		})
	}
	wg.Wait()
	if n := i.asked.Load(); n != 1 {
		t.Errorf("asked %d times for a token, want once", n)
	}
	for _, token := range seen() {
		if token != "t1" {
			t.Errorf("the endpoint got token %q, want t1", token)
		}
	}
	r := form.Load()
	user, password, _ := r.BasicAuth()
	if user != "me" || password != "hush" || r.Form.Get("grant_type") != "client_credentials" || r.Form.Get("scope") != "a b" || r.Form.Get("audience") != "erp" {
		t.Errorf("asked as %s with %v, want client_credentials with scopes and audience", user, r.Form)
	}
}

func TestTokensAreRenewed(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		more   string
		takes  func(string) bool
		sends  int
		tokens string // that the endpoint saw, in order
		last   int    // status
	}{
		{"one that lives is kept", `"expires_in":3600`, anyToken, 3, "t1 t1 t1", 200},
		{"one without an end is kept", `"scope":"a"`, anyToken, 3, "t1 t1 t1", 200},
		{"one that is at its end is not used", `"expires_in":-1`, anyToken, 2, "t1 t2", 200},
		{"one that is not taken any more", `"expires_in":3600`, func(s string) bool { return s != "t1" }, 2, "t1 t2 t2", 200},
		{"none is taken, and one renewal is enough", `"expires_in":3600`, func(string) bool { return false }, 1, "t1 t2", 401},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			i := newIssuer(t)
			i.answer = func(n int64, rw http.ResponseWriter, _ *http.Request) { writeToken(rw, n, tt.more) }
			url, seen := newEndpoint(t, tt.takes)
			w := newWebhook(t, newClient(t, Config{}), &posthornv1.Webhook{Url: url, Auth: oauth2Of(i.URL, "hush")})
			var r destination.Result
			for range tt.sends {
				r = send(t, w, newMessage(`{}`))
			}
			if got := strings.Join(seen(), " "); got != tt.tokens || r.Status != tt.last {
				t.Errorf("the endpoint saw %q and answered %d, want %q and %d", got, r.Status, tt.tokens, tt.last)
			}
		})
	}
}

// An issuer that has no other token to give is not asked again and again.
func TestTheSameTokenIsNotSentTwice(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	i.answer = func(_ int64, rw http.ResponseWriter, _ *http.Request) { writeToken(rw, 1, `"expires_in":3600`) }
	url, seen := newEndpoint(t, func(string) bool { return false })
	w := newWebhook(t, newClient(t, Config{}), &posthornv1.Webhook{Url: url, Auth: oauth2Of(i.URL, "hush")})
	if r := send(t, w, newMessage(`{}`)); r.Status != http.StatusUnauthorized || r.Verdict != destination.Answered {
		t.Errorf("result is %+v, want a 401", r)
	}
	if n, saw := i.asked.Load(), seen(); n != 2 || len(saw) != 1 {
		t.Errorf("asked %d times for a token and sent %v, want twice and one", n, saw)
	}
}

func TestWithoutATokenNothingIsSent(t *testing.T) {
	t.Parallel()
	answers := func(status int, contentType, body string) func(int64, http.ResponseWriter, *http.Request) {
		return func(_ int64, rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", contentType)
			rw.WriteHeader(status)
			_, _ = io.WriteString(rw, body) // the client may be gone
		}
	}
	tests := []struct {
		name   string
		answer func(int64, http.ResponseWriter, *http.Request)
		url    string // in place of the issuer's
		class  string
		says   string
	}{
		{"refused, with an echo", answers(401, "application/json", `{"error":"invalid_client","error_description":"me:hush"}`), "", destination.ClassAuth, "401 Unauthorized: invalid_client"},
		{"refused, with an echo as the code", answers(400, "application/json", `{"error":"hush"}`), "", destination.ClassAuth, "400 Bad Request"},
		{"broken", answers(500, "text/html", `hush`), "", destination.ClassAuth, "500 Internal Server Error"},
		{"no JSON", answers(200, "application/json", `hush`), "", destination.ClassAuth, "cannot be read"},
		{"no token", answers(200, "application/json", `{"hush":1}`), "", destination.ClassAuth, "cannot be read"},
		{"a token of another type", answers(200, "application/json", `{"access_token":"hush","token_type":"mac"}`), "", destination.ClassAuth, "no bearer token"},
		{"a token that splits a header", answers(200, "application/json", `{"access_token":"hush\r\nX: y"}`), "", destination.ClassAuth, "no bearer token"},
		{"elsewhere", func(_ int64, rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, "/other", http.StatusTemporaryRedirect)
		}, "", destination.ClassAuth, "307"},
		{"nobody there", nil, "http://127.0.0.1:1", destination.ClassConnect, "refused"},
		{"an address that is not allowed", nil, "http://10.0.0.1", destination.ClassBlocked, "--allow-net"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			i := newIssuer(t)
			if tt.answer != nil {
				i.answer = tt.answer
			}
			tokenURL := i.URL
			if tt.url != "" {
				tokenURL = tt.url
			}
			url, seen := newEndpoint(t, anyToken)
			w := newWebhook(t, newClient(t, Config{}), &posthornv1.Webhook{Url: url, Auth: oauth2Of(tokenURL+"/?hush", "hush")})
			r := send(t, w, newMessage(`{}`))
			if r.Verdict != destination.NoAnswer || r.ErrorClass != tt.class || r.Err == nil || !strings.Contains(r.Err.Error(), tt.says) {
				t.Fatalf("result is %+v, want no answer of class %s that says %q", r, tt.class, tt.says)
			}
			if strings.Contains(fmt.Sprintf("%v %s %s", r.Err, r.Response, w), "hush") {
				t.Errorf("the result repeats a credential: %v", r.Err)
			}
			if got := seen(); len(got) != 0 {
				t.Errorf("the endpoint got %v, want nothing", got)
			}
		})
	}
}

func TestWaitingForATokenEndsWithTheAttempt(t *testing.T) {
	t.Parallel()
	silent := hang(t, func(http.ResponseWriter) {})
	w := newWebhook(t, newClient(t, Config{}), &posthornv1.Webhook{Url: "http://127.0.0.1:1", Auth: oauth2Of(silent.URL, "hush")})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if r := w.Send(ctx, newMessage(`{}`)); r.Verdict != destination.NoAnswer || r.ErrorClass != destination.ClassTimeout {
		t.Errorf("result is %+v, want a timeout", r)
	}
}

func TestAuthThatIsIncompleteIsRefused(t *testing.T) {
	t.Parallel()
	c := newClient(t, Config{})
	cert, _ := certstest.New(t).Issue(t, "client")
	_, other := certstest.New(t).Issue(t, "other")
	key := string(other)
	tests := []struct {
		name  string
		spec  *posthornv1.Webhook
		field string
	}{
		{"no token", &posthornv1.Webhook{Auth: bearer("")}, "destination.webhook.auth.bearer.token"},
		{"a token that splits", &posthornv1.Webhook{Auth: bearer("hush\r\nX: y")}, "destination.webhook.auth.bearer.token"},
		{"no password", &posthornv1.Webhook{Auth: basic("ann", "")}, "destination.webhook.auth.basic.password"},
		{"no client secret", &posthornv1.Webhook{Auth: oauth2Of("https://auth.example", "")}, "destination.webhook.auth.oauth2"},
		{"an Authorization of its own", &posthornv1.Webhook{Auth: bearer("hush"), Headers: map[string]string{"authorization": "hush"}}, "destination.webhook.auth"},
		{"an Authorization of its own beside OAuth2", &posthornv1.Webhook{Auth: oauth2Of("https://auth.example", "hush"), Headers: map[string]string{"authorization": "hush"}}, "destination.webhook.auth"},
		{"a JWT in the same header", &posthornv1.Webhook{Auth: oauth2Of("https://auth.example", "hush"), JwtSignature: &posthornv1.JwtSignature{Header: "authorization"}}, "destination.webhook.jwtSignature.header"},
		{"another's key", &posthornv1.Webhook{Auth: &posthornv1.WebhookAuth{ClientCertificate: string(cert), ClientKey: &key}}, "destination.webhook.auth.clientKey"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.spec.Url = "https://erp.example"
			_, err := New(c, tt.spec, "orders-erp", []string{testSecret})
			if v := errs.ViolationsOf(err); len(v) != 1 || v[0].Field != tt.field || strings.Contains(err.Error(), "hush") {
				t.Errorf("error is %v, want one about %s", err, tt.field)
			}
		})
	}
}

func TestClientCertificates(t *testing.T) {
	t.Parallel()
	authority := certstest.New(t)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority.PEM)
	serverCert, serverKey := authority.Issue(t, "server")
	pair, err := tls.X509KeyPair(serverCert, serverKey)
	if err != nil {
		t.Fatal(err)
	}
	var conns atomic.Int64
	names := make(chan string, 16)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		names <- r.TLS.PeerCertificates[0].Subject.CommonName
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	c := newClient(t, Config{RootCAs: pool})
	issue := func(a *certstest.Authority, name string) *posthornv1.WebhookAuth {
		cert, key := a.Issue(t, name)
		text := string(key)
		return &posthornv1.WebhookAuth{ClientCertificate: string(cert), ClientKey: &text}
	}

	ann, bob := issue(authority, "ann"), issue(authority, "bob")
	for _, want := range []struct {
		auth  *posthornv1.WebhookAuth
		name  string
		conns int64
	}{{ann, "ann", 1}, {ann, "ann", 1}, {bob, "bob", 2}, {ann, "ann", 2}} {
		w := newWebhook(t, c, &posthornv1.Webhook{Url: srv.URL, Auth: want.auth})
		if r := send(t, w, newMessage(`{}`)); r.Verdict != destination.Accepted {
			t.Fatalf("result is %+v, want accepted", r)
		}
		if got := <-names; got != want.name {
			t.Errorf("the endpoint saw %s, want %s", got, want.name)
		}
		if n := conns.Load(); n != want.conns {
			t.Errorf("after %s there were %d connections, want %d: one for each certificate", want.name, n, want.conns)
		}
	}
	for name, auth := range map[string]*posthornv1.WebhookAuth{"no certificate": nil, "one of nobody that is known": issue(certstest.New(t), "eve")} {
		w := newWebhook(t, c, &posthornv1.Webhook{Url: srv.URL, Auth: auth})
		if r := send(t, w, newMessage(`{}`)); r.Verdict != destination.NoAnswer || r.ErrorClass != destination.ClassTLS {
			t.Errorf("%s: result is %+v, want no answer of class tls", name, r)
		}
	}
}

// What is shown of a request is what is sent, but for what is secret in it.
func TestWhatIsPreparedIsWhatIsSent(t *testing.T) {
	t.Parallel()
	handler, seen := record(t)
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	i := newIssuer(t)
	for name, auth := range map[string]*posthornv1.WebhookAuth{"bearer": bearer("hush"), "basic": basic("ann", "hush"), "oauth2": oauth2Of(i.URL, "hush"), "none": nil} {
		for _, format := range []posthornv1.Webhook_Format{posthornv1.Webhook_CLOUDEVENTS_BINARY, posthornv1.Webhook_CLOUDEVENTS_STRUCTURED, posthornv1.Webhook_RAW} {
			w := newWebhook(t, newClient(t, Config{}), &posthornv1.Webhook{
				Url: srv.URL + "/hooks?hush", Format: format, Auth: auth, Headers: map[string]string{"X-Key": "hush"}, JwtSignature: &posthornv1.JwtSignature{},
			})
			m := newMessage(`{"a":1}`)
			shown := w.Prepare(t.Context(), m)
			if r := send(t, w, m); r.Verdict != destination.Accepted {
				t.Fatalf("%s: result is %+v, want accepted", name, r)
			}
			got := <-seen
			got.header.Del("Content-Length") // the connection's
			if shown.Method != got.method || shown.Target != srv.URL+"/hooks" || string(shown.Body) != got.body || len(shown.Header) != len(got.header) {
				t.Errorf("%s, %s: shown %+v, sent %+v", name, format, shown, got)
			}
			for _, h := range shown.Header {
				want := got.header.Get(h.Name)
				if h.Name == "X-Key" || h.Name == "Authorization" {
					want = destination.MaskedValue
				}
				if h.Value != want {
					t.Errorf("%s, %s: header %s is shown as %q, want %q", name, format, h.Name, h.Value, want)
				}
			}
			if strings.Contains(fmt.Sprint(shown), "hush") {
				t.Errorf("%s, %s: a credential is shown: %v", name, format, shown)
			}
		}
	}
}
