package alerts

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/subscription"
)

// Types of alerts.
const (
	Failing     = "posthorn.subscription.failing"
	Recovered   = "posthorn.subscription.recovered"
	Disabled    = "posthorn.subscription.disabled"
	DeadLetters = "posthorn.deadletter.created"
)

// Source is the source of alerts.
const Source = "posthorn"

// Is reports whether typ is the type of an alert.
func Is(typ string) bool {
	if !strings.HasPrefix(typ, "posthorn.") {
		return false
	}
	switch typ {
	case Failing, Recovered, Disabled, DeadLetters:
		return true
	}
	return false
}

// An Acceptor stores events. It is the broker.
type Acceptor interface {
	Accept(ctx context.Context, ev event.Event, key string) (event.Receipt, error)
}

// A Publisher publishes alerts. It is safe for concurrent use.
type Publisher struct{ accept Acceptor }

// New returns a Publisher.
func New(a Acceptor) *Publisher { return &Publisher{accept: a} }

// State is how a subscription's endpoint behaves.
type State struct {
	// Since is when it began to fail. It identifies the time of trouble: everybody
	// who tells of the same one must give the same.
	Since time.Time
	// Until is when it worked again; for [Publisher.Recovered].
	Until time.Time
	// Reason in one word: an error class, or the HTTP status.
	Reason string
	// Detail is for people; without credentials.
	Detail string
	// Status is the HTTP status of the last answer, 0 without one.
	Status int
	// Failures is how many attempts failed one after the other.
	Failures int
}

// about is what every alert begins with.
type about struct {
	Subscription string `json:"subscription"`
	Context      string `json:"context"`
	Tenant       string `json:"tenant,omitempty"`
}

type failing struct {
	about
	Since    time.Time `json:"since"`
	Reason   string    `json:"reason"`
	Detail   string    `json:"detail,omitempty"`
	Status   int       `json:"status,omitempty"`
	Failures int       `json:"failures"`
}

type recovered struct {
	about
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
}

type disabled struct {
	about
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
}

type deadLetters struct {
	about
	Count      int       `json:"count"`
	Since      time.Time `json:"since"`
	Until      time.Time `json:"until"`
	DeadLetter letter    `json:"deadLetter"`
}

type letter struct {
	ID       string    `json:"id"`
	Event    string    `json:"event"`
	Type     string    `json:"type,omitempty"`
	Source   string    `json:"source,omitempty"`
	Round    int       `json:"round"`
	Attempts int       `json:"attempts"`
	Reason   string    `json:"reason"`
	Detail   string    `json:"detail,omitempty"`
	Status   int       `json:"status,omitempty"`
	At       time.Time `json:"at"`
}

// Failing tells that a subscription's endpoint does not take events.
func (p *Publisher) Failing(ctx context.Context, s *subscription.Subscription, st State) error {
	return p.publish(ctx, Failing, of(s), stamp(st.Since), failing{
		about: of(s), Since: st.Since.UTC(), Reason: st.Reason, Detail: st.Detail, Status: st.Status, Failures: st.Failures,
	})
}

// Recovered tells that the trouble that began at st.Since is over.
func (p *Publisher) Recovered(ctx context.Context, s *subscription.Subscription, st State) error {
	return p.publish(ctx, Recovered, of(s), stamp(st.Since), recovered{about: of(s), Since: st.Since.UTC(), Until: st.Until.UTC()})
}

// Disabled tells that the platform has disabled a subscription at a time, for a
// reason in one word: "gone".
func (p *Publisher) Disabled(ctx context.Context, s *subscription.Subscription, reason string, at time.Time) error {
	return p.publish(ctx, Disabled, of(s), stamp(at), disabled{about: of(s), At: at.UTC(), Reason: reason})
}

// Letters are dead letters of one subscription that are told together.
type Letters struct {
	Count        int
	Since, Until time.Time // of the first and of the last
	// Last is the newest; it identifies them.
	Last event.DeadLetter
}

// DeadLetters tells of dead letters. s is nil if their subscription is gone.
func (p *Publisher) DeadLetters(ctx context.Context, s *subscription.Subscription, l Letters) error {
	a := about{Subscription: l.Last.Subscription, Context: cmp.Or(l.Last.Context, event.DefaultContext)}
	if s != nil {
		a = of(s)
	}
	d := &l.Last
	last := event.Delivery{Event: d.Event, Subscription: d.Subscription, Round: d.Round}
	return p.publish(ctx, DeadLetters, a, last.Key(), deadLetters{
		about: a, Count: l.Count, Since: l.Since.UTC(), Until: l.Until.UTC(),
		DeadLetter: letter{
			ID: d.ID, Event: d.Event, Type: d.Type, Source: d.Source, Round: d.Round, Attempts: d.Attempts,
			Reason: d.Reason, Detail: d.Detail, Status: d.Status, At: d.At.UTC(),
		},
	})
}

func of(s *subscription.Subscription) about {
	return about{Subscription: s.Name, Context: s.Context, Tenant: s.Tenant}
}

// stamp makes a time part of a key.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func (p *Publisher) publish(ctx context.Context, typ string, a about, key string, data any) error {
	b, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("alerts: encode %s: %w", typ, err)
	}
	ev := event.Event{
		Type: typ, Source: Source, Direction: event.Outgoing, Context: a.Context, Tenant: a.Tenant, Subject: a.Subscription, Data: b,
	}
	if _, err := p.accept.Accept(ctx, ev, "alert:"+typ+":"+a.Subscription+":"+key); err != nil {
		return fmt.Errorf("alerts: publish %s about %s: %w", typ, a.Subscription, err)
	}
	return nil
}
