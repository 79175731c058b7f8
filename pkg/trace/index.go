package trace

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"hash/maphash"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/ledger"
	"github.com/posthornhq/posthorn/pkg/stream"
)

// IndexEntries is how many of the newest messages of each stream the index
// covers by default: 72 MB for each, once there are so many.
const IndexEntries = 6 << 20

// eventKind is what lists of events select by.
type eventKind struct {
	typ, source, context, tenant string
	direction                    event.Direction
}

// attemptKind is what an attempt says of its event.
type attemptKind struct {
	subscription string
	outcome      event.Outcome
	round        int
	status       int
}

// letterKind is what lists of dead letters select by.
type letterKind struct {
	subscription, context string
	round, status         int
}

// An index is what the Tracer knows by heart.
type index struct {
	events   *column[eventKind]
	attempts *column[attemptKind]
	letters  *column[letterKind]
	asked    atomic.Int64 // when somebody last asked, in nanoseconds
	rests    atomic.Bool  // more comes than it follows unasked
}

func newIndex(js jetstream.JetStream, entries int) *index {
	seed := maphash.MakeSeed()
	return &index{
		events:   newColumn(js, topology.StreamEvents, topology.Everything, seed, entries, readEvent),
		attempts: newColumn(js, topology.StreamAttempts, topology.Everything, seed, entries, readAttempt),
		letters:  newColumn(js, topology.StreamDeadLetters, topology.Everything, seed, entries, readLetter),
	}
}

// A part is a column of whatever.
type part interface {
	look(ctx context.Context) (came uint64, err error)
	behind() uint64
	step(ctx context.Context, most int) (stream.Batch, error)
	extend(ctx context.Context) (more bool, err error)
}

func (x *index) parts() []part { return []part{x.events, x.attempts, x.letters} }

const (
	// indexEvery is the pause between two looks at what is new, and askedEvery where
	// somebody wants to know.
	indexEvery = time.Second
	askedEvery = 250 * time.Millisecond
	// catchUp bounds how long a query waits for what is new. After that it reads the
	// streams themselves; nor does it wait if there is more than catchUpMost.
	catchUp     = 150 * time.Millisecond
	catchUpMost = 20_000
	// restColumn is how many messages are read at once where nobody waits, and restTimes
	// how many times what that took is the pause after it.
	restColumn = 100
	restTimes  = 9
)

// IndexConfig says how much the index of a [Tracer] may cost. The zero value is usable.
type IndexConfig struct {
	// Entries is how many of the newest messages of each stream are covered.
	// Default [IndexEntries].
	Entries int
	// Calm is up to how many new messages a second the index follows although nobody
	// asks. Reading each once more costs some 10 µs, which above it is for those who
	// ask to pay. Default 1000.
	Calm float64
	// AskedFor is for how long the index follows whatever comes after somebody asked.
	// Default 15 minutes.
	AskedFor time.Duration
}

// Run keeps an index of the newest events, attempts and dead letters in memory
// until ctx is done. Without it, while it is behind, and beyond what it covers,
// answers are the same and take longer.
func (t *Tracer) Run(ctx context.Context, cfg IndexConfig, log *slog.Logger) error {
	cfg.Entries, cfg.Calm = cmp.Or(cfg.Entries, IndexEntries), cmp.Or(cfg.Calm, 1000)
	cfg.AskedFor = cmp.Or(cfg.AskedFor, 15*time.Minute)
	x := newIndex(t.js, cfg.Entries)
	f := &follower{x: x, cfg: cfg, ready: func() { t.index.Store(x) }, done: sync.OnceFunc(func() { close(t.indexed) })}
	timer := time.NewTimer(0)
	defer timer.Stop()
	warned := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		next, err := f.follow(ctx)
		if err != nil && !warned && ctx.Err() == nil {
			log.Warn("the index for queries is behind", "err", err)
		}
		warned = err != nil
		timer.Reset(next)
	}
}

// A follower keeps an index up to date.
type follower struct {
	x           *index
	cfg         IndexConfig
	ready, done func() // it may be asked; there is nothing older to add
	looked      time.Time
	rate        float64 // messages a second before the last look
}

// follow does for about a second what is due, and says when to go on.
func (f *follower) follow(ctx context.Context) (time.Duration, error) {
	x := f.x
	if since := time.Since(f.looked); since >= indexEvery {
		came, err := x.look(ctx)
		if err != nil {
			return indexEvery, err
		}
		f.looked, f.rate = time.Now(), float64(came)/since.Seconds()
		f.ready()
	}
	wanted := time.Since(time.Unix(0, x.asked.Load())) < f.cfg.AskedFor
	rests := !wanted && f.rate > f.cfg.Calm
	x.rests.Store(rests)
	if rests {
		return indexEvery, nil
	}
	end := time.Now().Add(indexEvery)
	caught, err := advance(ctx, x.parts(), end, !wanted)
	if err != nil {
		return indexEvery, err
	}
	if !caught {
		return 0, nil
	}
	all, err := x.extend(ctx, end)
	switch {
	case err != nil:
		return indexEvery, err
	case !all:
		return 0, nil
	}
	f.done()
	if wanted {
		return askedEvery, nil
	}
	return indexEvery, nil
}

