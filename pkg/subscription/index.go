package subscription

import (
	"cmp"
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/pattern"
	"github.com/posthornhq/posthorn/pkg/pattern/pmap"
)

// An Index finds the subscriptions that an event matches. All its methods may be
// called at the same time. Reading takes no lock: each edit derives a new state
// from the one before, sharing nearly all of it, and publishes it at once.
// So an event that is matched during an edit is matched against the
// subscription as it was or as it is, never against neither or both.
type Index struct {
	edit  sync.Mutex // held by writers, one at a time
	state atomic.Pointer[state]
}

type state struct {
	byName pmap.Map[string, *Subscription]
	// groups holds the enabled ones. An event looks into two groups at most, so
	// 10,000 tenants with a subscription each for one type cost it nothing.
	groups pmap.Map[group, pattern.Index[*Subscription]]
}

// A group is those that get events of the same context, direction and tenant.
type group struct {
	context   string
	direction event.Direction
	tenant    string
}

// NewIndex returns an empty Index.
func NewIndex() *Index {
	x := &Index{}
	x.state.Store(&state{})
	return x
}

// Put adds s, in place of the subscription of the same name if there is one.
func (x *Index) Put(s *Subscription) {
	x.edit.Lock()
	defer x.edit.Unlock()
	next := *x.state.Load()
	if old, ok := next.byName.Get(s.Name); ok {
		next.unlist(old)
	}
	next.byName = next.byName.Set(s.Name, s)
	next.list(s)
	x.state.Store(&next)
}

// Delete removes the subscription of that name and reports whether there was one.
func (x *Index) Delete(name string) bool {
	x.edit.Lock()
	defer x.edit.Unlock()
	next := *x.state.Load()
	old, ok := next.byName.Get(name)
	if !ok {
		return false
	}
	next.unlist(old)
	next.byName = next.byName.Delete(name)
	x.state.Store(&next)
	return true
}

// Get returns the subscription of that name, disabled or not, or nil.
func (x *Index) Get(name string) *Subscription {
	s, _ := x.state.Load().byName.Get(name)
	return s
}

// Len returns how many subscriptions there are, with the disabled ones.
func (x *Index) Len() int { return x.state.Load().byName.Len() }

// All returns the subscriptions as they are now, with the disabled ones, in no
// particular order.
func (x *Index) All() iter.Seq[*Subscription] {
	byName := x.state.Load().byName
	return func(yield func(*Subscription) bool) {
		for _, s := range byName.All() {
			if !yield(s) {
				return
			}
		}
	}
}

// Match appends the subscriptions that want e to dst, each once and in no
// particular order, and returns the longer slice. It looks at context, direction,
// tenant and type; filters are the caller's to ask, as they may need the data,
// which the caller may have to fetch. Disabled subscriptions are left out,
// paused ones are not: their deliveries wait in the queue.
func (x *Index) Match(e *event.Event, dst []*Subscription) []*Subscription {
	groups := x.state.Load().groups
	g := group{cmp.Or(e.Context, event.DefaultContext), e.Direction, ""}
	if index, ok := groups.Get(g); ok {
		dst = index.Match(e.Type, dst)
	}
	if e.Tenant == "" {
		return dst
	}
	g.tenant = e.Tenant
	if index, ok := groups.Get(g); ok {
		dst = index.Match(e.Type, dst)
	}
	return dst
}

// MatchTypes appends the enabled subscriptions that want one of the types, of
// whatever context, direction and tenant, each once. It looks at all groups; it is
// for what is rare and concerns everybody, such as a schema's new version.
func (x *Index) MatchTypes(dst []*Subscription, types ...string) []*Subscription {
	begun := len(dst)
	for _, index := range x.state.Load().groups.All() {
		for _, typ := range types {
			for _, s := range index.Match(typ, nil) {
				if !slices.Contains(dst[begun:], s) {
					dst = append(dst, s)
				}
			}
		}
	}
	return dst
}

func (s *Subscription) group() group { return group{s.Context, s.Direction, s.Tenant} }

func (st *state) list(s *Subscription) {
	if s.Disabled {
		return
	}
	index, _ := st.groups.Get(s.group())
	st.groups = st.groups.Set(s.group(), index.Add(s, s.types...))
}

func (st *state) unlist(s *Subscription) {
	index, ok := st.groups.Get(s.group())
	if !ok {
		return
	}
	if index = index.Remove(s, s.types...); index == (pattern.Index[*Subscription]{}) {
		st.groups = st.groups.Delete(s.group())
		return
	}
	st.groups = st.groups.Set(s.group(), index)
}
