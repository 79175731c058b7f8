package api

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/pattern"
	"github.com/posthornhq/posthorn/pkg/wire"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// Events is what was accepted.
type Events interface {
	// Get returns an event with its data, or an error of kind [errs.NotFound].
	Get(ctx context.Context, id string) (*event.Event, error)
	// List returns a page of events, newest first, and the cursor of the next
	// page, "" on the last. A cursor that it did not make is Invalid.
	List(ctx context.Context, q EventQuery) ([]EventSummary, string, error)
}

// An EventQuery says which events are wanted. Empty fields want all.
type EventQuery struct {
	Type                    string // a type or a pattern of types; valid
	Source, Context, Tenant string
	Status                  string // one of [EventStatuses]
	// ID is that of the only event wanted; Subscription keeps those that have a
	// delivery to it, whose status then counts alone; Answer is the HTTP status of
	// the last attempt at some delivery: "503", "5xx", or "0" for no answer.
	ID, Subscription, Answer string
	Direction                *event.Direction
	From, To                 time.Time // of acceptance; From is included, To is not
	Limit                    int       // 1 to MaxLimit
	Cursor                   string
}

// EventStatuses are what can be said of an event and its deliveries together.
var EventStatuses = []string{"accepted", "unmatched", "pending", "delivered", "retrying", "failed"}

// An EventSummary is an event in a list.
type EventSummary struct {
	ID, Type, Source, Context, Tenant string
	Direction                         event.Direction
	Received                          time.Time
	Sequence                          uint64 // of its ID on stream EVENTS
	Status                            string // one of [EventStatuses]
}

// A Tracer tells all that happened to an event, or that there is none of that
// ID ([errs.NotFound]).
type Tracer interface {
	Trace(ctx context.Context, id string) (*Trace, error)
}

// A Trace is all that happened to an event.
type Trace struct {
	ID, Type, Source, Status string
	TraceParent              string
	CorrelationIDs           []string
	Entries                  []TraceEntry // in the order of time
}

// A TraceEntry is one thing that happened.
type TraceEntry struct {
	At                    time.Time
	Step, Outcome, Detail string
	Took                  time.Duration
	// Subscription, Round and Attempt are set in steps of one delivery.
	Subscription string
	Round        int
	Attempt      *event.Attempt
}

// A Replayer delivers a stored event again to whom it matches now, and returns
// the number of deliveries that it queued.
type Replayer interface {
	Replay(ctx context.Context, id string) (int, error)
}

// Rejections is the record of publishes that were refused.
type Rejections interface {
	// List returns a page, newest first, and the cursor of the next. A cursor that
	// it did not make is Invalid.
	List(ctx context.Context, q RejectionQuery) ([]event.Rejection, string, error)
}

// A RejectionQuery says which rejections are wanted. Empty fields want all.
type RejectionQuery struct {
	Source, Context string
	// Status of the answer: "401", or a family such as "4xx".
	Status   string
	From, To time.Time
	Limit    int // 1 to MaxLimit
	Cursor   string
}

type eventServer struct {
	posthornv1.UnimplementedEventServiceServer
	edge
	deps *Deps
}

func (s eventServer) PublishEvent(ctx context.Context, req *posthornv1.PublishEventRequest) (*posthornv1.PublishEventResponse, error) {
	// What is wrong with it is the broker's to say, who also records the refusal.
	res, err := s.deps.Broker.SendOutgoingEvent(ctx, &posthornv1.SendOutgoingEventRequest{
		Event: outgoing(ctx, req), IdempotencyKey: req.GetIdempotencyKey(),
	})
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return &posthornv1.PublishEventResponse{Id: res.GetReceipt().GetId(), Duplicate: res.GetReceipt().GetDuplicate()}, nil
}

