package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/stream"
)

const (
	// highWater is the share of an asset's byte limit above which it is under
	// pressure; lowWater is where a pass brings it back to.
	highWater = 0.80
	lowWater  = 0.70

	// settled is the age from which an event without an ID on EVENTS is taken for
	// one that nobody will queue: its publisher died between the two writes, or it
	// was touched. Twice [stream.RetryFor], and much to spare for a batch.
	settled = 2 * time.Minute

	// look is how often the assets' sizes are looked at; leastLook is how often at
	// most, when they grow so fast that they would be full before the next look.
	look      = time.Second
	leastLook = 20 * time.Millisecond
	// agePass is how often, at least, events are removed by age.
	agePass = time.Minute
	// passLimit bounds the events that one pass looks at.
	passLimit = 100_000
)

// Retain removes what is old or in the way until ctx is done, and returns nil.
// An outage is logged once and waited for. Any number of processes may run it
// at once: what one may remove all may, and removing twice is removing once.
//
// Events go in the order in which they were written, from the oldest on, while
//
//   - each is older than the configured age, or KV bucket events, stream EVENTS
//     or object store payloads is above 80 % of its limit (then down to 70 %);
//   - the router has routed it, by the acknowledgement floor of its consumer;
//   - no message on DELIVERIES has its revision or a lower one.
//
// So one event that is still needed keeps itself and everything written after
// it, never anything before. Events under revisions that are not on EVENTS
// (their publisher died before it queued them, or [Store.Touch] wrote them anew)
// go by the same rules once they are two minutes old.
//
// After an unclean stop it must not run before the router was taken back: what
// the router acknowledged and the disk then lost would look routed.
func (s *Store) Retain(ctx context.Context) error {
	r := &retention{s: s, age: s.cfg.MaxAge, settled: settled}
	s.room.Store(true)
	defer s.room.Store(false)
	outage := false
	wait := time.Duration(0)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-s.pressed:
		case <-timer.C:
		}
		next, err := r.step(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !outage:
			s.log.Error("retention does not work; events are kept until it does", "err", err)
		case err == nil && outage:
			s.log.Info("retention works again")
		}
		outage = err != nil
		if outage {
			s.room.Store(false)
		}
		wait = next
	}
}

// retention is what one run of Retain knows.
type retention struct {
	s       *Store
	age     time.Duration
	settled time.Duration

	aged   time.Time // when the last pass by age was made
	looked time.Time
	fill   float64 // how full the fullest asset was then
}

// sizes is what the servers say of the assets.
type sizes struct {
	kv, ids, objects *jetstream.StreamInfo
	// fill is how full the fullest is, 0 to 1; excess the largest share of an
	// asset that must go to have it at lowWater, 0 without pressure.
	fill, excess float64
}

// step looks at the assets, makes a pass if there is reason to, and returns the
// wait before the next step.
func (r *retention) step(ctx context.Context) (time.Duration, error) {
	begun := time.Now()
	z, err := r.sizes(ctx)
	if err != nil {
		return look, err
	}
	wait := r.pace(begun, z.fill)
	byAge := begun.Sub(r.aged) >= min(r.age/10, agePass)
	if z.excess == 0 {
		r.blocked(false)
		if !byAge {
			return wait, nil
		}
	}
	freed, err := r.pass(ctx, z)
	if err != nil {
		return look, err
	}
	r.aged = begun
	switch {
	case freed >= passLimit:
		r.aged = time.Time{}
		return leastLook, nil
	case freed > 0:
		r.blocked(false)
		if z.excess > 0 {
			return leastLook, nil // the rest of the pressure, or of a long backlog
		}
	case z.excess > 0:
		r.blocked(true)
		return max(look, 10*time.Since(begun)), nil
	}
	return wait, nil
}

// blocked says whether there is pressure and nothing that may go.
func (r *retention) blocked(yes bool) {
	r.s.room.Store(!yes)
	if yes {
		r.s.metrics.blocked.Set(1)
	} else {
		r.s.metrics.blocked.Set(0)
	}
}

