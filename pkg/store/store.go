package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/pattern"
	"github.com/posthornhq/posthorn/pkg/stream"
)

// A Barrier makes durable what was written before. It is satisfied by
// *commit.Barrier.
type Barrier interface {
	Wait(ctx context.Context) error
}

// Config holds what operators may tune. The zero value is usable.
type Config struct {
	// Threshold is the size of data, in bytes, above which it goes to the object
	// store. Default 256 KiB.
	Threshold int
	// MaxBytes is the size of data above which an event is refused. Default 8 MiB.
	MaxBytes int
	// CacheBytes bounds the cache of recent events. Default 32 MiB.
	CacheBytes int
	// MaxAge is when an event that nothing needs is removed. Default 14 days.
	MaxAge time.Duration
	// Replicas says that reads may be answered by a replica that lags.
	Replicas int
}

func (c *Config) setDefaults() {
	if c.Threshold == 0 {
		c.Threshold = 256 << 10
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 8 << 20
	}
	if c.CacheBytes == 0 {
		c.CacheBytes = 32 << 20
	}
	if c.MaxAge == 0 {
		c.MaxAge = 14 * 24 * time.Hour
	}
}

// A Store keeps accepted events. It is safe for concurrent use.
type Store struct {
	nc      *nats.Conn
	pub     *stream.Publisher
	js      jetstream.JetStream
	barrier Barrier
	cache   *cache
	log     *slog.Logger
	cfg     Config
	metrics *Metrics

	// room says that retention runs in this process and may free something;
	// pressed wakes it.
	room     atomic.Bool
	pressed  chan struct{}
	patience time.Duration // how long a publisher waits for retention at most
}

// New returns a Store over one connection. The assets must be there.
func New(nc *nats.Conn, barrier Barrier, log *slog.Logger, m *Metrics, cfg Config) (*Store, error) {
	cfg.setDefaults()
	pub, err := stream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return &Store{
		nc: nc, pub: pub, js: pub.JetStream(), barrier: barrier,
		cache: newCache(cfg.CacheBytes), log: log, cfg: cfg, metrics: m.orNone(),
		pressed: make(chan struct{}, 1), patience: patience,
	}, nil
}

// NewID returns a new event ID: "ev_" and a ULID (github.com/ulid/spec).
func NewID() string {
	var b [29]byte
	copy(b[:], "ev_")
	id := ulid.Make()
	if err := id.MarshalTextTo(b[3:]); err != nil {
		return "ev_" + id.String() // the buffer has the size of a ULID, so this is not reached
	}
	return string(b[:])
}

// MaxBytes returns the largest size of data that is accepted.
func (s *Store) MaxBytes() int { return s.cfg.MaxBytes }

// A Position says where an event is.
type Position struct {
	Revision uint64 // in KV bucket events
	Sequence uint64 // of its ID on stream EVENTS
}

// Append stores an event and queues its ID. When it returns without error the
// event is durable and will be delivered. ev must not be modified any more.
func (s *Store) Append(ctx context.Context, ev *event.Event) (Position, error) {
	value, payload, err := s.prepare(ctx, ev)
	if err != nil {
		return Position{}, err
	}
	put := s.create(ev.ID, value, payload)
	revision, err := s.created(ctx, ev.ID, &put, payload)
	if err != nil {
		return Position{}, err
	}
	// Cached before it is queued: the deliveries may be faster than our answer.
	s.cache.put(ev)
	return s.queue(ctx, ev, revision, payload)
}

// queue puts the ID of a stored event onto EVENTS and waits until both are durable.
func (s *Store) queue(ctx context.Context, ev *event.Event, revision uint64, payload bool) (Position, error) {
	put := s.pub.Start(idMessage(ev, revision, payload))
	ack, err := s.wait(ctx, &put)
	if err != nil {
		return Position{}, s.failed("queue", ev.ID, err)
	}
	if err := s.barrier.Wait(ctx); err != nil {
		return Position{}, errs.Wrap(err, errs.Unavailable, "the event could not be made durable; try again later")
	}
	return Position{Revision: revision, Sequence: ack.Sequence}, nil
}

