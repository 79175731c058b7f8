package interceptor

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"

	"github.com/posthornhq/posthorn/pkg/authorization"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// leeway is how far the clocks of issuer and platform may be apart.
const leeway = 30 * time.Second

// A jwtBearer lets requests pass whose JSON Web Token is signed by a key of the
// context's issuer, has not expired, and is for us (S6).
type jwtBearer struct {
	place            place
	issuer, audience string
	asker            *Asker
}

func newJWT(spec *posthornv1.Interceptor_Jwt, asker *Asker) *jwtBearer {
	j := &jwtBearer{issuer: spec.GetIssuer(), audience: spec.GetAudience(), asker: asker}
	switch spec.GetLocation() {
	case posthornv1.Interceptor_HEADER:
		j.place = place{header: true, name: spec.GetName(), bearer: true}
	case posthornv1.Interceptor_QUERY:
		j.place = place{query: true, name: spec.GetName()}
	default:
		j.place = place{header: true, name: "Authorization", bearer: true}
	}
	return j
}

func (j *jwtBearer) check(ctx context.Context, r *Request) (string, *refusal) {
	tokens, no := j.place.find(r)
	if no != nil {
		return "", no
	}
	return j.asker.verifyJWT(ctx, contextOf(r), j.issuer, j.audience, tokens[0])
}

// verifyJWT checks a token against the JWT section of a context.
func (a *Asker) verifyJWT(ctx context.Context, context, issuer, audience, token string) (string, *refusal) {
	j, no := a.jwtSection(context)
	if no != nil {
		return "", no
	}
	// What is cached was verified under these conditions, and no others.
	key := hashOf(context, j.GetJwksUrl(), j.GetIssuer(), issuer, audience, strings.Join(j.GetAudiences(), " "), strings.Join(j.GetAlgorithms(), " "), token)
	now := a.cfg.Now()
	if got, ok := a.tokens.Get(key); ok && now.Before(got.until) {
		return got.detail, got.no
	}
	claims := &jwt.RegisteredClaims{}
	parser := a.parser(j, issuer, audience)
	err := a.parse(ctx, parser, j, token, claims)
	if err != nil {
		return "", refusalOf(err, context)
	}
	got := answer{detail: "token of " + cmp.Or(claims.Issuer, "an issuer without a name"), until: claims.ExpiresAt.Time}
	if most := now.Add(a.cfg.TokenFor); most.Before(got.until) {
		got.until = most
	}
	a.tokens.Add(key, got)
	return got.detail, nil
}

// jwtSection returns the JWT section of a context's authorization.
func (a *Asker) jwtSection(context string) (*posthornv1.Authorization_Jwt, *refusal) {
	az, ok := a.known.Authorization(context)
	if !ok || az.Spec.GetJwt() == nil {
		return nil, denied("the authorization of context %q has no JWT section with a URL, so no token can be verified", context)
	}
	return az.Spec.GetJwt(), nil
}

func (a *Asker) parser(j *posthornv1.Authorization_Jwt, issuer, audience string) *jwt.Parser {
	algorithms := j.GetAlgorithms()
	if len(algorithms) == 0 {
		algorithms = authorization.Algorithms()
	}
	opts := []jwt.ParserOption{
		jwt.WithValidMethods(algorithms), jwt.WithExpirationRequired(), jwt.WithLeeway(leeway), jwt.WithTimeFunc(a.cfg.Now),
	}
	if iss := cmp.Or(issuer, j.GetIssuer()); iss != "" {
		opts = append(opts, jwt.WithIssuer(iss))
	}
	if audience != "" {
		opts = append(opts, jwt.WithAudience(audience))
	} else if len(j.GetAudiences()) > 0 {
		opts = append(opts, jwt.WithAudience(j.GetAudiences()...))
	}
	return jwt.NewParser(opts...)
}

// errKeys is in the chain of errors that are about the keys, not the token.
var errKeys = errors.New("the signing keys cannot be had")

