package trace

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/ledger"
	"github.com/posthornhq/posthorn/pkg/stream"
)

const (
	// scanFor bounds how long one page is looked for. What was found by then is the
	// page, even if it is nothing, and its cursor goes on from there.
	scanFor = 120 * time.Millisecond
	// block is how many events are judged together.
	block = 4096
)

// A candidate is an event that a query may want.
type candidate struct {
	seq, mark uint64
}

// A scan goes through the index for one page, newest first.
type scan struct {
	t      *Tracer
	x      *index
	q      *Query
	want   []bool // by kind of event
	may    *[1 << 18]uint64
	only   uint64 // the mark of the only event, 0 is any
	queued map[uint64][]delivery
	routed uint64
	floor  uint64 // the oldest sequence to look at
	end    time.Time

	found []uint64
	state []string
}

// listIndexed is List by the index. It reports false where that knows too little.
func (t *Tracer) listIndexed(ctx context.Context, q *Query, keep func(*Summary) bool, before uint64) ([]Summary, uint64, bool, error) {
	x := t.index.Load()
	if x == nil {
		return nil, 0, false, nil
	}
	if ok, err := x.ready(ctx, x.parts()...); err != nil || !ok {
		return nil, 0, false, err
	}
	s := &scan{t: t, x: x, q: q, floor: 1}
	before, none, err := s.bounds(ctx, before)
	if err != nil || none {
		return nil, 0, none, err
	}
	if s.routed, err = t.routed(ctx); err != nil {
		return nil, 0, false, err
	}
	if err := s.lookIntoQueue(ctx); err != nil {
		return nil, 0, false, err
	}
	next, ok := s.run(keep, before)
	if !ok {
		return nil, 0, false, nil
	}
	if len(s.found) > q.Limit {
		s.found = s.found[:q.Limit]
		next = s.found[q.Limit-1]
	}
	msgs, err := stream.GetAll(ctx, t.js.Conn(), topology.StreamEvents, s.found)
	if err != nil {
		return nil, 0, false, fmt.Errorf("trace: list events: %w", err)
	}
	page := make([]Summary, 0, len(msgs))
	for i, m := range msgs {
		if m == nil {
			continue // retention was faster
		}
		if e, ok := summarize(&jetstream.RawStreamMsg{Subject: m.Subject, Sequence: m.Sequence, Header: m.Header, Data: m.Data, Time: m.Time}); ok {
			e.Status = s.state[i]
			page = append(page, e)
		}
	}
	return page, next, true, nil
}

// bounds finds the sequences that the query's times mean.
func (s *scan) bounds(ctx context.Context, before uint64) (uint64, bool, error) {
	at := func(t time.Time) (uint64, error) {
		return stream.At(ctx, s.t.js, topology.StreamEvents, topology.Everything, t)
	}
	if !s.q.From.IsZero() {
		from, err := at(s.q.From)
		if err != nil || from == 0 {
			return 0, from == 0, err
		}
		s.floor = from
	}
	if !s.q.To.IsZero() {
		to, err := at(s.q.To)
		if err != nil {
			return 0, false, err
		}
		if to > 0 && (before == 0 || to < before) {
			before = to
		}
	}
	st, err := s.t.js.Stream(ctx, topology.StreamEvents)
	if err != nil {
		return 0, false, fmt.Errorf("trace: look at EVENTS: %w", err)
	}
	s.floor = max(s.floor, st.CachedInfo().State.FirstSeq)
	return before, false, nil
}

// lookIntoQueue finds what is queued, at most lookFor deliveries.
func (s *scan) lookIntoQueue(ctx context.Context) error {
	s.queued = map[uint64][]delivery{}
	return s.t.eachQueued(ctx, time.Time{}, func(id string, d delivery, _ time.Time) {
		mark := s.x.events.mark(id)
		s.queued[mark] = append(s.queued[mark], d)
	})
}