// create starts to write an event that must not be there yet: it is immutable,
// and a publish that is repeated because its answer was lost is the same one.
func (s *Store) create(id string, value []byte, payload bool) stream.Pending {
	h := createHeader
	if payload {
		h = createPayloadHeader
	}
	return s.pub.Start(&nats.Msg{Subject: topology.KeySubject(topology.BucketEvents, id), Header: h, Data: value})
}

// These are shared by all: nobody writes to a header once it is made. That data
// is in the object store stands in the header for retention, which reads no values.
var (
	createHeader        = nats.Header{jetstream.ExpectedLastSubjSeqHeader: {"0"}}
	createPayloadHeader = nats.Header{jetstream.ExpectedLastSubjSeqHeader: {"0"}, topology.HeaderPayload: {payloadObject}}
)

// payloadObject is the value of [topology.HeaderPayload].
const payloadObject = "object"

// created waits for create and returns the event's revision.
func (s *Store) created(ctx context.Context, id string, put *stream.Pending, payload bool) (uint64, error) {
	ack, err := s.wait(ctx, put)
	if err == nil {
		return ack.Sequence, nil
	}
	if !stream.WrongSequence(err) {
		err = s.failed("put", id, err)
		// The publisher comes again with another ID: what stays here nobody would
		// remove, and a full store would fill itself.
		if payload && errs.KindOf(err) == errs.Full {
			err = errors.Join(err, s.removePayload(ctx, id))
		}
		return 0, err
	}
	msg, err := stream.GetLastFromLeader(ctx, s.nc, topology.BucketStream(topology.BucketEvents), topology.KeySubject(topology.BucketEvents, id))
	if err != nil {
		return 0, s.failed("look at", id, err)
	}
	return msg.Sequence, nil
}

// wait waits for a publish. Where the stream is full it gives retention time to
// make room: a publisher is turned away only when there is nothing to remove.
func (s *Store) wait(ctx context.Context, put *stream.Pending) (*jetstream.PubAck, error) {
	ack, err := put.Wait(ctx)
	if err == nil || errs.KindOf(err) != errs.Full {
		return ack, err
	}
	for deadline := time.Now().Add(s.patience); errs.KindOf(err) == errs.Full && s.makesRoom(ctx, deadline); {
		put.Again()
		ack, err = put.Wait(ctx)
	}
	return ack, err
}

// patience is how long a publisher waits for retention by itself, roomWait how long
// between two tries.
const (
	patience = 5 * time.Second
	roomWait = 20 * time.Millisecond
)

// makesRoom wakes retention, waits a little and reports true, or false at once if
// that has no prospect.
func (s *Store) makesRoom(ctx context.Context, deadline time.Time) bool {
	if !s.room.Load() || time.Now().After(deadline) {
		return false
	}
	select {
	case s.pressed <- struct{}{}:
	default:
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(roomWait):
		return true
	}
}

// Resume finishes what an earlier try to append ev, with the same ID, may have
// begun before it died: it stores the event if it is not there, and queues its
// ID if that is not on EVENTS. It reports true if nothing was left to do.
func (s *Store) Resume(ctx context.Context, ev *event.Event) (Position, bool, error) {
	stored, revision, err := s.read(ctx, ev.ID)
	if errs.KindOf(err) == errs.NotFound {
		p, err := s.Append(ctx, ev)
		return p, false, err
	}
	if err != nil {
		return Position{}, false, err
	}
	// Its ID was queued within a publish's time of being received; the clocks of
	// who received it and of the server may differ a little.
	const skew = time.Minute
	var seq uint64
	subject := topology.EventSubject(stored.Direction, stored.Context, pattern.EncodeType(stored.Type))
	err = stream.Each(ctx, s.js, topology.StreamEvents, subject, stored.Received.Add(-skew), 1000, func(m *jetstream.RawStreamMsg) error {
		if string(m.Data) == ev.ID {
			seq = m.Sequence
			return errFound
		}
		if m.Time.After(stored.Received.Add(2*skew + stream.RetryFor)) {
			return errFound
		}
		return nil
	})
	if err != nil && !errors.Is(err, errFound) {
		return Position{}, false, s.failed("look for", ev.ID, err)
	}
	if seq > 0 {
		err := s.barrier.Wait(ctx)
		return Position{Revision: revision, Sequence: seq}, true, err
	}
	payload := len(stored.Data) > s.cfg.Threshold
	if time.Since(stored.Received) > settled/2 {
		// Retention is about to take it for an orphan.
		if revision, err = s.rewrite(ctx, stored, revision, payload); err != nil {
			return Position{}, false, err
		}
	}
	p, err := s.queue(ctx, stored, revision, payload)
	return p, false, err
}

