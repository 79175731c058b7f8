package identity

import (
	"cmp"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/pkg/bucket"
	"github.com/posthornhq/posthorn/pkg/errs"
)

// A Sealer seals and opens the private signing key. It is satisfied by *seal.Sealer.
type Sealer interface {
	Seal(plain []byte, aad string) ([]byte, error)
	Open(sealed []byte, aad string) ([]byte, error)
}

// Config holds what may be tuned. The zero value is usable.
type Config struct {
	// TokenLifetime is how long a token of [Directory.SignIn] is good. It must be
	// the same in all processes: a rotated key verifies for that long. Default 12h.
	TokenLifetime time.Duration
	// KeyBits is the length of new signing keys, at least 2048. Default 2048.
	KeyBits int
	// FlushEvery is how often last uses of keys are written and signing keys that
	// have had their time are removed. Default 1m.
	FlushEvery time.Duration
	// RetryAfter is how long a watch that ended is left before it is begun
	// anew. Default 1s.
	RetryAfter time.Duration
	// Now is the clock. Default [time.Now].
	Now func() time.Time
}

const (
	minBits = 2048
	// hashers is how many passwords are hashed at once.
	hashers = 2
	// maxToken is far above what a token with all roles takes.
	maxToken = 8 << 10
	// maxSessions bounds the cache of tokens that have been verified, a few
	// hundred bytes each.
	maxSessions = 10_000
)

const howTo = `send "Authorization: Bearer <API key or token of a sign-in>"; the administrator's key is in admin.key in the data directory of the first start, or what POSTHORN_ADMIN_KEY says`

// A Directory knows users and keys. Checking a token is in memory, by a mirror
// that [Directory.Run] keeps; what edits goes to the bucket, and takes effect in
// this process before it returns. It is safe for use by several goroutines.
type Directory struct {
	all      *bucket.Bucket[[]byte]
	keys     *bucket.Bucket[keyRecord]
	used     *bucket.Bucket[usedRecord]
	users    *bucket.Bucket[userRecord]
	attempts *bucket.Bucket[attemptRecord] // of all prefixes
	ring     *bucket.Bucket[ringRecord]
	sealer   Sealer
	commit   func(context.Context) error
	log      *slog.Logger
	cfg      Config
	hasher   *hasher
	parser   *jwt.Parser
	ready    chan struct{}

	signing sync.Mutex // for opened
	opened  signer     // the private key, as it was used last

	mu        sync.RWMutex // for all below; held for map accesses only
	byHash    map[[sha256.Size]byte]*key
	byName    map[string]*key
	uses      map[string]*lastUse
	people    map[string]person
	verifiers map[string]verifier
	sessions  map[[sha256.Size]byte]session
	revisions map[string]uint64   // newest that was applied, by key of the bucket
	seen      map[string]struct{} // keys since the watch began; nil once it has caught up
}

// A key is an API key in the mirror.
type key struct {
	hash    [sha256.Size]byte
	id      Identity
	expires time.Time // zero is never
	use     *lastUse
}

// A lastUse counts minutes since 1970.
type lastUse struct{ minute, stored atomic.Int64 }

// A person is what the mirror keeps of a user.
type person struct {
	generation string
	disabled   bool
}

type verifier struct {
	public *rsa.PublicKey
	until  time.Time // zero while it signs
}

// A session is a token that has been verified.
type session struct {
	id         Identity
	generation string
	kid        string
	expires    time.Time
}

// New returns a Directory of bucket identity. It knows nobody until
// [Directory.Run] has read the bucket; see [Directory.Ready]. A process without a
// sealer verifies tokens but cannot sign any. If commit is set, an edit waits for
// it after the bucket has the edit; see pkg/commit.
func New(kv jetstream.KeyValue, sealer Sealer, commit func(context.Context) error, log *slog.Logger, cfg Config) (*Directory, error) {
	if cfg.TokenLifetime < 0 || cfg.FlushEvery < 0 || cfg.RetryAfter < 0 {
		return nil, fmt.Errorf("identity: token lifetime %v, flush every %v or retry after %v is negative", cfg.TokenLifetime, cfg.FlushEvery, cfg.RetryAfter)
	}
	cfg.KeyBits = cmp.Or(cfg.KeyBits, minBits)
	if cfg.KeyBits < minBits || cfg.KeyBits > 4*minBits {
		return nil, fmt.Errorf("identity: signing keys of %d bits; %d to %d are allowed", cfg.KeyBits, minBits, 4*minBits)
	}
	cfg.TokenLifetime = cmp.Or(cfg.TokenLifetime, 12*time.Hour)
	cfg.FlushEvery = cmp.Or(cfg.FlushEvery, time.Minute)
	cfg.RetryAfter = cmp.Or(cfg.RetryAfter, time.Second)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if commit == nil {
		commit = func(context.Context) error { return nil }
	}
	return &Directory{
		all:       bucket.New(kv, "", bucket.Raw()),
		keys:      keysOf(kv),
		used:      bucket.New(kv, usedPrefix, bucket.JSON[usedRecord]()),
		users:     bucket.New(kv, usersPrefix, bucket.JSON[userRecord]()),
		attempts:  bucket.New(kv, "", bucket.JSON[attemptRecord]()),
		ring:      bucket.New(kv, "", bucket.JSON[ringRecord]()),
		sealer:    sealer,
		commit:    commit,
		log:       log,
		cfg:       cfg,
		hasher:    newHasher(hashers),
		parser:    newParser(cfg.Now),
		ready:     make(chan struct{}),
		byHash:    make(map[[sha256.Size]byte]*key),
		byName:    make(map[string]*key),
		uses:      make(map[string]*lastUse),
		people:    make(map[string]person),
		verifiers: make(map[string]verifier),
		sessions:  make(map[[sha256.Size]byte]session),
		revisions: make(map[string]uint64),
	}, nil
}