func (s eventServer) PublishEvents(ctx context.Context, req *posthornv1.PublishEventsRequest) (*posthornv1.PublishEventsResponse, error) {
	if len(req.GetEvents()) == 0 {
		return nil, s.status(ctx, errs.Field("events", "is empty"))
	}
	batch := &posthornv1.PublishBatchRequest{Events: make([]*posthornv1.PublishRequest, len(req.GetEvents()))}
	for i, e := range req.GetEvents() {
		batch.Events[i] = &posthornv1.PublishRequest{Event: outgoing(ctx, e), IdempotencyKey: e.GetIdempotencyKey()}
	}
	res, err := s.deps.Broker.PublishBatch(ctx, batch)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	if len(res.GetResults()) != len(batch.Events) {
		return nil, s.status(ctx, errs.New(errs.Internal, "the broker answered %d of %d events", len(res.GetResults()), len(batch.Events)))
	}
	out := &posthornv1.PublishEventsResponse{Results: make([]*posthornv1.PublishEventsResponse_Result, len(res.GetResults()))}
	for i, r := range res.GetResults() {
		out.Results[i] = &posthornv1.PublishEventsResponse_Result{
			Id: r.GetReceipt().GetId(), Duplicate: r.GetReceipt().GetDuplicate(), Error: r.GetRefusal(),
		}
	}
	return out, nil
}

// outgoing returns the event of a request. The two share the data.
func outgoing(ctx context.Context, req *posthornv1.PublishEventRequest) *posthornv1.Event {
	parent, state := traceOf(ctx)
	return &posthornv1.Event{
		Type: req.GetType(), Source: req.GetSource(), Context: req.GetContext(), Tenant: req.GetTenant(),
		Direction: posthornv1.Event_OUTGOING, Subject: req.GetSubject(), Time: req.GetTime(),
		DataContentType: req.GetDataContentType(), DataSchema: req.GetDataSchema(), Data: req.GetData(),
		Extensions: req.GetExtensions(), Traceparent: parent, Tracestate: state,
	}
}

func (s eventServer) GetEvent(ctx context.Context, req *posthornv1.GetEventRequest) (*posthornv1.Event, error) {
	e, err := s.deps.Events.Get(ctx, req.GetId())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return wire.FromEvent(e), nil
}

func (s eventServer) ListEvents(ctx context.Context, req *posthornv1.ListEventsRequest) (*posthornv1.ListEventsResponse, error) {
	q, err := eventQuery(req)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	found, next, err := s.deps.Events.List(ctx, q)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	out := &posthornv1.ListEventsResponse{NextCursor: next, Items: make([]*posthornv1.EventSummary, len(found))}
	for i, e := range found {
		out.Items[i] = &posthornv1.EventSummary{
			Id: e.ID, Type: e.Type, Source: e.Source, Context: e.Context, Tenant: e.Tenant,
			Direction: wire.FromDirection(e.Direction), ReceivedAt: wire.Timestamp(e.Received), Sequence: e.Sequence, Status: e.Status,
		}
	}
	return out, nil
}

func eventQuery(req *posthornv1.ListEventsRequest) (EventQuery, error) {
	q := EventQuery{
		Type: req.GetType(), Source: req.GetSource(), Context: req.GetContext(), Tenant: req.GetTenant(),
		Status: req.GetStatus(), Cursor: req.GetCursor(),
	}
	var err error
	if q.Limit, err = pageLimit(req.GetLimit()); err != nil {
		return q, err
	}
	if q.From, q.To, err = between(req.GetFrom(), req.GetTo()); err != nil {
		return q, err
	}
	q.ID, q.Subscription, q.Answer = req.GetEventId(), req.GetSubscription(), req.GetAnswer()
	if q.Subscription != "" {
		if err := pattern.ValidName("subscription", q.Subscription); err != nil {
			return q, err
		}
	}
	if err := validStatus("answer", q.Answer); err != nil {
		return q, err
	}
	if q.Status != "" && !slices.Contains(EventStatuses, q.Status) {
		return q, errs.Field("status", "is %q, must be one of %s", q.Status, strings.Join(EventStatuses, ", "))
	}
	if q.Type != "" {
		if _, err := pattern.Parse(q.Type); err != nil {
			return q, errs.Field("type", "%v", err)
		}
	}
	switch strings.ToUpper(req.GetDirection()) {
	case "":
	case "INCOMING", "IN":
		q.Direction = new(event.Incoming)
	case "OUTGOING", "OUT":
		q.Direction = new(event.Outgoing)
	default:
		return q, errs.Field("direction", "is %q, must be INCOMING or OUTGOING", req.GetDirection())
	}
	return q, nil
}