// rewrite writes an event anew if its revision is still there, and returns the
// new one.
func (s *Store) rewrite(ctx context.Context, ev *event.Event, last uint64, payload bool) (uint64, error) {
	value, err := encode(ev, payload)
	if err != nil {
		return 0, err
	}
	return s.replace(ctx, ev.ID, value, last, payload)
}

var errFound = errors.New("found")

// batchLimit is the server's limit on messages of one atomic batch.
const batchLimit = 1000

// AppendAll stores events and queues their IDs, all or none: while an error
// comes back, none of them is queued. (Beyond 1,000 events that holds for each
// thousand.)
func (s *Store) AppendAll(ctx context.Context, evs []*event.Event) ([]Position, error) {
	for _, ev := range evs {
		if err := s.fits(ev); err != nil {
			return nil, err
		}
	}
	if len(evs) == 1 {
		p, err := s.Append(ctx, evs[0])
		return []Position{p}, err
	}
	positions := make([]Position, len(evs))
	for lo := 0; lo < len(evs); lo += batchLimit {
		hi := min(lo+batchLimit, len(evs))
		if err := s.appendBatch(ctx, evs[lo:hi], positions[lo:hi]); err != nil {
			return nil, err
		}
	}
	if err := s.barrier.Wait(ctx); err != nil {
		return nil, errs.Wrap(err, errs.Unavailable, "the events could not be made durable; try again later")
	}
	return positions, nil
}

func (s *Store) appendBatch(ctx context.Context, evs []*event.Event, positions []Position) error {
	puts, payloads := make([]stream.Pending, len(evs)), make([]bool, len(evs))
	for i, ev := range evs {
		value, payload, err := s.prepare(ctx, ev)
		if err != nil {
			return err
		}
		payloads[i] = payload
		puts[i] = s.create(ev.ID, value, payload)
	}
	msgs := make([]*nats.Msg, len(evs))
	for i, ev := range evs {
		revision, err := s.created(ctx, ev.ID, &puts[i], payloads[i])
		if err != nil {
			return err
		}
		s.cache.put(ev)
		positions[i].Revision = revision
		msgs[i] = idMessage(ev, revision, payloads[i])
	}
	last, err := s.queueBatch(ctx, msgs)
	if err != nil {
		return s.failed("queue", evs[0].ID, err)
	}
	for i := range positions {
		// For show: after a repeat they need not follow each other.
		if behind := uint64(len(positions) - 1 - i); last > behind {
			positions[i].Sequence = last - behind
		}
	}
	return nil
}

