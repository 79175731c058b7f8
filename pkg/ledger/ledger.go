package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/stream"
)

// A Ledger writes and reads the records. It is safe for concurrent use.
type Ledger struct {
	nc  *nats.Conn
	pub *stream.Publisher
	js  jetstream.JetStream
}

// New returns a Ledger over one connection. Its streams must be there.
func New(nc *nats.Conn) (*Ledger, error) {
	pub, err := stream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	return &Ledger{nc: nc, pub: pub, js: pub.JetStream()}, nil
}

// Record starts to write an attempt; it is written when the result's Wait returns.
func (l *Ledger) Record(a *event.Attempt) (stream.Pending, error) {
	data, err := json.Marshal(a)
	if err != nil {
		return stream.Pending{}, fmt.Errorf("ledger: encode an attempt at %s: %w", a.Event, err)
	}
	return l.pub.Start(&nats.Msg{
		Subject: topology.AttemptSubject(a.Event, a.Subscription, string(a.Outcome)),
		Data:    data,
	}), nil
}

// Unmatched starts to mark an event that no subscription matched.
func (l *Ledger) Unmatched(eventID string, at time.Time) (stream.Pending, error) {
	data, err := json.Marshal(event.Attempt{Event: eventID, Subscription: topology.Unmatched, Outcome: Unmatched, At: at})
	if err != nil {
		return stream.Pending{}, fmt.Errorf("ledger: encode a mark on %s: %w", eventID, err)
	}
	return l.pub.Start(&nats.Msg{Subject: topology.AttemptSubject(eventID, topology.Unmatched, string(Unmatched)), Data: data}), nil
}

// Unmatched is the outcome in the mark of an event that no subscription matched.
const Unmatched event.Outcome = "unmatched"

// FilterFailed starts to note that a subscription's filter could not be evaluated
// for an event, which therefore did not match.
func (l *Ledger) FilterFailed(eventID, subscription, why string, at time.Time) (stream.Pending, error) {
	data, err := json.Marshal(event.Attempt{Event: eventID, Subscription: subscription, Outcome: FilterError, Error: text(why), At: at})
	if err != nil {
		return stream.Pending{}, fmt.Errorf("ledger: encode a note on %s: %w", eventID, err)
	}
	return l.pub.Start(&nats.Msg{Subject: topology.AttemptSubject(eventID, subscription, string(FilterError)), Data: data}), nil
}

// FilterError is the outcome in the note on a filter that could not be evaluated.
// It is about no delivery.
const FilterError event.Outcome = "filter-error"

// readBatch is how many records are asked for at once.
const readBatch = 1000

// Attempts returns all records about an event in time order. since is a time
// before the first, which spares reading what is older.
func (l *Ledger) Attempts(ctx context.Context, eventID string, since time.Time) ([]event.Attempt, error) {
	var out []event.Attempt
	err := stream.Each(ctx, l.js, topology.StreamAttempts, topology.AttemptFilter(eventID), since, readBatch,
		func(m *jetstream.RawStreamMsg) error {
			a, err := Decode(m.Data, m.Sequence)
			if err != nil {
				return err
			}
			if a.Event == eventID {
				out = append(out, a)
			}
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("ledger: read the attempts of %s: %w", eventID, err)
	}
	return out, nil
}

// Decode reads the message of an attempt.
func Decode(data []byte, seq uint64) (event.Attempt, error) {
	var a event.Attempt
	if err := json.Unmarshal(data, &a); err != nil {
		return a, fmt.Errorf("ledger: decode record %d: %w", seq, err)
	}
	return a, nil
}

// Latest calls f with the records since a time, oldest first.
func (l *Ledger) Latest(ctx context.Context, since time.Time, f func(*event.Attempt)) error {
	err := stream.Each(ctx, l.js, topology.StreamAttempts, topology.Everything, since, readBatch,
		func(m *jetstream.RawStreamMsg) error {
			a, err := Decode(m.Data, m.Sequence)
			if err != nil {
				return err
			}
			f(&a)
			return nil
		})
	if err != nil {
		return fmt.Errorf("ledger: read attempts: %w", err)
	}
	return nil
}

// Reject writes a rejection. Texts that are too long or not UTF-8 are mended.
func (l *Ledger) Reject(ctx context.Context, r *event.Rejection) error {
	r.Detail = text(r.Detail)
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("ledger: encode a rejection of %s: %w", r.Source, err)
	}
	source := r.Source
	if !nameToken(source) {
		source = topology.Unmatched // what a stranger asked for may be anything
	}
	status := r.Status
	if http.StatusText(status) == "" {
		status = http.StatusInternalServerError
	}
	if _, err := l.pub.Publish(ctx, &nats.Msg{Subject: topology.RejectionSubject(source, strconv.Itoa(status)), Data: data}); err != nil {
		return fmt.Errorf("ledger: record a rejection of %s: %w", r.Source, err)
	}
	return nil
}

// A Query selects rejections.
type Query struct {
	Source, Context string
	// Status of the answer: "401", or a family such as "4xx"; empty is any.
	Status   string
	From, To time.Time // zero is open
	Limit    int
	// Before is the ID of the last one seen; empty begins with the newest.
	Before string
}

// Rejections returns rejections, newest first, and the ID to go on before;
// empty when there are no more.
func (l *Ledger) Rejections(ctx context.Context, q Query) ([]event.Rejection, string, error) {
	var before uint64
	if q.Before != "" {
		n, err := strconv.ParseUint(q.Before, 10, 64)
		if err != nil {
			return nil, "", errs.Field("cursor", "%q is not one that a list gave", q.Before)
		}
		before = n
	}
	var out []event.Rejection
	ended := false // what follows is older than asked for
	next, err := stream.Backwards(ctx, l.js, topology.StreamRejections, q.subject(), before, func(m *jetstream.RawStreamMsg) (bool, error) {
		if !q.From.IsZero() && m.Time.Before(q.From) {
			ended = true
			return false, nil
		}
		if !q.To.IsZero() && !m.Time.Before(q.To) {
			return true, nil
		}
		var r event.Rejection
		if err := json.Unmarshal(m.Data, &r); err != nil {
			return false, fmt.Errorf("ledger: decode rejection %d: %w", m.Sequence, err)
		}
		r.ID, r.At = strconv.FormatUint(m.Sequence, 10), m.Time
		if q.match(&r) {
			out = append(out, r)
		}
		return len(out) < q.Limit, nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("ledger: read rejections: %w", err)
	}
	cursor := ""
	if next > 0 && !ended { // also when the search went as far as it may without filling the page
		cursor = strconv.FormatUint(next, 10)
	}
	return out, cursor, nil
}

// subject returns the narrowest filter on REJECTIONS that holds what q selects.
func (q *Query) subject() string {
	if len(q.Status) == 3 && !strings.HasSuffix(q.Status, "xx") {
		source := q.Source
		if source == "" {
			source = "*"
		}
		return topology.RejectionSubject(source, q.Status)
	}
	if q.Source == "" {
		return topology.Everything
	}
	return topology.RejectionFilter(q.Source)
}

func (q *Query) match(r *event.Rejection) bool {
	if q.Context != "" && r.Context != q.Context {
		return false
	}
	family, ok := strings.CutSuffix(q.Status, "xx")
	status := strconv.Itoa(r.Status)
	return q.Status == "" || status == q.Status || ok && len(status) == 3 && strings.HasPrefix(status, family)
}

// text cuts s to what a record holds, as valid UTF-8.
func text(s string) string {
	const most = 4 << 10
	if len(s) > most {
		s = s[:most]
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return s
}

// nameToken reports whether s can be one token of a subject.
func nameToken(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
