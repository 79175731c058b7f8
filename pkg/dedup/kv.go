package dedup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/stream"
)

const (
	// tryTimeout bounds one request; patience is for how long they are repeated,
	// longer than an election takes.
	tryTimeout = 2 * time.Second
	patience   = 15 * time.Second

	firstWait = 2 * time.Millisecond
	longWait  = 250 * time.Millisecond

	// A released key is marked as deleted, in the way of KV buckets, until the
	// marker expires.
	headerOperation = "KV-Operation"
	operationDelete = "DEL"
	markerTTL       = time.Second

	headerSequence = "Nats-Sequence" // of a message that Direct Get returns
	headerStatus   = "Status"
)

// KV keeps claims in KV bucket dedup of JetStream.
//
// A claim is one message, with a time to live, that the server takes only if its
// key has none. The Create of a KV bucket's client would do up to three writes,
// and a request of another kind before it.
type KV struct {
	nc      *nats.Conn
	subject string // what the subjects of all keys begin with
	direct  string // where a Direct Get for the subject that follows goes
	leader  string // where a request for a message goes that the leader answers
	info    string // where a request for the stream's state goes
}

var _ Claims = (*KV)(nil)

// NewKV returns claims in the bucket that jetstream/topology declares. It asks
// the server nothing.
func NewKV(js jetstream.JetStream) *KV {
	name := topology.BucketStream(topology.BucketDedup)
	api := apiPrefix(js.Options())
	return &KV{
		nc:      js.Conn(),
		subject: topology.KeySubject(topology.BucketDedup, ""),
		direct:  api + "DIRECT.GET." + name + ".",
		leader:  api + "STREAM.MSG.GET." + name,
		info:    api + "STREAM.INFO." + name,
	}
}

func apiPrefix(o jetstream.JetStreamOptions) string {
	switch {
	case o.Domain != "":
		return "$JS." + o.Domain + ".API."
	case o.APIPrefix != "":
		return strings.TrimSuffix(o.APIPrefix, ".") + "."
	}
	return jetstream.DefaultAPIPrefix
}

// Claim implements [Claims].
func (k *KV) Claim(ctx context.Context, key, owner string, ttl time.Duration) (Claim, error) {
	if err := check(owner, ttl); err != nil {
		return Claim{}, fmt.Errorf("dedup: claim: %w", err)
	}
	subject := k.keySubject(key)
	var (
		replaces uint64 // the revision of a release that the claim replaces
		unknown  bool   // whether an earlier try may have been stored
		t        = newTries()
	)
	for {
		rev, err := k.publish(ctx, subject, owner, ttl, &replaces)
		if err == nil {
			return Claim{Owner: owner, Fresh: true, revision: rev}, nil
		}
		if last, ok := lastSequence(err); ok {
			var held Claim
			held, err = k.last(ctx, subject, last)
			if err == nil && held.Owner != "" {
				held.Fresh = unknown && held.Mine(owner)
				return held, nil
			}
			if err == nil && held.revision != replaces {
				replaces = held.revision
				continue
			}
		} else if _, refused := errors.AsType[*jetstream.APIError](err); !refused {
			unknown = true
		}
		if err = t.again(ctx, "claim", err); err != nil {
			return Claim{}, err
		}
	}
}

// Done implements [Claims].
func (k *KV) Done(ctx context.Context, key, owner string, ttl time.Duration) error {
	if err := check(owner, ttl); err != nil {
		return fmt.Errorf("dedup: done: %w", err)
	}
	subject, value := k.keySubject(key), Claim{Owner: owner, Done: true}.value()
	for t := newTries(); ; {
		_, err := k.publish(ctx, subject, value, ttl, nil)
		if err == nil {
			return nil
		}
		if err = t.again(ctx, "done", err); err != nil {
			return err
		}
	}
}