// queueBatch publishes the IDs of a batch atomically and returns the sequence
// of the last. A try whose outcome is unknown is repeated under the same
// message IDs.
func (s *Store) queueBatch(ctx context.Context, msgs []*nats.Msg) (uint64, error) {
	if len(msgs) == 1 {
		put := s.pub.Start(msgs[0])
		ack, err := s.wait(ctx, &put)
		if err != nil {
			return 0, err
		}
		return ack.Sequence, nil
	}
	begun := time.Now()
	deadline, full := begun.Add(stream.RetryFor), begun.Add(s.patience)
	for {
		ack, err := jetstreamext.PublishMsgBatch(ctx, s.js, msgs)
		switch {
		case err == nil:
			return ack.Sequence, nil
		case stream.DuplicateInBatch(err):
			return s.queueEach(ctx, msgs)
		case stream.IsFull(err) && s.makesRoom(ctx, full):
			continue
		case !stream.Temporary(err) || time.Now().After(deadline) || ctx.Err() != nil:
			return 0, stream.Refused(topology.StreamEvents, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// queueEach queues the IDs of a batch of which the stream has some already: all,
// if a try before was committed without our knowing, or one, if a publisher sent
// that event again by itself meanwhile and it was finished under the same ID.
// Those that are there are dropped by their message IDs.
func (s *Store) queueEach(ctx context.Context, msgs []*nats.Msg) (last uint64, err error) {
	puts := make([]stream.Pending, len(msgs))
	for i, m := range msgs {
		// What the atomic batch has added to it is no business of a plain publish.
		m.Header.Del(headerBatchID)
		m.Header.Del(headerBatchSequence)
		m.Header.Del(headerBatchCommit)
		puts[i] = s.pub.Start(m)
	}
	for i := range puts {
		ack, err := s.wait(ctx, &puts[i])
		if err != nil {
			return 0, err
		}
		last = ack.Sequence
	}
	return last, nil
}

// Headers of atomic batches (ADR-50 of nats-architecture-and-design).
const (
	headerBatchID       = "Nats-Batch-Id"
	headerBatchSequence = "Nats-Batch-Sequence"
	headerBatchCommit   = "Nats-Batch-Commit"
)

func (s *Store) fits(ev *event.Event) error {
	if len(ev.Data) > s.cfg.MaxBytes {
		return errs.New(errs.TooLarge, "the event's data has %d bytes; the limit is %d", len(ev.Data), s.cfg.MaxBytes)
	}
	return nil
}

// prepare checks an event, puts its data into the object store if it is large,
// and returns its value.
func (s *Store) prepare(ctx context.Context, ev *event.Event) (value []byte, payload bool, err error) {
	if err := s.fits(ev); err != nil {
		return nil, false, err
	}
	payload = len(ev.Data) > s.cfg.Threshold
	if payload {
		if err := s.putPayload(ctx, ev); err != nil {
			return nil, false, err
		}
	}
	value, err = encode(ev, payload)
	return value, payload, err
}

func (s *Store) putPayload(ctx context.Context, ev *event.Event) error {
	obs, err := s.js.ObjectStore(ctx, topology.ObjectsPayloads)
	if err != nil {
		return s.failed("open payloads for", ev.ID, err)
	}
	_, err = obs.PutBytes(ctx, ev.ID, ev.Data)
	for deadline := time.Now().Add(s.patience); stream.IsFull(err) && s.makesRoom(ctx, deadline); {
		_, err = obs.PutBytes(ctx, ev.ID, ev.Data)
	}
	if err != nil {
		return s.failed("put the payload of", ev.ID, stream.Refused(topology.ObjectsPayloads, err))
	}
	return nil
}

// Get returns an event by ID. The error is of kind [errs.NotFound] if it is not
// there, by the word of the bucket's leader.
func (s *Store) Get(ctx context.Context, id string) (*event.Event, error) {
	if ev := s.cache.get(id); ev != nil {
		return ev, nil
	}
	s.metrics.misses.Inc()
	ev, _, err := s.read(ctx, id)
	return ev, err
}

// read returns an event and its revision, past the cache.
func (s *Store) read(ctx context.Context, id string) (*event.Event, uint64, error) {
	value, rev, err := s.readValue(ctx, id)
	if err != nil {
		return nil, 0, err
	}
	ev, payload, err := decode(value)
	if err != nil {
		return nil, 0, err
	}
	if payload > 0 {
		obs, err := s.js.ObjectStore(ctx, topology.ObjectsPayloads)
		if err != nil {
			return nil, 0, s.failed("open payloads for", id, err)
		}
		ev.Data, err = obs.GetBytes(ctx, id)
		if errors.Is(err, jetstream.ErrObjectNotFound) {
			return nil, 0, missing(id)
		}
		if err != nil {
			return nil, 0, s.failed("get the payload of", id, err)
		}
	}
	s.cache.put(ev)
	return ev, rev, nil
}

// readValue asks any replica first, and where that has nothing the leader: a
// replica may lag behind the queue.
func (s *Store) readValue(ctx context.Context, id string) ([]byte, uint64, error) {
	if !ValidID(id) {
		return nil, 0, errs.New(errs.NotFound, "%.128q is not an event ID; they look like ev_01J9Z…", id)
	}
	subject := topology.KeySubject(topology.BucketEvents, id)
	st := topology.BucketStream(topology.BucketEvents)
	msg, err := stream.GetLast(ctx, s.nc, st, subject)
	switch {
	case errors.Is(err, stream.ErrNotFound):
		if msg, err = s.byLeader(ctx, id); err != nil {
			return nil, 0, err
		}
	case err != nil:
		return nil, 0, s.failed("get", id, err)
	case msg.Removed():
		return nil, 0, missing(id)
	}
	return msg.Data, msg.Sequence, nil
}

// byLeader returns the message of an event by the word of the bucket's leader.
func (s *Store) byLeader(ctx context.Context, id string) (*stream.Message, error) {
	msg, err := stream.GetLastFromLeader(ctx, s.nc, topology.BucketStream(topology.BucketEvents), topology.KeySubject(topology.BucketEvents, id))
	if errors.Is(err, stream.ErrNotFound) || err == nil && msg.Removed() {
		return nil, missing(id)
	}
	if err != nil {
		return nil, s.failed("get", id, err)
	}
	return msg, nil
}

func missing(id string) error {
	return errs.New(errs.NotFound, "event %s is not there, or is kept no longer", id)
}

// ValidID reports whether s can be an event ID.
func ValidID(s string) bool {
	if len(s) < 4 || len(s) > 64 || s[:3] != "ev_" {
		return false
	}
	for i := 3; i < len(s); i++ {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// idMessage is what goes onto EVENTS: the ID alone, and in headers what routing needs.
func idMessage(ev *event.Event, revision uint64, payload bool) *nats.Msg {
	h := make(nats.Header, 8)
	// One array for all values: this is made for every event.
	values := make([]string, 0, 8)
	set := func(k, v string) {
		if v != "" {
			values = append(values, v)
			h[k] = values[len(values)-1 : len(values) : len(values)]
		}
	}
	set(jetstream.MsgIDHeader, ev.ID)
	set(topology.HeaderType, ev.Type)
	set(topology.HeaderSource, ev.Source)
	set(topology.HeaderTenant, ev.Tenant)
	set(topology.HeaderRevision, strconv.FormatUint(revision, 10))
	set(topology.HeaderTrace, ev.TraceParent)
	if ev.SchemaVersion > 0 {
		set(topology.HeaderSchema, strconv.Itoa(ev.SchemaVersion))
	}
	if payload {
		set(topology.HeaderPayload, payloadObject)
	}
	return &nats.Msg{
		Subject: topology.EventSubject(ev.Direction, ev.Context, pattern.EncodeType(ev.Type)),
		Header:  h,
		Data:    []byte(ev.ID),
	}
}

func (s *Store) failed(what, id string, err error) error {
	if _, ok := errors.AsType[*errs.Error](err); ok {
		return fmt.Errorf("store: %s %s: %w", what, id, err)
	}
	return errs.Wrap(fmt.Errorf("store: %s %s: %w", what, id, err), errs.Unavailable, "the event store does not answer; try again later")
}

// Commit waits until everything written before is durable.
func (s *Store) Commit(ctx context.Context) error { return s.barrier.Wait(ctx) }
