package client

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/pattern"
)

// A Mux hands events to the functions for their types. Set it up with [On], then
// give its Handle to [Handler]. The zero Mux is usable.
type Mux struct {
	exact    map[string]func(context.Context, Event) error
	patterns []route
}

type route struct {
	pattern pattern.Pattern
	fn      func(context.Context, Event) error
}

// On has fn called with each event whose type is eventType, and with its data
// decoded into a T. It may be a pattern ("order.*", "#"); an exact type
// goes before patterns, patterns go in the order in which they came. Data that
// is not a T is answered with 422, which by default is not tried again.
//
// On panics if eventType is no pattern or was given before. It must not be
// called while events are being handled.
func On[T any](m *Mux, eventType string, fn func(context.Context, Event, T) error) {
	m.on(eventType, func(ctx context.Context, ev Event) error {
		var data T
		if err := ev.Decode(&data); err != nil {
			return &Error{
				Status: http.StatusUnprocessableEntity, Detail: "the data does not decode",
				Violations: []event.Violation{{Field: "data", Description: err.Error()}},
			}
		}
		return fn(ctx, ev, data)
	})
}

func (m *Mux) on(eventType string, fn func(context.Context, Event) error) {
	p, err := pattern.Parse(eventType)
	if err != nil {
		panic(fmt.Sprintf("client: On(%q): %v", eventType, err))
	}
	if !strings.ContainsAny(eventType, "*#") {
		eventType = pattern.Normal(eventType) // which the types of events are in
		if m.exact == nil {
			m.exact = make(map[string]func(context.Context, Event) error)
		}
		if m.exact[eventType] != nil {
			panic(fmt.Sprintf("client: On(%q): given twice", eventType))
		}
		m.exact[eventType] = fn
		return
	}
	for _, r := range m.patterns {
		if r.pattern.String() == p.String() {
			panic(fmt.Sprintf("client: On(%q): given twice", eventType))
		}
	}
	m.patterns = append(m.patterns, route{p, fn})
}

// Handle calls the function for the event's type. An event that there is none
// for is taken for done: a wide subscription is no reason to keep failing.
// On(m, "#", …) sees those.
func (m *Mux) Handle(ctx context.Context, ev Event) error {
	if fn := m.exact[ev.Type]; fn != nil {
		return fn(ctx, ev)
	}
	for _, r := range m.patterns {
		if r.pattern.Match(ev.Type) {
			return r.fn(ctx, ev)
		}
	}
	return nil
}
