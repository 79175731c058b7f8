package interceptor

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/sony/gobreaker/v2"
	"golang.org/x/sync/singleflight"

	"github.com/posthornhq/posthorn/pkg/authorization"
	"github.com/posthornhq/posthorn/pkg/event"
)

// Authorizations knows whom a context asks. It is satisfied by *catalog.Catalog.
type Authorizations interface {
	Authorization(context string) (*authorization.Authorization, bool)
}

// Config holds what operators may tune. The zero value is usable.
type Config struct {
	// MaxEntries is how many answers, and how many verified tokens, are
	// remembered. Default 10,000.
	MaxEntries int
	// Negative is how long a no is remembered. Default 5s.
	Negative time.Duration
	// KeysFor is how long signing keys are used before they are fetched again.
	// Default 1h.
	KeysFor time.Duration
	// KeysAtMost is how long they are used while they cannot be fetched. Default 24h.
	KeysAtMost time.Duration
	// RefreshEvery bounds how often tokens with unknown keys make one URL be
	// asked. Default 30s.
	RefreshEvery time.Duration
	// TokenFor bounds how long a verified token is remembered: so long it is good
	// after its key was withdrawn. Default 5m.
	TokenFor time.Duration
	// Failures in a row open the breaker of a URL, for OpenFor. Default 5, 10s.
	Failures uint32
	OpenFor  time.Duration
	// Now is the clock. Default [time.Now].
	Now func() time.Time
}

func (c *Config) setDefaults() {
	c.MaxEntries = cmp.Or(c.MaxEntries, 10_000)
	c.Negative = cmp.Or(c.Negative, 5*time.Second)
	c.KeysFor = cmp.Or(c.KeysFor, time.Hour)
	c.KeysAtMost = cmp.Or(c.KeysAtMost, 24*time.Hour)
	c.RefreshEvery = cmp.Or(c.RefreshEvery, 30*time.Second)
	c.TokenFor = cmp.Or(c.TokenFor, 5*time.Minute)
	c.Failures = cmp.Or(c.Failures, 5)
	c.OpenFor = cmp.Or(c.OpenFor, 10*time.Second)
	if c.Now == nil {
		c.Now = time.Now
	}
}

// An Asker asks the URLs of authorizations and remembers what they say. It is
// safe for concurrent use. A question that nobody waits for any more ends by its
// own timeout.
type Asker struct {
	client *http.Client
	known  Authorizations
	log    *slog.Logger
	cfg    Config

	answers  *lru.Cache[hash, answer] // yes, of OAUTH URLs
	refusals *lru.Cache[hash, answer] // no; apart, so that guesses push out no good ones
	tokens   *lru.Cache[hash, answer] // of JWTs
	flights  singleflight.Group
	breakers sync.Map // URL → *gobreaker.CircuitBreaker[answer]
	keys     sync.Map // URL → *keySet
}

// A hash stands for a question in caches, so that they hold no credentials.
type hash [sha256.Size]byte

// An answer is what is remembered of a question.
type answer struct {
	detail string
	no     *refusal // nil is a yes
	until  time.Time
}

// NewAsker returns an Asker that asks with client, which must itself keep away
// from addresses that users may not reach. Redirects are not followed.
func NewAsker(client *http.Client, known Authorizations, log *slog.Logger, cfg Config) (*Asker, error) {
	if client == nil || known == nil || log == nil {
		return nil, errors.New("interceptor: an asker needs a client, the authorizations and a log")
	}
	cfg.setDefaults()
	own := *client
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	a := &Asker{client: &own, known: known, log: log, cfg: cfg}
	for _, cache := range []**lru.Cache[hash, answer]{&a.answers, &a.refusals, &a.tokens} {
		var err error
		if *cache, err = lru.New[hash, answer](cfg.MaxEntries); err != nil {
			return nil, fmt.Errorf("interceptor: %w", err)
		}
	}
	return a, nil
}

// contextOf returns the context whose authorization is asked.
func contextOf(r *Request) string { return cmp.Or(r.Context, event.DefaultContext) }

// hashOf returns the hash of parts, which cannot be split in another way to the
// same effect.
func hashOf(parts ...string) hash {
	h := sha256.New()
	var n [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	var out hash
	h.Sum(out[:0])
	return out
}

// once lets one of all that ask the same at the same time do it. Its work goes on
// when the one who began it no longer waits.
func (a *Asker) once(ctx context.Context, key string, timeout time.Duration, work func(context.Context) answer) answer {
	done := a.flights.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		return work(ctx), nil
	})
	select {
	case r := <-done:
		if got, ok := r.Val.(answer); ok {
			return got
		}
		return answer{no: denied("the authorization could not be asked")}
	case <-ctx.Done():
		return answer{no: denied("the request ended before the authorization was asked").because(ctx.Err())}
	}
}

// guarded calls f unless url has failed too often lately. f's error means that
// the URL failed.
func (a *Asker) guarded(url, who string, f func() (answer, error)) answer {
	v, ok := a.breakers.Load(url)
	if !ok {
		v, _ = a.breakers.LoadOrStore(url, gobreaker.NewCircuitBreaker[answer](gobreaker.Settings{
			Name: who, MaxRequests: 1, Timeout: a.cfg.OpenFor,
			ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= a.cfg.Failures },
			OnStateChange: func(_ string, from, to gobreaker.State) {
				a.log.Warn("an authorization server changes its state", "who", who, "from", from.String(), "to", to.String())
			},
		}))
	}
	breaker, ok := v.(*gobreaker.CircuitBreaker[answer])
	if !ok {
		return answer{no: denied("%s could not be asked", who)}
	}
	got, err := breaker.Execute(f)
	switch {
	case err == nil:
		return got
	case errors.Is(err, gobreaker.ErrOpenState), errors.Is(err, gobreaker.ErrTooManyRequests):
		return answer{no: denied("%s does not answer, and is left alone for some seconds; try again later", who).because(err)}
	default:
		// The error may have the URL in it, but neither credential.
		return answer{no: denied("%s cannot be asked; try again later", who).because(err)}
	}
}