// pace returns how long the assets may go unseen: until the fullest has grown by
// a twentieth of its limit, at the rate of the last interval.
func (r *retention) pace(now time.Time, fill float64) time.Duration {
	wait := min(look, max(r.age/10, leastLook))
	if grown := fill - r.fill; grown > 0 && !r.looked.IsZero() {
		wait = min(wait, max(time.Duration(float64(now.Sub(r.looked))*0.05/grown), leastLook))
	}
	r.looked, r.fill = now, fill
	return wait
}

func (r *retention) sizes(ctx context.Context) (*sizes, error) {
	z := &sizes{}
	for _, a := range []struct {
		name string
		info **jetstream.StreamInfo
	}{
		{topology.BucketStream(topology.BucketEvents), &z.kv},
		{topology.StreamEvents, &z.ids},
		{objectsStream, &z.objects},
	} {
		st, err := r.s.js.Stream(ctx, a.name)
		if err != nil {
			return nil, fmt.Errorf("store: look at %s: %w", a.name, err)
		}
		info := st.CachedInfo()
		*a.info = info
		used, limit := float64(info.State.Bytes), float64(info.Config.MaxBytes)
		r.s.metrics.bytes.WithLabelValues(a.name).Set(used)
		r.s.metrics.limit.WithLabelValues(a.name).Set(max(limit, 0))
		if limit <= 0 {
			continue
		}
		z.fill = max(z.fill, used/limit)
		if used > highWater*limit {
			z.excess = max(z.excess, (used-lowWater*limit)/used)
		}
	}
	return z, nil
}

const objectsStream = "OBJ_" + topology.ObjectsPayloads

// pass removes what may go and returns how many events that were.
func (r *retention) pass(ctx context.Context, z *sizes) (int, error) {
	st := z.kv.State
	// By the server's clock, which is the one that the events' times are from.
	oldest := z.kv.TimeStamp.Add(-r.age)
	if st.Msgs == 0 || z.excess == 0 && st.FirstTime.After(oldest) {
		return 0, nil
	}
	need, err := r.needed(ctx, st.FirstSeq)
	if err != nil {
		return 0, err
	}
	if need.below <= st.FirstSeq {
		return 0, r.forget(ctx, st.FirstSeq, need.floor)
	}
	w := &walk{
		below: need.below, oldest: oldest, settled: z.kv.TimeStamp.Add(-r.settled),
		wanted: int(math.Ceil(z.excess * float64(st.Msgs))),
	}
	if z.excess > 0 || r.age < r.settled {
		if w.queued, err = r.queued(ctx, need.floor); err != nil {
			return 0, err
		}
	}
	if err := r.walk(ctx, w); err != nil {
		return 0, err
	}
	if w.count == 0 {
		return 0, r.forget(ctx, st.FirstSeq, need.floor)
	}
	if err := r.purge(ctx, topology.BucketStream(topology.BucketEvents), w.last); err != nil {
		return 0, err
	}
	r.s.metrics.purged.Add(float64(w.count))
	if err := r.release(ctx, w.payloads); err != nil {
		return w.count, err
	}
	return w.count, r.forget(ctx, w.last+1, need.floor)
}

// need says what must stay.
type need struct {
	floor uint64 // sequences of EVENTS up to here are routed
	below uint64 // revisions from here on are needed, or may be
}

var errEnough = errors.New("enough")

