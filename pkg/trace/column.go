package trace

import (
	"context"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/pkg/stream"
)

// chunkSize is how many sequences of a stream a chunk of a column covers.
const chunkSize = 8192

// A chunk has twelve bytes for each sequence. Kind 0 is a sequence without a
// message.
type chunk struct {
	marks    [chunkSize]uint64
	kinds    [chunkSize]uint32
	from, to int64 // times of the oldest and the newest message, in nanoseconds
}

// A column keeps of the newest messages of a stream what queries select by: a
// mark of the event's ID, and what else there is to select by, as the number of a
// kind, of which there are few. With it a query looks at millions of messages in
// the time that the server takes for some thousands.
type column[K comparable] struct {
	js              jetstream.JetStream
	stream, subject string
	// read takes a message apart; it reports false for one that is none of ours.
	read func(*jetstream.RawStreamMsg) (id string, kind K, ok bool)
	seed maphash.Seed
	most int // chunks

	filling sync.Mutex // held by who adds
	mu      sync.RWMutex
	chunks  []*chunk
	base    uint64 // the first chunk's number
	first   uint64 // the first sequence that is known
	firstAt int64  // the time of the oldest message from there on; 0 is none
	next    uint64 // the sequence behind the last; 0 before the first look
	last    uint64 // the stream's last sequence at the last look
	whole   bool   // there is nothing before first
	kinds   []K
	live    int // how many kinds were left when some were last forgotten
	byKind  map[K]uint32
}

func newColumn[K comparable](js jetstream.JetStream, name, subject string, seed maphash.Seed, entries int, read func(*jetstream.RawStreamMsg) (string, K, bool)) *column[K] {
	return &column[K]{
		js: js, stream: name, subject: subject, read: read, seed: seed, most: max(2, entries/chunkSize),
		kinds: make([]K, 1), byKind: map[K]uint32{},
	}
}

func (c *column[K]) mark(id string) uint64 { return maphash.String(c.seed, id) }

// readColumn is how many messages are read at once.
const readColumn = 1000

// look asks how far the stream is, and returns how many messages came since the
// last look. A column that lacks more than it can hold begins anew, as does one of a
// stream that did.
func (c *column[K]) look(ctx context.Context) (uint64, error) {
	s, err := c.js.Stream(ctx, c.stream)
	if err != nil {
		return 0, fmt.Errorf("trace: look at %s: %w", c.stream, err)
	}
	c.filling.Lock()
	defer c.filling.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	st := s.CachedInfo().State
	last := st.LastSeq
	if c.next == 0 || last+1 < c.next || last > c.next+uint64(c.most)*chunkSize {
		// What is before it is for extend.
		c.next, c.first, c.firstAt = last+1, last+1, 0
		c.chunks, c.base = nil, c.next/chunkSize
		c.whole = st.Msgs == 0
		c.last = last
		return 0, nil
	}
	came := last - min(c.last, last)
	c.last = last
	return came, nil
}

// behind returns how many messages the column lacked at the last look.
func (c *column[K]) behind() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.last + 1 - min(c.next, c.last+1)
}

