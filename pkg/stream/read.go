package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

// Each calls f with the messages of a stream that match a subject filter, in
// order, from a time on (zero is the beginning). It stops at the first error.
func Each(ctx context.Context, js jetstream.JetStream, stream, subject string, since time.Time, batch int,
	f func(*jetstream.RawStreamMsg) error,
) error {
	opts := []jetstreamext.GetBatchOpt{jetstreamext.GetBatchSubject(subject)}
	if !since.IsZero() {
		opts = append(opts, jetstreamext.GetBatchStartTime(since))
	} else {
		opts = append(opts, jetstreamext.GetBatchSeq(1))
	}
	for {
		last, pending, err := getBatch(ctx, js, stream, batch, opts, f)
		if err != nil {
			return err
		}
		// Not "fewer than asked for": the server also ends a batch by its bytes.
		if pending == 0 {
			return nil
		}
		opts = []jetstreamext.GetBatchOpt{jetstreamext.GetBatchSubject(subject), jetstreamext.GetBatchSeq(last + 1)}
	}
}

// A Batch is what [From] read.
type Batch struct {
	N       int    // messages; 0 only at the end of the stream
	Last    uint64 // the last one's sequence
	Pending uint64 // messages behind it
}

// From is one batch of [Each] from a sequence on: at most n messages, and fewer
// if they are large.
func From(ctx context.Context, js jetstream.JetStream, stream, subject string, seq uint64, n int,
	f func(*jetstream.RawStreamMsg) error,
) (Batch, error) {
	count := 0
	last, pending, err := getBatch(ctx, js, stream, n,
		[]jetstreamext.GetBatchOpt{jetstreamext.GetBatchSubject(subject), jetstreamext.GetBatchSeq(max(seq, 1))},
		func(m *jetstream.RawStreamMsg) error {
			count++
			return f(m)
		})
	return Batch{N: count, Last: last, Pending: pending}, err
}

// EachByLeader is [Each] from a sequence on, for those who must not miss a
// message that the stream had when it was called: where the replicas that answer
// batches have no more, the stream's leader is asked. A replica that lags can
// only lack the end of a stream, so it may also show what is removed already.
func EachByLeader(ctx context.Context, js jetstream.JetStream, stream, subject string, seq uint64, batch int,
	f func(*jetstream.RawStreamMsg) error,
) error {
	for seq = max(seq, 1); ; {
		n, last, err := FromByLeader(ctx, js, stream, subject, seq, batch, f)
		if err != nil || n == 0 {
			return err
		}
		seq = last + 1
	}
}

// FromByLeader is one batch of [EachByLeader]: no message means that the stream
// has none.
func FromByLeader(ctx context.Context, js jetstream.JetStream, stream, subject string, seq uint64, batch int,
	f func(*jetstream.RawStreamMsg) error,
) (int, uint64, error) {
	b, err := From(ctx, js, stream, subject, seq, batch, f)
	if err != nil || b.N > 0 {
		return b.N, b.Last, err
	}
	m, err := getFromLeader(ctx, js.Conn(), stream, map[string]any{"seq": max(seq, 1), "next_by_subj": subject})
	if errors.Is(err, ErrNotFound) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	return 1, m.Sequence, f(&jetstream.RawStreamMsg{Subject: m.Subject, Sequence: m.Sequence, Header: m.Header, Data: m.Data, Time: m.Time})
}

// At returns the first sequence of the messages that match a subject filter from
// a time on, 0 if there is none.
func At(ctx context.Context, js jetstream.JetStream, stream, subject string, since time.Time) (uint64, error) {
	seq, _, err := getBatch(ctx, js, stream, 1,
		[]jetstreamext.GetBatchOpt{jetstreamext.GetBatchSubject(subject), jetstreamext.GetBatchStartTime(since)},
		func(*jetstream.RawStreamMsg) error { return nil })
	return seq, err
}

// Bounds of one batch. The server would send 64 MiB, as much as it lets wait for
// a client before it disconnects it as too slow; and the library asks for an
// answer within the time that connecting may take.
const (
	maxBatchBytes = 8 << 20
	batchTimeout  = 15 * time.Second
)

