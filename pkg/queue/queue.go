package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
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

// Enqueue starts to put a delivery into its policy's shared lane, or with d.Own
// into its subscription's; it is there when the result's Wait returns. Putting the
// same delivery (event, subscription and round) twice within
// [topology.DuplicateWindow] puts it once. trace is the W3C traceparent to go with it.
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
	if d.Place > 0 {
		h.Set(topology.HeaderPlace, strconv.FormatUint(d.Place, 10))
	}
	return q.pub.Start(&nats.Msg{Subject: subject(d), Header: h, Data: []byte(d.Event)})
}

func subject(d *event.Delivery) string {
	if d.Own {
		return topology.OwnDeliverySubject(d.Subscription, d.Part)
	}
	return topology.DeliverySubject(d.Policy, d.Priority, d.Subscription)
}

// Move puts a leased delivery into its subscription's own lane, with the tries that
// it has had, and ends the lease. The copy is there before the original goes; if
// this dies in between, the original comes again, and is tried or moved again; the
// claims tell which of the messages is the one.
//
// The try that the lease stands for was not made and is not counted.
func (q *Queue) Move(ctx context.Context, l *Lease, part int) error {
	if err := q.Copy(ctx, l, part); err != nil {
		return err
	}
	return l.Done()
}

// Copy is the first half of [Queue.Move]: it leaves the lease as it is.
func (q *Queue) Copy(ctx context.Context, l *Lease, part int) error {
	d := l.delivery
	from := d.Sequence
	h := nats.Header{}
	// A name of its own, the same if this publish is repeated, but not if the message
	// is handed out again: what became of the copy before is for the claims to say. It
	// may be gone because this one was still there.
	h.Set(jetstream.MsgIDHeader, d.Key()+".from."+strconv.FormatUint(from, 10)+"."+strconv.Itoa(d.Attempt))
	h.Set(topology.HeaderRevision, strconv.FormatUint(d.Revision, 10))
	h.Set(topology.HeaderFrom, lineage(&d))
	h.Set(topology.HeaderQueued, strconv.FormatInt(d.Queued.UnixNano(), 10))
	if d.Attempt > 1 {
		h.Set(topology.HeaderTries, strconv.Itoa(d.Attempt-1))
	}
	if l.trace != "" {
		h.Set(topology.HeaderTrace, l.trace)
	}
	if d.Round > 1 {
		h.Set(topology.HeaderRound, strconv.Itoa(d.Round))
	}
	if d.Place > 0 {
		h.Set(topology.HeaderPlace, strconv.FormatUint(d.Place, 10))
	}
	msg := &nats.Msg{Subject: topology.OwnDeliverySubject(d.Subscription, part), Header: h, Data: []byte(d.Event)}
	p := q.pub.Start(msg)
	ack, err := p.Wait(ctx)
	if err == nil && ack.Duplicate {
		err = q.copyAgain(ctx, msg, ack.Sequence, d.Key())
	}
	if err != nil {
		return fmt.Errorf("queue: move %s: %w", d.Key(), err)
	}
	return nil
}

// copyAgain writes a copy that the server took for one that it has had, at a sequence,
// unless that one is there: a consumer that was made anew counts how often it handed
// out a message from 1 again.
func (q *Queue) copyAgain(ctx context.Context, msg *nats.Msg, seq uint64, key string) error {
	was, err := q.Get(ctx, seq)
	if err == nil && was.Key() == key {
		return nil
	}
	if err != nil && errs.KindOf(err) != errs.NotFound {
		return err
	}
	msg.Header.Del(jetstream.MsgIDHeader) // if this is repeated, the claims tell the copies apart
	p := q.pub.Start(msg)
	_, err = p.Wait(ctx)
	return err
}

// mostAncestors bounds what a delivery that is moved carries of the messages that it
// was moved from. One that is moved so often before the first of them is gone is not
// to be expected.
const mostAncestors = 16

// lineage lists the sequences that a copy of a delivery has had.
func lineage(d *event.Delivery) string {
	b := strconv.AppendUint(nil, d.Sequence, 10)
	for _, seq := range d.From[:min(len(d.From), mostAncestors-1)] {
		b = strconv.AppendUint(append(b, ','), seq, 10)
	}
	return string(b)
}

// ancestors reads what lineage wrote.
func ancestors(header string) []uint64 {
	var out []uint64
	for v := range strings.SplitSeq(header, ",") {
		if seq, err := strconv.ParseUint(v, 10, 64); err == nil && len(out) < mostAncestors {
			out = append(out, seq)
		}
	}
	return out
}

// A Lane is where deliveries wait: the shared lane of a policy and a priority, or
// the own lane of a subscription, or a part of it.
type Lane struct {
	// Of a shared lane.
	Policy   string
	Priority event.Priority
	// Of an own lane; Subscription is empty in a shared one. Part counts from 1
	// where an ordered lane has several.
	Subscription string
	Part         int
}

