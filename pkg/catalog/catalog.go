package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/pkg/authorization"
	"github.com/posthornhq/posthorn/pkg/bucket"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/interceptor"
	"github.com/posthornhq/posthorn/pkg/policy"
	"github.com/posthornhq/posthorn/pkg/settings"
	"github.com/posthornhq/posthorn/pkg/source"
	"github.com/posthornhq/posthorn/pkg/subscription"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// Kinds of resources, as keys of buckets config and secrets begin.
const (
	Sources        = "sources"
	Subscriptions  = "subscriptions"
	Policies       = "policies"
	Authorizations = "authorizations"
	Backoffs       = "backoffs"
	Settings       = "settings"
)

// Key returns the key of a resource in buckets config and secrets. It is also
// what its secrets are sealed for.
func Key(kind, name string) string { return kind + "." + name }

// An Opener opens sealed secrets. It is satisfied by *seal.Sealer.
type Opener interface {
	Open(sealed []byte, aad string) ([]byte, error)
}

// Config holds what may be tuned. The zero value is usable.
type Config struct {
	// RetryAfter is how long a watch that ended is left before it is begun
	// anew. Default 1s.
	RetryAfter time.Duration
}

// A Problem says that the newest version of a resource is not in force.
type Problem struct {
	Kind, Name string
	// Revision is that of the version in bucket config.
	Revision uint64
	// Reason is for operators. It has no secrets.
	Reason string
	// InForce says that a version before it still is.
	InForce bool
}

// A Catalog mirrors the configuration while it runs. Readers take no locks.
type Catalog struct {
	config, secrets *bucket.Bucket[[]byte]
	opener          Opener
	log             *slog.Logger
	cfg             Config

	sources       table[*source.Source]
	policies      table[*policy.Policy]
	flows         table[*interceptor.Flow] // of policies
	asker         *interceptor.Asker
	authorization table[*authorization.Authorization]
	subscriptions *subscription.Index
	fallback      *policy.Policy // what is built in for those who name none
	// standard is the policy of those who name none, with room for the overrides.
	standard  atomic.Pointer[policy.Policy]
	overrides atomic.Pointer[policy.Overrides] // nil is none
	settings  atomic.Pointer[posthornv1.Settings]

	onChange []func()
	calls    sync.Mutex // one at a time
	ready    chan struct{}

	// mu is for the writers' side: what the buckets hold, compiled or not.
	mu       sync.Mutex
	values   map[string]value // of bucket config
	sealed   map[string]value // of bucket secrets
	backoffs map[string]*policy.Override
	problems map[string]Problem
	seen     [2]uint64 // revision of config, of secrets
	synced   [2]bool
	moved    chan struct{} // closed whenever seen grows
}

type value struct {
	data     []byte
	revision uint64
	deleted  bool
}

// New returns a Catalog of the two buckets. It is empty until [Catalog.Run] has
// read them; see [Catalog.Ready].
func New(config, secrets jetstream.KeyValue, opener Opener, log *slog.Logger, cfg Config) (*Catalog, error) {
	if cfg.RetryAfter < 0 {
		return nil, fmt.Errorf("catalog: retry after %v is negative", cfg.RetryAfter)
	}
	cfg.RetryAfter = cmp.Or(cfg.RetryAfter, time.Second)
	fallback, err := policy.Compile(policy.Default())
	if err != nil {
		return nil, fmt.Errorf("catalog: built-in policy: %w", err)
	}
	c := &Catalog{
		config:        bucket.New(config, "", bucket.Raw()),
		secrets:       bucket.New(secrets, "", bucket.Raw()),
		opener:        opener,
		log:           log,
		cfg:           cfg,
		subscriptions: subscription.NewIndex(),
		fallback:      fallback,
		ready:         make(chan struct{}),
		values:        make(map[string]value),
		sealed:        make(map[string]value),
		backoffs:      make(map[string]*policy.Override),
		problems:      make(map[string]Problem),
		moved:         make(chan struct{}),
	}
	c.standard.Store(fallback)
	return c, nil
}

// OnChange registers f to be called after every change that has taken effect,
// and once when the catalog is ready. Calls come one after another, from Run, and
// hold up the mirror meanwhile. It must not be called after Run.
func (c *Catalog) OnChange(f func()) { c.onChange = append(c.onChange, f) }

// UseAsker sets who is asked by interceptors; without one, policies that have
// such interceptors are not usable. It must not be called after Run.
func (c *Catalog) UseAsker(a *interceptor.Asker) { c.asker = a }

// Ready is closed when everything that is stored has been seen.
func (c *Catalog) Ready() <-chan struct{} { return c.ready }