// getBatch returns the last message's sequence and how many are behind it. Fewer
// messages than asked for say nothing about the end: a batch also ends by its
// bytes. No message at all and no error: there is none.
func getBatch(ctx context.Context, js jetstream.JetStream, stream string, batch int, opts []jetstreamext.GetBatchOpt,
	f func(*jetstream.RawStreamMsg) error,
) (last, pending uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	msgs, err := jetstreamext.GetBatch(ctx, js, stream, batch, append(opts, jetstreamext.GetBatchMaxBytes(maxBatchBytes))...)
	if err != nil {
		return 0, 0, failed(failedReads, fmt.Errorf("stream: read %s: %w", stream, err))
	}
	for m, err := range msgs {
		if errors.Is(err, jetstreamext.ErrNoMessages) {
			return last, 0, nil
		}
		if err != nil {
			return last, pending, failed(failedReads, fmt.Errorf("stream: read %s: %w", stream, err))
		}
		// The answers are plain messages, and a connection that breaks loses some.
		before, err := strconv.ParseUint(m.Header.Get(jetstreamLastSequence), 10, 64)
		if err != nil || before != last {
			return last, pending, failed(failedReads, fmt.Errorf("stream: read %s: message %d came after %d, not after %q",
				stream, m.Sequence, last, m.Header.Get(jetstreamLastSequence)))
		}
		last = m.Sequence
		if pending, err = strconv.ParseUint(m.Header.Get(jetstreamNumPending), 10, 64); err != nil {
			return last, pending, failed(failedReads, fmt.Errorf("stream: read %s: pending messages behind %d: %w", stream, last, err))
		}
		if err := f(m); err != nil {
			return last, pending, err
		}
	}
	// The iterator also ends, without an error, when its time is up.
	if err := ctx.Err(); err != nil {
		return last, pending, failed(failedReads, fmt.Errorf("stream: read %s: after message %d: %w", stream, last, err))
	}
	// Or when the connection is closed.
	if last == 0 {
		return 0, 0, failed(failedReads, fmt.Errorf("stream: read %s: no answer", stream))
	}
	return last, pending, nil
}

// Headers of the answers to a batch request (ADR-31 of nats-architecture-and-design).
const (
	jetstreamLastSequence = "Nats-Last-Sequence" // of the message before, 0 at the first
	jetstreamNumPending   = "Nats-Num-Pending"
)

// window is how many sequences Backwards looks at in one request.
const window = 500

// lookBackFor bounds how long one call of Backwards reads on: somebody waits for a
// page, and an empty one with a place to go on from is an answer, too.
const lookBackFor = 150 * time.Millisecond

// Backwards calls f with the messages of a stream that match a subject filter,
// newest first, beginning before a sequence (0 is the end), until f says false or
// it has taken a while. It returns the sequence to go on before, 0 when the
// beginning was reached.
func Backwards(ctx context.Context, js jetstream.JetStream, stream, subject string, before uint64,
	f func(*jetstream.RawStreamMsg) (bool, error),
) (uint64, error) {
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return 0, fmt.Errorf("stream: read %s: %w", stream, err)
	}
	state := s.CachedInfo().State
	if before == 0 || before > state.LastSeq+1 {
		before = state.LastSeq + 1
	}
	end := time.Now().Add(lookBackFor)
	for begun := before; before > state.FirstSeq && state.Msgs > 0; {
		if before < begun && time.Now().After(end) {
			break
		}
		from := max(state.FirstSeq, 1)
		if before > from+window {
			from = before - window
		}
		page, err := between(ctx, js, stream, subject, from, before)
		if err != nil {
			return 0, err
		}
		for _, p := range slices.Backward(page) {
			more, err := f(p)
			if err != nil {
				return 0, err
			}
			if !more {
				return p.Sequence, nil
			}
		}
		before = from
	}
	if before <= state.FirstSeq || state.Msgs == 0 {
		return 0, nil
	}
	return before, nil
}

// between returns the messages from a sequence on and before another.
func between(ctx context.Context, js jetstream.JetStream, stream, subject string, from, before uint64) ([]*jetstream.RawStreamMsg, error) {
	var page []*jetstream.RawStreamMsg
	for from < before {
		b, err := From(ctx, js, stream, subject, from, int(before-from), func(m *jetstream.RawStreamMsg) error {
			if m.Sequence < before {
				page = append(page, m)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if b.N == 0 {
			break
		}
		from = b.Last + 1
	}
	return page, nil
}
