package webhook

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/destination"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// serveRaw answers each connection with answer, after a request's header was
// read, and cuts it. It returns the address.
func serveRaw(t *testing.T, answer string) string {
	t.Helper()
	lis, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { lis.Close(); <-done })
	go func() {
		defer close(done)
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = io.WriteString(conn, answer)
			}
			conn.Close()
		}
	}()
	return lis.Addr().String()
}

func TestErrorClasses(t *testing.T) {
	t.Parallel()
	quiet := log.New(io.Discard, "", 0) // these servers complain of the clients they are here for
	selfSigned := httptest.NewUnstartedServer(http.NotFoundHandler())
	selfSigned.Config.ErrorLog = quiet
	selfSigned.StartTLS()
	t.Cleanup(selfSigned.Close)
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.Config.ErrorLog = quiet
	old.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	old.StartTLS()
	t.Cleanup(old.Close)
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)

	tests := []struct {
		name  string
		url   string
		class string
		says  string
	}{
		{"nobody listens", "http://127.0.0.1:1", destination.ClassConnect, "refused"},          // below any port that another test may get
		{"no such name", "http://no-such-host..invalid", destination.ClassDNS, "no such host"}, // for which no resolver is asked
		{"self-signed certificate", selfSigned.URL, destination.ClassTLS, "certificate"},
		{"a TLS version that is no longer safe", old.URL, destination.ClassTLS, "protocol version"},
		{"TLS to a server that has none", strings.Replace(plain.URL, "http://", "https://", 1), destination.ClassTLS, "does not look like a TLS handshake"},
		{"cut before the answer", "http://" + serveRaw(t, ""), destination.ClassClosed, "EOF"},
		{"cut within the header", "http://" + serveRaw(t, "HTTP/1.1 200 OK\r\n"), destination.ClassClosed, "EOF"},
		{"not HTTP", "http://" + serveRaw(t, "SSH-2.0-OpenSSH_9.2\r\n\r\n"), destination.ClassOther, "malformed"},
		{"not HTTP, at length and not UTF-8", "http://" + serveRaw(t, "HTTP/1.1 "+strings.Repeat("\xff", 3000)+"\r\n\r\n"), destination.ClassOther, "malformed"},
		{"a header without end", "http://" + serveRaw(t, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 1<<20)), destination.ClassOther, "header"},
	}
	c := newClient(t, Config{})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			scheme, rest, _ := strings.Cut(tt.url, "://")
			w := newWebhook(t, c, &posthornv1.Webhook{Url: scheme + "://ann:hunter2@" + rest + "/hooks?key=hunter2", Headers: map[string]string{"X-Key": "hunter2"}})
			r := send(t, w, newMessage(`{}`))
			if r.Verdict != destination.NoAnswer || r.ErrorClass != tt.class || r.Err == nil || r.Status != 0 {
				t.Fatalf("verdict %d, class %q, status %d, error %v; want no answer and class %q", r.Verdict, r.ErrorClass, r.Status, r.Err, tt.class)
			}
			text := r.Err.Error()
			if !strings.Contains(text, tt.says) {
				t.Errorf("error is %q, want it to say %q", text, tt.says)
			}
			if strings.Contains(text, "hunter2") {
				t.Errorf("error %q repeats a credential", text)
			}
			if len(text) > 600 || strings.ToValidUTF8(text, "") != text {
				t.Errorf("error %q is too long or not UTF-8", text)
			}
		})
	}
}

// hang holds every request until the test ends.
func hang(t *testing.T, before func(http.ResponseWriter)) *httptest.Server {
	t.Helper()
	end := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		before(rw)
		select {
		case <-end:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(func() { close(end); srv.Close() })
	return srv
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp4", "127.0.0.1:0") // accepts, by the kernel, and never says a word
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })

	tests := []struct{ name, url string }{
		{"no answer to the request", hang(t, func(http.ResponseWriter) {}).URL},
		{"no handshake", "https://" + silent.Addr().String()},
	}
	c := newClient(t, Config{})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWebhook(t, c, &posthornv1.Webhook{Url: tt.url})
			begun := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			r := w.Send(ctx, newMessage(`{}`))
			if r.Verdict != destination.NoAnswer || r.ErrorClass != destination.ClassTimeout {
				t.Errorf("result is %+v, want a timeout", r)
			}
			if !errors.Is(r.Err, context.DeadlineExceeded) {
				t.Errorf("error is %v, want one of a deadline", r.Err)
			}
			// The clock of the context starts earlier, and how much is the machine's affair.
			if most := time.Since(begun); r.Latency <= 0 || r.Latency > most {
				t.Errorf("latency is %s, want some of the %s that it took", r.Latency, most)
			}
		})
	}
}

// The endpoint has said 200. Sending again would deliver twice.
func TestBodyThatNeverEndsIsAnAnswerAllTheSame(t *testing.T) {
	t.Parallel()
	srv := hang(t, func(rw http.ResponseWriter) {
		_, _ = io.WriteString(rw, "thanks")
		rw.(http.Flusher).Flush()
	})
	// All of it is waited for; it must be enough for the answer to come.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r := newWebhook(t, newClient(t, Config{}), &posthornv1.Webhook{Url: srv.URL}).Send(ctx, newMessage(`{}`))
	if r.Verdict != destination.Accepted || r.Status != 200 || string(r.Response) != "thanks" {
		t.Errorf("result is %+v with response %q, want accepted with what came", r, r.Response)
	}
}