func between(from, to *timestamppb.Timestamp) (f, t time.Time, err error) {
	f, t = wire.Time(from), wire.Time(to)
	return f, t, timeRange(f, t)
}

func (s eventServer) TraceEvent(ctx context.Context, req *posthornv1.TraceEventRequest) (*posthornv1.TraceEventResponse, error) {
	t, err := s.deps.Tracer.Trace(ctx, req.GetId())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	out := &posthornv1.TraceEventResponse{
		Id: t.ID, Type: t.Type, Source: t.Source, Status: t.Status, Traceparent: t.TraceParent,
		CorrelationIds: t.CorrelationIDs, Entries: make([]*posthornv1.TraceEntry, len(t.Entries)),
	}
	for i, e := range t.Entries {
		out.Entries[i] = &posthornv1.TraceEntry{
			At: wire.Timestamp(e.At), Step: e.Step, Outcome: e.Outcome, Detail: e.Detail, Took: wire.Duration(e.Took),
			Subscription: e.Subscription, Round: int32(e.Round), Attempt: fromAttempt(e.Attempt),
		}
	}
	return out, nil
}

func fromAttempt(a *event.Attempt) *posthornv1.Attempt {
	if a == nil {
		return nil
	}
	return &posthornv1.Attempt{
		Number: int32(a.Number), Outcome: string(a.Outcome), Status: int32(a.Status), Latency: wire.Duration(a.Latency),
		// What an endpoint answered need not be text; protobuf's strings are.
		ErrorClass: a.ErrorClass, Error: strings.ToValidUTF8(a.Error, "\uFFFD"), Response: strings.ToValidUTF8(a.Response, "\uFFFD"),
		NextAt: wire.Timestamp(a.NextAt), Destination: a.Destination,
	}
}

func (s eventServer) ReplayEvent(ctx context.Context, req *posthornv1.ReplayEventRequest) (*posthornv1.ReplayEventResponse, error) {
	n, err := s.deps.Replayer.Replay(ctx, req.GetId())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return &posthornv1.ReplayEventResponse{Deliveries: int32(n)}, nil
}

func (s eventServer) ListRejections(ctx context.Context, req *posthornv1.ListRejectionsRequest) (*posthornv1.ListRejectionsResponse, error) {
	limit, err := pageLimit(req.GetLimit())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	from, to, err := between(req.GetFrom(), req.GetTo())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	if req.GetSource() != "" {
		if err := pattern.ValidName("source", req.GetSource()); err != nil {
			return nil, s.status(ctx, err)
		}
	}
	if err := validStatus("status", req.GetStatus()); err != nil {
		return nil, s.status(ctx, err)
	}
	found, next, err := s.deps.Rejections.List(ctx, RejectionQuery{
		Source: req.GetSource(), Status: req.GetStatus(), Context: req.GetContext(), From: from, To: to, Limit: limit, Cursor: req.GetCursor(),
	})
	if err != nil {
		return nil, s.status(ctx, err)
	}
	out := &posthornv1.ListRejectionsResponse{NextCursor: next, Items: make([]*posthornv1.Rejection, len(found))}
	for i, r := range found {
		out.Items[i] = &posthornv1.Rejection{
			Id: r.ID, At: wire.Timestamp(r.At), Source: r.Source, Context: r.Context, Type: r.Type, Status: int32(r.Status),
			Reason: r.Reason, Detail: strings.ToValidUTF8(r.Detail, "\uFFFD"), RemoteAddress: r.RemoteAddr, Receipt: wire.FromSteps(r.Receipt),
		}
		for _, v := range r.Violations {
			out.Items[i].Violations = append(out.Items[i].Violations, &posthornv1.Violation{Field: v.Field, Description: v.Description})
		}
	}
	return out, nil
}