// Source returns the source of that name in a context, "" being
// [event.DefaultContext].
func (c *Catalog) Source(context, name string) (*source.Source, bool) {
	s, ok := c.sources.get(name)
	if !ok {
		return nil, false
	}
	return s.In(cmp.Or(context, event.DefaultContext))
}

// Sources returns all sources, in no particular order. One that was edited is
// another one.
func (c *Catalog) Sources() []*source.Source { return c.sources.all() }

// Subscriptions returns the index of all subscriptions, which follows changes.
// Only the catalog may put into it.
func (c *Catalog) Subscriptions() *subscription.Index { return c.subscriptions }

// Subscription returns the subscription of that name.
func (c *Catalog) Subscription(name string) (*subscription.Subscription, bool) {
	s := c.subscriptions.Get(name)
	return s, s != nil
}

// Policy returns the policy of that name, or else the default one. "default" is
// built in unless one of that name is stored.
func (c *Catalog) Policy(name string) *policy.Policy {
	if name != "" && name != policy.DefaultName {
		if p, ok := c.policies.get(name); ok {
			return p
		}
	}
	return c.standard.Load()
}

// Delivery returns how a delivery of an event of a source and type is tried, p
// being the policy that it goes by: p itself, unless it is the default one and an
// override has something to say. Its queue settings (MaxDeliver, AckWait,
// Lifetime) are to be asked of p.
func (c *Catalog) Delivery(p *policy.Policy, source, typ string) *policy.Policy {
	return c.overrides.Load().Apply(p, source, typ)
}

// Flag reports whether a feature is on.
func (c *Catalog) Flag(f settings.Flag) bool { return settings.On(c.settings.Load(), f) }

// restandard makes the default policy anew after an edit of it or of an override.
// Its caller locks.
func (c *Catalog) restandard() {
	p, ok := c.policies.get(policy.DefaultName)
	if !ok {
		p = c.fallback
	}
	c.standard.Store(c.overrides.Load().Widen(p))
}

// reoverride makes the overrides anew after an edit of one. Its caller locks.
func (c *Catalog) reoverride() {
	var all *policy.Overrides
	if len(c.backoffs) > 0 {
		all = policy.NewOverrides(slices.Collect(maps.Values(c.backoffs)))
	}
	c.overrides.Store(all)
	c.restandard()
}

// Flow returns the security of the policy of that name, which publishers to
// sources that name it must pass. It is false if there is no such policy, or it
// is not usable: then nobody may pass.
func (c *Catalog) Flow(name string) (*interceptor.Flow, bool) {
	f, ok := c.flows.get(name)
	if !ok && name == policy.DefaultName {
		_, stored := c.policies.get(name)
		return nil, !stored // the built-in one lets everything pass
	}
	return f, ok
}

// Authorization returns that of a context, if it has one.
func (c *Catalog) Authorization(context string) (*authorization.Authorization, bool) {
	return c.authorization.get(cmp.Or(context, event.DefaultContext))
}

// Policies returns all policies by name, the default one included.
func (c *Catalog) Policies() []*policy.Policy {
	all := slices.DeleteFunc(c.policies.all(), func(p *policy.Policy) bool { return p.Name == policy.DefaultName })
	all = append(all, c.standard.Load())
	slices.SortFunc(all, func(a, b *policy.Policy) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Problems returns the resources whose newest version is not in force, by kind
// and name.
func (c *Catalog) Problems() []Problem {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]Problem, 0, len(c.problems))
	for _, p := range c.problems {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name))
	})
	return all
}

// WaitFor blocks until the catalog has seen these revisions of buckets config
// and secrets, so that an edit which was written there has taken effect here.
func (c *Catalog) WaitFor(ctx context.Context, config, secrets uint64) error {
	for {
		c.mu.Lock()
		done := c.synced[0] && c.synced[1] && c.seen[0] >= config && c.seen[1] >= secrets
		moved := c.moved
		c.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("catalog: wait for revision %d: %w", config, context.Cause(ctx))
		}
	}
}

// A table is a map whose readers do not wait for its writer.
type table[T any] struct{ m sync.Map }

func (t *table[T]) get(name string) (v T, ok bool) {
	got, ok := t.m.Load(name)
	if !ok {
		return v, false
	}
	return got.(T), true
}

func (t *table[T]) put(name string, v T) { t.m.Store(name, v) }

func (t *table[T]) delete(name string) { t.m.Delete(name) }

func (t *table[T]) all() []T {
	var all []T
	t.m.Range(func(_, v any) bool {
		all = append(all, v.(T))
		return true
	})
	return all
}

var errNotYet = errors.New("its secrets are not there yet")
