package replay

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/pattern"
	"github.com/posthornhq/posthorn/pkg/store"
	"github.com/posthornhq/posthorn/pkg/stream"
)

// A Filter selects stored events. Empty fields select all.
type Filter struct {
	// IDs name the events; then nothing else selects.
	IDs []string `json:"ids,omitempty"`
	// From is included, To is not. They are about acceptance.
	From time.Time `json:"from,omitzero"`
	To   time.Time `json:"to,omitzero"`
	// Types are types or patterns of them; one must match.
	Types   []string `json:"types,omitempty"`
	Source  string   `json:"source,omitempty"`
	Context string   `json:"context,omitempty"`
	Tenant  string   `json:"tenant,omitempty"`
	// Until is the last sequence of stream EVENTS that is looked at, so that a replay
	// has an end.
	Until uint64 `json:"until,omitempty"`
}

// Limits of a filter.
const (
	maxIDs   = 1000
	maxTypes = 100
)

// Validate returns what is wrong with a job that a caller wants, in the words of the
// request.
func Validate(j *Job) error {
	f := &j.Filter
	switch {
	case len(f.IDs) > maxIDs:
		return errs.Field("ids", "are %d; at most %d are allowed, a time range selects more", len(f.IDs), maxIDs)
	case len(f.IDs) > 0 && (!f.From.IsZero() || !f.To.IsZero() || len(f.Types) > 0 || f.Source != "" || f.Context != "" || f.Tenant != ""):
		return errs.Field("ids", "name the events; leave out from, to, types, source, context and tenant")
	case !f.From.IsZero() && !f.To.IsZero() && !f.From.Before(f.To):
		return errs.Field("to", "is not after from, so nothing is between them")
	case len(f.Types) > maxTypes:
		return errs.Field("types", "are %d; at most %d are allowed", len(f.Types), maxTypes)
	case j.Force && j.Subscription == "":
		return errs.Field("force", "is for one subscription; name it")
	case j.Rate < 0 || j.Rate > 1e6 || j.Rate != 0 && j.Rate < 0.001:
		return errs.Field("ratePerSecond", "is %g; it must be 0.001 to 1000000, or 0 for no limit", j.Rate)
	}
	seen := map[string]bool{}
	for i, id := range f.IDs {
		if !store.ValidID(id) {
			return errs.Field(fmt.Sprintf("ids[%d]", i), "%q is no event ID", id)
		}
		if seen[id] {
			return errs.Field(fmt.Sprintf("ids[%d]", i), "%s is named twice", id)
		}
		seen[id] = true
	}
	for i, t := range f.Types {
		if _, err := pattern.Parse(t); err != nil {
			return errs.Field(fmt.Sprintf("types[%d]", i), "%v", err)
		}
	}
	return validNames(j)
}

func validNames(j *Job) error {
	for _, n := range []struct{ field, value string }{
		{"source", j.Filter.Source}, {"context", j.Filter.Context}, {"subscription", j.Subscription},
	} {
		if n.value != "" {
			if err := pattern.ValidName(n.field, n.value); err != nil {
				return err
			}
		}
	}
	return nil
}

// A Selected event is one that a filter selects, as far as its ID's message on stream
// EVENTS tells.
type Selected struct {
	// At is its place: the sequence on EVENTS, or with IDs which of them it is, from 1.
	At uint64
	// Event has what the headers have. With IDs it has the ID alone.
	Event *event.Event
}

// A Selection reads the events that a filter selects, in the order of acceptance.
type Selection struct {
	js      jetstream.JetStream
	filter  Filter
	types   []pattern.Pattern
	subject string
}

// Select returns the selection of a valid filter.
func Select(js jetstream.JetStream, f Filter) (*Selection, error) {
	s := &Selection{js: js, filter: f}
	for _, t := range f.Types {
		p, err := pattern.Parse(t)
		if err != nil {
			return nil, fmt.Errorf("replay: %w", err)
		}
		s.types = append(s.types, p)
	}
	s.subject = topology.EventsOf(f.Context)
	return s, nil
}

// End returns the last sequence of stream EVENTS.
func End(ctx context.Context, js jetstream.JetStream) (uint64, error) {
	s, err := js.Stream(ctx, topology.StreamEvents)
	if err != nil {
		return 0, fmt.Errorf("replay: look at %s: %w", topology.StreamEvents, err)
	}
	return s.CachedInfo().State.LastSeq, nil
}