// Takeover implements [Claims].
func (k *KV) Takeover(ctx context.Context, key string, old Claim, owner string, ttl time.Duration) (bool, error) {
	if err := check(owner, ttl); err != nil {
		return false, fmt.Errorf("dedup: takeover: %w", err)
	}
	subject := k.keySubject(key)
	unknown := false
	for t := newTries(); ; {
		held, err := k.fromLeader(ctx, subject)
		switch {
		case err != nil:
		case unknown && held.Mine(owner):
			return true, nil // the try that was not answered
		case held.Owner != old.Owner || held.Done != old.Done || old.revision != 0 && held.revision != old.revision:
			return false, nil
		default:
			_, err = k.publish(ctx, subject, owner, ttl, &held.revision)
			if err == nil {
				return true, nil
			}
			if _, changed := lastSequence(err); changed && !unknown {
				return false, nil
			}
			unknown = true
		}
		if err = t.again(ctx, "takeover", err); err != nil {
			return false, err
		}
	}
}

// Release implements [Claims].
func (k *KV) Release(ctx context.Context, key, owner string) error {
	if err := check(owner, time.Second); err != nil {
		return fmt.Errorf("dedup: release: %w", err)
	}
	subject := k.keySubject(key)
	for t := newTries(); ; {
		held, err := k.fromLeader(ctx, subject)
		if err == nil {
			if !held.Mine(owner) {
				return nil
			}
			_, err = k.publish(ctx, subject, "", markerTTL, &held.revision)
			if _, changed := lastSequence(err); changed || err == nil {
				return nil
			}
		}
		if err = t.again(ctx, "release", err); err != nil {
			return err
		}
	}
}

// Peek returns the claim that holds, without an owner if there is none. On
// replicas it may be some milliseconds old.
func (k *KV) Peek(ctx context.Context, key string) (Claim, error) {
	c, err := k.last(ctx, k.keySubject(key), 0)
	if err != nil {
		return Claim{}, unanswered(ctx, "peek", err)
	}
	return c, nil
}

// Empty reports whether there is no claim at all.
func (k *KV) Empty(ctx context.Context) (bool, error) {
	var info struct {
		State jetstream.StreamState `json:"state"`
		Error *jetstream.APIError   `json:"error"`
	}
	resp, err := k.request(ctx, &nats.Msg{Subject: k.info})
	if err == nil {
		err = json.Unmarshal(resp.Data, &info)
	}
	if err == nil && info.Error != nil {
		err = info.Error
	}
	if err != nil {
		return false, unanswered(ctx, "state of the bucket", err)
	}
	return info.State.Msgs == 0, nil
}

func (k *KV) keySubject(key string) string {
	var buf [256]byte
	return string(appendKey(append(buf[:0], k.subject...), key))
}

// publish stores value for ttl, and returns its revision. If replaces is given,
// the server takes it only if that is the revision of the key's last message, 0
// meaning none. An empty value is the marker of a released key.
func (k *KV) publish(ctx context.Context, subject, value string, ttl time.Duration, replaces *uint64) (uint64, error) {
	seconds := int64((ttl + time.Second - 1) / time.Second)
	h := make(nats.Header, 2)
	h[jetstream.MsgTTLHeader] = []string{strconv.FormatInt(seconds, 10)}
	if replaces != nil {
		h[jetstream.ExpectedLastSubjSeqHeader] = []string{strconv.FormatUint(*replaces, 10)}
	}
	if value == "" {
		h[headerOperation] = []string{operationDelete}
	}
	resp, err := k.request(ctx, &nats.Msg{Subject: subject, Header: h, Data: []byte(value)})
	if err != nil {
		return 0, err
	}
	rev, err := parseAck(resp.Data)
	return rev, stream.ClaimFailed(err)
}

// request is one try.
func (k *KV) request(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	resp, err := k.nc.RequestMsgWithContext(ctx, m)
	return resp, stream.ClaimFailed(err)
}

// parseAck reads a PubAck. The common one, {"stream":"KV_dedup","seq":7}, is
// read by hand, which encoding/json does at several times the cost.
func parseAck(data []byte) (uint64, error) {
	if _, rest, ok := bytes.Cut(data, []byte(`"seq":`)); ok && !bytes.Contains(data, []byte(`"error"`)) {
		n := 0
		for n < len(rest) && '0' <= rest[n] && rest[n] <= '9' {
			n++
		}
		if seq, err := strconv.ParseUint(string(rest[:n]), 10, 64); err == nil && seq > 0 {
			return seq, nil
		}
	}
	var ack struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(data, &ack); err != nil || ack.Error == nil {
		return 0, fmt.Errorf("answer %.200q is no acknowledgement of a stream", data)
	}
	return 0, ack.Error
}

