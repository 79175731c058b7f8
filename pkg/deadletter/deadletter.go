package deadletter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/stream"
)

// Letters writes and reads dead letters. It is safe for concurrent use.
type Letters struct {
	nc  *nats.Conn
	pub *stream.Publisher
	js  jetstream.JetStream

	mu     sync.Mutex
	handle jetstream.Stream
}

// New returns Letters over one connection. Stream DEADLETTERS must be there.
func New(nc *nats.Conn) (*Letters, error) {
	pub, err := stream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("deadletter: %w", err)
	}
	return &Letters{nc: nc, pub: pub, js: pub.JetStream()}, nil
}

// Put stores a dead letter. The same delivery twice within
// [topology.DuplicateWindow] is stored once.
func (l *Letters) Put(ctx context.Context, d *event.DeadLetter) error {
	data, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("deadletter: encode %s: %w", d.Event, err)
	}
	key := event.Delivery{Event: d.Event, Subscription: d.Subscription, Round: d.Round}
	msg := &nats.Msg{
		Subject: topology.DeadLetterSubject(d.Subscription),
		Header:  nats.Header{jetstream.MsgIDHeader: {key.Key()}},
		Data:    data,
	}
	if _, err := l.pub.Publish(ctx, msg); err != nil {
		return fmt.Errorf("deadletter: put %s: %w", key.Key(), err)
	}
	return nil
}

// Get returns a dead letter by ID. The error is of kind [errs.NotFound] if it
// is not there (any more).
func (l *Letters) Get(ctx context.Context, id string) (event.DeadLetter, error) {
	seq, err := strconv.ParseUint(id, 10, 64)
	if err != nil || seq == 0 {
		return event.DeadLetter{}, errs.New(errs.NotFound, "%q is not the ID of a dead letter; `posthorn deadletter list` shows them", id)
	}
	m, err := stream.GetFromLeader(ctx, l.nc, topology.StreamDeadLetters, seq)
	if errors.Is(err, stream.ErrNotFound) {
		return event.DeadLetter{}, Gone(id)
	}
	if err != nil {
		return event.DeadLetter{}, fmt.Errorf("deadletter: get %s: %w", id, err)
	}
	return Decode(m.Data, m.Sequence)
}

// Gone is the error for a dead letter that is not there (any more).
func Gone(id string) error {
	return errs.New(errs.NotFound, "dead letter %s is not there; it was retried, deleted, or is kept no longer", id)
}

// Remove deletes a dead letter. It reports false if somebody else did.
func (l *Letters) Remove(ctx context.Context, id string) (bool, error) {
	seq, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return false, errs.New(errs.NotFound, "%q is not the ID of a dead letter", id)
	}
	s, err := l.stream(ctx)
	if err == nil {
		err = s.DeleteMsg(ctx, seq)
	}
	if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) || errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("deadletter: remove %s: %w", id, err)
	}
	return true, nil
}

// stream returns the stream, looked up once: removing many should not ask for it
// as often.
func (l *Letters) stream(ctx context.Context) (jetstream.Stream, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.handle == nil {
		s, err := l.js.Stream(ctx, topology.StreamDeadLetters)
		if err != nil {
			return nil, err
		}
		l.handle = s
	}
	return l.handle, nil
}

// A Query selects dead letters.
type Query struct {
	Subscription, Event, Context string
	From, To                     time.Time // zero is open
	// Status of the last attempt: "503", a family such as "5xx", "0" for no
	// answer; empty is any.
	Status string
	Limit  int
	// Before is the ID of the last one seen; empty begins with the newest.
	Before string
}

// List returns dead letters, newest first, and the ID to go on before; empty
// when there are no more.
func (l *Letters) List(ctx context.Context, q Query) ([]event.DeadLetter, string, error) {
	var before uint64
	if q.Before != "" {
		n, err := strconv.ParseUint(q.Before, 10, 64)
		if err != nil {
			return nil, "", errs.Field("cursor", "%q is not one that a list gave", q.Before)
		}
		before = n
	}
	filter := topology.Everything
	if q.Subscription != "" {
		filter = topology.DeadLetterSubject(q.Subscription)
	}
	var out []event.DeadLetter
	ended := false // what follows is older than asked for
	next, err := stream.Backwards(ctx, l.js, topology.StreamDeadLetters, filter, before, func(m *jetstream.RawStreamMsg) (bool, error) {
		if !q.From.IsZero() && m.Time.Before(q.From) {
			ended = true
			return false, nil
		}
		if !q.To.IsZero() && !m.Time.Before(q.To) {
			return true, nil
		}
		d, err := Decode(m.Data, m.Sequence)
		if err != nil {
			return false, err
		}
		if q.match(&d) {
			out = append(out, d)
		}
		return len(out) < q.Limit, nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("deadletter: list: %w", err)
	}
	cursor := ""
	if next > 0 && !ended { // also when the search went as far as it may without filling the page
		cursor = strconv.FormatUint(next, 10)
	}
	return out, cursor, nil
}

func (q *Query) match(d *event.DeadLetter) bool {
	if q.Event != "" && d.Event != q.Event || q.Context != "" && d.Context != q.Context {
		return false
	}
	return q.Status == "" || StatusIs(d.Status, q.Status)
}

// StatusIs reports whether an HTTP status is the one that is wanted, "503", or of
// the family, "5xx". It is 0 where there was no answer.
func StatusIs(status int, want string) bool {
	text := strconv.Itoa(status)
	if family, ok := strings.CutSuffix(want, "xx"); ok {
		return len(text) == 3 && strings.HasPrefix(text, family)
	}
	return text == want
}

// Decode reads the message of a dead letter.
func Decode(data []byte, seq uint64) (event.DeadLetter, error) {
	var d event.DeadLetter
	if err := json.Unmarshal(data, &d); err != nil {
		return d, fmt.Errorf("deadletter: decode %d: %w", seq, err)
	}
	d.ID = strconv.FormatUint(seq, 10)
	return d, nil
}