// Shared returns the shared lane of a policy and a priority.
func Shared(policy string, p event.Priority) Lane { return Lane{Policy: policy, Priority: p} }

// Own returns a part of the own lane of a subscription; 0 is a lane of one.
func Own(subscription string, part int) Lane { return Lane{Subscription: subscription, Part: part} }

// String returns the name of the lane's consumer.
func (l Lane) String() string {
	if l.Subscription != "" {
		return topology.OwnLaneConsumer(l.Subscription, l.Part)
	}
	return topology.LaneConsumer(l.Policy, l.Priority)
}

func (l Lane) filter() string {
	if l.Subscription != "" {
		return topology.OwnDeliverySubject(l.Subscription, l.Part)
	}
	return topology.LaneFilter(l.Policy, l.Priority)
}

// A LaneConfig says how a lane's deliveries are handed out.
type LaneConfig struct {
	Lane
	// Ordered lanes, which are own ones, hand out one delivery at a time.
	Ordered bool
	// MaxDeliver is how often a delivery is handed out, -1 without end; AckWait is
	// how long a lease lasts.
	MaxDeliver int
	AckWait    time.Duration
	// Describe is shown to operators as the consumer's metadata.
	Describe map[string]string
}

// EnsureLane creates a lane's consumer, or gives it new settings. Deliveries
// that are queued or leased stay as they are.
func (q *Queue) EnsureLane(ctx context.Context, c LaneConfig) error {
	cfg := topology.Lane(c.Policy, c.Priority, c.MaxDeliver, c.AckWait, c.Describe)
	if c.Subscription != "" {
		cfg = topology.OwnLane{
			Subscription: c.Subscription, Part: c.Part, Ordered: c.Ordered,
			MaxDeliver: c.MaxDeliver, AckWait: c.AckWait, Describe: c.Describe,
		}.Consumer()
	}
	if err := q.ensure(ctx, cfg); err != nil {
		return fmt.Errorf("queue: lane %s: %w", cfg.Durable, err)
	}
	return nil
}

const (
	// ensureTries is how often a consumer is asked for whose namesake is going, and
	// ensurePause the time in between.
	ensureTries = 10
	ensurePause = 20 * time.Millisecond
)

// ensure creates or updates a consumer, also while one of its name is being deleted.
//
// nats-server (2.15) gives the name free before it removes the directory. A consumer
// that is created in between loses its own with it: it hands out messages, but it keeps
// nothing and refuses every update. Such a one is made anew.
func (q *Queue) ensure(ctx context.Context, cfg jetstream.ConsumerConfig) error {
	for try := 1; ; try++ {
		_, err := q.js.CreateOrUpdateConsumer(ctx, topology.StreamDeliveries, cfg)
		api, ok := errors.AsType[*jetstream.APIError](err)
		if !ok || try == ensureTries || api.ErrorCode != jetstream.JSErrCodeConsumerCreate && api.ErrorCode != jetstream.JSErrCodeConsumerDoesNotExist {
			return err
		}
		// Not at the first sight of it: another process may be about it.
		if try > 1 && homeless(api) {
			q.log.Warn("the server lost a consumer's directory; the consumer is made anew, and what is leased is handed out again", "consumer", cfg.Durable, "err", err)
			if err := q.js.DeleteConsumer(ctx, topology.StreamDeliveries, cfg.Durable); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
				return err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(ensurePause):
		}
	}
}

// homeless reports whether the server says that a consumer's directory is not there:
// it passes on the words of its operating system, with a file's name.
func homeless(err *jetstream.APIError) bool {
	return strings.Contains(err.Description, "meta.inf")
}

// Empty reports whether nothing waits in a lane and nothing of it is leased. A lane
// without a consumer is empty if the stream has nothing for it.
func (q *Queue) Empty(ctx context.Context, l Lane) (bool, error) {
	c, err := q.js.Consumer(ctx, topology.StreamDeliveries, l.String())
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return false, fmt.Errorf("queue: look at lane %s: %w", l, err)
	}
	if err == nil {
		if info := c.CachedInfo(); info.NumPending > 0 || info.NumAckPending > 0 {
			return false, nil
		}
	}
	// The consumer's own count may be behind for a moment; the stream's is not.
	b, err := stream.From(ctx, q.js, topology.StreamDeliveries, l.filter(), 1, 1, func(*jetstream.RawStreamMsg) error { return nil })
	if err != nil {
		return false, fmt.Errorf("queue: look at lane %s: %w", l, err)
	}
	return b.N == 0, nil
}

// removeWait bounds how long a lane hands out nothing while it is removed, should
// whoever removes it die.
const removeWait = 5 * time.Second

