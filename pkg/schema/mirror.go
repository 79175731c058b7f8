package schema

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/pattern"
)

// mirror is the copy of all versions in memory. Reading it takes no lock.
type mirror struct {
	// types is replaced, never changed. Types are added rarely enough for that;
	// a new version of a type replaces only what its pointer points to.
	types atomic.Pointer[map[string]*atomic.Pointer[versions]]
	ready atomic.Bool
	// odd has, by their normal form, the types that were stored in another form of
	// their URI when types were left as they came. It counts where a type has
	// nothing in its normal form. It is replaced, never changed.
	odd atomic.Pointer[map[string]string]

	mu      sync.Mutex // of writers
	initial map[string]*atomic.Pointer[versions]
	changed chan struct{} // closed and replaced with each change
}

// versions are those of one type, by rising number.
type versions []*version

// version is compiled when it is needed first, and once: of most types only the
// newest ever is.
type version struct {
	Record
	compile func() (*Schema, error)
}

func newMirror() *mirror {
	m := &mirror{changed: make(chan struct{})}
	none := map[string]*atomic.Pointer[versions]{}
	m.types.Store(&none)
	m.odd.Store(&map[string]string{})
	return m
}

// put adds a version. Versions do not change, so to put one again is harmless.
func (m *mirror) put(r Record) {
	v := &version{Record: r}
	v.compile = sync.OnceValues(r.compile)
	if normal := pattern.Normal(r.Type); normal != r.Type {
		m.know(normal, r.Type)
	}
	m.edit(r.Type, func(old versions) versions {
		i, found := slices.BinarySearchFunc(old, r.Version, byNumber)
		if !found {
			return slices.Insert(slices.Clone(old), i, v)
		}
		if old[i].Kind == r.Kind && old[i].Definition == r.Definition && old[i].Message == r.Message && bytes.Equal(old[i].DescriptorSet, r.DescriptorSet) {
			return old
		}
		next := slices.Clone(old)
		next[i] = v
		return next
	})
}

// know says that a type was stored in another form than its normal one.
func (m *mirror) know(normal, stored string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := maps.Clone(*m.odd.Load())
	next[normal] = stored
	m.odd.Store(&next)
}

// remove takes a version out, which only an operator with the NATS tools can cause.
func (m *mirror) remove(key string) {
	n, err := versionOf(key)
	if err != nil {
		return
	}
	for typ := range *m.types.Load() {
		if typeKey(typ) != key[:strings.LastIndexByte(key, '.')] {
			continue
		}
		m.edit(typ, func(old versions) versions {
			return slices.DeleteFunc(slices.Clone(old), func(v *version) bool { return v.Version == n })
		})
		return
	}
}

func byNumber(v *version, n int) int { return v.Version - n }

func (m *mirror) edit(typ string, change func(versions) versions) {
	m.mu.Lock()
	defer m.mu.Unlock()
	types := *m.types.Load()
	p := types[typ]
	if p == nil {
		p = &atomic.Pointer[versions]{}
		p.Store(&versions{})
		if m.initial != nil {
			// While all that is stored comes in, the map is nobody else's yet.
			if q := m.initial[typ]; q != nil {
				p = q
			}
			m.initial[typ] = p
		} else {
			types = maps.Clone(types)
			types[typ] = p
			m.types.Store(&types)
		}
	}
	next := change(*p.Load())
	p.Store(&next)
	close(m.changed)
	m.changed = make(chan struct{})
}

// load begins to take in all that is stored; loaded ends it and shows the result.
func (m *mirror) load() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.initial = map[string]*atomic.Pointer[versions]{}
}

func (m *mirror) loaded() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.initial != nil {
		types := maps.Clone(*m.types.Load())
		maps.Copy(types, m.initial)
		m.types.Store(&types)
		m.initial = nil
	}
	m.ready.Store(true)
	close(m.changed)
	m.changed = make(chan struct{})
}

// of returns the versions of a type in its normal form, none if it has none.
func (m *mirror) of(typ string) versions {
	types := *m.types.Load()
	if p := types[typ]; p != nil {
		if all := *p.Load(); len(all) > 0 {
			return all
		}
	}
	if p := types[(*m.odd.Load())[typ]]; p != nil {
		return *p.Load()
	}
	return nil
}

// get returns a version, 0 for the newest, nil if there is none.
func (m *mirror) get(typ string, number int) *version {
	all := m.of(typ)
	if number == 0 && len(all) > 0 {
		return all[len(all)-1]
	}
	if i, ok := slices.BinarySearchFunc(all, number, byNumber); ok {
		return all[i]
	}
	return nil
}

// newest returns the newest version of each type.
func (m *mirror) newest() []Record {
	types := *m.types.Load()
	out := make([]Record, 0, len(types))
	for _, p := range types {
		if all := *p.Load(); len(all) > 0 {
			out = append(out, all[len(all)-1].Record)
		}
	}
	return out
}

// wait returns when the version is there.
func (m *mirror) wait(ctx context.Context, typ string, number int) error {
	for {
		m.mu.Lock()
		changed := m.changed
		m.mu.Unlock()
		if m.get(typ, number) != nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("schema: wait for version %d of %s: %w", number, typ, context.Cause(ctx))
		}
	}
}

// Ready reports whether the copy in memory has all that was stored when
// [Registry.Run] began. Until then [Registry.Validate] knows too little, and a
// process must not take events in.
func (r *Registry) Ready() bool { return r.mirror.ready.Load() }

// Wait returns when this process can validate against a version of a type, 0
// for any, or when ctx is done.
func (r *Registry) Wait(ctx context.Context, typ string, version int) error {
	return r.mirror.wait(ctx, pattern.Normal(typ), version)
}

// Validate is [Registry.ValidateContent] for JSON.
func (r *Registry) Validate(typ string, version int, data []byte) (used int, violations []event.Violation) {
	return r.ValidateContent(typ, version, "", data)
}

// ValidateContent says what is wrong with data of a content type as that of an
// event type, by a version of its schema, 0 for the newest, and which version
// was used. A type without schema is valid, with version 0. It takes no lock and
// no network, except for the first event of a foreign type: see [Foreign].
func (r *Registry) ValidateContent(typ string, version int, contentType string, data []byte) (used int, violations []event.Violation) {
	v := r.mirror.get(pattern.Normal(typ), version)
	if v == nil {
		return r.validateForeign(typ, version, contentType, data)
	}
	s, err := v.compile()
	if err != nil {
		// A definition that some other program stored. To let everything pass
		// would hide it.
		return v.Version, one("", fmt.Sprintf("version %d of the schema cannot be used: %s", v.Version, errs.MessageOf(err)))
	}
	return v.Version, s.ValidateContent(contentType, data)
}

// validateForeign validates against a schema of another registry's, if the type
// is one of its.
func (r *Registry) validateForeign(typ string, version int, contentType string, data []byte) (int, []event.Violation) {
	var s *Schema
	// Of a type with versions of our own, the others are nobody else's.
	if r.cfg.Foreign != nil && len(r.mirror.of(pattern.Normal(typ))) == 0 {
		var err error
		if s, err = r.cfg.Foreign.Lookup(typ, version); err != nil {
			return 0, one("", "the schema cannot be asked for: "+errs.MessageOf(err))
		}
	}
	switch {
	case s != nil:
		return s.Version(), s.ValidateContent(contentType, data)
	case version == 0:
		return 0, nil
	}
	return 0, one("", fmt.Sprintf("%s has no schema version %d", typ, version))
}
