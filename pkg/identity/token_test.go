package identity_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"maps"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/identity"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func publicKey(t *testing.T, k *posthornv1.JsonWebKey) *rsa.PublicKey {
	t.Helper()
	n, err1 := base64.RawURLEncoding.DecodeString(k.GetN())
	e, err2 := base64.RawURLEncoding.DecodeString(k.GetE())
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
}

func jwks(t *testing.T, d *identity.Directory) []*posthornv1.JsonWebKey {
	t.Helper()
	keys, err := d.JWKS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// What others see who know the published key alone.
func TestOthersVerifyATokenByThePublishedKey(t *testing.T) {
	t.Parallel()
	d := start(t, open(t), identity.Config{})
	createUser(t, d, user("ann", "events:write", "keys:read"))
	s := signIn(t, d, "ann")
	keys := jwks(t, d)
	if len(keys) != 1 || keys[0].GetKty() != "RSA" || keys[0].GetUse() != "sig" || keys[0].GetAlg() != "RS256" {
		t.Fatalf("got keys %v, want one RSA key that signs by RS256", keys)
	}
	var c jwt.MapClaims
	tok, err := jwt.ParseWithClaims(s.Token, &c, func(*jwt.Token) (any, error) { return publicKey(t, keys[0]), nil })
	if err != nil {
		t.Fatal(err)
	}
	if tok.Header["alg"] != "RS256" || tok.Header["kid"] != keys[0].GetKid() {
		t.Errorf("got header %v, want RS256 and kid %s", tok.Header, keys[0].GetKid())
	}
	exp, err := c.GetExpirationTime()
	if err != nil || !exp.Equal(s.Expires) || time.Until(exp.Time) > 12*time.Hour || time.Until(exp.Time) < 12*time.Hour-time.Minute {
		t.Errorf("got exp %v and error %v, want %v, in 12 hours", exp, err, s.Expires)
	}
	roles, _ := c["roles"].([]any)
	if c["iss"] != "posthorn" || c["sub"] != "ann" || c["jti"] == "" || c["iat"] == nil || len(roles) != 2 {
		t.Errorf("got claims iss %v, sub %v, roles %v; want posthorn, ann and two", c["iss"], c["sub"], roles)
	}
	id, err := d.Authenticate(t.Context(), s.Token)
	if err != nil || id.Name != "ann" || id.Kind != identity.KindUser || !id.Has("events:read") || id.Has("keys:write") {
		t.Errorf("got %+v and error %v, want ann", id, err)
	}
}

// ownKey opens the private key as a process that has the sealing key can.
func ownKey(t *testing.T, kv jetstream.KeyValue) (kid string, private *rsa.PrivateKey) {
	t.Helper()
	e, err := kv.Get(t.Context(), "signing")
	if err != nil {
		t.Fatal(err)
	}
	var ring struct {
		Keys []struct {
			Kid    string
			Sealed []byte
		}
	}
	if err := json.Unmarshal(e.Value(), &ring); err != nil {
		t.Fatal(err)
	}
	der, err := sealer(t).Open(ring.Keys[0].Sealed, "signing."+ring.Keys[0].Kid)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	return ring.Keys[0].Kid, key.(*rsa.PrivateKey)
}

func TestForgedTokensAreRefused(t *testing.T) {
	t.Parallel()
	kv := open(t)
	d := start(t, kv, identity.Config{})
	createUser(t, d, user("ann", "events:read"))
	s := signIn(t, d, "ann")
	kid, own := ownKey(t, kv)
	foreign, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&own.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	var good jwt.MapClaims
	if _, _, err := jwt.NewParser().ParseUnverified(s.Token, &good); err != nil {
		t.Fatal(err)
	}
	// forge signs the good claims with changes; a nil value takes a claim away.
	forge := func(m jwt.SigningMethod, key any, kid any, change jwt.MapClaims) string {
		c := jwt.MapClaims{}
		maps.Copy(c, good)
		for k, v := range change {
			c[k] = v
			if v == nil {
				delete(c, k)
			}
		}
		tok := jwt.NewWithClaims(m, c)
		if kid != nil {
			tok.Header["kid"] = kid
		}
		text, err := tok.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	if !knows(t, d, forge(jwt.SigningMethodRS256, own, kid, jwt.MapClaims{"jti": "x"})) {
		t.Fatal("the forger cannot even make a good token, so the cases prove nothing")
	}
	part := strings.Split(s.Token, ".")
	other := base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"posthorn","sub":"ann","roles":["admin"],"exp":9999999999}`))
	past, future := time.Now().Add(-time.Second).Unix(), time.Now().Add(time.Hour).Unix()
	tests := []struct{ name, token string }{
		{"other claims under the signature", part[0] + "." + other + "." + part[2]},
		{"no signature", part[0] + "." + part[1] + "."},
		{"a changed signature", part[0] + "." + part[1] + "." + strings.Repeat("A", len(part[2]))},
		{"more behind it", s.Token + "A"},
		{"a fourth part", s.Token + ".A"},
		{"three parts of nothing", ".."},
		{"alg none", forge(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, kid, jwt.MapClaims{"roles": []string{"admin"}})},
		{"HS256 with the public key in PEM", forge(jwt.SigningMethodHS256, public, kid, nil)},
		{"HS256 with the public key in DER", forge(jwt.SigningMethodHS256, der, kid, nil)},
		{"HS256 with the modulus", forge(jwt.SigningMethodHS256, own.N.Bytes(), kid, nil)},
		{"RS512 by the right key", forge(jwt.SigningMethodRS512, own, kid, nil)},
		{"PS256 by the right key", forge(jwt.SigningMethodPS256, own, kid, nil)},
		{"a foreign key under our kid", forge(jwt.SigningMethodRS256, foreign, kid, nil)},
		{"an unknown kid", forge(jwt.SigningMethodRS256, own, "other", nil)},
		{"no kid", forge(jwt.SigningMethodRS256, own, nil, nil)},
		{"a kid that is no text", forge(jwt.SigningMethodRS256, own, 1, nil)},
		{"expired", forge(jwt.SigningMethodRS256, own, kid, jwt.MapClaims{"exp": past})},
		{"without exp", forge(jwt.SigningMethodRS256, own, kid, jwt.MapClaims{"exp": nil})},
		{"not yet good", forge(jwt.SigningMethodRS256, own, kid, jwt.MapClaims{"nbf": future})},
		{"another issuer", forge(jwt.SigningMethodRS256, own, kid, jwt.MapClaims{"iss": "other"})},
		{"without issuer", forge(jwt.SigningMethodRS256, own, kid, jwt.MapClaims{"iss": nil})},
		{"nobody's", forge(jwt.SigningMethodRS256, own, kid, jwt.MapClaims{"sub": "nobody"})},
		{"without a generation", forge(jwt.SigningMethodRS256, own, kid, jwt.MapClaims{"gen": nil})},
		{"another generation", forge(jwt.SigningMethodRS256, own, kid, jwt.MapClaims{"gen": "x"})},
		{"far too long", s.Token + strings.Repeat("A", 10_000)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for range 2 { // the second time it might be in the cache
				id, err := d.Authenticate(t.Context(), tt.token)
				if errs.KindOf(err) != errs.Unauthenticated {
					t.Errorf("got %+v and error %v, want one of kind unauthenticated", id, err)
				}
			}
		})
	}
}

func TestATokenExpiresEvenWhenItIsCached(t *testing.T) {
	t.Parallel()
	c := newClock()
	d := start(t, open(t), identity.Config{Now: c.Now, TokenLifetime: time.Minute})
	createUser(t, d, user("ann", "events:read"))
	token := signIn(t, d, "ann").Token
	if !knows(t, d, token) {
		t.Fatal("the token is not known")
	}
	c.move(time.Minute)
	if _, err := d.Authenticate(t.Context(), token); errs.KindOf(err) != errs.Unauthenticated || !strings.Contains(err.Error(), "expired") {
		t.Errorf("got error %v, want one that says that it has expired", err)
	}
}

func TestManyWhoNeedTheFirstKeyMakeOne(t *testing.T) {
	t.Parallel()
	kv := open(t)
	var wg sync.WaitGroup
	kids := make([]string, 4)
	for i := range kids {
		d := start(t, kv, identity.Config{})
		wg.Go(func() {
			keys, err := d.JWKS(t.Context())
			if err != nil || len(keys) != 1 {
				t.Errorf("process %d: got %v and error %v, want one key", i, keys, err)
				return
			}
			kids[i] = keys[0].GetKid()
		})
	}
	wg.Wait()
	for i, kid := range kids {
		if kid != kids[0] {
			t.Errorf("process %d has key %s, process 0 %s; want the same", i, kid, kids[0])
		}
	}
}

func TestARotatedKeyVerifiesUntilItsTokensHaveExpired(t *testing.T) {
	t.Parallel()
	kv := open(t)
	c := newClock()
	cfg := identity.Config{Now: c.Now, TokenLifetime: time.Hour, FlushEvery: 5 * time.Millisecond}
	a, b := start(t, kv, cfg), start(t, kv, cfg)
	createUser(t, a, user("ann", "events:read"))
	old := signIn(t, a, "ann").Token
	eventually(t, "the other process knows the token", func() bool { return knows(t, b, old) })
	first := jwks(t, a)[0].GetKid()
	c.move(time.Second)
	if err := a.RotateSigningKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	fresh := signIn(t, b, "ann").Token // by the other process, which was not told
	keys := jwks(t, b)
	if len(keys) != 2 || keys[0].GetKid() == first || keys[1].GetKid() != first {
		t.Fatalf("got keys %v, want a new one and then %s", keys, first)
	}
	tok, _, err := jwt.NewParser().ParseUnverified(fresh, jwt.MapClaims{})
	if err != nil || tok.Header["kid"] != keys[0].GetKid() {
		t.Errorf("signed by %v (error %v), want the new key %s", tok.Header["kid"], err, keys[0].GetKid())
	}
	for i, d := range []*identity.Directory{a, b} {
		eventually(t, "both tokens are known", func() bool { return knows(t, d, fresh) && knows(t, d, old) })
		t.Logf("process %d knows both", i)
	}
	e, err := kv.Get(t.Context(), "signing")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(e.Value()), `"sealed"`); n != 1 {
		t.Errorf("the bucket has %d private keys, want that of the new key alone", n)
	}
	c.move(time.Hour + 2*time.Minute)
	if knows(t, a, old) || knows(t, b, old) {
		t.Error("the old token is still known")
	}
	eventually(t, "the old key is removed", func() bool {
		e, err := kv.Get(t.Context(), "signing")
		return err == nil && !strings.Contains(string(e.Value()), first)
	})
	if keys := jwks(t, a); len(keys) != 1 {
		t.Errorf("got %d keys, want one", len(keys))
	}
	if !knows(t, a, signIn(t, a, "ann").Token) {
		t.Error("a token after the rotation is not known")
	}
}

func TestWithoutASealerTokensAreVerifiedAndNoneAreSigned(t *testing.T) {
	t.Parallel()
	kv := open(t)
	d := start(t, kv, identity.Config{})
	createUser(t, d, user("ann", "events:read"))
	bare, err := identity.New(kv, nil, nil, slog.New(slog.DiscardHandler), identity.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bare.Authenticate(t.Context(), "phk_early"); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("before it is ready: got error %v, want one of kind unavailable", err)
	}
	_, err = bare.SignIn(t.Context(), "ann", password)
	wantKind(t, "sign in", err, errs.Unavailable)
	wantKind(t, "rotate", bare.RotateSigningKey(t.Context()), errs.Unavailable)
}

func TestAConfigurationThatCannotBeIsRefused(t *testing.T) {
	t.Parallel()
	for _, cfg := range []identity.Config{{KeyBits: 1024}, {KeyBits: 1 << 20}, {TokenLifetime: -1}, {FlushEvery: -1}, {RetryAfter: -1}} {
		if _, err := identity.New(nil, nil, nil, slog.New(slog.DiscardHandler), cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	d := start(b, open(b), identity.Config{})
	createUser(b, d, user("ann", "events:read"))
	for _, token := range []struct{ name, text string }{
		{"key", createKey(b, d, &posthornv1.ApiKey{Name: "shop", Roles: []string{"events:write"}}).GetKey()},
		{"token", signIn(b, d, "ann").Token},
	} {
		b.Run(token.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.Authenticate(b.Context(), token.text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestCheckingAKeyAllocatesAtMostTwice(t *testing.T) {
	d := start(t, open(t), identity.Config{})
	token := createKey(t, d, &posthornv1.ApiKey{Name: "shop", Roles: []string{"events:write"}}).GetKey()
	got := testing.AllocsPerRun(100, func() {
		if _, err := d.Authenticate(t.Context(), token); err != nil {
			t.Fatal(err)
		}
	})
	if got > 2 {
		t.Errorf("%.0f allocations, want 2 at most", got)
	}
}
