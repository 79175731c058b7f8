package api

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/posthornhq/posthorn/pkg/audit"
	"github.com/posthornhq/posthorn/pkg/bucket"
	"github.com/posthornhq/posthorn/pkg/catalog"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/identity"
	"github.com/posthornhq/posthorn/pkg/pattern"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// maxRaces is how often an edit without If-Match is begun anew because somebody
// else was faster.
const maxRaces = 8

// A message is a resource of the configuration.
type message interface {
	proto.Message
	comparable
	GetName() string
	GetMeta() *posthornv1.Meta
}

// A kind is what sets one sort of resource apart from the others.
type kind[T message] struct {
	plural, noun string // "sources", "source"
	fresh        func() T
	setMeta      func(T, *posthornv1.Meta)
	// complete fills in defaults, so that answers show them, and takes out what
	// is output only.
	complete func(T)
	// validate refuses a resource with so many secrets as Invalid, naming the field.
	validate func(ctx context.Context, v T, secrets int) error
	// refers refuses as Invalid what refers to something that is not there. validate
	// asks it, and it is asked once more when the resource is written: what it refers
	// to may have been deleted in between. nil if it refers to nothing.
	refers func(ctx context.Context, v T) error
	// inUse refuses to delete what others refer to, and is asked before and after for
	// the same reason. nil if nothing can.
	inUse func(ctx context.Context, name string) error
	// present adds what is output only. nil if there is nothing.
	present func(T)
	// builtin returns the resource that is there even if it isn't stored. nil if
	// there is none.
	builtin func() T
	// secrets is nil if the kind has none.
	secrets *secretive[T]
}

// secretive is how a kind deals with secrets.
type secretive[T message] struct {
	get func(T) []string
	// set puts a list into the resource that answers show, in place of all that is
	// secret; nil leaves none.
	set func(T, []string)
	// count says how many the resource has stored; setCount puts that in.
	count    func(T) int32
	setCount func(T, []string)
	// keep reports whether the secrets of old are still good for v. Without merge only.
	keep func(old, v T) bool
	// first makes the secret of a resource that has none but list. "" for those that
	// need none. May be nil.
	first func(v T, list []string) string
	// merge picks what is to be stored, of kinds whose secrets each have a place of
	// their own in the resource. May be nil: then those that were given replace all.
	merge func(v T, given, stored []string) []string
	// check refuses what is to be stored. May be nil.
	check func(v T, list []string) error
}

// A resource is the store of one kind.
type resource[T message] struct {
	kind[T]
	api    *API
	values *bucket.Bucket[T]
	sealed *bucket.Bucket[[]byte]
}

func newResource[T message](a *API, k kind[T]) *resource[T] {
	return &resource[T]{
		kind:   k,
		api:    a,
		values: bucket.New(a.deps.Config, k.plural+".", bucket.Proto(k.fresh)),
		sealed: bucket.New(a.deps.Secrets, k.plural+".", bucket.Raw()),
	}
}

// A version is a resource as it is stored; of revision 0 if it is not.
type version[T message] struct {
	value    T
	revision uint64
}

// current returns what is stored, or of revision 0 what is built in, or the
// zero value. What can be no name is no resource's, and nobody is asked for it.
func (r *resource[T]) current(ctx context.Context, name string) (version[T], error) {
	if !isName(name) {
		return version[T]{}, nil
	}
	e, err := r.values.Get(ctx, name)
	if errs.KindOf(err) == errs.NotFound {
		var v T
		if r.builtin != nil && r.builtin().GetName() == name {
			v = r.builtin()
		}
		return version[T]{value: v}, nil
	}
	if err != nil {
		return version[T]{}, err
	}
	return version[T]{value: e.Value, revision: e.Revision}, nil
}

func isName(s string) bool { return pattern.ValidName("name", s) == nil }

// show makes an answer of a version.
func (r *resource[T]) show(v version[T]) T {
	out := proto.CloneOf(v.value)
	meta := proto.CloneOf(out.GetMeta())
	if meta == nil {
		meta = &posthornv1.Meta{}
	}
	meta.Etag = etagOf(v.revision)
	r.setMeta(out, meta)
	if r.present != nil {
		r.present(out)
	}
	return out
}

func (r *resource[T]) notFound(name string) error {
	return errs.New(errs.NotFound, "%s %q does not exist", r.noun, short(name))
}

// short cuts what was taken for a name, which may be as long as an URL.
func short(name string) string {
	const most = 128
	if len(name) <= most {
		return name
	}
	return strings.ToValidUTF8(name[:most], "") + "…"
}