// lastSequence returns the sequence that a key really has, if err says that it
// was not the expected one. The server has it in the description only.
func lastSequence(err error) (uint64, bool) {
	if !stream.WrongSequence(err) {
		return 0, false
	}
	api, ok := errors.AsType[*jetstream.APIError](err)
	if !ok {
		return 0, false
	}
	seq, err := strconv.ParseUint(api.Description[strings.LastIndexByte(api.Description, ' ')+1:], 10, 64)
	if err != nil {
		seq = 1 << 63 // not known: no replica's word is enough
	}
	return seq, true
}

// last returns a key's last message at sequence atLeast or later. It asks any
// replica, and the leader if that one lags or has none. A claim without owner
// is none, or a released one if it has a revision.
func (k *KV) last(ctx context.Context, subject string, atLeast uint64) (Claim, error) {
	resp, err := k.request(ctx, &nats.Msg{Subject: k.direct + subject})
	if err != nil {
		return Claim{}, err
	}
	if resp.Header.Get(headerStatus) == "" {
		rev, err := strconv.ParseUint(resp.Header.Get(headerSequence), 10, 64)
		if err == nil && rev >= atLeast {
			return claimOf(resp.Header, resp.Data, rev), nil
		}
	} else if atLeast == 0 {
		return Claim{}, nil
	}
	return k.fromLeader(ctx, subject)
}

// fromLeader is last without replicas.
func (k *KV) fromLeader(ctx context.Context, subject string) (Claim, error) {
	req, err := json.Marshal(map[string]string{"last_by_subj": subject})
	if err != nil {
		return Claim{}, err
	}
	resp, err := k.request(ctx, &nats.Msg{Subject: k.leader, Data: req})
	if err != nil {
		return Claim{}, err
	}
	var got struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Sequence uint64 `json:"seq"`
			Header   []byte `json:"hdrs"`
			Data     []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(resp.Data, &got); err != nil {
		return Claim{}, fmt.Errorf("message of %s: %w", subject, err)
	}
	if got.Error != nil {
		if got.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return Claim{}, nil
		}
		return Claim{}, got.Error
	}
	var h nats.Header
	if len(got.Message.Header) > 0 {
		if h, err = nats.DecodeHeadersMsg(got.Message.Header); err != nil {
			return Claim{}, fmt.Errorf("headers of %s: %w", subject, err)
		}
	}
	return claimOf(h, got.Message.Data, got.Message.Sequence), nil
}

func claimOf(h nats.Header, data []byte, revision uint64) Claim {
	var c Claim
	if h.Get(headerOperation) == "" {
		c = parseValue(string(data))
	}
	c.revision = revision
	return c
}

// tries is the patience of one call.
type tries struct {
	until time.Time
	wait  time.Duration
}

func newTries() tries {
	return tries{until: time.Now().Add(patience), wait: firstWait}
}

// again waits before the next try, or returns the error to give up with.
func (t *tries) again(ctx context.Context, op string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("dedup: %s: %w", op, context.Cause(ctx))
	}
	if stream.IsFull(err) {
		return errs.Wrap(fmt.Errorf("dedup: %s: %w", op, err), errs.Full, "the memory of duplicates is full; try again when some have expired")
	}
	if err == nil {
		err = errors.New("the leader does not show the message that it has")
	} else if _, changed := lastSequence(err); !changed && !retriable(err) {
		return fmt.Errorf("dedup: %s: %w", op, err)
	}
	if time.Now().After(t.until) {
		return unanswered(ctx, op, err)
	}
	timer := time.NewTimer(t.wait)
	defer timer.Stop()
	t.wait = min(2*t.wait, longWait)
	select {
	case <-timer.C:
	case <-ctx.Done(): // told by the next try
	}
	return nil
}

// retriable reports whether the same request may be answered a little later. Its
// outcome is not known.
func retriable(err error) bool {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		// The first only says that a write is in flight; the others are what
		// a server without leader, or one that starts, answers.
		return api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant || api.Code == 503
	}
	for _, e := range []error{
		context.DeadlineExceeded, nats.ErrNoResponders, nats.ErrTimeout, nats.ErrDisconnected,
		nats.ErrReconnectBufExceeded, nats.ErrConnectionReconnecting,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