// How many IDs are read at once. Few are wanted where a job is slow, but the filter
// may pass over many.
const leastBatch, readBatch = 200, 1000

var (
	errEnd    = errors.New("the end")
	errEnough = errors.New("enough")
)

// Next calls f with the selected events behind a place, until it has seen most of
// them or f returns an error, and reports whether that was the end. f must be quick.
func (s *Selection) Next(ctx context.Context, after uint64, most int, f func(Selected) error) (end bool, err error) {
	if len(s.filter.IDs) > 0 {
		return s.nextIDs(after, most, f)
	}
	if after == 0 {
		if after, err = s.begin(ctx); err != nil {
			return false, err
		}
	}
	n := 0
	err = stream.EachByLeader(ctx, s.js, topology.StreamEvents, s.subject, after+1, min(max(most, leastBatch), readBatch), func(m *jetstream.RawStreamMsg) error {
		if m.Sequence > s.filter.Until || !s.filter.To.IsZero() && !m.Time.Before(s.filter.To) {
			return errEnd
		}
		ev, ok := s.matches(m)
		if !ok {
			return nil
		}
		if err := f(Selected{At: m.Sequence, Event: ev}); err != nil {
			return err
		}
		if n++; n >= most {
			return errEnough
		}
		return nil
	})
	switch {
	case err == nil || errors.Is(err, errEnd):
		return true, nil
	case errors.Is(err, errEnough):
		return false, nil
	}
	return false, fmt.Errorf("replay: read %s: %w", topology.StreamEvents, err)
}

// lag is how many messages a replica may be behind that is asked where a time is.
const lag = 100_000

// begin returns the sequence after which a selection begins.
func (s *Selection) begin(ctx context.Context) (uint64, error) {
	if s.filter.From.IsZero() {
		return 0, nil
	}
	var first uint64
	err := stream.Each(ctx, s.js, topology.StreamEvents, s.subject, s.filter.From, 1, func(m *jetstream.RawStreamMsg) error {
		first = m.Sequence
		return errEnough
	})
	if err != nil && !errors.Is(err, errEnough) {
		return 0, fmt.Errorf("replay: read %s: %w", topology.StreamEvents, err)
	}
	if first > 0 {
		return first - 1, nil
	}
	if s.filter.Until > lag {
		return s.filter.Until - lag, nil
	}
	return 0, nil
}

// matches returns the event of a message on EVENTS if it is selected.
func (s *Selection) matches(m *jetstream.RawStreamMsg) (*event.Event, bool) {
	f := &s.filter
	if m.Time.Before(f.From) {
		return nil, false
	}
	direction, context, tokens, err := topology.ParseEventSubject(m.Subject)
	if err != nil {
		return nil, false // written by hand: no event of ours
	}
	typ := m.Header.Get(topology.HeaderType)
	if typ == "" {
		if typ, err = pattern.DecodeType(tokens); err != nil {
			return nil, false
		}
	}
	ev := &event.Event{
		ID: string(m.Data), Type: typ, Direction: direction, Context: context, Received: m.Time,
		Source: m.Header.Get(topology.HeaderSource), Tenant: m.Header.Get(topology.HeaderTenant), TraceParent: m.Header.Get(topology.HeaderTrace),
	}
	if f.Source != "" && f.Source != ev.Source || f.Context != "" && f.Context != ev.Context || f.Tenant != "" && f.Tenant != ev.Tenant {
		return nil, false
	}
	return ev, len(s.types) == 0 || slices.ContainsFunc(s.types, func(p pattern.Pattern) bool { return p.Match(typ) })
}

func (s *Selection) nextIDs(after uint64, most int, f func(Selected) error) (bool, error) {
	ids := s.filter.IDs
	for i := after; i < uint64(len(ids)); i++ {
		if most == 0 {
			return false, nil
		}
		most--
		if err := f(Selected{At: i + 1, Event: &event.Event{ID: ids[i]}}); err != nil {
			return false, err
		}
	}
	return true, nil
}

// Count returns how many events are selected.
func (s *Selection) Count(ctx context.Context) (uint64, error) {
	n := uint64(0)
	_, err := s.Next(ctx, 0, math.MaxInt, func(Selected) error { n++; return nil })
	return n, err
}