func (r *resource[T]) get(ctx context.Context, name string) (T, error) {
	var none T
	cur, err := r.current(ctx, name)
	if err != nil {
		return none, err
	}
	if cur.value == none {
		return none, r.notFound(name)
	}
	sendETag(ctx, cur.revision)
	return r.show(cur), nil
}

func (r *resource[T]) create(ctx context.Context, v T) (T, error) {
	return r.put(ctx, v, func(cur version[T]) error {
		if cur.revision > 0 {
			return errs.New(errs.Conflict, "%s %q exists already; PUT replaces it", r.noun, v.GetName())
		}
		return nil
	})
}

func (r *resource[T]) replace(ctx context.Context, v T) (T, error) {
	return r.put(ctx, v, func(cur version[T]) error {
		var none T
		if err := checkNoneMatch(ctx, cur.value != none, cur.revision); err != nil {
			return err
		}
		return checkMatch(ctx, cur.value != none, cur.revision)
	})
}

// put writes v if allowed agrees with what it replaces. If somebody else
// writes at the same time it looks again.
func (r *resource[T]) put(ctx context.Context, v T, allowed func(version[T]) error) (T, error) {
	var none T
	if v == none {
		return none, errs.Field(r.noun, "is required")
	}
	if err := pattern.ValidName("name", v.GetName()); err != nil {
		return none, err
	}
	for n := 0; ; n++ {
		cur, err := r.current(ctx, v.GetName())
		if err != nil {
			return none, err
		}
		if err := allowed(cur); err != nil {
			return none, err
		}
		out, err := r.write(ctx, cur, proto.CloneOf(v))
		if kind := errs.KindOf(err); n < maxRaces && (kind == errs.Stale || kind == errs.Conflict) {
			continue
		}
		return out, err
	}
}

// write replaces cur with v. It is Stale, or a Conflict where cur was not
// stored, if that is no longer what is there.
func (r *resource[T]) write(ctx context.Context, cur version[T], v T) (T, error) {
	var none T
	r.complete(v)
	secrets, shown, err := r.secretsFor(ctx, cur, v)
	if err != nil {
		return none, err
	}
	if err := r.validate(ctx, v, len(secrets.list)); err != nil {
		return none, err
	}
	if r.secrets != nil && r.secrets.check != nil {
		if err := r.secrets.check(v, secrets.list); err != nil {
			return none, err
		}
	}
	if r.secrets != nil {
		r.secrets.set(v, nil)
		r.secrets.setCount(v, secrets.list)
	}
	var before proto.Message
	if cur.revision > 0 {
		before = cur.value
		r.setMeta(v, cur.value.GetMeta())
		if !secrets.changed && proto.Equal(cur.value, v) {
			sendETag(ctx, cur.revision)
			return r.show(cur), nil
		}
	}
	changed := changedFields(before, v)
	if secrets.changed && len(secrets.list) > 0 {
		changed = append(changed, "secrets")
	}
	who := caller(ctx)
	now := timestamppb.New(time.Now())
	meta := &posthornv1.Meta{CreatedAt: now, UpdatedAt: now, UpdatedBy: who}
	if created := cur.value.GetMeta().GetCreatedAt(); cur.revision > 0 && created != nil {
		meta.CreatedAt = created
	}
	r.setMeta(v, meta)
	next, sealedAt, err := r.store(ctx, cur, v, secrets)
	if err != nil {
		return none, err
	}
	c := audit.Change{Kind: r.plural, Name: v.GetName(), Action: audit.Created, Who: who, At: now.AsTime(), Revision: next, Fields: changed, After: document(v)}
	if cur.revision > 0 {
		c.Action, c.Before = audit.Updated, document(cur.value)
	}
	if err := r.settle(ctx, c, next, sealedAt); err != nil {
		return none, err
	}
	sendETag(ctx, next)
	out := r.show(version[T]{value: v, revision: next})
	if len(shown) > 0 {
		r.secrets.set(out, shown)
	}
	return out, nil
}

// store writes the value first and its secrets after it: if somebody else was
// faster, nothing has changed. A mirror that sees the value alone sees by its
// count that secrets are to come, and waits.
func (r *resource[T]) store(ctx context.Context, cur version[T], v T, s secretList) (revision, sealedAt uint64, err error) {
	if cur.revision == 0 {
		revision, err = r.values.Create(ctx, v.GetName(), v)
	} else {
		revision, err = r.values.Update(ctx, v.GetName(), v, cur.revision)
	}
	if err == nil && r.refers != nil {
		if err = r.refers(ctx, v); err != nil {
			return 0, 0, r.takeBack(ctx, cur, v, revision, err)
		}
	}
	if err != nil || !s.changed {
		return revision, 0, err
	}
	sealedAt, err = r.storeSecrets(ctx, v.GetName(), s)
	if err != nil {
		return 0, 0, errs.Wrap(err, errs.Unavailable, "the %s is stored, but its secrets are not; send the same again", r.noun)
	}
	return revision, sealedAt, nil
}