// needed returns what must stay. first is the lowest revision that is there; a
// need at or below it ends the search.
func (r *retention) needed(ctx context.Context, first uint64) (need, error) {
	n := need{below: math.MaxUint64}
	c, err := r.s.js.Consumer(ctx, topology.StreamEvents, topology.ConsumerRouter)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return need{}, nil // no broker ran yet, or the router is being taken back
	}
	if err != nil {
		return n, fmt.Errorf("store: look at the router: %w", err)
	}
	// First the floor, then the deliveries: what was routed up to the floor is on
	// DELIVERIES by now, or settled.
	n.floor = c.CachedInfo().AckFloor.Stream
	keep := func(rev uint64) error {
		n.below = min(n.below, rev)
		if n.below <= first {
			return errEnough
		}
		return nil
	}
	err = stream.EachByLeader(ctx, r.s.js, topology.StreamDeliveries, topology.Everything, 1, 1000, func(m *jetstream.RawStreamMsg) error {
		rev, err := r.revision(ctx, m)
		if err != nil {
			return err
		}
		return keep(rev)
	})
	if err == nil {
		// A revision is queued within settled of being written, so that of what is
		// not routed only the beginning can have the lowest.
		var until time.Time
		err = stream.EachByLeader(ctx, r.s.js, topology.StreamEvents, topology.Everything, n.floor+1, 1000, func(m *jetstream.RawStreamMsg) error {
			if until.IsZero() {
				until = m.Time.Add(r.settled)
			} else if m.Time.After(until) {
				return errEnough
			}
			rev, err := r.revision(ctx, m)
			if err != nil {
				return err
			}
			return keep(rev)
		})
	}
	if err != nil && !errors.Is(err, errEnough) {
		return n, fmt.Errorf("store: look for what is needed: %w", err)
	}
	return n, nil
}

// revision returns the revision of the event that a message is about. Without a
// header, as in a message that was written by hand, the event is found by its ID.
func (r *retention) revision(ctx context.Context, m *jetstream.RawStreamMsg) (uint64, error) {
	if rev, err := strconv.ParseUint(m.Header.Get(topology.HeaderRevision), 10, 64); err == nil && rev > 0 {
		return rev, nil
	}
	id := string(m.Data)
	if !ValidID(id) {
		return math.MaxUint64, nil
	}
	got, err := stream.GetLastFromLeader(ctx, r.s.nc, topology.BucketStream(topology.BucketEvents), topology.KeySubject(topology.BucketEvents, id))
	if errors.Is(err, stream.ErrNotFound) {
		return math.MaxUint64, nil
	}
	if err != nil {
		return 0, err
	}
	return got.Sequence, nil
}

// queued returns the revisions of routed events, from the oldest ID on. Those of
// events that are too young to be taken for orphans must be among them to go.
func (r *retention) queued(ctx context.Context, floor uint64) (map[uint64]bool, error) {
	revs := map[uint64]bool{}
	err := stream.Each(ctx, r.s.js, topology.StreamEvents, topology.Everything, time.Time{}, 1000, func(m *jetstream.RawStreamMsg) error {
		if m.Sequence > floor || len(revs) == passLimit {
			return errEnough
		}
		if rev, err := strconv.ParseUint(m.Header.Get(topology.HeaderRevision), 10, 64); err == nil {
			revs[rev] = true
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, fmt.Errorf("store: look for what is routed: %w", err)
	}
	return revs, nil
}

// walk goes through the bucket from its first revision on.
type walk struct {
	below   uint64          // stop here
	oldest  time.Time       // what was written before goes by age
	settled time.Time       // what was written after must be in queued
	queued  map[uint64]bool // revisions
	wanted  int             // events to remove whatever their age

	count    int      // events that go
	last     uint64   // the highest revision that goes
	payloads []string // IDs of those whose data is in the object store
}

// takes reports whether the next event may go.
func (w *walk) takes(rev uint64, at time.Time) bool {
	switch {
	case rev >= w.below, w.count >= passLimit:
		return false
	case !at.Before(w.oldest) && w.count >= w.wanted:
		return false
	}
	return at.Before(w.settled) || w.queued[rev]
}

// walk finds what goes. A consumer brings sequence, time and headers of the
// bucket's messages by the word of its leader, without the events themselves.
func (r *retention) walk(ctx context.Context, w *walk) (err error) {
	name := topology.BucketStream(topology.BucketEvents)
	c, err := r.s.js.CreateConsumer(ctx, name, jetstream.ConsumerConfig{
		Description:       "Retention looks for what may go.",
		AckPolicy:         jetstream.AckNonePolicy,
		DeliverPolicy:     jetstream.DeliverAllPolicy,
		HeadersOnly:       true,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: 30 * time.Second,
	})
	if err != nil {
		return fmt.Errorf("store: walk %s: %w", name, err)
	}
	defer func() {
		// If this fails the server removes it by itself a little later.
		_ = r.s.js.DeleteConsumer(ctx, name, c.CachedInfo().Name)
	}()
	prefix := topology.KeySubject(topology.BucketEvents, "")
	for seen := uint64(0); ; {
		batch, err := c.FetchNoWait(1000)
		if err != nil {
			return fmt.Errorf("store: walk %s: %w", name, err)
		}
		before := seen
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				return fmt.Errorf("store: walk %s: %w", name, err)
			}
			if seen++; meta.Sequence.Consumer != seen {
				return nil // a message was lost; what was seen before it is right
			}
			if !w.takes(meta.Sequence.Stream, meta.Timestamp) {
				return nil
			}
			w.count++
			w.last = meta.Sequence.Stream
			if m.Headers().Get(topology.HeaderPayload) != "" {
				w.payloads = append(w.payloads, strings.TrimPrefix(m.Subject(), prefix))
			}
		}
		if err := batch.Error(); err != nil {
			return fmt.Errorf("store: walk %s: %w", name, err)
		}
		if seen == before {
			return nil
		}
	}
}

