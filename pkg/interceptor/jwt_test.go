package interceptor_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/oauth2-proxy/mockoidc"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/interceptor"
)

// An issuer is an OpenID provider whose keys can be changed.
type issuer struct {
	*server
	t       testing.TB
	current atomic.Pointer[mockoidc.MockOIDC]
	down    atomic.Bool
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	i := &issuer{t: t}
	i.rotate()
	i.server = serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case i.down.Load():
			w.WriteHeader(http.StatusInternalServerError)
		case strings.HasSuffix(r.URL.Path, "openid-configuration"):
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, i.URL, i.URL+"/keys")
		default:
			i.current.Load().JWKS(w, r)
		}
	})
	return i
}

// rotate makes the provider publish another key, and only that.
func (i *issuer) rotate() {
	i.t.Helper()
	m, err := mockoidc.NewServer(nil)
	if err != nil {
		i.t.Fatal(err)
	}
	if m.Keypair, err = mockoidc.RandomKeypair(2048); err != nil {
		i.t.Fatal(err)
	}
	i.current.Store(m)
}

// sign makes a token with the claims that every good one has, and others; nil
// removes one.
func (i *issuer) sign(claims jwt.MapClaims) string {
	i.t.Helper()
	text, err := i.current.Load().Keypair.SignJWT(i.claims(claims))
	if err != nil {
		i.t.Fatal(err)
	}
	return text
}