// takeBack puts cur in the place of v, which refers to what was deleted at the same
// moment, and returns why.
func (r *resource[T]) takeBack(ctx context.Context, cur version[T], v T, revision uint64, why error) error {
	if errs.KindOf(why) != errs.Invalid {
		return errs.Wrap(why, errs.Unavailable, "the %s is stored, but what it refers to could not be looked at again; send the same again", r.noun)
	}
	var err error
	if cur.revision == 0 {
		err = r.values.Delete(ctx, v.GetName(), revision)
	} else {
		_, err = r.values.Update(ctx, v.GetName(), cur.value, revision)
	}
	if errs.KindOf(err) == errs.Stale {
		return why // somebody else's edit is in its place
	}
	if err != nil {
		return fmt.Errorf("api: take back %s %s: %w", r.noun, v.GetName(), err)
	}
	return why
}

// settle waits until a change is stored for good and in force here, and records it.
func (r *resource[T]) settle(ctx context.Context, c audit.Change, config, secrets uint64) error {
	if err := r.api.deps.Commit(ctx); err != nil {
		return fmt.Errorf("api: commit %s %s: %w", r.noun, c.Name, err)
	}
	waitCtx, cancel := context.WithTimeout(ctx, r.api.cfg.VisibleWithin)
	defer cancel()
	// The change is made; that it is late to take effect does not undo it, nor
	// does it that it could not be recorded.
	if err := r.api.deps.Mirror.WaitFor(waitCtx, config, secrets); err != nil {
		r.api.log.Warn("a change is stored but not in force here yet", "kind", c.Kind, "name", c.Name, "err", err)
	}
	if err := r.api.deps.Audit.Record(ctx, c); err != nil {
		r.api.log.Error("a change could not be recorded", "kind", c.Kind, "name", c.Name, "action", c.Action, "who", c.Who, "err", err)
	}
	return nil
}

func (r *resource[T]) delete(ctx context.Context, name string) error {
	var none T
	for n := 0; ; n++ {
		cur, err := r.current(ctx, name)
		if err != nil {
			return err
		}
		if cur.revision == 0 {
			if cur.value != none {
				return errs.New(errs.Conflict, "%s %q is built in and cannot be deleted", r.noun, name)
			}
			return r.notFound(name)
		}
		if err := checkMatch(ctx, true, cur.revision); err != nil {
			return err
		}
		if r.inUse != nil {
			if err := r.inUse(ctx, name); err != nil {
				return err
			}
		}
		err = r.values.Delete(ctx, name, cur.revision)
		if n < maxRaces && errs.KindOf(err) == errs.Stale {
			continue
		}
		if err != nil {
			return err
		}
		if err := r.unused(ctx, name, cur.value); err != nil {
			return err
		}
		return r.deleted(ctx, name, document(cur.value))
	}
}

// unused looks once more whether somebody refers to what was deleted, who came between
// the look before and the deletion, and then brings it back.
func (r *resource[T]) unused(ctx context.Context, name string, v T) error {
	if r.inUse == nil {
		return nil
	}
	used := r.inUse(ctx, name)
	if errs.KindOf(used) != errs.Conflict {
		return used
	}
	if _, err := r.values.Create(ctx, name, v); err != nil && errs.KindOf(err) != errs.Conflict {
		return fmt.Errorf("api: bring back %s %s: %w", r.noun, name, err)
	}
	return used
}

func (r *resource[T]) deleted(ctx context.Context, name string, before json.RawMessage) error {
	if r.secrets != nil {
		// What stays behind would not be used: a new resource of this name gets
		// its own, or none.
		if err := r.sealed.Delete(ctx, name, 0); err != nil {
			r.api.log.Warn("secrets of a deleted resource stay behind, sealed", "kind", r.plural, "name", name, "err", err)
		}
	}
	last, err := lastRevision(ctx, r.api.deps.Config)
	if err != nil {
		r.api.log.Warn("the revision of a deletion is not known", "kind", r.plural, "name", name, "err", err)
	}
	return r.settle(ctx, audit.Change{Kind: r.plural, Name: name, Action: audit.Deleted, Who: caller(ctx), At: time.Now(), Before: before}, last, 0)
}