func TestBodyCutShortIsAnAnswerAllTheSame(t *testing.T) {
	t.Parallel()
	url := "http://" + serveRaw(t, "HTTP/1.1 500 No\r\nContent-Length: 100\r\n\r\nsorr")
	r := send(t, newWebhook(t, newClient(t, Config{}), &posthornv1.Webhook{Url: url}), newMessage(`{}`))
	if r.Verdict != destination.Answered || r.Status != 500 || string(r.Response) != "sorr" {
		t.Errorf("result is %+v with response %q, want a 500 with what came", r, r.Response)
	}
}

func TestHugeAnswerIsCut(t *testing.T) {
	t.Parallel()
	var written atomic.Int64
	cut := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		defer close(cut)
		chunk := []byte(strings.Repeat("x", 16<<10))
		for {
			n, err := rw.Write(chunk)
			written.Add(int64(n))
			if err != nil {
				return
			}
		}
	}))
	defer srv.Close()
	r := send(t, newWebhook(t, newClient(t, Config{}), &posthornv1.Webhook{Url: srv.URL}), newMessage(`{}`))
	if r.Verdict != destination.Accepted || len(r.Response) != destination.MaxResponse {
		t.Errorf("verdict is %d with %d bytes of response, want accepted with %d", r.Verdict, len(r.Response), destination.MaxResponse)
	}
	select {
	case <-cut:
	case <-time.After(10 * time.Second):
		t.Fatalf("the endpoint may still write after %d bytes", written.Load())
	}
}

func TestConnectionIsUsedAgain(t *testing.T) {
	t.Parallel()
	const attempts = 5
	tests := []struct {
		name   string
		answer string
		status int
		want   int64
	}{
		{"after no body", "", 204, 1},
		{"after a short body", "ok", 200, 1},
		{"after a failure", "no", 500, 1},
		{"after a body that is kept to the last byte", strings.Repeat("x", destination.MaxResponse), 200, 1},
		{"after a body longer than what is kept", strings.Repeat("x", 60<<10), 200, 1},
		{"not after a body that is not worth reading", strings.Repeat("x", 1<<20), 200, attempts},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var conns atomic.Int64
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				rw.WriteHeader(tt.status)
				_, _ = io.WriteString(rw, tt.answer)
			}))
			srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
				if s == http.StateNew {
					conns.Add(1)
				}
			}
			srv.Start()
			defer srv.Close()
			w := newWebhook(t, newClient(t, Config{}), &posthornv1.Webhook{Url: srv.URL})
			for range attempts {
				if r := send(t, w, newMessage(`{}`)); r.Status != tt.status {
					t.Fatalf("result is %+v, want status %d", r, tt.status)
				}
			}
			if got := conns.Load(); got != tt.want {
				t.Errorf("%d connections for %d attempts, want %d", got, attempts, tt.want)
			}
		})
	}
}

// A request that may have arrived is repeated by the dispatcher, who records it,
// or by nobody.
func TestNothingIsRepeatedInSecret(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		if requests.Add(1) == 1 {
			return // so that there is a kept connection
		}
		conn, _, err := rw.(http.Hijacker).Hijack()
		if err == nil {
			conn.Close()
		}
	}))
	defer srv.Close()
	w := newWebhook(t, newClient(t, Config{}), &posthornv1.Webhook{Url: srv.URL})
	if r := send(t, w, newMessage(`{}`)); r.Verdict != destination.Accepted {
		t.Fatalf("result is %+v, want accepted", r)
	}
	if r := send(t, w, newMessage(`{}`)); r.ErrorClass != destination.ClassClosed {
		t.Errorf("result is %+v, want a closed connection", r)
	}
	if got := requests.Load(); got != 2 {
		t.Errorf("the endpoint saw %d requests for 2 attempts", got)
	}
}

func TestHTTP2WhereTLSOffersIt(t *testing.T) {
	t.Parallel()
	handler, seen := record(t)
	srv := httptest.NewUnstartedServer(handler)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	w := newWebhook(t, newClient(t, Config{RootCAs: roots}), &posthornv1.Webhook{Url: srv.URL})
	if r := send(t, w, newMessage(`{"id":1}`)); r.Verdict != destination.Accepted {
		t.Fatalf("result is %+v, want accepted", r)
	}
	got := <-seen
	if got.proto != "HTTP/2.0" || got.body != `{"id":1}` || got.header.Get("Webhook-Id") != "ev_01" {
		t.Errorf("got %+v, want the event by HTTP/2.0", got)
	}
}

// One Webhook is used by all workers of a dispatcher.
func TestManyAttemptsAtOnce(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("reading the request: %v", err)
		}
		h := r.Header
		if want := standardSignature(testSecret, h.Get("Webhook-Id"), h.Get("Webhook-Timestamp"), string(body)); h.Get("Webhook-Signature") != want {
			t.Errorf("webhook-signature of %s is %q, want %q", body, h.Get("Webhook-Signature"), want)
		}
		if want := `{"id":"` + h.Get("Webhook-Id") + `"}`; string(body) != want || h.Get("Ce-Id") != h.Get("Webhook-Id") || h.Get("X-Env") != "prod" {
			t.Errorf("body %s came with header %v, which is another event's", body, h)
		}
	}))
	defer srv.Close()
	w := newWebhook(t, newClient(t, Config{}), &posthornv1.Webhook{Url: srv.URL, Headers: map[string]string{"X-Env": "prod"}})

	const attempts = 200
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i := range attempts {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			id := "ev_" + strconv.Itoa(i)
			m := newMessage(`{"id":"` + id + `"}`)
			m.Event.ID = id
			m.Now = now.Add(time.Duration(i) * time.Second)
			if r := send(t, w, m); r.Verdict != destination.Accepted {
				t.Errorf("result of %s is %+v, want accepted", id, r)
			}
		})
	}
	wg.Wait()
	if got := requests.Load(); got != attempts {
		t.Errorf("the endpoint saw %d requests, want %d", got, attempts)
	}
}