// forget removes the routed IDs at the beginning of EVENTS whose revisions are
// below first, which are gone, and with them the payloads that a pass before
// this one had no time to remove. (An ID that is not routed may have a revision
// that is gone: its event was touched.)
func (r *retention) forget(ctx context.Context, first, floor uint64) error {
	last := uint64(0)
	var payloads []string
	err := stream.Each(ctx, r.s.js, topology.StreamEvents, topology.Everything, time.Time{}, 1000, func(m *jetstream.RawStreamMsg) error {
		rev, err := strconv.ParseUint(m.Header.Get(topology.HeaderRevision), 10, 64)
		if m.Sequence > floor || err == nil && rev >= first || len(payloads) == passLimit {
			return errEnough
		}
		last = m.Sequence
		if m.Header.Get(topology.HeaderPayload) != "" {
			payloads = append(payloads, string(m.Data))
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return fmt.Errorf("store: look for IDs that are gone: %w", err)
	}
	if last == 0 {
		return nil
	}
	if err := r.release(ctx, payloads); err != nil {
		return err
	}
	return r.purge(ctx, topology.StreamEvents, last)
}

func (r *retention) purge(ctx context.Context, name string, last uint64) error {
	st, err := r.s.js.Stream(ctx, name)
	if err == nil {
		err = st.Purge(ctx, jetstream.WithPurgeSequence(last+1))
	}
	if err != nil {
		return fmt.Errorf("store: purge %s up to %d: %w", name, last, err)
	}
	return nil
}

// release removes the payloads of events that are gone. An event that was
// touched has a revision that is still there, and needs its payload.
func (r *retention) release(ctx context.Context, ids []string) error {
	for _, id := range ids {
		_, err := stream.GetLastFromLeader(ctx, r.s.nc, topology.BucketStream(topology.BucketEvents), topology.KeySubject(topology.BucketEvents, id))
		if err == nil {
			continue
		}
		if errors.Is(err, stream.ErrNotFound) {
			err = r.s.removePayload(ctx, id)
		}
		if err != nil {
			return fmt.Errorf("store: remove the payload of %s: %w", id, err)
		}
	}
	return nil
}

// removePayload removes an object and then the marker that nats.go leaves, which
// would stay for good.
func (s *Store) removePayload(ctx context.Context, id string) error {
	obs, err := s.js.ObjectStore(ctx, topology.ObjectsPayloads)
	if err != nil {
		return err
	}
	if err := obs.Delete(ctx, id); err != nil {
		if errors.Is(err, jetstream.ErrObjectNotFound) {
			return nil
		}
		return err
	}
	st, err := s.js.Stream(ctx, objectsStream)
	if err != nil {
		return err
	}
	return st.Purge(ctx, jetstream.WithPurgeSubject(topology.ObjectSubject(topology.ObjectsPayloads, id)))
}
