package broker

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/telemetry"
	"github.com/posthornhq/posthorn/pkg/wire"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// window is how many messages of one stream may be unanswered. Beyond it the
// stream is not read, and gRPC's flow control holds the producer back.
const window = 512

// A Server is the EventBroker service over gRPC.
type Server struct {
	posthornv1.UnimplementedEventBrokerServer
	broker *Broker
	status Status
}

// Status says how the components are that the process works with, nil for one
// that is well, and which version it runs.
type Status func(ctx context.Context) (components map[string]error, version string)

// NewServer returns the EventBroker service of b. A nil status knows of no component.
func NewServer(b *Broker, status Status) *Server {
	if status == nil {
		status = func(context.Context) (map[string]error, string) { return nil, "" }
	}
	return &Server{broker: b, status: status}
}

// Ping answers which components are unavailable (C14).
func (s *Server) Ping(ctx context.Context, _ *posthornv1.PingRequest) (*posthornv1.PingResponse, error) {
	components, version := s.status(ctx)
	out := &posthornv1.PingResponse{Version: version}
	for _, name := range slices.Sorted(maps.Keys(components)) {
		if err := components[name]; err != nil {
			out.Unavailable = append(out.Unavailable, &posthornv1.PingResponse_Component{Name: name, Reason: err.Error()})
		}
	}
	return out, nil
}

// Register adds the service to s.
func (s *Server) Register(g *grpc.Server) { posthornv1.RegisterEventBrokerServer(g, s) }

// HandleIncomingEvent accepts an event from a foreign publisher.
func (s *Server) HandleIncomingEvent(ctx context.Context, r *posthornv1.HandleIncomingEventRequest) (*posthornv1.HandleIncomingEventResponse, error) {
	receipt, err := s.accept(ctx, r.GetEvent(), r.GetIdempotencyKey(), event.Incoming)
	if err != nil {
		return nil, wire.Status(err)
	}
	return &posthornv1.HandleIncomingEventResponse{Receipt: receipt}, nil
}

// HandleIncomingMessage is an alias of HandleIncomingEvent.
func (s *Server) HandleIncomingMessage(ctx context.Context, r *posthornv1.HandleIncomingEventRequest) (*posthornv1.HandleIncomingEventResponse, error) {
	return s.HandleIncomingEvent(ctx, r)
}

// SendOutgoingEvent accepts an event of our own for external subscribers.
func (s *Server) SendOutgoingEvent(ctx context.Context, r *posthornv1.SendOutgoingEventRequest) (*posthornv1.SendOutgoingEventResponse, error) {
	receipt, err := s.accept(ctx, r.GetEvent(), r.GetIdempotencyKey(), event.Outgoing)
	if err != nil {
		return nil, wire.Status(err)
	}
	return &posthornv1.SendOutgoingEventResponse{Receipt: receipt}, nil
}

func (s *Server) accept(ctx context.Context, m *posthornv1.Event, key string, d event.Direction) (*posthornv1.Receipt, error) {
	if m == nil {
		return nil, errs.Field("event", "is required")
	}
	ev := incoming(ctx, m)
	ev.Direction = d
	r, err := s.broker.Accept(ctx, ev, key)
	if err != nil {
		return nil, err
	}
	return &posthornv1.Receipt{Id: r.ID, Duplicate: r.Duplicate, Sequence: r.Sequence}, nil
}

// incoming reads an event as it came, with the call's trace context where the
// event has none of its own.
func incoming(ctx context.Context, m *posthornv1.Event) event.Event {
	ev := wire.ToEvent(m)
	if ev.TraceParent == "" {
		ev.TraceParent, ev.TraceState = traceOf(ctx)
	}
	return ev
}

// traceOf returns the trace context of a call, or a new root.
func traceOf(ctx context.Context) (traceparent, tracestate string) {
	md, _ := metadata.FromIncomingContext(ctx)
	h := http.Header{}
	for name, key := range map[string]string{"Traceparent": "traceparent", "Tracestate": "tracestate"} {
		if v := md.Get(key); len(v) > 0 {
			h[name] = v
		}
	}
	return telemetry.Extract(h)
}

// PublishBatch accepts many events and answers for each.
func (s *Server) PublishBatch(ctx context.Context, r *posthornv1.PublishBatchRequest) (*posthornv1.PublishBatchResponse, error) {
	batch := make([]event.Publish, len(r.GetEvents()))
	for i, p := range r.GetEvents() {
		batch[i] = event.Publish{Event: incoming(ctx, p.GetEvent()), Key: p.GetIdempotencyKey()}
	}
	out := &posthornv1.PublishBatchResponse{Results: make([]*posthornv1.PublishResponse, len(batch))}
	for i, res := range s.broker.AcceptAll(ctx, batch) {
		out.Results[i] = answer(res.Receipt, res.Err)
	}
	return out, nil
}

// Publish accepts a stream: many messages at work at once, each answered in
// the order in which it came.
func (s *Server) Publish(st posthornv1.EventBroker_PublishServer) error {
	ctx := st.Context()
	turns := make(chan chan *posthornv1.PublishResponse, window)
	sent := make(chan error, 1)
	go func() {
		sent <- sendInOrder(st, turns)
	}()
	err := s.receive(ctx, st, turns)
	close(turns)
	return errors.Join(err, <-sent)
}

func (s *Server) receive(ctx context.Context, st posthornv1.EventBroker_PublishServer, turns chan<- chan *posthornv1.PublishResponse) error {
	for {
		req, err := st.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err // a status already
		}
		turn := make(chan *posthornv1.PublishResponse, 1)
		turns <- turn // waits while the window is full; the sender never stops taking
		go func() {
			if req.GetEvent() == nil {
				turn <- answer(event.Receipt{}, errs.Field("event", "is required"))
				return
			}
			r, err := s.broker.Accept(ctx, incoming(ctx, req.GetEvent()), req.GetIdempotencyKey())
			turn <- answer(r, err)
		}()
	}
}

// sendInOrder sends every answer in its turn. After an error it goes on taking
// turns without sending, so that nobody waits for it.
func sendInOrder(st posthornv1.EventBroker_PublishServer, turns <-chan chan *posthornv1.PublishResponse) error {
	var failed error
	for turn := range turns {
		resp := <-turn
		if failed == nil {
			failed = st.Send(resp)
		}
	}
	return failed
}

func answer(r event.Receipt, err error) *posthornv1.PublishResponse {
	if err != nil {
		return &posthornv1.PublishResponse{Result: &posthornv1.PublishResponse_Refusal{Refusal: wire.Refusal(err)}}
	}
	return &posthornv1.PublishResponse{Result: &posthornv1.PublishResponse_Receipt{Receipt: &posthornv1.Receipt{
		Id: r.ID, Duplicate: r.Duplicate, Sequence: r.Sequence,
	}}}
}
