package wire

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/posthornhq/posthorn/pkg/event"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// FromEvent returns e as a message. The two share Data and Extensions.
func FromEvent(e *event.Event) *posthornv1.Event {
	m := &posthornv1.Event{
		Id:              e.ID,
		Type:            e.Type,
		Source:          e.Source,
		Context:         e.Context,
		Tenant:          e.Tenant,
		Direction:       FromDirection(e.Direction),
		Subject:         e.Subject,
		Time:            Timestamp(e.Time),
		DataContentType: e.DataContentType,
		DataSchema:      e.DataSchema,
		Data:            e.Data,
		Extensions:      e.Extensions,
		ExternalId:      e.ExternalID,
		ExternalSource:  e.ExternalSource,
		SchemaVersion:   int32(e.SchemaVersion),
		CorrelationIds:  e.CorrelationIDs,
		Traceparent:     e.TraceParent,
		Tracestate:      e.TraceState,
		ReceivedAt:      Timestamp(e.Received),
		Receipt:         FromSteps(e.Receipt),
	}
	return m
}

// ToEvent is the inverse of [FromEvent]. A nil message is the zero event.
func ToEvent(m *posthornv1.Event) event.Event {
	if m == nil {
		return event.Event{}
	}
	return event.Event{
		ID:              m.GetId(),
		Type:            m.GetType(),
		Source:          m.GetSource(),
		Context:         m.GetContext(),
		Tenant:          m.GetTenant(),
		Direction:       ToDirection(m.GetDirection()),
		Subject:         m.GetSubject(),
		Time:            Time(m.GetTime()),
		DataContentType: m.GetDataContentType(),
		DataSchema:      m.GetDataSchema(),
		Data:            m.GetData(),
		Extensions:      m.GetExtensions(),
		ExternalID:      m.GetExternalId(),
		ExternalSource:  m.GetExternalSource(),
		SchemaVersion:   int(m.GetSchemaVersion()),
		CorrelationIDs:  m.GetCorrelationIds(),
		TraceParent:     m.GetTraceparent(),
		TraceState:      m.GetTracestate(),
		Received:        Time(m.GetReceivedAt()),
		Receipt:         toSteps(m.GetReceipt()),
	}
}

// FromDirection returns d as a message's enum.
func FromDirection(d event.Direction) posthornv1.Event_Direction {
	if d == event.Incoming {
		return posthornv1.Event_INCOMING
	}
	return posthornv1.Event_OUTGOING
}

// ToDirection returns a message's enum as a direction; outgoing when unset.
func ToDirection(d posthornv1.Event_Direction) event.Direction {
	if d == posthornv1.Event_INCOMING {
		return event.Incoming
	}
	return event.Outgoing
}

// FromSteps returns steps as messages.
func FromSteps(steps []event.Step) []*posthornv1.Step {
	if len(steps) == 0 {
		return nil
	}
	out := make([]*posthornv1.Step, len(steps))
	for i, s := range steps {
		out[i] = &posthornv1.Step{Name: s.Name, Outcome: s.Outcome, Detail: s.Detail, At: Timestamp(s.At), Took: Duration(s.Took)}
	}
	return out
}

func toSteps(steps []*posthornv1.Step) []event.Step {
	if len(steps) == 0 {
		return nil
	}
	out := make([]event.Step, len(steps))
	for i, s := range steps {
		out[i] = event.Step{Name: s.GetName(), Outcome: s.GetOutcome(), Detail: s.GetDetail(), At: Time(s.GetAt()), Took: s.GetTook().AsDuration()}
	}
	return out
}

// Timestamp returns t as a message, nil when t is zero.
func Timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// Time is the inverse of [Timestamp].
func Time(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// Duration returns d as a message, nil when d is zero.
func Duration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}
