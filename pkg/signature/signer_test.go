package signature

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

func TestSignerSignsAsItsSchemeDoes(t *testing.T) {
	t.Parallel()
	for _, s := range []Scheme{{}, GitHub, Slack, Shopify, {Algorithm: SHA512}, {Algorithm: SHA512, Encoding: Base64, Prefix: "v1,"}} {
		signer := NewSigner(s, []byte("hush"))
		for range 2 { // the second time with the hash of the first
			want := s.Sign([]byte("hush"), []byte("a."), []byte("b"))
			if got := string(signer.Append([]byte("x "), []byte("a."), []byte("b"))); got != "x "+want {
				t.Errorf("%+v: appended %q, want %q", s, got, "x "+want)
			}
			if !signer.Verify(want, []byte("a.b")) {
				t.Errorf("%+v: %q does not verify", s, want)
			}
			if signer.Verify(want, []byte("a.c")) || signer.Verify(want[1:], []byte("a.b")) || signer.Verify("", []byte("a.b")) {
				t.Errorf("%+v: another body or signature verifies", s)
			}
		}
	}
}

func TestCertesSignerSignsAsCertes(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"hush", "", strings.Repeat("long", 100)} {
		want := string(Certes([]byte("x"), []byte(secret), []byte(`{"id":1}`)))
		if got := string(NewCertes([]byte(secret)).Append([]byte("x"), []byte(`{"id":1}`))); got != want {
			t.Errorf("with secret %q: %q, want %q", secret, got, want)
		}
	}
}

func TestSignerWithoutSecretVerifiesNothing(t *testing.T) {
	t.Parallel()
	body := []byte("x")
	for _, s := range []Signer{{}, NewSigner(GitHub, nil), NewSigner(GitHub, []byte{})} {
		if s.Verify(GitHub.Sign(nil, body), body) || len(s.Append(nil, body)) != 0 {
			t.Error("a signer without secret signs or verifies")
		}
	}
}

func TestSignerIsUsedConcurrently(t *testing.T) {
	t.Parallel()
	s := NewSigner(GitHub, []byte("hush"))
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			body := fmt.Append(nil, "body ", n)
			want := GitHub.Sign([]byte("hush"), body)
			for range 200 {
				if got := string(s.Append(nil, body)); got != want {
					t.Errorf("signature is %s, want %s", got, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestSignerPrintsWithoutItsSecret(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(format, NewSigner(GitHub, []byte("hush"))); got != "sha256=***" {
			t.Errorf("%s prints %q, want sha256=***", format, got)
		}
	}
}

func BenchmarkCertesSigner512B(b *testing.B) {
	s, body := NewCertes([]byte("hush")), make([]byte, 512)
	buf := make([]byte, 0, 128)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		buf = s.Append(buf[:0], body)
	}
}

func BenchmarkSignerVerify8KiB(b *testing.B) {
	s, body := NewSigner(GitHub, []byte("hush")), make([]byte, 8<<10)
	sig := GitHub.Sign([]byte("hush"), body)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if !s.Verify(sig, body) {
			b.Fatal("signature does not verify")
		}
	}
}