// step adds at most most of what came since the last call.
func (c *column[K]) step(ctx context.Context, most int) (stream.Batch, error) {
	c.filling.Lock()
	defer c.filling.Unlock()
	b, err := c.load(ctx, c.next, 0, most)
	if err != nil || b.N == 0 {
		return b, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next = b.Last + 1
	if drop := len(c.chunks) - c.most; drop > 0 {
		c.chunks = slices.Delete(c.chunks, 0, drop)
		c.base += uint64(drop)
		c.first = max(c.first, c.base*chunkSize)
		c.firstAt, c.whole = c.chunks[0].from, false
		c.forget()
	}
	return b, nil
}

// manyKinds is from how many kinds on it is worth looking for those that are gone.
const manyKinds = 4096

// forget drops the kinds of which there is nothing any more: each tenant and each
// replay job makes some. The lock is held.
func (c *column[K]) forget() {
	if len(c.kinds) < max(manyKinds, 2*c.live) {
		return
	}
	numbers := make([]uint32, len(c.kinds)) // as they will be, by what they are
	kinds, byKind := []K{c.kinds[0]}, map[K]uint32{}
	for _, ch := range c.chunks {
		for j, k := range ch.kinds {
			if k == 0 {
				continue
			}
			if numbers[k] == 0 {
				numbers[k] = uint32(len(kinds))
				byKind[c.kinds[k]] = numbers[k]
				kinds = append(kinds, c.kinds[k])
			}
			ch.kinds[j] = numbers[k]
		}
	}
	c.kinds, c.byKind, c.live = kinds, byKind, len(kinds)
}

// extend adds a chunk of what is older, and reports false if there is no more, or
// no room for it.
func (c *column[K]) extend(ctx context.Context) (bool, error) {
	c.filling.Lock()
	defer c.filling.Unlock()
	if c.whole || c.next == 0 || len(c.chunks) >= c.most {
		return false, nil
	}
	s, err := c.js.Stream(ctx, c.stream)
	if err != nil {
		return false, fmt.Errorf("trace: look at %s: %w", c.stream, err)
	}
	oldest := max(s.CachedInfo().State.FirstSeq, 1)
	if c.first <= oldest {
		c.mu.Lock()
		c.whole = true
		c.mu.Unlock()
		return false, nil
	}
	from := max(oldest, (c.first-1)/chunkSize*chunkSize)
	for at := from; at < c.first; {
		b, err := c.load(ctx, at, c.first, readColumn)
		if err != nil {
			return false, err
		}
		if b.N == 0 {
			break
		}
		at = b.Last + 1
	}
	c.mu.Lock()
	c.first, c.whole = from, from == oldest
	if i := from / chunkSize; i >= c.base && i < c.base+uint64(len(c.chunks)) && c.chunks[i-c.base].from > 0 {
		c.firstAt = c.chunks[i-c.base].from
	}
	c.mu.Unlock()
	return true, nil
}

// load reads one batch from a sequence on, before another (0 is the end).
func (c *column[K]) load(ctx context.Context, from, before uint64, most int) (stream.Batch, error) {
	type entry struct {
		seq, mark uint64
		kind      K
		at        time.Time
	}
	batch := make([]entry, 0, most)
	b, err := stream.From(ctx, c.js, c.stream, c.subject, from, most, func(m *jetstream.RawStreamMsg) error {
		if before > 0 && m.Sequence >= before {
			return nil
		}
		if id, kind, ok := c.read(m); ok {
			batch = append(batch, entry{m.Sequence, c.mark(id), kind, m.Time})
		}
		return nil
	})
	if err != nil {
		return b, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range batch {
		c.put(e.seq, e.mark, e.kind, e.at.UnixNano())
		if c.firstAt == 0 && before == 0 {
			c.firstAt = e.at.UnixNano()
		}
	}
	return b, nil
}

// put sets an entry; the lock is held.
func (c *column[K]) put(seq, mark uint64, k K, at int64) {
	kind, ok := c.byKind[k]
	if !ok {
		kind = uint32(len(c.kinds))
		c.kinds = append(c.kinds, k)
		c.byKind[k] = kind
	}
	number := seq / chunkSize
	if len(c.chunks) == 0 {
		c.base = number
	}
	for number < c.base {
		c.chunks = slices.Insert(c.chunks, 0, &chunk{})
		c.base--
	}
	for number >= c.base+uint64(len(c.chunks)) {
		c.chunks = append(c.chunks, &chunk{})
	}
	ch := c.chunks[number-c.base]
	ch.marks[seq%chunkSize], ch.kinds[seq%chunkSize] = mark, kind
	if ch.from == 0 || at < ch.from {
		ch.from = at
	}
	ch.to = max(ch.to, at)
}

// covers reports whether all messages since a time are known; the lock is held.
func (c *column[K]) covers(since int64) bool {
	return c.whole || c.firstAt > 0 && c.firstAt < since
}

// chunk returns a chunk by its number, nil if nothing is known of it; the lock is held.
func (c *column[K]) chunk(number uint64) *chunk {
	if number < c.base || number >= c.base+uint64(len(c.chunks)) {
		return nil
	}
	return c.chunks[number-c.base]
}

// since calls f with the chunks that have something since a time, oldest first;
// the lock is held.
func (c *column[K]) since(at int64, f func(base uint64, ch *chunk)) {
	for i, ch := range c.chunks {
		if ch.to >= at {
			f((c.base+uint64(i))*chunkSize, ch)
		}
	}
}

// marks is a set of marks, quick to say no.
type marks struct {
	bits [1 << 10]uint64 // of the low 16 bits
	all  map[uint64]int
}

func newMarks(n int) *marks { return &marks{all: make(map[uint64]int, n)} }

func (p *marks) add(mark uint64, i int) {
	p.bits[uint16(mark)>>6] |= 1 << (mark & 63)
	p.all[mark] = i
}

func (p *marks) find(mark uint64) (int, bool) {
	if p.bits[uint16(mark)>>6]&(1<<(mark&63)) == 0 {
		return 0, false
	}
	i, ok := p.all[mark]
	return i, ok
}

// find calls f with every entry since a time whose mark is in the set.
func (c *column[K]) find(at int64, set *marks, f func(i int, seq uint64, k K)) {
	c.since(at, func(base uint64, ch *chunk) {
		for j := range ch.marks {
			if i, ok := set.find(ch.marks[j]); ok && ch.kinds[j] != 0 {
				f(i, base+uint64(j), c.kinds[ch.kinds[j]])
			}
		}
	})
}

// sequences returns where an event's messages are, all since a time; false if
// not all are known.
func (c *column[K]) sequences(id string, at time.Time) ([]uint64, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if !c.covers(at.UnixNano()) {
		return nil, false
	}
	set := newMarks(1)
	set.add(c.mark(id), 0)
	var out []uint64
	c.find(at.UnixNano(), set, func(_ int, seq uint64, _ K) { out = append(out, seq) })
	return out, true
}
