package trace

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/stream"
)

// DeadLetters is [(*deadletter.Letters).List], by the index where that is there: what
// matches rarely is found as fast.
func (t *Tracer) DeadLetters(ctx context.Context, q deadletter.Query) ([]event.DeadLetter, string, error) {
	var before uint64
	if q.Before != "" {
		n, err := strconv.ParseUint(q.Before, 10, 64)
		if err != nil {
			return nil, "", errs.Field("cursor", "%q is not one that a list gave", q.Before)
		}
		before = n
	}
	x := t.index.Load()
	if x == nil {
		return t.letters.List(ctx, q)
	}
	if ok, err := x.ready(ctx, x.letters); err != nil {
		return nil, "", err
	} else if !ok {
		return t.letters.List(ctx, q)
	}
	floor, before, err := t.letterBounds(ctx, &q, before)
	if err != nil || floor == 0 {
		return nil, "", err
	}
	var out []event.DeadLetter
	for end := time.Now().Add(scanFor); ; {
		seqs, next, ok := x.lettersBefore(&q, floor, before, q.Limit+1-len(out))
		if !ok {
			// Older than what is known; what was found is a page all the same.
			if len(out) > 0 {
				return out, strconv.FormatUint(before, 10), nil
			}
			q.Before = strconv.FormatUint(before, 10)
			return t.letters.List(ctx, q)
		}
		msgs, err := stream.GetAll(ctx, t.js.Conn(), topology.StreamDeadLetters, seqs)
		if err != nil {
			return nil, "", fmt.Errorf("trace: list dead letters: %w", err)
		}
		for _, m := range msgs {
			if m == nil {
				continue // retried or deleted
			}
			d, err := deadletter.Decode(m.Data, m.Sequence)
			if err != nil {
				return nil, "", err
			}
			out = append(out, d)
		}
		switch before = next; {
		case len(out) > q.Limit:
			return out[:q.Limit], out[q.Limit-1].ID, nil
		case next == 0:
			return out, "", nil
		case time.Now().After(end):
			return out, strconv.FormatUint(next, 10), nil
		}
	}
}

// letterBounds finds the sequences that a query's times mean. A floor of 0 says
// that there is nothing.
func (t *Tracer) letterBounds(ctx context.Context, q *deadletter.Query, before uint64) (floor, to uint64, err error) {
	at := func(when time.Time) (uint64, error) {
		return stream.At(ctx, t.js, topology.StreamDeadLetters, topology.Everything, when)
	}
	s, err := t.js.Stream(ctx, topology.StreamDeadLetters)
	if err != nil {
		return 0, 0, fmt.Errorf("trace: look at DEADLETTERS: %w", err)
	}
	floor = max(1, s.CachedInfo().State.FirstSeq)
	if !q.From.IsZero() {
		from, err := at(q.From)
		if err != nil || from == 0 {
			return 0, 0, err
		}
		floor = max(floor, from)
	}
	if !q.To.IsZero() {
		to, err := at(q.To)
		if err != nil {
			return 0, 0, err
		}
		if to > 0 && (before == 0 || to < before) {
			before = to
		}
	}
	return floor, before, nil
}

// lettersBefore returns at most most sequences that match, newest first, and the
// one to go on before, 0 at the beginning. It reports false if it knows nothing
// of what is before before.
func (x *index) lettersBefore(q *deadletter.Query, floor, before uint64, most int) (found []uint64, next uint64, ok bool) {
	c := x.letters
	c.mu.RLock()
	defer c.mu.RUnlock()
	if before == 0 || before > c.next {
		before = c.next
	}
	var only uint64
	if q.Event != "" {
		only = c.mark(q.Event)
	}
	want := make([]bool, len(c.kinds))
	for i, k := range c.kinds {
		want[i] = i > 0 && (q.Subscription == "" || k.subscription == q.Subscription) && (q.Context == "" || k.context == q.Context) &&
			(q.Status == "" || deadletter.StatusIs(k.status, q.Status))
	}
	begun := before
	for before > floor && before > c.first && len(found) < most {
		number := (before - 1) / chunkSize
		lowest := max(number*chunkSize, c.first, floor)
		ch := c.chunk(number)
		if ch == nil {
			before = lowest
			continue
		}
		for before > lowest && len(found) < most {
			before--
			if j := before % chunkSize; want[ch.kinds[j]] && (only == 0 || ch.marks[j] == only) {
				found = append(found, before)
			}
		}
	}
	if before <= floor {
		return found, 0, true
	}
	return found, before, before < begun
}