// run fills found and state. It returns the sequence to go on before, 0 at the
// beginning, and reports false if it knows nothing of what is before before.
func (s *scan) run(keep func(*Summary) bool, before uint64) (uint64, bool) {
	x := s.x
	x.events.mu.RLock()
	defer x.events.mu.RUnlock()
	x.attempts.mu.RLock()
	defer x.attempts.mu.RUnlock()
	x.letters.mu.RLock()
	defer x.letters.mu.RUnlock()
	ev := x.events
	if before == 0 || before > ev.next {
		before = ev.next
	}
	if before <= s.floor {
		return 0, true
	}
	s.end = time.Now().Add(scanFor)
	s.prepare(keep)
	most := block
	if s.may == nil && s.q.Status == "" && s.q.Subscription == "" && s.q.Answer == "" {
		most = s.q.Limit + 1
	}
	begun, since := before, int64(0)
	var cands []candidate
	for before > s.floor && len(s.found) <= s.q.Limit && time.Now().Before(s.end) {
		number := (before - 1) / chunkSize
		if before <= ev.first || !s.covered(number, &since) {
			break
		}
		lowest := max(number*chunkSize, ev.first, s.floor)
		if before = s.collect(number, before, lowest, most, &cands); len(cands) >= most {
			s.judge(cands, since)
			cands = cands[:0]
		}
	}
	s.judge(cands, since)
	if before <= s.floor && len(s.found) <= s.q.Limit {
		return 0, true
	}
	return before, before < begun
}

// covered reports whether all that happened to the events of a chunk is known, and
// sets since to a time before them.
func (s *scan) covered(number uint64, since *int64) bool {
	ch := s.x.events.chunk(number)
	if ch == nil || ch.from == 0 {
		return true
	}
	from := ch.from - int64(skew)
	if !s.x.attempts.covers(from) || !s.x.letters.covers(from) {
		return false
	}
	*since = from
	return true
}

// collect adds candidates of a chunk until there are most, and returns the
// sequence to go on before.
func (s *scan) collect(number, before, lowest uint64, most int, cands *[]candidate) uint64 {
	ch := s.x.events.chunk(number)
	if ch == nil {
		return lowest
	}
	for before > lowest && len(*cands) < most {
		before--
		j := before % chunkSize
		if k := ch.kinds[j]; k != 0 && s.want[k] && s.mayBe(ch.marks[j]) {
			*cands = append(*cands, candidate{before, ch.marks[j]})
		}
	}
	return before
}

func (s *scan) mayBe(mark uint64) bool {
	return (s.only == 0 || mark == s.only) && (s.may == nil || s.may[mark>>6&(1<<18-1)]&(1<<(mark&63)) != 0)
}

// prepare finds out which kinds of events are wanted, and from all attempts which
// events can have the wanted status at all. The locks are held.
func (s *scan) prepare(keep func(*Summary) bool) {
	ev := s.x.events
	if s.q.ID != "" {
		s.only = ev.mark(s.q.ID)
	}
	s.want = make([]bool, len(ev.kinds))
	for i, k := range ev.kinds {
		s.want[i] = i > 0 && keep(&Summary{ID: s.q.ID, Type: k.typ, Source: k.source, Context: k.context, Tenant: k.tenant, Direction: k.direction})
	}
	outcomes := map[string][]event.Outcome{
		Delivered: {event.Delivered}, Retrying: {event.Retry}, Failed: {event.Refused, event.Exhausted}, Unmatched: {ledger.Unmatched},
	}[s.q.Status]
	if outcomes == nil && s.q.Subscription == "" && s.q.Answer == "" {
		return // an event of such a status need not have an attempt
	}
	s.may = new([1 << 18]uint64)
	set := func(mark uint64) { s.may[mark>>6&(1<<18-1)] |= 1 << (mark & 63) }
	at := s.x.attempts
	wanted := make([]bool, len(at.kinds))
	for i, k := range at.kinds {
		wanted[i] = i > 0 && (s.q.Subscription == "" || k.subscription == s.q.Subscription) &&
			(s.q.Answer == "" || deadletter.StatusIs(k.status, s.q.Answer)) && (outcomes == nil || slices.Contains(outcomes, k.outcome))
	}
	at.since(math.MinInt64, func(_ uint64, ch *chunk) {
		for j, k := range ch.kinds {
			if wanted[k] {
				set(ch.marks[j])
			}
		}
	})
	if s.q.Status == Failed || outcomes == nil {
		s.x.letters.since(math.MinInt64, func(_ uint64, ch *chunk) {
			for j, k := range ch.kinds {
				if k != 0 {
					set(ch.marks[j])
				}
			}
		})
	}
	if outcomes == nil {
		for mark := range s.queued {
			set(mark)
		}
	}
}