// look asks how far the streams are. It returns how many messages came since the
// last look.
func (x *index) look(ctx context.Context) (came uint64, err error) {
	for _, p := range x.parts() {
		n, err := p.look(ctx)
		if err != nil {
			return 0, err
		}
		came += n
	}
	return came, nil
}

// ready reports whether parts of the index know all that is new, after adding some if
// need be. That somebody asks lets it follow from now on.
func (x *index) ready(ctx context.Context, parts ...part) (bool, error) {
	x.asked.Store(time.Now().UnixNano())
	behind := uint64(0)
	for _, p := range parts {
		behind += p.behind()
	}
	if behind > catchUpMost {
		return false, nil
	}
	return advance(ctx, parts, time.Now().Add(catchUp), false)
}

// advance adds what is new until all of it is there or it is late. Where nobody waits
// for it, it does so in small steps, and rests for most of the time: a large one is felt
// by the deliveries beside it.
func advance(ctx context.Context, parts []part, end time.Time, rest bool) (caught bool, err error) {
	most := readColumn
	if rest {
		most = restColumn
	}
	for _, p := range parts {
		// What comes while this goes on is for the next time.
		for first, left := true, 0; ; first = false {
			begun := time.Now()
			b, err := p.step(ctx, most)
			if err != nil {
				return false, err
			}
			if left -= b.N; first {
				left = int(b.Pending)
			}
			if b.N == 0 || left <= 0 {
				break
			}
			if time.Now().After(end) {
				return false, nil
			}
			if rest && !pause(ctx, restTimes*time.Since(begun)) {
				return false, ctx.Err()
			}
		}
	}
	return true, nil
}

// extend adds what is old, the newest of it first, for as long as there is more,
// or until it is time for what is new. It rests for half of the time: after a start
// there is other work to do.
func (x *index) extend(ctx context.Context, end time.Time) (all bool, err error) {
	for {
		begun := time.Now()
		more := false
		for _, p := range x.parts() {
			ok, err := p.extend(ctx)
			if err != nil {
				return false, err
			}
			more = more || ok
		}
		if !more || time.Now().After(end) {
			return !more, nil
		}
		if !pause(ctx, time.Since(begun)) {
			return false, ctx.Err()
		}
	}
}

// pause reports false if ctx is done first.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func readEvent(m *jetstream.RawStreamMsg) (string, eventKind, bool) {
	s, ok := summarize(m)
	return s.ID, eventKind{s.Type, s.Source, s.Context, s.Tenant, s.Direction}, ok
}

// readAttempt reads what the ledger wrote. It is called for every attempt, and
// decoding all of it would take most of the time.
func readAttempt(m *jetstream.RawStreamMsg) (string, attemptKind, bool) {
	sub, outcome, ok := topology.ParseAttemptSubject(m.Subject)
	if !ok || event.Outcome(outcome) == ledger.FilterError { // of which no delivery came
		return "", attemptKind{}, false
	}
	k := attemptKind{subscription: strings.Clone(sub), outcome: event.Outcome(outcome)}
	// The quotes within a text are escaped, so these are members.
	const begin = `{"event":"`
	if data, ok := bytes.CutPrefix(m.Data, []byte(begin)); ok {
		if i := bytes.IndexByte(data, '"'); i >= 0 && bytes.IndexByte(data[:i], '\\') < 0 {
			k.round, k.status = member(data, `,"round":`), member(data, `,"status":`)
			return string(data[:i]), k, true
		}
	}
	var a event.Attempt // written by hand
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return "", k, false
	}
	k.round, k.status = a.Round, a.Status
	return a.Event, k, true
}

// member returns the number behind name, 0 if there is none.
func member(data []byte, name string) int {
	i := bytes.Index(data, []byte(name))
	if i < 0 {
		return 0
	}
	data = data[i+len(name):]
	end := 0
	for end < len(data) && data[end] >= '0' && data[end] <= '9' {
		end++
	}
	n, err := strconv.Atoi(string(data[:end]))
	if err != nil {
		return 0
	}
	return n
}

func readLetter(m *jetstream.RawStreamMsg) (string, letterKind, bool) {
	var d event.DeadLetter
	if err := json.Unmarshal(m.Data, &d); err != nil {
		return "", letterKind{}, false
	}
	return d.Event, letterKind{d.Subscription, d.Context, d.Round, d.Status}, true
}
