package client

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/posthornhq/posthorn/pkg/event"
)

// An Event is what is published, and what a subscription receives.
type Event struct {
	// ID is set in a received event: its CloudEvents id, which is the
	// platform's ID of the event unless its publisher gave it one of its own. It
	// is empty when the subscription's format is RAW.
	ID string
	// Type says what happened, for instance "order.created".
	Type string
	// Source is the producer's name for itself.
	Source string
	// Context is the environment; "default" when empty. Not part of a delivery.
	Context string
	// Tenant is the external party that the event is meant for. Not part of a delivery.
	Tenant string
	// Subject and DataSchema are the attributes of CloudEvents.
	Subject    string
	DataSchema string
	// Time is when it happened; optional.
	Time time.Time
	// DataContentType is the media type of Data; application/json when empty.
	DataContentType string
	// Data travels as it is. It must be one JSON value if DataContentType is
	// a kind of JSON.
	Data []byte
	// Extensions are CloudEvents extension attributes: lower-case letters and digits.
	Extensions map[string]string
	// IdempotencyKey makes a repeated publish harmless: the platform answers the
	// second with the ID of the first. Publish makes one when it is empty.
	IdempotencyKey string

	// DeliveryID is the webhook-id of a received event: the same in every
	// attempt at its delivery, so that a receiver can know a repeat.
	DeliveryID string
	// TraceParent is the W3C trace context of a received event.
	TraceParent string
}

// NewEvent returns an event of the type with the JSON of data.
func NewEvent(eventType string, data any) (Event, error) {
	raw, err := json.Marshal(data)
	if err != nil {
		return Event{}, fmt.Errorf("client: data of %s: %w", eventType, err)
	}
	return Event{Type: eventType, Data: raw}, nil
}

// Decode reads the event's JSON into v.
func (e *Event) Decode(v any) error {
	if !event.IsJSON(e.DataContentType) {
		return fmt.Errorf("client: data of %s is %s, not JSON", e.Type, e.DataContentType)
	}
	if err := json.Unmarshal(e.Data, v); err != nil {
		return fmt.Errorf("client: data of %s: %w", e.Type, err)
	}
	return nil
}

// appendJSON appends the body of a publish request. The data is put in as it
// is rather than through the encoder, which would compact and escape it.
func (e *Event) appendJSON(dst []byte) ([]byte, error) {
	head, err := json.Marshal(struct {
		Type            string            `json:"type"`
		Tenant          string            `json:"tenant,omitempty"`
		Source          string            `json:"source,omitempty"`
		Context         string            `json:"context,omitempty"`
		Subject         string            `json:"subject,omitempty"`
		Time            time.Time         `json:"time,omitzero"`
		DataContentType string            `json:"dataContentType,omitempty"`
		DataSchema      string            `json:"dataSchema,omitempty"`
		IdempotencyKey  string            `json:"idempotencyKey,omitempty"`
		Extensions      map[string]string `json:"extensions,omitempty"`
	}{
		e.Type, e.Tenant, e.Source, e.Context, e.Subject, e.Time, e.DataContentType, e.DataSchema,
		e.IdempotencyKey, e.Extensions,
	})
	if err != nil {
		return nil, fmt.Errorf("client: event %s: %w", e.Type, err)
	}
	dst = append(dst, head[:len(head)-1]...)
	switch {
	case e.Data == nil:
	case event.IsJSON(e.DataContentType):
		if !json.Valid(e.Data) {
			return nil, errNotJSON
		}
		dst = append(dst, `,"data":`...)
		dst = append(dst, e.Data...)
	default:
		dst = append(dst, `,"dataBase64":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, e.Data)
		dst = append(dst, '"')
	}
	return append(dst, '}'), nil
}

var errNotJSON = errors.New("client: the data is not JSON; say in DataContentType what it is")