// judge adds to found those of a block of candidates that the query wants. since
// is a time before all of them. The locks are held.
func (s *scan) judge(cands []candidate, since int64) {
	if len(cands) == 0 {
		return
	}
	set := newMarks(len(cands))
	known := make([]facts, len(cands))
	page := make([]Summary, len(cands))
	for i, c := range cands {
		set.add(c.mark, i)
		page[i].Sequence = c.seq
		known[i].queued = s.queued[c.mark]
	}
	s.x.attempts.find(since, set, func(i int, _ uint64, k attemptKind) { known[i].attempts = append(known[i].attempts, k) })
	s.x.letters.find(since, set, func(i int, _ uint64, k letterKind) {
		known[i].dead = append(known[i].dead, delivery{k.subscription, k.round})
	})
	for _, e := range s.q.decide(page, known, s.routed) {
		if len(s.found) > s.q.Limit {
			return
		}
		s.found = append(s.found, e.Sequence)
		s.state = append(s.state, e.Status)
	}
}

// known returns the messages about an event in the stream of one part of the index,
// nil for those that are gone. It reports false where the index knows too little.
func known[K comparable](ctx context.Context, t *Tracer, ev *event.Event, in func(*index) *column[K]) ([]*stream.Message, bool, error) {
	x := t.index.Load()
	if x == nil {
		return nil, false, nil
	}
	c := in(x)
	if ok, err := x.ready(ctx, c); err != nil || !ok {
		return nil, false, err
	}
	seqs, ok := c.sequences(ev.ID, ev.Received.Add(-skew))
	if !ok {
		return nil, false, nil
	}
	msgs, err := stream.GetAll(ctx, t.js.Conn(), c.stream, seqs)
	if err != nil {
		return nil, false, fmt.Errorf("trace: read %s: %w", c.stream, err)
	}
	return msgs, true, nil
}

// attemptsOf returns all records about an event, in the order of time.
func (t *Tracer) attemptsOf(ctx context.Context, ev *event.Event) ([]event.Attempt, error) {
	msgs, ok, err := known(ctx, t, ev, func(x *index) *column[attemptKind] { return x.attempts })
	if err != nil {
		return nil, err
	}
	if !ok {
		return t.ledger.Attempts(ctx, ev.ID, ev.Received.Add(-skew))
	}
	var out []event.Attempt
	for _, m := range msgs {
		if m == nil {
			continue
		}
		a, err := ledger.Decode(m.Data, m.Sequence)
		if err != nil {
			return nil, err
		}
		if a.Event == ev.ID {
			out = append(out, a)
		}
	}
	return out, nil
}

// lettersOf returns the dead letters of an event.
func (t *Tracer) lettersOf(ctx context.Context, ev *event.Event) ([]event.DeadLetter, error) {
	var out []event.DeadLetter
	for q := (deadletter.Query{Event: ev.ID, From: ev.Received.Add(-skew), Limit: 1000}); ; {
		found, next, err := t.DeadLetters(ctx, q)
		if err != nil {
			return nil, err
		}
		if out = append(out, found...); next == "" {
			return out, nil
		}
		q.Before = next
	}
}
