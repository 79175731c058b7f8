package identity

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/posthornhq/posthorn/pkg/bucket"
	"github.com/posthornhq/posthorn/pkg/errs"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

const (
	issuer    = "posthorn"
	algorithm = "RS256"
	// grace is how long a process may sign with the old key after another has
	// rotated it.
	grace = time.Minute
)

// A ringRecord is all signing keys in one record: whoever creates it first has
// made the key, and a rotation is one compare-and-set.
type ringRecord struct {
	Keys []signingKey `json:"keys"` // the first signs
}

type signingKey struct {
	ID string `json:"kid"`
	N  string `json:"n"` // as in RFC 7518, 6.3.1
	E  string `json:"e"`
	// Sealed is the private key in PKCS #8, sealed for "signing.<kid>". A key that
	// does not sign any more has none.
	Sealed    []byte    `json:"sealed,omitempty"`
	CreatedAt time.Time `json:"createdAt"`
	// Until is when its last token has expired, set by the rotation.
	Until time.Time `json:"until,omitzero"`
}

func (k signingKey) public() (*rsa.PublicKey, error) {
	n, err1 := base64.RawURLEncoding.DecodeString(k.N)
	e, err2 := base64.RawURLEncoding.DecodeString(k.E)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	key := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	if key.N.BitLen() < minBits || key.E < 3 {
		return nil, fmt.Errorf("signing key %s is no RSA key of %d bits", k.ID, minBits)
	}
	return key, nil
}

func (r ringRecord) verifiers() (map[string]verifier, error) {
	out := make(map[string]verifier, len(r.Keys))
	for _, k := range r.Keys {
		public, err := k.public()
		if err != nil {
			return nil, err
		}
		out[k.ID] = verifier{public: public, until: k.Until}
	}
	return out, nil
}

// A signer is a private key that has been opened.
type signer struct {
	kid     string
	private *rsa.PrivateKey
}

// claims are those of RFC 7519, roles, and the user's generation.
type claims struct {
	jwt.RegisteredClaims
	Roles      []string `json:"roles"`
	Generation string   `json:"gen"`
}

func newParser(now func() time.Time) *jwt.Parser {
	return jwt.NewParser(
		// The algorithm is ours to choose, not the token's.
		jwt.WithValidMethods([]string{algorithm}),
		jwt.WithIssuer(issuer),
		jwt.WithExpirationRequired(),
		jwt.WithTimeFunc(now),
		jwt.WithStrictDecoding(),
	)
}

// sign returns a token of a user.
func (d *Directory) sign(ctx context.Context, u userRecord) (Session, error) {
	s, err := d.signer(ctx)
	if err != nil {
		return Session{}, err
	}
	now := d.cfg.Now()
	expires := now.Add(d.cfg.TokenLifetime).Truncate(time.Second)
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    issuer,
			Subject:   u.Name,
			IssuedAt:  jwt.NewNumericDate(now),
			ExpiresAt: jwt.NewNumericDate(expires),
			ID:        random(12),
		},
		Roles:      u.Roles,
		Generation: u.Generation,
	})
	token.Header["kid"] = s.kid
	text, err := token.SignedString(s.private)
	if err != nil {
		return Session{}, fmt.Errorf("identity: sign token: %w", err)
	}
	return Session{Token: text, Expires: expires, Identity: Identity{Name: u.Name, Roles: u.Roles, Kind: KindUser}}, nil
}

