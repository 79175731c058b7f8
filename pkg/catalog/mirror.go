package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/posthornhq/posthorn/pkg/authorization"
	"github.com/posthornhq/posthorn/pkg/bucket"
	"github.com/posthornhq/posthorn/pkg/interceptor"
	"github.com/posthornhq/posthorn/pkg/policy"
	"github.com/posthornhq/posthorn/pkg/settings"
	"github.com/posthornhq/posthorn/pkg/source"
	"github.com/posthornhq/posthorn/pkg/subscription"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// The two buckets, as indexes.
const (
	ofConfig = iota
	ofSecrets
)

// Run mirrors until ctx is done and returns nil. A watch that ends is begun anew.
func (c *Catalog) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { c.follow(ctx, ofConfig, c.config) })
	wg.Go(func() { c.follow(ctx, ofSecrets, c.secrets) })
	return nil
}

func (c *Catalog) follow(ctx context.Context, which int, b *bucket.Bucket[[]byte]) {
	for {
		err := b.Watch(ctx,
			func(e bucket.Entry[[]byte]) { c.changed(which, e) },
			func() { c.caughtUp(which) },
			func(string, error) {}) // raw values decode always
		if ctx.Err() != nil {
			return
		}
		c.log.Warn("the mirror of the configuration lost its watch; what is known stays in force", "bucket", []string{"config", "secrets"}[which], "err", err)
		timer := time.NewTimer(c.cfg.RetryAfter)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// changed takes a new value of either bucket in.
func (c *Catalog) changed(which int, e bucket.Entry[[]byte]) {
	if c.take(which, e) {
		c.notify()
	}
}

// take reports whether something took effect.
func (c *Catalog) take(which int, e bucket.Entry[[]byte]) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	values := c.values
	if which == ofSecrets {
		values = c.sealed
	}
	if e.Revision <= values[e.Key].revision {
		return false // a watch that was begun anew shows everything again
	}
	// A key that is gone is kept with its revision, so that this holds for it too.
	values[e.Key] = value{data: e.Value, revision: e.Revision, deleted: e.Deleted}
	live := c.synced[ofConfig] && c.synced[ofSecrets]
	if live {
		c.apply(e.Key)
	}
	c.saw(which, e.Revision)
	return live
}

// caughtUp compiles everything once both buckets have been read: earlier, what
// has secrets would be without.
func (c *Catalog) caughtUp(which int) {
	if c.begin(which) {
		c.notify()
	}
}

// begin reports whether the catalog has just become ready.
func (c *Catalog) begin(which int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.synced[which] {
		return false
	}
	c.synced[which] = true
	if !c.synced[ofConfig] || !c.synced[ofSecrets] {
		return false
	}
	for key := range c.values {
		c.apply(key)
	}
	c.saw(which, 0)
	close(c.ready)
	return true
}

func (c *Catalog) notify() {
	// Not under mu, so that the functions may ask the catalog whatever they like.
	c.calls.Lock()
	defer c.calls.Unlock()
	for _, f := range c.onChange {
		f()
	}
}

func (c *Catalog) saw(which int, revision uint64) {
	c.seen[which] = max(c.seen[which], revision)
	close(c.moved)
	c.moved = make(chan struct{})
}

// apply brings one resource into force, or takes it out.
func (c *Catalog) apply(key string) {
	kind, name, ok := strings.Cut(key, ".")
	known := slices.Contains([]string{Sources, Subscriptions, Policies, Authorizations, Backoffs}, kind) || key == Key(Settings, settings.Name)
	v, stored := c.values[key]
	if !ok || !known || !stored {
		return // of a later version's kinds, or secrets that came before what they are for
	}
	if v.deleted {
		delete(c.problems, key)
		c.remove(kind, name)
		return
	}
	err := c.compile(kind, name, v.data, c.sealed[key])
	if err == nil {
		delete(c.problems, key)
		return
	}
	c.problems[key] = Problem{Kind: kind, Name: name, Revision: v.revision, Reason: err.Error(), InForce: c.has(kind, name)}
	if errors.Is(err, errNotYet) {
		return // they are on their way; if not, Problems shows it
	}
	c.log.Error("a stored resource is not usable; what was in force before it stays so", "kind", kind, "name", name, "revision", v.revision, "err", err)
}

func (c *Catalog) compile(kind, name string, data []byte, sealed value) error {
	switch kind {
	case Sources:
		spec := new(posthornv1.Source)
		secrets, err := c.decode(data, spec, Key(kind, name), sealed)
		if err != nil {
			return err
		}
		v, err := source.Compile(spec, secrets)
		if err != nil {
			return err
		}
		c.sources.put(name, v)
	case Subscriptions:
		spec := new(posthornv1.Subscription)
		secrets, err := c.decode(data, spec, Key(kind, name), sealed)
		if err != nil {
			return err
		}
		if secrets, err = subscription.FillCredentials(spec, secrets); errors.Is(err, subscription.ErrCredentialsMissing) {
			return fmt.Errorf("catalog: %s: %w", Key(kind, name), errNotYet)
		} else if err != nil {
			return err
		}
		if err := subscription.Validate(spec); err != nil {
			return err
		}
		v, err := subscription.Compile(spec, secrets)
		if err != nil {
			return err
		}
		c.subscriptions.Put(v)
	case Policies:
		return c.compilePolicy(name, data, sealed)
	case Backoffs:
		spec := new(posthornv1.BackoffOverride)
		if _, err := c.decode(data, spec, Key(kind, name), sealed); err != nil {
			return err
		}
		v, err := policy.CompileOverride(spec)
		if err != nil {
			return err
		}
		c.backoffs[name] = v
		c.reoverride()
	case Settings:
		spec := new(posthornv1.Settings)
		if _, err := c.decode(data, spec, Key(kind, name), sealed); err != nil {
			return err
		}
		// A flag that this version does not know is a later one's.
		c.settings.Store(spec)
	case Authorizations:
		spec := new(posthornv1.Authorization)
		secrets, err := c.decode(data, spec, Key(kind, name), sealed)
		if err != nil {
			return err
		}
		if err := authorization.Validate(spec, len(secrets)); err != nil {
			return err
		}
		v := &authorization.Authorization{Spec: spec}
		if len(secrets) > 0 {
			v.ClientSecret = secrets[0]
		}
		c.authorization.put(name, v)
	}
	return nil
}

func (c *Catalog) compilePolicy(name string, data []byte, sealed value) error {
	spec := new(posthornv1.Policy)
	secrets, err := c.decode(data, spec, Key(Policies, name), sealed)
	if err != nil {
		return err
	}
	v, err := policy.Compile(spec)
	if err != nil {
		return err
	}
	flow, err := interceptor.Compile(spec.GetSecurity(), policy.SecretsByID(secrets), c.asker)
	if err != nil {
		return err
	}
	c.flows.put(name, flow)
	c.policies.put(name, v)
	if name == policy.DefaultName {
		c.restandard()
	}
	return nil
}

// decode reads a stored message into spec and opens the secrets that belong to
// it. The message says how many there are, since the two are written one after
// another: fewer at hand means that the rest is on its way, and an endpoint must
// not be served unsigned for the time being.
func (c *Catalog) decode(data []byte, spec proto.Message, key string, sealed value) ([]string, error) {
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, spec); err != nil {
		return nil, fmt.Errorf("catalog: decode %s: %w", key, err)
	}
	if named, ok := spec.(interface{ GetName() string }); ok && Key(strings.SplitN(key, ".", 2)[0], named.GetName()) != key {
		return nil, fmt.Errorf("catalog: %s holds a resource named %q", key, named.GetName())
	}
	n := countOf(spec)
	if n == 0 {
		return nil, nil // what is stored beyond that is left from a resource that was deleted
	}
	if len(sealed.data) == 0 || sealed.deleted {
		return nil, fmt.Errorf("catalog: %s: %w", key, errNotYet)
	}
	plain, err := c.opener.Open(sealed.data, key)
	if err != nil {
		return nil, fmt.Errorf("catalog: secrets of %s: %w", key, err)
	}
	var secrets []string
	if err := json.Unmarshal(plain, &secrets); err != nil {
		// Its text would show what could not be read.
		return nil, fmt.Errorf("catalog: secrets of %s are not a JSON array of strings", key)
	}
	if len(secrets) < n {
		return nil, fmt.Errorf("catalog: %s: %w", key, errNotYet)
	}
	return secrets, nil
}

