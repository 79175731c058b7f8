package certs_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/certs"
	"github.com/posthornhq/posthorn/pkg/certs/certstest"
)

func newKeeper(t *testing.T, f certs.Files) *certs.Keeper {
	t.Helper()
	k, err := certs.New(f, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// listen answers every connection with the name in the client's certificate.
func listen(t *testing.T, cfg *tls.Config) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				tc := conn.(*tls.Conn)
				if tc.HandshakeContext(t.Context()) != nil {
					return
				}
				name := "nobody"
				if peers := tc.ConnectionState().PeerCertificates; len(peers) > 0 {
					name = peers[0].Subject.CommonName
				}
				_, _ = io.WriteString(conn, name)
			}()
		}
	}()
	return l.Addr().String()
}

// call returns who the server is, and who it takes the client for.
func call(addr string, cfg *tls.Config) (server, client string, err error) {
	conn, err := tls.Dial("tcp", addr, cfg)
	if err != nil {
		return "", "", err
	}
	defer conn.Close()
	got, err := io.ReadAll(conn)
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName, string(got), err
}

func TestWhoIsLetIn(t *testing.T) {
	t.Parallel()
	ours, theirs := certstest.New(t), certstest.New(t)
	server := ours.Files(t, "server")
	stranger := theirs.Files(t, "stranger")
	stranger.CA = server.CA // so that it is the server who refuses
	bare := certs.Files{CA: server.CA}
	tests := []struct {
		name   string
		mutual bool
		client certs.Files
		want   string // empty: refused
	}{
		{"one of ours", true, files2(t, server, ours, "client"), "client"},
		{"one without a certificate, where it is needed", true, bare, ""},
		{"a stranger, where one is needed", true, stranger, ""},
		{"one without a certificate, where none is needed", false, bare, "nobody"},
		{"a stranger, where none is needed", false, stranger, ""},
		{"one who knows another authority of servers", false, certs.Files{CA: certstest.Write(t, t.TempDir(), "ca.pem", theirs.PEM)}, ""},
		{"one who knows the system's only", false, certs.Files{}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg, err := newKeeper(t, server).Server(tt.mutual)
			if err != nil {
				t.Fatal(err)
			}
			_, got, err := call(listen(t, cfg), newKeeper(t, tt.client).Client())
			if tt.want == "" && err == nil {
				t.Errorf("let in as %q, want it refused", got)
			}
			if tt.want != "" && (err != nil || got != tt.want) {
				t.Errorf("taken for %q with error %v, want %q", got, err, tt.want)
			}
		})
	}
}

// files2 is files with the server authority of another.
func files2(t *testing.T, server certs.Files, a *certstest.Authority, name string) certs.Files {
	t.Helper()
	f := a.Files(t, name)
	f.CA = server.CA
	return f
}

func TestAServerIsWhoItWasCalled(t *testing.T) {
	t.Parallel()
	f := certstest.New(t).Files(t, "server")
	cfg, err := newKeeper(t, f).Server(false)
	if err != nil {
		t.Fatal(err)
	}
	client := newKeeper(t, f).Client()
	client.ServerName = "elsewhere.example"
	_, _, err = call(listen(t, cfg), client)
	if _, ok := errors.AsType[x509.HostnameError](err); !ok {
		t.Errorf("got error %v, want one about the name", err)
	}
}

func TestChangedFilesAreInForce(t *testing.T) {
	t.Parallel()
	a := certstest.New(t)
	f := a.Files(t, "first")
	k := newKeeper(t, f)
	now := time.Now()
	k.SetClock(func() time.Time { return now })
	cfg, err := k.Server(false)
	if err != nil {
		t.Fatal(err)
	}
	addr := listen(t, cfg)
	is := func(want string) {
		t.Helper()
		got, _, err := call(addr, newKeeper(t, f).Client())
		if err != nil || got != want {
			t.Errorf("the server is %q with error %v, want %q", got, err, want)
		}
	}
	is("first")
	cert, key := a.Issue(t, "second")
	if err := os.WriteFile(f.Cert, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	// Half of the pair.
	now = now.Add(certs.CheckEvery)
	if got := k.Current(); got == nil || got.Leaf.Subject.CommonName != "first" {
		t.Errorf("with half of a pair changed %v is in force, want the first", got.Leaf.Subject)
	}
	if err := os.WriteFile(f.Key, key, 0o600); err != nil {
		t.Fatal(err)
	}
	now = now.Add(certs.CheckEvery)
	is("second")
	if err := os.Remove(f.Cert); err != nil {
		t.Fatal(err)
	}
	now = now.Add(certs.CheckEvery)
	if got := k.Current(); got.Leaf.Subject.CommonName != "second" {
		t.Errorf("without a file %v is in force, want the second", got.Leaf.Subject)
	}
}

func TestWrongFilesAreErrorsOfTheStart(t *testing.T) {
	t.Parallel()
	f := certstest.New(t).Files(t, "server")
	other := certstest.New(t).Files(t, "other")
	tests := []struct {
		name string
		f    certs.Files
		says string
	}{
		{"a file that is not there", certs.Files{Cert: "/nonexistent", Key: f.Key}, "/nonexistent"},
		{"a key of another", certs.Files{Cert: f.Cert, Key: other.Key}, "match"},
		{"a certificate that is none", certs.Files{Cert: f.Key, Key: f.Key}, "certificate"},
		{"an authority that is none", certs.Files{Cert: f.Cert, Key: f.Key, CA: f.Key}, "no certificate"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := certs.New(tt.f, slog.New(slog.DiscardHandler))
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got error %v, want one that says %q", err, tt.says)
			}
		})
	}
	if _, err := newKeeper(t, certs.Files{CA: f.CA}).Server(false); err == nil {
		t.Error("a server without a certificate, want an error")
	}
	if _, err := newKeeper(t, certs.Files{Cert: f.Cert, Key: f.Key}).Server(true); err == nil {
		t.Error("mutual TLS without an authority of clients, want an error")
	}
}
