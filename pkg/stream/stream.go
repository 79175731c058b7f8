package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/pkg/errs"
)

const (
	// RetryFor is how long a publish is tried. Elections take seconds.
	RetryFor = 20 * time.Second

	// ackTimeout bounds one try.
	ackTimeout = 5 * time.Second
	retryWait  = 100 * time.Millisecond
	// maxPending bounds the messages of one Publisher that wait for an answer.
	maxPending = 8192
)

// A Publisher publishes over one connection. Messages on one connection reach
// the server in the order in which they were started.
type Publisher struct {
	js jetstream.JetStream
}

// New returns a Publisher on nc. It has a JetStream context of its own, so that
// its pending publishes are nobody else's.
func New(nc *nats.Conn) (*Publisher, error) {
	js, err := jetstream.New(nc,
		jetstream.WithPublishAsyncMaxPending(maxPending),
		jetstream.WithPublishAsyncTimeout(ackTimeout))
	if err != nil {
		return nil, fmt.Errorf("stream: new publisher: %w", err)
	}
	return &Publisher{js: js}, nil
}

// JetStream returns the context that the publisher uses, for reading.
func (p *Publisher) JetStream() jetstream.JetStream { return p.js }

// maxSubject bounds a subject, in bytes. With the words before and behind it, a line
// to the server may have 4 KiB; the server ends the connection of whoever sends a
// longer one, and the client does not connect again.
const maxSubject = 3500

// A Pending is a publish that was started.
type Pending struct {
	p     *Publisher
	msg   *nats.Msg
	fut   jetstream.PubAckFuture
	err   error
	begun time.Time
}

// Start sends msg and does not wait; [Pending.Wait] does. It blocks only while
// too many publishes are pending. msg must not be modified before Wait returns.
func (p *Publisher) Start(msg *nats.Msg) Pending {
	if len(msg.Subject) > maxSubject {
		err := errs.New(errs.Invalid, "a subject of %d bytes is more than NATS takes", len(msg.Subject))
		return Pending{p: p, msg: msg, err: err, begun: time.Now()}
	}
	msg.Reply = "" // of a try before
	fut, err := p.js.PublishMsgAsync(msg)
	return Pending{p: p, msg: msg, fut: fut, err: err, begun: time.Now()}
}

// Wait blocks until the stream has the message, or has refused it, or ctx is
// done. Errors of ours are of kind [errs.Full] when the stream is full and
// [errs.Unavailable] when it could not be reached for [RetryFor]; what else the
// server says is a [*jetstream.APIError] in the chain.
func (w *Pending) Wait(ctx context.Context) (*jetstream.PubAck, error) {
	for {
		ack, err := w.wait(ctx)
		switch {
		case err == nil:
			return ack, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("stream: publish to %s: %w", w.msg.Subject, context.Cause(ctx))
		case !Temporary(err):
			return nil, Refused(w.msg.Subject, err)
		}
		err = failed(failedPublishes, err)
		if time.Since(w.begun) > RetryFor {
			return nil, errs.Wrap(fmt.Errorf("stream: publish to %s: %w", w.msg.Subject, err),
				errs.Unavailable, "the event store does not answer; try again later")
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryWait):
		}
		w.msg.Reply = ""
		w.fut, w.err = w.p.js.PublishMsgAsync(w.msg)
	}
}

func (w *Pending) wait(ctx context.Context) (*jetstream.PubAck, error) {
	if w.err != nil {
		return nil, w.err
	}
	select {
	case ack := <-w.fut.Ok():
		return ack, nil
	case err := <-w.fut.Err():
		return nil, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Again starts the same publish once more, after Wait said that it was refused.
func (w *Pending) Again() { *w = w.p.Start(w.msg) }

// Publish sends msg and waits until the stream has it.
func (p *Publisher) Publish(ctx context.Context, msg *nats.Msg) (*jetstream.PubAck, error) {
	w := p.Start(msg)
	return w.Wait(ctx)
}

// Codes of nats-server 2.15 (server/errors.json) that nats.go has no name for.
const (
	codeNoResources    = 10023 // insufficient resources
	codeStoreFailed    = 10077 // "maximum bytes exceeded" and the like
	codeClusterNoPeer  = 10005
	codeNotLeader      = 10009
	codeUnavailable    = 10008
	codeMemLimit       = 10028
	codeStorageLimit   = 10047
	codeBatchDuplicate = 10201
)

// Refused returns what a refused publish to a stream or subject means to a
// client: of kind [errs.Full] when a limit is reached, else err as it is.
func Refused(where string, err error) error {
	err = failed(failedPublishes, fmt.Errorf("stream: publish to %s: %w", where, err))
	if IsFull(err) {
		return errs.Wrap(err, errs.Full, "the event store is full of undelivered events; try again when some have drained").Because("full")
	}
	return err
}

// IsFull reports whether err is the server's word that a limit is reached.
func IsFull(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	if !ok {
		return false
	}
	switch api.ErrorCode {
	case codeNoResources, codeStoreFailed, codeMemLimit, codeStorageLimit:
		return true
	}
	return false
}

// WrongSequence reports whether err says that a message with an expected last
// sequence came to a subject that had another one.
func WrongSequence(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}

// DuplicateInBatch reports whether err says that an atomic batch has a message
// ID that the stream has already.
func DuplicateInBatch(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.ErrorCode == codeBatchDuplicate
}

// Temporary reports whether the same publish may succeed a little later.
func Temporary(err error) bool {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		switch api.ErrorCode {
		case jetstream.JSErrCodeStreamWrongLastSequenceConstant, // only says that a write is in flight
			codeUnavailable, codeNotLeader, codeClusterNoPeer, jetstream.JSErrCodeJetStreamNotEnabled:
			return true
		}
		return false
	}
	for _, e := range []error{
		jetstream.ErrNoStreamResponse, jetstream.ErrAsyncPublishTimeout, jetstream.ErrTooManyStalledMsgs,
		nats.ErrNoResponders, nats.ErrTimeout, nats.ErrDisconnected, nats.ErrReconnectBufExceeded,
		nats.ErrConnectionReconnecting,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