// countOf is how many secrets a resource says that it has.
func countOf(spec proto.Message) int {
	n := 0
	if counted, ok := spec.(interface{ GetSecretCount() int32 }); ok {
		n = int(counted.GetSecretCount())
	}
	if counted, ok := spec.(interface{ GetCredentialCount() int32 }); ok {
		n += int(counted.GetCredentialCount())
	}
	return n
}

func (c *Catalog) remove(kind, name string) {
	switch kind {
	case Sources:
		c.sources.delete(name)
	case Subscriptions:
		c.subscriptions.Delete(name)
	case Policies:
		c.policies.delete(name)
		c.flows.delete(name)
		if name == policy.DefaultName {
			c.restandard()
		}
	case Authorizations:
		c.authorization.delete(name)
	case Backoffs:
		delete(c.backoffs, name)
		c.reoverride()
	case Settings:
		c.settings.Store(nil)
	}
}

func (c *Catalog) has(kind, name string) (ok bool) {
	switch kind {
	case Sources:
		_, ok = c.sources.get(name)
	case Subscriptions:
		ok = c.subscriptions.Get(name) != nil
	case Policies:
		_, ok = c.policies.get(name)
	case Authorizations:
		_, ok = c.authorization.get(name)
	case Backoffs:
		ok = c.backoffs[name] != nil
	case Settings:
		ok = c.settings.Load() != nil
	}
	return ok
}