// modify edits a resource for the platform itself. edit reports whether it
// changed anything.
func (r *resource[T]) modify(ctx context.Context, name, who string, edit func(T) bool) error {
	var none T
	ctx = withIdentity(ctx, identity.Identity{Name: who})
	for n := 0; ; n++ {
		cur, err := r.current(ctx, name)
		if err != nil || cur.value == none {
			return err
		}
		v := proto.CloneOf(cur.value)
		if !edit(v) {
			return nil
		}
		_, err = r.write(ctx, cur, v)
		if kind := errs.KindOf(err); n < maxRaces && (kind == errs.Stale || kind == errs.Conflict) {
			continue
		}
		return err
	}
}

// all returns what is stored and what is built in.
func (r *resource[T]) all(ctx context.Context) ([]version[T], error) {
	entries, err := r.values.List(ctx)
	if err != nil {
		return nil, err
	}
	var none, builtin T
	if r.builtin != nil {
		builtin = r.builtin()
	}
	list := make([]version[T], 0, len(entries)+1)
	for _, e := range entries {
		if builtin != none && e.Key == builtin.GetName() {
			builtin = none // what is stored takes its place
		}
		list = append(list, version[T]{value: e.Value, revision: e.Revision})
	}
	if builtin != none {
		list = append(list, version[T]{value: builtin})
	}
	return list, nil
}

// A secretList is what a resource's secrets will be.
type secretList struct {
	list    []string
	changed bool   // they must be written
	last    uint64 // revision that they replace
}

// secretsFor decides on the secrets of v, which is to replace cur: those that
// came with it, else those that are stored, else a new one, which alone is shown.
func (r *resource[T]) secretsFor(ctx context.Context, cur version[T], v T) (s secretList, shown []string, err error) {
	if r.secrets == nil {
		return s, nil, nil
	}
	given := r.secrets.get(v)
	e, err := r.sealed.Get(ctx, v.GetName())
	if err != nil && errs.KindOf(err) != errs.NotFound {
		return s, nil, err
	}
	s.last = e.Revision
	var stored []string
	var unread error
	// Without a count they are left from what had the name, or the kind, before.
	if cur.revision > 0 && r.secrets.count(cur.value) > 0 && len(e.Value) > 0 {
		if stored, unread = r.open(v.GetName(), e.Value); unread != nil && len(given) == 0 {
			return s, nil, unread
		}
	}
	switch {
	case r.secrets.merge != nil:
		known := stored
		if cur.revision > 0 {
			// What an earlier version stored in clear is in the resource itself.
			known = slices.Concat(stored, r.secrets.get(cur.value))
		}
		s.list = r.secrets.merge(v, given, known)
	case len(given) > 0:
		s.list = slices.Clone(given)
	case len(stored) > 0 && r.secrets.keep(cur.value, v):
		s.list = stored
	}
	if r.secrets.first != nil {
		if secret := r.secrets.first(v, s.list); secret != "" {
			if unread != nil {
				return s, nil, unread // there is one, and the subscriber knows it
			}
			shown = []string{secret}
			s.list = slices.Concat(shown, s.list)
		}
	}
	s.changed = !slices.Equal(s.list, stored)
	return s, shown, nil
}

func (r *resource[T]) open(name string, sealed []byte) ([]string, error) {
	plain, err := r.api.deps.Sealer.Open(sealed, catalog.Key(r.plural, name))
	if err != nil {
		return nil, errs.Wrap(err, errs.Unavailable, "the secrets of %s %q cannot be opened; send new ones, or start the platform with the key that sealed them", r.noun, name)
	}
	var list []string
	if err := json.Unmarshal(plain, &list); err != nil {
		return nil, errs.New(errs.Internal, "the secrets of %s %q are not a list", r.noun, name)
	}
	return list, nil
}

func (r *resource[T]) storeSecrets(ctx context.Context, name string, s secretList) (uint64, error) {
	plain, err := json.Marshal(s.list)
	if err != nil {
		return 0, fmt.Errorf("api: encode secrets of %s %s: %w", r.noun, name, err)
	}
	sealed, err := r.api.deps.Sealer.Seal(plain, catalog.Key(r.plural, name))
	if err != nil {
		return 0, fmt.Errorf("api: seal secrets of %s %s: %w", r.noun, name, err)
	}
	if s.last == 0 {
		return r.sealed.Put(ctx, name, sealed)
	}
	return r.sealed.Update(ctx, name, sealed, s.last)
}