// parse verifies a token. One whose key is not known makes the keys be fetched
// again, unless that was tried a moment ago.
func (a *Asker) parse(ctx context.Context, parser *jwt.Parser, j *posthornv1.Authorization_Jwt, token string, claims *jwt.RegisteredClaims) error {
	set := a.keySet(j)
	for again := false; ; again = true {
		keys, err := set.get(ctx, a, again)
		if err != nil {
			return fmt.Errorf("%w: %w", errKeys, err)
		}
		parsed, err := parser.ParseWithClaims(token, claims, keys.KeyfuncCtx(ctx))
		if err == nil && parsed.Header["crit"] != nil {
			// Extensions that must be understood (RFC 7515, 4.1.11); none is.
			return jwt.ErrTokenUnverifiable
		}
		if again || !mayBeNew(parsed, err) {
			return err
		}
	}
}

// mayBeNew reports whether a token was not verified because its key is newer
// than those that are known: by its name, or where it names none, by any failure.
func mayBeNew(token *jwt.Token, err error) bool {
	if errors.Is(err, jwkset.ErrKeyNotFound) {
		return true
	}
	return token != nil && token.Header["kid"] == nil && errors.Is(err, jwt.ErrTokenSignatureInvalid)
}

// refusalOf says what is wrong with a token, and nothing that is in it.
func refusalOf(err error, context string) *refusal {
	switch {
	case errors.Is(err, errKeys):
		return denied("the signing keys of context %q cannot be had; try again later", context).because(err)
	case errors.Is(err, jwt.ErrTokenExpired):
		return unauthenticated("the token has expired")
	case errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return unauthenticated("the token is not good yet")
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return unauthenticated("the token is for another audience")
	case errors.Is(err, jwt.ErrTokenInvalidIssuer):
		return unauthenticated("the token is of another issuer")
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return unauthenticated("the token lacks a claim that is required: exp, or iss or aud")
	case errors.Is(err, jwkset.ErrKeyNotFound):
		return unauthenticated("the token is signed by a key that its issuer does not publish")
	case errors.Is(err, jwt.ErrTokenSignatureInvalid), errors.Is(err, jwt.ErrTokenUnverifiable):
		return unauthenticated("the token's signature, or its algorithm, is not accepted")
	default:
		return unauthenticated("what was sent is no JSON Web Token")
	}
}

// A keySet is what one URL publishes.
type keySet struct {
	jwksURL, issuer string // the former, or else the latter

	mu       sync.Mutex
	keys     keyfunc.Keyfunc
	fetched  time.Time
	tried    time.Time
	fetching bool
}

func (a *Asker) keySet(j *posthornv1.Authorization_Jwt) *keySet {
	key := cmp.Or(j.GetJwksUrl(), "issuer "+j.GetIssuer())
	if v, ok := a.keys.Load(key); ok {
		if set, ok := v.(*keySet); ok {
			return set
		}
	}
	set := &keySet{jwksURL: j.GetJwksUrl()}
	if set.jwksURL == "" {
		set.issuer = j.GetIssuer()
	}
	v, _ := a.keys.LoadOrStore(key, set)
	if got, ok := v.(*keySet); ok {
		return got
	}
	return set
}