func (i *issuer) claims(change jwt.MapClaims) jwt.MapClaims {
	c := jwt.MapClaims{"iss": i.URL, "aud": "posthorn", "sub": "shop", "exp": epoch.Add(time.Hour).Unix(), "iat": epoch.Unix()}
	maps.Copy(c, change)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

// forge makes a token as one who is not the issuer does.
func (i *issuer) forge(m jwt.SigningMethod, key any, kid string) string {
	i.t.Helper()
	token := jwt.NewWithClaims(m, i.claims(nil))
	token.Header["kid"] = kid
	text, err := token.SignedString(key)
	if err != nil {
		i.t.Fatal(err)
	}
	return text
}

func (i *issuer) kid() string {
	i.t.Helper()
	kid, err := i.current.Load().Keypair.KeyID()
	if err != nil {
		i.t.Fatal(err)
	}
	return kid
}

const anyJWT = `[{"jwt":{}}]`

func bearer(token string) *interceptor.Request { return request("", "Authorization: Bearer "+token) }

func TestJWT(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	a := newAsker(t, authorize(t, `{"jwt":{"issuer":"`+i.URL+`","audiences":["posthorn","other"]}}`), new(clock), interceptor.Config{})
	f := compile(t, anyJWT, nil, a)
	key := i.current.Load().Keypair
	der, err := x509.MarshalPKIXPublicKey(key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	stranger, err := mockoidc.RandomKeypair(2048)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := i.sign(nil)
	parts := strings.Split(good, ".")
	tests := []struct {
		name, token string
		says        string // empty: passes
	}{
		{"good", good, ""},
		{"good, of the second audience", i.sign(jwt.MapClaims{"aud": []string{"x", "other"}}), ""},
		{"a little late", i.sign(jwt.MapClaims{"exp": epoch.Add(-20 * time.Second).Unix()}), ""},
		{"expired", i.sign(jwt.MapClaims{"exp": epoch.Add(-time.Minute).Unix()}), "expired"},
		{"without an end", i.sign(jwt.MapClaims{"exp": nil}), "lacks a claim"},
		{"of tomorrow", i.sign(jwt.MapClaims{"nbf": epoch.Add(time.Hour).Unix()}), "not good yet"},
		{"for another audience", i.sign(jwt.MapClaims{"aud": "elsewhere"}), "another audience"},
		{"for nobody", i.sign(jwt.MapClaims{"aud": nil}), "lacks a claim"},
		{"of another issuer", i.sign(jwt.MapClaims{"iss": "https://elsewhere.example"}), "another issuer"},
		{"unsigned", i.forge(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, i.kid()), "not accepted"},
		{"signed with the public key as a secret", i.forge(jwt.SigningMethodHS256, public, i.kid()), "not accepted"},
		{"signed with the public key's bytes", i.forge(jwt.SigningMethodHS256, der, i.kid()), "not accepted"},
		{"signed by a stranger with the key's name", i.forge(jwt.SigningMethodRS256, stranger.PrivateKey, i.kid()), "not accepted"},
		{"signed by a stranger's curve with the key's name", i.forge(jwt.SigningMethodES256, curve, i.kid()), "not accepted"},
		{"signed by a stranger", i.forge(jwt.SigningMethodRS256, stranger.PrivateKey, "stranger"), "does not publish"},
		{"changed", parts[0] + "." + parts[1][:len(parts[1])-2] + "AA." + parts[2], ""},
		{"cut", parts[0] + "." + parts[1], "no JSON Web Token"},
		{"nonsense", "x", "no JSON Web Token"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			switch {
			case tt.name == "changed": // whichever of the two it is found to be
				if _, err := f.Check(t.Context(), bearer(tt.token)); errs.KindOf(err) != errs.Unauthenticated {
					t.Errorf("a changed token: error %v, want it unauthenticated", err)
				}
			case tt.says == "":
				passes(t, f, bearer(tt.token))
			default:
				refused(t, f, bearer(tt.token), errs.Unauthenticated, tt.says, tt.token)
			}
		})
	}
	refused(t, f, request(""), errs.Unauthenticated, "no Authorization in its headers")
}

func TestWhereJWTsAreAndWhatTheInterceptorItselfWants(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	a := newAsker(t, authorize(t, `{"jwt":{"jwksUrl":"`+i.URL+`/keys"}}`), new(clock), interceptor.Config{})
	token := i.sign(nil)
	passes(t, compile(t, `[{"jwt":{"location":"HEADER","name":"X-Token"}}]`, nil, a), request("", "X-Token: "+token))
	passes(t, compile(t, `[{"jwt":{"location":"HEADER","name":"X-Token"}}]`, nil, a), request("", "X-Token: Bearer "+token))
	passes(t, compile(t, `[{"jwt":{"location":"QUERY","name":"token"}}]`, nil, a), request("token="+token))
	passes(t, compile(t, `[{"jwt":{"issuer":"`+i.URL+`","audience":"posthorn"}}]`, nil, a), bearer(token))
	// The same token, verified a moment ago under other conditions.
	refused(t, compile(t, `[{"jwt":{"audience":"elsewhere"}}]`, nil, a), bearer(token), errs.Unauthenticated, "another audience")
	refused(t, compile(t, `[{"jwt":{"issuer":"elsewhere"}}]`, nil, a), bearer(token), errs.Unauthenticated, "another issuer")
}

func TestAlgorithmsAreThoseThatAreAllowed(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	a := newAsker(t, authorize(t, `{"jwt":{"jwksUrl":"`+i.URL+`/keys","algorithms":["ES256"]}}`), new(clock), interceptor.Config{})
	refused(t, compile(t, anyJWT, nil, a), bearer(i.sign(nil)), errs.Unauthenticated, "not accepted")
}

func TestKeysAreRotated(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	c := new(clock)
	a := newAsker(t, authorize(t, `{"jwt":{"jwksUrl":"`+i.URL+`/keys"}}`), c, interceptor.Config{})
	f := compile(t, anyJWT, nil, a)
	old := i.sign(nil)
	passes(t, f, bearer(old))
	i.rotate()
	fresh := i.sign(jwt.MapClaims{"sub": "fresh"})
	// Unknown keys make it ask, but not more often than it may.
	refused(t, f, bearer(fresh), errs.Unauthenticated, "does not publish")
	c.move(30 * time.Second)
	passes(t, f, bearer(fresh))
	asked := i.asked.Load()
	for n := range 50 {
		refused(t, f, bearer(i.forge(jwt.SigningMethodRS256, i.current.Load().Keypair.PrivateKey, fmt.Sprint("flood", n))), errs.Unauthenticated, "does not publish")
	}
	if got := i.asked.Load() - asked; got > 1 {
		t.Errorf("a flood of unknown keys made it ask %d times, want once at most", got)
	}
	// The old token is remembered for a while, and then its key is gone.
	c.move(5 * time.Minute)
	refused(t, f, bearer(old), errs.Unauthenticated, "does not publish")
}

func TestKeysThatCannotBeHad(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	c := new(clock)
	a := newAsker(t, authorize(t, `{"jwt":{"issuer":"`+i.URL+`"}}`), c, interceptor.Config{})
	f := compile(t, anyJWT, nil, a)
	far := jwt.MapClaims{"exp": epoch.Add(100 * time.Hour).Unix()}
	i.down.Store(true)
	refused(t, f, bearer(i.sign(far)), errs.Denied, "cannot be had")
	asked := i.asked.Load()
	refused(t, f, bearer(i.sign(far)), errs.Denied, "cannot be had")
	if i.asked.Load() != asked {
		t.Error("asked again at once")
	}
	i.down.Store(false)
	c.move(5 * time.Second)
	passes(t, f, bearer(i.sign(far)))
	// Known keys outlive their issuer, for a day.
	i.down.Store(true)
	c.move(2 * time.Hour)
	passes(t, f, bearer(i.sign(far)))
	c.move(23 * time.Hour)
	refused(t, f, bearer(i.sign(far)), errs.Denied, "cannot be had")
}

// A set has keys of all sorts; those for signatures count, and the others spoil
// nothing.
func TestKeysThatAreOfNoUse(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	raw, err := i.current.Load().Keypair.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	var good struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(raw, &good); err != nil {
		t.Fatal(err)
	}
	with := func(change map[string]any) map[string]any {
		key := maps.Clone(good.Keys[0])
		maps.Copy(key, change)
		return key
	}
	weak, err := mockoidc.RandomKeypair(1024)
	if err != nil {
		t.Fatal(err)
	}
	weakRaw, err := weak.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	var weakSet struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(weakRaw, &weakSet); err != nil {
		t.Fatal(err)
	}
	odd := map[string]any{"kty": "EC", "crv": "secp256k1", "kid": "odd", "x": "AA", "y": "AA"}
	secret := map[string]any{"kty": "oct", "kid": "secret", "k": "aHVzaA"}
	tests := []struct {
		name  string
		keys  []map[string]any
		token string
		kind  errs.Kind
		says  string // empty: passes
	}{
		{"beside an odd one and a secret", []map[string]any{odd, secret, good.Keys[0]}, i.sign(nil), 0, ""},
		{"for encryption", []map[string]any{with(map[string]any{"use": "enc"})}, i.sign(nil), errs.Denied, "cannot be had"},
		{"for encryption, beside another", []map[string]any{with(map[string]any{"use": "enc"}), odd, with(map[string]any{"kid": "other"})}, i.sign(nil), errs.Unauthenticated, "does not publish"},
		{"too short", weakSet.Keys, i.forge(jwt.SigningMethodRS256, weak.PrivateKey, fmt.Sprint(weakSet.Keys[0]["kid"])), errs.Denied, "cannot be had"},
		{"none at all", nil, i.sign(nil), errs.Denied, "cannot be had"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if err := json.NewEncoder(w).Encode(map[string]any{"keys": tt.keys}); err != nil {
					t.Error(err)
				}
			})
			f := compile(t, anyJWT, nil, newAsker(t, authorize(t, `{"jwt":{"jwksUrl":"`+s.URL+`/keys?key=hush-query"}}`), new(clock), interceptor.Config{}))
			if tt.says == "" {
				passes(t, f, bearer(tt.token))
			} else {
				refused(t, f, bearer(tt.token), tt.kind, tt.says, "hush-query")
			}
		})
	}
}

