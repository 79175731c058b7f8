package queue

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/pkg/bucket"
	"github.com/posthornhq/posthorn/pkg/errs"
)

// A Reason is why a subscription has a lane of its own.
type Reason string

// What attempts taught.
const (
	Failing   Reason = "failing"   // one try after another failed: one probe at a time
	Slow      Reason = "slow"      // its attempts stay in flight
	Throttled Reason = "throttled" // the destination asked to be left alone for a while
)

// What the subscription asks for.
const (
	Ordered Reason = "ordered"
	Paused  Reason = "paused"
	Limited Reason = "limited" // to a rate
	Pulled  Reason = "pulled"  // by the subscriber
)

// OwnState is what bucket lanes keeps of a subscription's own lane. All routers and
// dispatchers see it; changes are compare-and-set.
type OwnState struct {
	// Closing means that what is routed goes to the shared lane again, while the
	// rest of this one is delivered.
	Closing bool `json:"closing,omitempty"`
	// Reasons for it, as far as attempts taught them; a lane that the subscription
	// asks for may have none.
	Reasons []Reason `json:"reasons,omitempty"`
	// Since is when it was opened, or began to close.
	Since time.Time `json:"since"`
	// Failures counts attempts that failed one after another, and Error is what the
	// last one said, for people.
	Failures int    `json:"failures,omitempty"`
	Error    string `json:"error,omitempty"`
	// Trouble is when it began to fail; zero if it does not.
	Trouble time.Time `json:"trouble,omitzero"`
	// Until is when it may be tried again; Probes counts those that were made.
	Until  time.Time `json:"until,omitzero"`
	Probes int       `json:"probes,omitempty"`
}

// Has reports whether r is among the reasons.
func (s *OwnState) Has(r Reason) bool { return slices.Contains(s.Reasons, r) }

// With returns the reasons with r.
func (s *OwnState) With(r Reason) []Reason {
	if s.Has(r) {
		return s.Reasons
	}
	return append(slices.Clone(s.Reasons), r)
}

// Without returns the reasons without rs.
func (s *OwnState) Without(rs ...Reason) []Reason {
	return slices.DeleteFunc(slices.Clone(s.Reasons), func(r Reason) bool { return slices.Contains(rs, r) })
}

// A turn is the right of one of several dispatchers to go next.
type turn struct {
	// Next is from when on the one after may go.
	Next time.Time `json:"next"`
}

// laneRetry is the pause before a watch that ended is begun again.
const laneRetry = time.Second

// OwnLanes mirrors bucket lanes while it runs. Reading takes no lock.
type OwnLanes struct {
	states *bucket.Bucket[OwnState]
	turns  *bucket.Bucket[turn]
	log    *slog.Logger

	seen  sync.Map // subscription → seenState
	n     atomic.Int64
	ready chan struct{}
	once  sync.Once

	mu       sync.Mutex
	removed  map[string]uint64 // by this process: the last revision before
	onChange []func(subscription string)
}

type seenState struct {
	state    OwnState
	revision uint64
}

// NewOwnLanes returns a mirror of bucket lanes. It is empty until
// [OwnLanes.Run] has read it.
func NewOwnLanes(kv jetstream.KeyValue, log *slog.Logger) *OwnLanes {
	return &OwnLanes{
		states: bucket.New(kv, "lane.", bucket.JSON[OwnState]()),
		turns:  bucket.New(kv, "turn.", bucket.JSON[turn]()),
		log:    log, ready: make(chan struct{}), removed: map[string]uint64{},
	}
}

// OnChange registers f to be called after each change that was seen, also
// side by side. It must not be called after Run.
func (o *OwnLanes) OnChange(f func(subscription string)) { o.onChange = append(o.onChange, f) }

// Ready is closed when everything that is stored has been seen.
func (o *OwnLanes) Ready() <-chan struct{} { return o.ready }

// Run mirrors until ctx is done, and returns nil.
func (o *OwnLanes) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		stale := map[string]bool{}
		for name := range o.All() {
			stale[name] = true
		}
		err := o.states.Watch(ctx, func(e bucket.Entry[OwnState]) {
			delete(stale, e.Key)
			o.see(e)
		}, func() {
			// What went while nobody watched.
			for name := range stale {
				o.forget(name, math.MaxUint64)
			}
			clear(stale)
			o.once.Do(func() { close(o.ready) })
		}, func(key string, err error) {
			o.log.Error("the state of a lane cannot be read; the one before stays", "subscription", key, "err", err)
		})
		if ctx.Err() == nil {
			o.log.Warn("the watch on lanes ended and is begun again", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(laneRetry):
		}
	}
	return nil
}

// see takes a change in. The watch tells this process late what it did itself, and
// saw then; meanwhile it may have done more.
func (o *OwnLanes) see(e bucket.Entry[OwnState]) {
	if e.Deleted {
		o.forget(e.Key, e.Revision)
		return
	}
	o.mu.Lock()
	was, there := o.get(e.Key)
	if there && was.revision >= e.Revision || e.Revision <= o.removed[e.Key] {
		o.mu.Unlock()
		return
	}
	o.seen.Store(e.Key, seenState{e.Value, e.Revision})
	if !there {
		o.n.Add(1)
	}
	o.mu.Unlock()
	o.changed(e.Key)
}

