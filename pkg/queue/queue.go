package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/stream"
)

// A Queue writes deliveries and manages lanes. It is safe for concurrent use.
type Queue struct {
	nc  *nats.Conn
	pub *stream.Publisher
	js  jetstream.JetStream
	log *slog.Logger
}

// New returns a Queue over one connection. Stream DELIVERIES must be there.
func New(nc *nats.Conn, log *slog.Logger) (*Queue, error) {
	pub, err := stream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	return &Queue{nc: nc, pub: pub, js: pub.JetStream(), log: log}, nil
}

// Enqueue starts to put a delivery into its policy's shared lane; it is there
// when the result's Wait returns. Putting the same delivery (event,
// subscription and round) twice within [topology.DuplicateWindow] puts it once.
// trace is the W3C traceparent to go with it.
func (q *Queue) Enqueue(d *event.Delivery, trace string) stream.Pending {
	h := make(nats.Header, 4)
	values := [4]string{d.Key(), strconv.FormatUint(d.Revision, 10), trace, strconv.Itoa(d.Round)}
	h[jetstream.MsgIDHeader] = values[0:1:1]
	h[topology.HeaderRevision] = values[1:2:2]
	if trace != "" {
		h[topology.HeaderTrace] = values[2:3:3]
	}
	if d.Round > 1 {
		h[topology.HeaderRound] = values[3:4:4]
	}
	return q.pub.Start(&nats.Msg{
		Subject: topology.DeliverySubject(d.Policy, d.Priority, d.Subscription),
		Header:  h,
		Data:    []byte(d.Event),
	})
}

// A LaneConfig says how a lane's deliveries are handed out.
type LaneConfig struct {
	Policy   string
	Priority event.Priority
	// MaxDeliver is how often a delivery is handed out; AckWait is how long a
	// lease lasts.
	MaxDeliver int
	AckWait    time.Duration
	// Describe is shown to operators as the consumer's metadata.
	Describe map[string]string
}

// EnsureLane creates a lane's consumer, or gives it new settings. Deliveries
// that are queued or leased stay as they are.
func (q *Queue) EnsureLane(ctx context.Context, c LaneConfig) error {
	cfg := topology.Lane(c.Policy, c.Priority, c.MaxDeliver, c.AckWait, c.Describe)
	if _, err := q.js.CreateOrUpdateConsumer(ctx, topology.StreamDeliveries, cfg); err != nil {
		return fmt.Errorf("queue: lane %s: %w", cfg.Durable, err)
	}
	return nil
}

// RemoveLane deletes the consumer of a lane that is empty; what is queued in a
// lane that is not makes it answer false, and the lane stays.
func (q *Queue) RemoveLane(ctx context.Context, policy string, p event.Priority) (bool, error) {
	name := topology.LaneConsumer(policy, p)
	c, err := q.js.Consumer(ctx, topology.StreamDeliveries, name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("queue: look at lane %s: %w", name, err)
	}
	if info := c.CachedInfo(); info.NumPending > 0 || info.NumAckPending > 0 {
		return false, nil
	}
	// The consumer's own count may be behind for a moment; the stream's is not.
	n, _, err := stream.From(ctx, q.js, topology.StreamDeliveries, topology.LaneFilter(policy, p), 1, 1, func(*jetstream.RawStreamMsg) error { return nil })
	if err != nil {
		return false, fmt.Errorf("queue: look at lane %s: %w", name, err)
	}
	if n > 0 {
		return false, nil
	}
	if err := q.js.DeleteConsumer(ctx, topology.StreamDeliveries, name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return false, fmt.Errorf("queue: remove lane %s: %w", name, err)
	}
	return true, nil
}

// A LaneState is what a lane's consumer says of itself.
type LaneState struct {
	Policy   string
	Priority event.Priority
	// Waiting deliveries have not been handed out; Pending ones are leased or
	// wait for their next try.
	Waiting uint64
	Pending int
}

// Lanes lists the lanes that have a consumer.
func (q *Queue) Lanes(ctx context.Context) ([]LaneState, error) {
	s, err := q.js.Stream(ctx, topology.StreamDeliveries)
	if err != nil {
		return nil, fmt.Errorf("queue: list lanes: %w", err)
	}
	list := s.ListConsumers(ctx)
	var out []LaneState
	for info := range list.Info() {
		policy, p, ok := topology.ParseLaneConsumer(info.Name)
		if !ok {
			continue // somebody else's consumer
		}
		out = append(out, LaneState{Policy: policy, Priority: p, Waiting: info.NumPending, Pending: info.NumAckPending})
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("queue: list lanes: %w", err)
	}
	return out, nil
}

// Get returns the delivery at a sequence of the stream, by the word of its
// leader. The error is of kind [errs.NotFound] if none is there.
func (q *Queue) Get(ctx context.Context, seq uint64) (event.Delivery, error) {
	m, err := stream.GetFromLeader(ctx, q.nc, topology.StreamDeliveries, seq)
	if errors.Is(err, stream.ErrNotFound) {
		return event.Delivery{}, errs.New(errs.NotFound, "delivery %d is settled", seq)
	}
	if err != nil {
		return event.Delivery{}, fmt.Errorf("queue: get %d: %w", seq, err)
	}
	return parse(m.Subject, m.Header, m.Data, m.Sequence, m.Time)
}

// Remove deletes the delivery at a sequence of the stream, whoever holds it.
func (q *Queue) Remove(ctx context.Context, seq uint64) error {
	s, err := q.js.Stream(ctx, topology.StreamDeliveries)
	if err == nil {
		err = s.DeleteMsg(ctx, seq)
	}
	if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) || errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil // somebody settled it meanwhile
	}
	if err != nil {
		return fmt.Errorf("queue: remove %d: %w", seq, err)
	}
	return nil
}

// parse reads a message of DELIVERIES.
func parse(subject string, h nats.Header, data []byte, seq uint64, at time.Time) (event.Delivery, error) {
	policy, prio, sub, ok := topology.ParseDeliverySubject(subject)
	if !ok {
		return event.Delivery{}, fmt.Errorf("queue: message %d has subject %q, which is no delivery's", seq, subject)
	}
	d := event.Delivery{
		Event: string(data), Subscription: sub, Round: 1, Policy: policy, Priority: prio, Sequence: seq, Queued: at,
	}
	// What is missing or malformed here was written by hand; the event is
	// found by its ID all the same.
	if n, err := strconv.ParseUint(h.Get(topology.HeaderRevision), 10, 64); err == nil {
		d.Revision = n
	}
	if n, err := strconv.Atoi(h.Get(topology.HeaderRound)); err == nil && n > 0 {
		d.Round = n
	}
	return d, nil
}