// RemoveLane deletes the consumer of a lane that is empty; what is queued in a
// lane that is not makes it answer false, and the lane stays.
func (q *Queue) RemoveLane(ctx context.Context, l Lane) (bool, error) {
	if empty, err := q.Empty(ctx, l); err != nil || !empty {
		return false, err
	}
	// What comes from now on is not handed out: the lease would go with the consumer,
	// and the next consumer would hand it out a second time.
	_, err := q.js.PauseConsumer(ctx, topology.StreamDeliveries, l.String(), time.Now().Add(removeWait))
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("queue: remove lane %s: %w", l, err)
	}
	if empty, err := q.Empty(ctx, l); err != nil || !empty {
		if _, rErr := q.js.ResumeConsumer(ctx, topology.StreamDeliveries, l.String()); rErr != nil && err == nil {
			err = fmt.Errorf("queue: keep lane %s: %w", l, rErr)
		}
		return false, err
	}
	if err := q.js.DeleteConsumer(ctx, topology.StreamDeliveries, l.String()); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return false, fmt.Errorf("queue: remove lane %s: %w", l, err)
	}
	// Whoever made it anew meanwhile may have got a broken one: see ensure.
	c, err := q.js.Consumer(ctx, topology.StreamDeliveries, l.String())
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		return true, nil
	case err == nil:
		err = q.ensure(ctx, c.CachedInfo().Config)
	}
	if err != nil {
		return false, fmt.Errorf("queue: look after lane %s: %w", l, err)
	}
	return true, nil
}

// Queued counts the deliveries in each subscription's own lane.
func (q *Queue) Queued(ctx context.Context) (map[string]uint64, error) {
	s, err := q.js.Stream(ctx, topology.StreamDeliveries)
	if err != nil {
		return nil, fmt.Errorf("queue: count own lanes: %w", err)
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(topology.OwnDeliveries))
	if err != nil {
		return nil, fmt.Errorf("queue: count own lanes: %w", err)
	}
	out := map[string]uint64{}
	for subj, n := range info.State.Subjects {
		if d, ok := topology.ParseDeliverySubject(subj); ok {
			out[d.Subscription] += n
		}
	}
	return out, nil
}

// Used lists the lanes that deliveries are in, whether they have a consumer or not.
func (q *Queue) Used(ctx context.Context) (map[Lane]bool, error) {
	s, err := q.js.Stream(ctx, topology.StreamDeliveries)
	if err != nil {
		return nil, fmt.Errorf("queue: list the lanes in use: %w", err)
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(topology.LiveDeliveries))
	if err != nil {
		return nil, fmt.Errorf("queue: list the lanes in use: %w", err)
	}
	out := map[Lane]bool{}
	for subj := range info.State.Subjects {
		switch d, ok := topology.ParseDeliverySubject(subj); {
		case ok && d.Own:
			out[Own(d.Subscription, d.Part)] = true
		case ok:
			out[Shared(d.Policy, d.Priority)] = true
		}
	}
	return out, nil
}

// A LaneState is what a lane's consumer says of itself.
type LaneState struct {
	Lane
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
		l, ok := parseLane(info.Name)
		if !ok {
			continue // somebody else's consumer
		}
		out = append(out, LaneState{Lane: l, Waiting: info.NumPending, Pending: info.NumAckPending})
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("queue: list lanes: %w", err)
	}
	return out, nil
}

func parseLane(consumer string) (Lane, bool) {
	if policy, p, ok := topology.ParseLaneConsumer(consumer); ok {
		return Shared(policy, p), true
	}
	sub, part, ok := topology.ParseOwnLaneConsumer(consumer)
	return Own(sub, part), ok
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
	d, ok := topology.ParseDeliverySubject(subject)
	if !ok {
		return event.Delivery{}, fmt.Errorf("queue: message %d has subject %q, which is no delivery's", seq, subject)
	}
	d.Event, d.Round, d.Sequence, d.Queued = string(data), 1, seq, at
	// What is missing or malformed here was written by hand; the event is
	// found by its ID all the same.
	if n, err := strconv.ParseUint(h.Get(topology.HeaderRevision), 10, 64); err == nil {
		d.Revision = n
	}
	if n, err := strconv.Atoi(h.Get(topology.HeaderRound)); err == nil && n > 0 {
		d.Round = n
	}
	if v := h.Get(topology.HeaderPlace); v != "" {
		d.Place, _ = strconv.ParseUint(v, 10, 64)
	}
	if v := h.Get(topology.HeaderFrom); v != "" {
		d.From = ancestors(v)
		if n, err := strconv.Atoi(h.Get(topology.HeaderTries)); err == nil && n > 0 {
			d.Tries = n
		}
		if n, err := strconv.ParseInt(h.Get(topology.HeaderQueued), 10, 64); err == nil && n > 0 {
			d.Queued = time.Unix(0, n)
		}
	}
	return d, nil
}
