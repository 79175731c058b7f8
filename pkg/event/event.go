package event

import (
	"fmt"
	"time"
)

// DefaultContext is the context of events, sources and subscriptions that name none.
const DefaultContext = "default"

// A Direction says who an event comes from.
type Direction uint8

const (
	Outgoing Direction = iota // sent by our own producers to external subscribers
	Incoming                  // received from a foreign publisher for our own services
)

// String returns "out" or "in", as subjects of stream EVENTS have it.
func (d Direction) String() string {
	if d == Incoming {
		return "in"
	}
	return "out"
}

// ParseDirection reads what [Direction.String] writes.
func ParseDirection(s string) (Direction, error) {
	switch s {
	case "out":
		return Outgoing, nil
	case "in":
		return Incoming, nil
	}
	return 0, fmt.Errorf("event: direction %q is neither in nor out", s)
}

// An Event is an immutable fact with an ID, a type, a source and data; a
// superset of CloudEvents 1.0.
type Event struct {
	// ID is the platform's own: "ev_" and a ULID.
	ID string
	// Type says what happened: "order.created", or a Certes URI such as
	// "community.certes.dev/github/1/push".
	Type string
	// Source is the source that received it, or the producer's own name.
	Source string
	// Context is the environment it happened in, [DefaultContext] if none was named.
	Context string
	// Tenant is the external party that an outgoing event is meant for; may be empty.
	Tenant    string
	Direction Direction

	// Subject, DataContentType and DataSchema are the attributes of CloudEvents.
	// An empty DataContentType means application/json.
	Subject         string
	DataContentType string
	DataSchema      string
	// Extensions are CloudEvents extension attributes.
	Extensions map[string]string
	// ExternalID and ExternalSource are the publisher's own id and source, where
	// it sent a CloudEvent or its provider names one.
	ExternalID     string
	ExternalSource string
	// Time is when it happened, by the publisher's clock; zero if it did not say.
	Time time.Time

	// Received is when the platform took it in.
	Received time.Time
	// SchemaVersion is the version that Data was validated against, 0 if none.
	SchemaVersion int
	// CorrelationIDs are "[ext.]<service>.1-<8 hex time>-<24 hex random>", in the
	// order of travel.
	CorrelationIDs []string
	// TraceParent and TraceState are W3C trace context.
	TraceParent string
	TraceState  string
	// Receipt is what was done to the event before it was stored.
	Receipt []Step

	// Data is the bytes that came, unchanged. It must not be modified.
	Data []byte
}

// ContentType returns the media type of the data, application/json by default.
func (e *Event) ContentType() string {
	if e.DataContentType == "" {
		return "application/json"
	}
	return e.DataContentType
}

// CloudEventID returns what the event's CloudEvents id is to subscribers: the
// publisher's own, or else the platform's.
func (e *Event) CloudEventID() string {
	if e.ExternalID != "" {
		return e.ExternalID
	}
	return e.ID
}

// CloudEventSource is CloudEventID's counterpart for the source attribute.
func (e *Event) CloudEventSource() string {
	if e.ExternalSource != "" {
		return e.ExternalSource
	}
	return e.Source
}

// A Step is one thing that happened to an event on its way.
type Step struct {
	Name    string        `json:"name"`
	Outcome string        `json:"outcome"` // "ok", or in one word what else
	Detail  string        `json:"detail,omitempty"`
	At      time.Time     `json:"at"`
	Took    time.Duration `json:"took,omitempty"` // nanoseconds in JSON
}

// A Receipt is the platform's promise for one event: it is stored, and will be
// delivered.
type Receipt struct {
	// ID is the event's, or of a duplicate the first event's.
	ID string
	// Duplicate says that the idempotency key was seen before.
	Duplicate bool
	// Sequence is where the ID stands on stream EVENTS; 0 if not known.
	Sequence uint64
}

// A Violation is one thing that is wrong with a request.
type Violation struct {
	// Field is a field of the request, or a JSON pointer into the event's data.
	Field       string `json:"field"`
	Description string `json:"description"`
}

// String returns the violation for people. The pointer of all of the data is empty, and
// is left out.
func (v Violation) String() string {
	if v.Field == "" {
		return v.Description
	}
	return v.Field + ": " + v.Description
}