// Ready is closed when everything that is stored has been seen.
func (d *Directory) Ready() <-chan struct{} { return d.ready }

// Authenticate returns whose token it is: an API key, or the token of a user who
// signed in. The error is of kind [errs.Unauthenticated] if it is nobody's (any
// more), and [errs.Unavailable] as long as the directory is not ready.
func (d *Directory) Authenticate(_ context.Context, token string) (Identity, error) {
	if token == "" || len(token) > maxToken {
		return Identity{}, errs.New(errs.Unauthenticated, "no token, or too long a one: %s", howTo)
	}
	// Looking up by hash takes no time that tells about keys: who could tell how
	// far a hash agrees still could not make a token for it.
	sum := sha256.Sum256([]byte(token))
	now := d.cfg.Now()
	d.mu.RLock()
	k := d.byHash[sum]
	s, known := d.sessions[sum]
	good := known && d.stands(s, now)
	d.mu.RUnlock()
	switch {
	case k != nil:
		return k.authenticate(now)
	case good:
		return s.id, nil
	}
	select {
	case <-d.ready:
	default:
		return Identity{}, errs.New(errs.Unavailable, "users and keys are not loaded yet; try again in a second")
	}
	if strings.Count(token, ".") == 2 {
		return d.verify(token, sum, now)
	}
	return Identity{}, errs.New(errs.Unauthenticated, "the API key is not known: %s", howTo)
}

func (k *key) authenticate(now time.Time) (Identity, error) {
	if !k.expires.IsZero() && !now.Before(k.expires) {
		return Identity{}, errs.New(errs.Unauthenticated, "API key %q has expired; have a new one made", k.id.Name)
	}
	if minute := now.Unix() / 60; k.use.minute.Load() < minute {
		k.use.minute.Store(minute)
	}
	return k.id, nil
}

// stands reports whether a token that was verified is still good. The caller
// holds mu.
func (d *Directory) stands(s session, now time.Time) bool {
	p, ok := d.people[s.id.Name]
	if !ok || p.disabled || p.generation != s.generation || !now.Before(s.expires) {
		return false
	}
	v, ok := d.verifiers[s.kid]
	return ok && v.good(now)
}

func (v verifier) good(now time.Time) bool { return v.until.IsZero() || now.Before(v.until) }

// Run keeps the mirror until ctx is done, writes last uses of keys, once more
// before it ends, and removes signing keys that have had their time. It always
// returns nil: a bucket that does not answer is asked again.
func (d *Directory) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { d.tidy(ctx) })
	d.follow(ctx)
	wg.Wait()
	// The last minute's uses are written even though ctx is done.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := d.flush(last); err != nil {
		d.log.Warn("last uses of API keys not written", "err", err)
	}
	return nil
}

func (d *Directory) tidy(ctx context.Context) {
	tick := time.NewTicker(d.cfg.FlushEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := errors.Join(d.flush(ctx), d.retire(ctx)); err != nil && ctx.Err() == nil {
			d.log.Warn("last uses of API keys or signing keys not tidied; will be tried again", "err", err)
		}
	}
}

// flush writes last uses that the bucket does not have yet.
func (d *Directory) flush(ctx context.Context) error {
	type use struct {
		name   string
		of     *lastUse
		minute int64
	}
	var news []use
	d.mu.RLock()
	for name, k := range d.byName {
		if m := k.use.minute.Load(); m > k.use.stored.Load() {
			news = append(news, use{name, k.use, m})
		}
	}
	d.mu.RUnlock()
	for _, u := range news {
		if _, err := d.used.Put(ctx, u.name, usedRecord{At: time.Unix(u.minute*60, 0).UTC()}); err != nil {
			return fmt.Errorf("identity: write last use: %w", err)
		}
		u.of.saw(u.minute)
	}
	return nil
}

// saw notes that the bucket has a minute.
func (u *lastUse) saw(minute int64) {
	for {
		have := u.stored.Load()
		if have >= minute || u.stored.CompareAndSwap(have, minute) {
			return
		}
	}
}
