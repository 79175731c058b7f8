package trace

import (
	"bytes"
	"context"
	"encoding/json"
	"hash/maphash"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/ledger"
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
}

func newIndex(js jetstream.JetStream, entries int) *index {
	seed := maphash.MakeSeed()
	return &index{
		events:   newColumn(js, topology.StreamEvents, topology.Everything, seed, entries, readEvent),
		attempts: newColumn(js, topology.StreamAttempts, topology.Everything, seed, entries, readAttempt),
		letters:  newColumn(js, topology.StreamDeadLetters, topology.Everything, seed, entries, readLetter),
	}
}

const (
	// indexEvery is the pause between two looks at what is new.
	indexEvery = time.Second
	// indexRest is the pause after a chunk of what is old, as a share of the time
	// that it took: after a start there is other work to do.
	indexRest = 1
)

// Indexed returns a channel that is closed when the index has all that it will
// have of what was stored before it began.
func (t *Tracer) Indexed() <-chan struct{} { return t.indexed }

// Run keeps an index of the newest events, attempts and dead letters in memory
// until ctx is done: entries of each at most, 0 is [IndexEntries]. Without it,
// and beyond what it covers, answers are the same and take longer.
func (t *Tracer) Run(ctx context.Context, entries int, log *slog.Logger) error {
	if entries == 0 {
		entries = IndexEntries
	}
	x := newIndex(t.js, entries)
	tick := time.NewTicker(indexEvery)
	defer tick.Stop()
	warned := false
	var once sync.Once
	for {
		err := x.advance(ctx)
		if err == nil {
			t.index.Store(x)
			var all bool
			if all, err = x.extend(ctx); all {
				once.Do(func() { close(t.indexed) })
			} else if err == nil {
				continue // it took its time already
			}
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !warned:
			log.Warn("the index for queries is behind", "err", err)
		}
		warned = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// advance adds what is new.
func (x *index) advance(ctx context.Context) error {
	for _, advance := range []func(context.Context) error{x.events.advance, x.attempts.advance, x.letters.advance} {
		if err := advance(ctx); err != nil {
			return err
		}
	}
	return nil
}

// extend adds what is old, the newest of it first, for as long as there is more,
// or until it is time for what is new.
func (x *index) extend(ctx context.Context) (all bool, err error) {
	end := time.Now().Add(indexEvery)
	for {
		begun := time.Now()
		more := false
		for _, extend := range []func(context.Context) (bool, error){x.attempts.extend, x.events.extend, x.letters.extend} {
			ok, err := extend(ctx)
			if err != nil {
				return false, err
			}
			more = more || ok
		}
		if !more || time.Now().After(end) {
			return !more, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(indexRest * time.Since(begun)):
		}
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