func TestTokensWithWhatMustBeUnderstoodAreRefused(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	f := compile(t, anyJWT, nil, newAsker(t, authorize(t, `{"jwt":{"jwksUrl":"`+i.URL+`/keys"}}`), new(clock), interceptor.Config{}))
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, i.claims(nil))
	token.Header["kid"], token.Header["crit"], token.Header["exp"] = i.kid(), []string{"exp"}, 1
	text, err := token.SignedString(i.current.Load().Keypair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, f, bearer(text), errs.Unauthenticated, "not accepted")
}

// A token that does not name its key may be of a new one.
func TestATokenWithoutAKeysNameOutlivesARotation(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	c := new(clock)
	f := compile(t, anyJWT, nil, newAsker(t, authorize(t, `{"jwt":{"jwksUrl":"`+i.URL+`/keys"}}`), c, interceptor.Config{}))
	nameless := func() string {
		token := jwt.NewWithClaims(jwt.SigningMethodRS256, i.claims(nil))
		text, err := token.SignedString(i.current.Load().Keypair.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	passes(t, f, bearer(nameless()))
	i.rotate()
	c.move(time.Minute)
	passes(t, f, bearer(nameless()))
}

// Who waits for keys waits no longer than it likes.
func TestAProviderThatHangsHoldsNobody(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}, 1), make(chan struct{})
	i := newIssuer(t)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-leave
		i.current.Load().JWKS(w, r)
	})
	f := compile(t, anyJWT, nil, newAsker(t, authorize(t, `{"jwt":{"jwksUrl":"`+s.URL+`"}}`), new(clock), interceptor.Config{}))
	token := i.sign(nil)
	first := make(chan error, 1)
	go func() {
		_, err := f.Check(t.Context(), bearer(token))
		first <- err
	}()
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Check(ctx, bearer(token)); !errors.Is(err, context.Canceled) {
		t.Errorf("one that has gone is told %v, want its own end", err)
	}
	close(leave)
	if err := <-first; err != nil {
		t.Errorf("the one that waited is refused: %v", err)
	}
	if n := s.asked.Load(); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
}