// get returns the keys. With unknown set the caller has a token of a key that is
// not among them. They are fetched in one call for all that wait, and at most
// every [Config.RefreshEvery].
func (s *keySet) get(ctx context.Context, a *Asker, unknown bool) (keyfunc.Keyfunc, error) {
	keys, fetch, err := s.look(a, unknown)
	if !fetch {
		return keys, err
	}
	done := a.flights.DoChan("keys "+cmp.Or(s.jwksURL, s.issuer), func() (any, error) {
		keys, err := a.fetchKeys(ctx, s)
		return s.settle(a, keys, err)
	})
	select {
	case r := <-done:
		keys, ok := r.Val.(keyfunc.Keyfunc)
		if r.Err == nil && !ok {
			return nil, errors.New("there are none")
		}
		return keys, r.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// look returns the keys that are known, or says that they are to be fetched.
func (s *keySet) look(a *Asker, unknown bool) (keys keyfunc.Keyfunc, fetch bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := a.cfg.Now()
	if s.keys != nil && now.Sub(s.fetched) < a.cfg.KeysFor && !unknown {
		return s.keys, false, nil
	}
	pause := a.cfg.RefreshEvery
	if s.keys == nil {
		pause = a.cfg.Negative
	}
	if !s.fetching && !s.tried.IsZero() && now.Sub(s.tried) < pause {
		keys, err = s.usable(a, now, errors.New("they were asked for a moment ago"))
		return keys, false, err
	}
	s.tried, s.fetching = now, true
	return nil, true, nil
}

// settle takes the result of a fetch in.
func (s *keySet) settle(a *Asker, keys keyfunc.Keyfunc, err error) (keyfunc.Keyfunc, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetching = false
	now := a.cfg.Now()
	if err != nil {
		if s.keys != nil {
			a.log.Warn("signing keys cannot be fetched; those that are known stay in use for a while", "host", hostOf(cmp.Or(s.jwksURL, s.issuer)), "err", err)
		}
		return s.usable(a, now, err)
	}
	s.keys, s.fetched = keys, now
	return keys, nil
}

// usable returns the keys that are known unless they are too old.
func (s *keySet) usable(a *Asker, now time.Time, err error) (keyfunc.Keyfunc, error) {
	if s.keys == nil || now.Sub(s.fetched) >= a.cfg.KeysAtMost {
		return nil, err
	}
	return s.keys, nil
}

func (a *Asker) fetchKeys(ctx context.Context, s *keySet) (keyfunc.Keyfunc, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), authorization.DefaultTimeout)
	defer cancel()
	from := s.jwksURL
	if from == "" {
		var err error
		if from, err = a.discover(ctx, s.issuer); err != nil {
			return nil, err
		}
	}
	raw, err := a.get(ctx, from)
	if err != nil {
		return nil, err
	}
	usable, err := usableKeys(raw)
	if err != nil {
		return nil, fmt.Errorf("read the keys of %s: %w", hostOf(from), err)
	}
	keys, err := keyfunc.NewJWKSetJSON(usable)
	if err != nil {
		return nil, fmt.Errorf("read the keys of %s: %w", hostOf(from), err)
	}
	return keys, nil
}

// minRSA is the least size of an RSA key, in bits (RFC 7518, 3.3).
const minRSA = 2048

// usableKeys leaves of a set the keys that can verify signatures: one that is for
// something else, or of a kind that is not known, does not spoil the others.
func usableKeys(raw []byte) (json.RawMessage, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(raw, &set); err != nil {
		return nil, errors.New("they are no JSON Web Key Set")
	}
	set.Keys = slices.DeleteFunc(set.Keys, func(key json.RawMessage) bool { return !usableKey(key) })
	if len(set.Keys) == 0 {
		return nil, errors.New("there is none to verify signatures with")
	}
	return json.Marshal(set)
}

func usableKey(raw json.RawMessage) bool {
	var m jwkset.JWKMarshal
	if json.Unmarshal(raw, &m) != nil || m.USE != "" && m.USE != jwkset.UseSig || m.X5U != "" ||
		len(m.KEYOPS) > 0 && !slices.Contains(m.KEYOPS, jwkset.KeyOpsVerify) {
		return false
	}
	jwk, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return false
	}
	switch key := jwk.Key().(type) {
	case *rsa.PublicKey:
		return key.N.BitLen() >= minRSA
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	}
	return false
}

// hostOf is what logs and errors may have of a URL that a user gave.
func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "the URL"
	}
	return u.Host
}

// discover asks an issuer where its keys are (OpenID Connect Discovery 1.0, 4).
func (a *Asker) discover(ctx context.Context, issuer string) (string, error) {
	raw, err := a.get(ctx, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return "", err
	}
	var doc struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return "", errors.New("the discovery document is not JSON")
	}
	u, err := url.Parse(doc.JWKSURI)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return "", errors.New("the discovery document says of no URL where the keys are")
	}
	if strings.HasPrefix(issuer, "https:") && u.Scheme != "https" {
		return "", errors.New("the keys of an https issuer are not behind https")
	}
	if doc.Issuer != issuer {
		return "", fmt.Errorf("the discovery document is of issuer %q", doc.Issuer)
	}
	return doc.JWKSURI, nil
}

func (a *Asker) get(ctx context.Context, from string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := a.do(req)
	if err != nil {
		return nil, err
	}
	if resp.status != http.StatusOK {
		return nil, fmt.Errorf("%s answered %d", hostOf(from), resp.status)
	}
	return resp.body, nil
}
