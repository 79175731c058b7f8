package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/posthornhq/posthorn/pkg/event"
)

// attributes is the first line of a stored event: everything but the data, as
// JSON that a person can read with "nats kv get events <id>". The data follows
// after one newline, as the bytes that came.
type attributes struct {
	ID              string            `json:"id"`
	Type            string            `json:"type"`
	Source          string            `json:"source,omitempty"`
	Context         string            `json:"context"`
	Tenant          string            `json:"tenant,omitempty"`
	Direction       string            `json:"direction"`
	Subject         string            `json:"subject,omitempty"`
	DataContentType string            `json:"datacontenttype,omitempty"`
	DataSchema      string            `json:"dataschema,omitempty"`
	Extensions      map[string]string `json:"extensions,omitempty"`
	ExternalID      string            `json:"externalId,omitempty"`
	ExternalSource  string            `json:"externalSource,omitempty"`
	Time            time.Time         `json:"time,omitzero"`
	Received        time.Time         `json:"received"`
	SchemaVersion   int               `json:"schemaVersion,omitempty"`
	CorrelationIDs  []string          `json:"correlationIds,omitempty"`
	TraceParent     string            `json:"traceparent,omitempty"`
	TraceState      string            `json:"tracestate,omitempty"`
	Receipt         []event.Step      `json:"receipt,omitempty"`
	// Payload is the size of the data in the object store, 0 when it follows.
	Payload int `json:"payload,omitempty"`
}

// encode returns the value of an event in KV bucket events; payload says that
// the data is in the object store.
func encode(e *event.Event, payload bool) ([]byte, error) {
	a := attributes{
		ID: e.ID, Type: e.Type, Source: e.Source, Context: e.Context, Tenant: e.Tenant,
		Direction: e.Direction.String(), Subject: e.Subject,
		DataContentType: e.DataContentType, DataSchema: e.DataSchema, Extensions: e.Extensions,
		ExternalID: e.ExternalID, ExternalSource: e.ExternalSource, Time: e.Time, Received: e.Received,
		SchemaVersion: e.SchemaVersion, CorrelationIDs: e.CorrelationIDs,
		TraceParent: e.TraceParent, TraceState: e.TraceState, Receipt: e.Receipt,
	}
	if payload {
		a.Payload = len(e.Data)
	}
	var buf bytes.Buffer
	buf.Grow(512 + len(e.Data))
	enc := json.NewEncoder(&buf) // ends the line
	enc.SetEscapeHTML(false)
	if err := enc.Encode(&a); err != nil {
		return nil, fmt.Errorf("store: encode %s: %w", e.ID, err)
	}
	if !payload {
		buf.Write(e.Data)
	}
	return buf.Bytes(), nil
}

// decode is the inverse of encode. The event's data is part of value. The
// second result is the size of data that is in the object store.
func decode(value []byte) (*event.Event, int, error) {
	line, data, ok := bytes.Cut(value, []byte{'\n'})
	if !ok {
		return nil, 0, errors.New("store: the value of an event has no line of attributes")
	}
	var a attributes
	if err := json.Unmarshal(line, &a); err != nil {
		return nil, 0, fmt.Errorf("store: decode the attributes of an event: %w", err)
	}
	d, err := event.ParseDirection(a.Direction)
	if err != nil {
		return nil, 0, fmt.Errorf("store: decode %s: %w", a.ID, err)
	}
	return &event.Event{
		ID: a.ID, Type: a.Type, Source: a.Source, Context: a.Context, Tenant: a.Tenant, Direction: d,
		Subject: a.Subject, DataContentType: a.DataContentType, DataSchema: a.DataSchema, Extensions: a.Extensions,
		ExternalID: a.ExternalID, ExternalSource: a.ExternalSource, Time: a.Time, Received: a.Received,
		SchemaVersion: a.SchemaVersion, CorrelationIDs: a.CorrelationIDs,
		TraceParent: a.TraceParent, TraceState: a.TraceState, Receipt: a.Receipt,
		Data: data,
	}, a.Payload, nil
}