// signer returns the key that signs, as the bucket has it now.
func (d *Directory) signer(ctx context.Context) (signer, error) {
	e, err := d.ensureRing(ctx)
	if err != nil {
		return signer{}, err
	}
	first := e.Value.Keys[0]
	d.signing.Lock()
	defer d.signing.Unlock()
	if d.opened.kid == first.ID {
		return d.opened, nil
	}
	if d.sealer == nil {
		return signer{}, errNoSealer()
	}
	der, err := d.sealer.Open(first.Sealed, sealedFor(first.ID))
	if err != nil {
		return signer{}, fmt.Errorf("identity: open signing key: %w", err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	private, ok := parsed.(*rsa.PrivateKey)
	if err != nil || !ok {
		return signer{}, fmt.Errorf("identity: signing key %s is not an RSA key in PKCS #8", first.ID)
	}
	d.opened = signer{kid: first.ID, private: private}
	return d.opened, nil
}

func errNoSealer() error {
	return errs.New(errs.Unavailable, "this process cannot sign tokens; ask one that has the platform's sealing key")
}

// sealedFor is the place that a private key is sealed for.
func sealedFor(kid string) string { return ringKey + "." + kid }

// ensureRing returns the ring, which it makes if it is not there.
func (d *Directory) ensureRing(ctx context.Context) (bucket.Entry[ringRecord], error) {
	e, err := orNone(d.ring.Get(ctx, ringKey))
	if err == nil && e.Revision == 0 {
		e, err = d.createRing(ctx)
	}
	if err != nil {
		return e, fmt.Errorf("identity: signing keys: %w", err)
	}
	if len(e.Value.Keys) == 0 {
		return e, errors.New("identity: signing keys: the record has none")
	}
	return e, d.wrote(ringKey, e.Revision, e.Value)
}

func (d *Directory) createRing(ctx context.Context) (bucket.Entry[ringRecord], error) {
	k, err := d.newRingKey()
	if err != nil {
		return bucket.Entry[ringRecord]{}, err
	}
	rec := ringRecord{Keys: []signingKey{k}}
	rev, err := d.ring.Create(ctx, ringKey, rec)
	if errs.KindOf(err) == errs.Conflict { // another process was faster
		return d.ring.Get(ctx, ringKey)
	}
	if err != nil {
		return bucket.Entry[ringRecord]{}, err
	}
	return bucket.Entry[ringRecord]{Key: ringKey, Value: rec, Revision: rev}, d.commit(ctx)
}

func (d *Directory) newRingKey() (signingKey, error) {
	if d.sealer == nil {
		return signingKey{}, errNoSealer()
	}
	private, err := rsa.GenerateKey(rand.Reader, d.cfg.KeyBits)
	if err != nil {
		return signingKey{}, fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return signingKey{}, fmt.Errorf("make key: %w", err)
	}
	kid := random(12)
	sealed, err := d.sealer.Seal(der, sealedFor(kid))
	if err != nil {
		return signingKey{}, fmt.Errorf("seal key: %w", err)
	}
	b64 := base64.RawURLEncoding
	return signingKey{
		ID:        kid,
		N:         b64.EncodeToString(private.N.Bytes()),
		E:         b64.EncodeToString(big.NewInt(int64(private.E)).Bytes()),
		Sealed:    sealed,
		CreatedAt: d.cfg.Now().UTC(),
	}, nil
}

// RotateSigningKey makes a new key sign, sealed by what seals today. The old
// key's private part is gone at once, while the tokens that it signed stay good
// until they expire.
func (d *Directory) RotateSigningKey(ctx context.Context) error {
	if _, err := d.ensureRing(ctx); err != nil {
		return err
	}
	fresh, err := d.newRingKey()
	if err != nil {
		return fmt.Errorf("identity: rotate signing key: %w", err)
	}
	return d.editRing(ctx, func(keys []signingKey) []signingKey {
		next := []signingKey{fresh}
		for _, k := range keys {
			k.Sealed = nil
			if k.Until.IsZero() {
				k.Until = d.cfg.Now().Add(d.cfg.TokenLifetime + grace).UTC()
			}
			next = append(next, k)
		}
		return next
	})
}

// Reseal rotates the signing key if it is not sealed by what seals today: the
// new one is.
func (d *Directory) Reseal(ctx context.Context, current func(sealed []byte) bool) error {
	e, err := orNone(d.ring.Get(ctx, ringKey))
	if err != nil {
		return fmt.Errorf("identity: signing keys: %w", err)
	}
	if e.Revision == 0 || len(e.Value.Keys) == 0 || current(e.Value.Keys[0].Sealed) {
		return nil
	}
	return d.RotateSigningKey(ctx)
}

// retire removes keys whose last token has expired.
func (d *Directory) retire(ctx context.Context) error {
	now := d.cfg.Now()
	due := false
	d.mu.RLock()
	for _, v := range d.verifiers {
		due = due || !v.good(now)
	}
	d.mu.RUnlock()
	if !due {
		return nil
	}
	return d.editRing(ctx, func(keys []signingKey) []signingKey {
		return slices.DeleteFunc(keys, func(k signingKey) bool { return !k.Until.IsZero() && !now.Before(k.Until) })
	})
}

func (d *Directory) editRing(ctx context.Context, edit func([]signingKey) []signingKey) error {
	return again(ctx, 0, func() error {
		have, err := d.ring.Get(ctx, ringKey)
		if err != nil {
			return fmt.Errorf("identity: signing keys: %w", err)
		}
		before := len(have.Value.Keys)
		rec := ringRecord{Keys: edit(have.Value.Keys)}
		if len(rec.Keys) == before { // another process has removed them
			return d.wrote(ringKey, have.Revision, have.Value)
		}
		rev, err := d.ring.Update(ctx, ringKey, rec, have.Revision)
		if err != nil {
			return fmt.Errorf("identity: signing keys: %w", err)
		}
		if err := d.wrote(ringKey, rev, rec); err != nil {
			return err
		}
		return d.commit(ctx)
	})
}

// JWKS returns the public keys by which others verify tokens, the one that signs
// first. It makes the first key if there is none.
func (d *Directory) JWKS(ctx context.Context) ([]*posthornv1.JsonWebKey, error) {
	e, err := d.ensureRing(ctx)
	if err != nil {
		return nil, err
	}
	var out []*posthornv1.JsonWebKey
	now := d.cfg.Now()
	for _, k := range e.Value.Keys {
		if !k.Until.IsZero() && !now.Before(k.Until) {
			continue
		}
		out = append(out, &posthornv1.JsonWebKey{Kty: "RSA", Kid: k.ID, Use: "sig", Alg: algorithm, N: k.N, E: k.E})
	}
	return out, nil
}

// verify checks a token that is not in the cache, and puts it there. Nothing of
// the token or of the parser's error, which may quote it, is in its error.
func (d *Directory) verify(token string, sum [sha256.Size]byte, now time.Time) (Identity, error) {
	var c claims
	var kid string
	_, err := d.parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		kid, _ = t.Header["kid"].(string)
		d.mu.RLock()
		v, ok := d.verifiers[kid]
		d.mu.RUnlock()
		if !ok || !v.good(now) {
			return nil, errors.New("unknown key")
		}
		return v.public, nil
	})
	if errors.Is(err, jwt.ErrTokenExpired) {
		return Identity{}, errs.New(errs.Unauthenticated, "the token has expired; sign in again")
	}
	if err != nil {
		return Identity{}, errs.New(errs.Unauthenticated, "the token is not of this platform, or no longer: sign in again, or %s", howTo)
	}
	s := session{
		id:         Identity{Name: c.Subject, Roles: c.Roles, Kind: KindUser},
		generation: c.Generation,
		kid:        kid,
		expires:    c.ExpiresAt.Time,
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.stands(s, now) {
		return Identity{}, errs.New(errs.Unauthenticated, "the user of the token was changed, disabled or deleted since; sign in again")
	}
	if len(d.sessions) >= maxSessions {
		d.makeRoom(now)
	}
	d.sessions[sum] = s
	return s.id, nil
}

// makeRoom drops a tenth of the cache, those first that are of no use any more.
// The caller holds mu.
func (d *Directory) makeRoom(now time.Time) {
	for sum, s := range d.sessions {
		if !d.stands(s, now) {
			delete(d.sessions, sum)
		}
	}
	for sum := range d.sessions { // in random order
		if len(d.sessions) <= maxSessions*9/10 {
			return
		}
		delete(d.sessions, sum)
	}
}
