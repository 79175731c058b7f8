package e2e

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/posthornhq/posthorn/pkg/certs"
	"github.com/posthornhq/posthorn/pkg/certs/certstest"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// clientTLS is how somebody with these files calls the platform.
func clientTLS(t *testing.T, f certs.Files) *tls.Config {
	t.Helper()
	k, err := certs.New(f, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return k.Client()
}

// over returns a client of the platform's HTTP ports.
func over(cfg *tls.Config) *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}}
}

// ping calls a broker and returns the code of the answer.
func ping(t *testing.T, addr string, cfg *tls.Config, key string) codes.Code {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx := t.Context()
	if key != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
	}
	_, err = posthornv1.NewEventBrokerClient(conn).SendOutgoingEvent(ctx, &posthornv1.SendOutgoingEventRequest{
		Event: &posthornv1.Event{Type: "tls.checked", Data: []byte(`{}`)},
	})
	return status.Code(err)
}

// Everything that listens speaks TLS, the broker to our own only; the CLI and
// nats know the authority; a new certificate needs no restart.
func TestTLSOnEveryListener(t *testing.T) {
	t.Parallel()
	authority := certstest.New(t)
	server := authority.Files(t, "server")
	client := authority.Files(t, "client")
	p := newPlatform(t, filepath.Join(t.TempDir(), "data"),
		"--tls-cert", server.Cert, "--tls-key", server.Key, "--tls-ca", server.CA, "--tls-client-ca", server.ClientCA)
	p.http, p.obs = strings.Replace(p.http, "http:", "https:", 1), strings.Replace(p.obs, "http:", "https:", 1)
	p.start()
	p.ready()

	anonymous := clientTLS(t, certs.Files{CA: server.CA})
	for _, url := range []string{p.http + "/", p.obs + "/healthz"} {
		resp, err := over(anonymous).Get(url)
		if err != nil {
			t.Fatalf("%s over TLS: %v", url, err)
		}
		_ = resp.Body.Close() // nothing of it is read
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s over TLS answers %d, want 200", url, resp.StatusCode)
		}
		plain, err := httpClient.Get(strings.Replace(url, "https:", "http:", 1))
		if err == nil {
			_ = plain.Body.Close() // nothing of it is read
			if plain.StatusCode != http.StatusBadRequest {
				t.Errorf("%s without TLS answers %d, want 400", url, plain.StatusCode)
			}
		}
	}
	if got := ping(t, p.grpc, anonymous, p.key); got != codes.Unavailable {
		t.Errorf("the broker answers a client without certificate %s, want the connection refused", got)
	}
	if got := ping(t, p.grpc, clientTLS(t, client), ""); got != codes.OK {
		t.Errorf("the broker answers one of ours %s, want OK", got)
	}

	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), bin, "event", "list", "--server", p.http, "--key", p.key, "--ca", server.CA).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "tls.checked") {
		t.Errorf("posthorn event list over TLS: %v\n%s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), bin, "event", "list", "--server", p.http, "--key", p.key).CombinedOutput(); err == nil {
		t.Errorf("posthorn event list without the authority works:\n%s", out)
	}
	natsURL := strings.Replace(p.nats, "nats:", "tls:", 1)
	out, err = exec.CommandContext(t.Context(), "nats", "--server", natsURL, "--tlsca", server.CA, "stream", "report").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "DELIVERIES") {
		t.Errorf("nats over TLS: %v\n%s", err, out)
	}

	cert, key := authority.Issue(t, "renewed")
	for path, data := range map[string][]byte{server.Cert: cert, server.Key: key} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.until("the renewed certificate is in force", 10*time.Second, func() bool {
		resp, err := over(anonymous).Get(p.http + "/")
		if err != nil {
			return false
		}
		_ = resp.Body.Close() // nothing of it is read
		return resp.TLS.PeerCertificates[0].Subject.CommonName == "renewed"
	})
}

// The roles of several processes know each other by their certificates.
func TestTLSBetweenRoles(t *testing.T) {
	t.Parallel()
	authority := certstest.New(t)
	r := newRoles(t)
	r.scheme = "https://"
	run := func(names string) *platform {
		f := authority.Files(t, names)
		return r.run(names, "--tls-cert", f.Cert, "--tls-key", f.Key, "--tls-ca", f.CA, "--tls-client-ca", f.ClientCA, "--tls-client-auth", "all")
	}
	run("broker")
	run("api,registry")
	run("dispatcher")
	gw := run("gateway")

	mine := over(clientTLS(t, authority.Files(t, "operator")))
	send := func(method, path, body string) int {
		req, err := http.NewRequestWithContext(t.Context(), method, gw.http+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+r.key)
		req.Header.Set("Content-Type", "application/json")
		resp, err := mine.Do(req)
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", method, path, err, tail(gw.stderr.String()))
		}
		_ = resp.Body.Close() // nothing of it is read
		return resp.StatusCode
	}
	s := newSink(t, nil)
	if got := send("PUT", "/api/v1/subscriptions/all", `{"types":["#"],"direction":"INCOMING","destination":{"webhook":{"url":"`+s.URL+`"}}}`); got != http.StatusOK {
		t.Fatalf("the subscription is answered %d, want 200", got)
	}
	if got := send("PUT", "/api/v1/sources/any", `{"kind":"GENERIC","type":"some.thing"}`); got != http.StatusOK {
		t.Fatalf("the source is answered %d, want 200", got)
	}
	gw.until("an event is taken", 10*time.Second, func() bool { return send("POST", "/events/any", `{}`) == http.StatusAccepted })
	gw.until("it is delivered", 20*time.Second, func() bool { return s.count() > 0 })
	if _, err := over(clientTLS(t, certs.Files{CA: authority.Files(t, "x").CA})).Get(gw.http + "/"); err == nil {
		t.Error("the gateway lets a client without certificate in, want it refused")
	}
}
