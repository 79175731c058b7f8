package store

import (
	"context"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/stream"
)

// Touch writes an event anew under a new revision, so that it is young again
// for retention, and returns the revision. A retry by hand begins with it.
//
// Of several who do so at the same moment one writes, and the others get his revision.
// The event lacks data that is in the object store.
func (s *Store) Touch(ctx context.Context, id string) (*event.Event, uint64, error) {
	value, last, err := s.readValue(ctx, id)
	if err != nil {
		return nil, 0, err
	}
	for n := 1; ; n++ {
		ev, payload, err := decode(value)
		if err != nil {
			return nil, 0, err
		}
		// Only over the revision that was read: retention may be removing it.
		revision, err := s.replace(ctx, id, value, last, payload > 0)
		if err == nil {
			return ev, revision, nil
		}
		if !stream.WrongSequence(err) || n == touchTries {
			return nil, 0, err
		}
		msg, err := s.byLeader(ctx, id)
		if err != nil {
			return nil, 0, err
		}
		// What was written since this began is as young. An older one was read from a
		// replica that lags.
		if now, _, err := decode(msg.Data); n > 1 && msg.Sequence > last && err == nil {
			return now, msg.Sequence, nil
		}
		value, last = msg.Data, msg.Sequence
	}
}

// touchTries is how often Touch tries to write over what others write.
const touchTries = 10

// replace writes a new revision of an event over the last, and returns it.
func (s *Store) replace(ctx context.Context, id string, value []byte, last uint64, payload bool) (uint64, error) {
	h := nats.Header{jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(last, 10)}}
	if payload {
		h[topology.HeaderPayload] = []string{payloadObject}
	}
	ack, err := s.pub.Publish(ctx, &nats.Msg{Subject: topology.KeySubject(topology.BucketEvents, id), Header: h, Data: value})
	if stream.WrongSequence(err) {
		return 0, errs.Wrap(err, errs.Unavailable, "event %s was removed or written anew at this moment; try again", id)
	}
	if err != nil {
		return 0, s.failed("write anew", id, err)
	}
	return ack.Sequence, nil
}