// forget notes that a lane was removed at a revision.
func (o *OwnLanes) forget(name string, revision uint64) {
	o.mu.Lock()
	if o.removed[name] < revision {
		delete(o.removed, name) // the watch is past what this process removed
	}
	was, there := o.get(name)
	if !there || was.revision > revision {
		o.mu.Unlock()
		return
	}
	o.seen.Delete(name)
	o.n.Add(-1)
	o.mu.Unlock()
	o.changed(name)
}

func (o *OwnLanes) changed(name string) {
	for _, f := range o.onChange {
		f(name)
	}
}

func (o *OwnLanes) get(name string) (seenState, bool) {
	v, ok := o.seen.Load(name)
	if !ok {
		return seenState{}, false
	}
	s, ok := v.(seenState)
	return s, ok
}

// Get returns the state of a subscription's own lane, as far as it was seen.
func (o *OwnLanes) Get(subscription string) (OwnState, bool) {
	if o.n.Load() == 0 {
		return OwnState{}, false // nearly always
	}
	s, ok := o.get(subscription)
	return s.state, ok
}

// Open reports whether what is routed to a subscription goes to its own lane.
func (o *OwnLanes) Open(subscription string) bool {
	s, ok := o.Get(subscription)
	return ok && !s.Closing
}

// All returns the own lanes there are, as far as they were seen.
func (o *OwnLanes) All() map[string]OwnState {
	all := map[string]OwnState{}
	o.seen.Range(func(k, v any) bool {
		name, _ := k.(string)
		if s, ok := v.(seenState); ok {
			all[name] = s.state
		}
		return true
	})
	return all
}

// List reads the states of all own lanes.
func (o *OwnLanes) List(ctx context.Context) (map[string]OwnState, error) {
	entries, err := o.states.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("queue: list own lanes: %w", err)
	}
	all := make(map[string]OwnState, len(entries))
	for _, e := range entries {
		all[e.Key] = e.Value
	}
	return all, nil
}

// editTries bounds how often an edit is begun anew because somebody else was first.
const editTries = 20

// Edit changes the state of a subscription's own lane, which is created if it is
// not there. f is given the state as it is, zero for none, and reports what is to
// be done; it may be called several times. Edit reports whether this call was the
// one that changed it.
func (o *OwnLanes) Edit(ctx context.Context, subscription string, f func(s *OwnState, there bool) Change) (bool, error) {
	for range editTries {
		e, err := o.states.Get(ctx, subscription)
		there := err == nil
		if err != nil && errs.KindOf(err) != errs.NotFound {
			return false, fmt.Errorf("queue: lane of %s: %w", subscription, err)
		}
		s := e.Value
		s.Reasons = slices.Clone(s.Reasons)
		switch f(&s, there) {
		case Keep:
			return false, nil
		case Remove:
			if err = o.states.Delete(ctx, subscription, e.Revision); err == nil {
				o.mu.Lock()
				o.removed[subscription] = e.Revision
				o.mu.Unlock()
				o.forget(subscription, e.Revision)
				return true, nil
			}
		case Write:
			var rev uint64
			if there {
				rev, err = o.states.Update(ctx, subscription, s, e.Revision)
			} else {
				rev, err = o.states.Create(ctx, subscription, s)
			}
			if err == nil {
				o.see(bucket.Entry[OwnState]{Key: subscription, Value: s, Revision: rev})
				return true, nil
			}
		}
		if k := errs.KindOf(err); k != errs.Stale && k != errs.Conflict {
			return false, fmt.Errorf("queue: lane of %s: %w", subscription, err)
		}
	}
	return false, fmt.Errorf("queue: lane of %s: others changed it %d times in between", subscription, editTries)
}

// A Change is what an edit does.
type Change uint8

const (
	Keep Change = iota
	Write
	Remove
)

// Reserve reserves n goes that are each apart, for this process alone, and
// returns when the first one is: now, or after all that others have reserved.
func (o *OwnLanes) Reserve(ctx context.Context, subscription string, n int, each time.Duration) (time.Time, error) {
	for {
		e, err := o.turns.Get(ctx, subscription)
		there := err == nil
		if err != nil && errs.KindOf(err) != errs.NotFound {
			return time.Time{}, fmt.Errorf("queue: turn of %s: %w", subscription, err)
		}
		first := time.Now()
		if there && e.Value.Next.After(first) {
			first = e.Value.Next
		}
		err = o.setTurn(ctx, subscription, first.Add(time.Duration(n)*each), e.Revision, there)
		if err == nil {
			return first, nil
		}
		if !isStale(err) || ctx.Err() != nil {
			return time.Time{}, err
		}
	}
}

// Forget removes what is kept of the turns of a subscription whose lane is gone.
func (o *OwnLanes) Forget(ctx context.Context, subscription string) error {
	if err := o.turns.Delete(ctx, subscription, 0); err != nil {
		return fmt.Errorf("queue: turn of %s: %w", subscription, err)
	}
	return nil
}

func (o *OwnLanes) setTurn(ctx context.Context, subscription string, next time.Time, revision uint64, there bool) (err error) {
	if there {
		_, err = o.turns.Update(ctx, subscription, turn{next}, revision)
	} else {
		_, err = o.turns.Create(ctx, subscription, turn{next})
	}
	if err != nil {
		return fmt.Errorf("queue: turn of %s: %w", subscription, err)
	}
	return nil
}

func isStale(err error) bool {
	k := errs.KindOf(err)
	return k == errs.Stale || k == errs.Conflict
}