// A real provider, as it is.
func TestDiscoveryOfAnOpenIDProvider(t *testing.T) {
	t.Parallel()
	m, err := mockoidc.Run()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	a := newAsker(t, authorize(t, `{"jwt":{"issuer":"`+m.Issuer()+`"}}`), new(clock), interceptor.Config{})
	token, err := m.Keypair.SignJWT(jwt.MapClaims{"iss": m.Issuer(), "exp": epoch.Add(time.Hour).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	passes(t, compile(t, anyJWT, nil, a), bearer(token))
	// Another name of the same provider is another issuer.
	other := newAsker(t, authorize(t, `{"jwt":{"issuer":"`+m.Issuer()+`/"}}`), new(clock), interceptor.Config{})
	refused(t, compile(t, anyJWT, nil, other), bearer(token), errs.Denied, "cannot be had")
}

// What a flow costs whose token has been seen before.
func BenchmarkFlow(b *testing.B) {
	i := newIssuer(b)
	a := newAsker(b, authorize(b, `{"jwt":{"issuer":"`+i.URL+`","audiences":["posthorn"]}}`), new(clock), interceptor.Config{})
	f := compile(b, `[{"jwt":{}},{"ipFilter":{"mode":"ALLOW","addresses":["192.0.2.0/24","198.51.100.0/24"]}},{"id":"h","hmac":{"header":"X-Sig"}}]`,
		map[string]string{"h": "hush"}, a)
	r := bearer(i.sign(nil))
	r.Body = []byte(strings.Repeat("x", 512))
	r.Header.Set("X-Sig", sign("hush", string(r.Body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.Check(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}
