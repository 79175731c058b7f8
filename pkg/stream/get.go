package stream

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrNotFound says that the replica that answered has no such message.
var ErrNotFound = errors.New("stream: no such message")

// A Message is a message of a stream.
type Message struct {
	Subject  string
	Sequence uint64
	Time     time.Time
	Header   nats.Header
	Data     []byte
}

// Removed reports whether the message is a KV bucket's marker of a deleted key.
func (m *Message) Removed() bool {
	op := m.Header.Get("KV-Operation")
	return op == "DEL" || op == "PURGE"
}

// GetLast returns the newest message on a subject, from whichever replica is
// nearest; it may lag.
func GetLast(ctx context.Context, nc *nats.Conn, stream, subject string) (*Message, error) {
	if len(subject) > maxSubject {
		return nil, ErrNotFound // nobody could have published it
	}
	resp, err := nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+stream+"."+subject, nil)
	if err != nil {
		return nil, failed(failedGets, fmt.Errorf("stream: get the last of %s: %w", subject, err))
	}
	return direct(resp, subject)
}

// direct reads the answer to a direct get.
func direct(resp *nats.Msg, subject string) (*Message, error) {
	if status := resp.Header.Get("Status"); status != "" {
		if status == "404" {
			return nil, ErrNotFound
		}
		return nil, failed(failedGets, fmt.Errorf("stream: get from %s: status %s %s", subject, status, resp.Header.Get("Description")))
	}
	seq, err := strconv.ParseUint(resp.Header.Get(jetstream.SequenceHeader), 10, 64)
	if err != nil {
		return nil, failed(failedGets, fmt.Errorf("stream: get from %s: sequence: %w", subject, err))
	}
	at, err := time.Parse(time.RFC3339Nano, resp.Header.Get(jetstream.TimeStampHeaer))
	if err != nil {
		return nil, failed(failedGets, fmt.Errorf("stream: get from %s: time: %w", subject, err))
	}
	return &Message{Subject: subject, Sequence: seq, Time: at, Header: resp.Header, Data: resp.Data}, nil
}

// Get returns the message with a sequence, from whichever replica is nearest; it
// may lag.
func Get(ctx context.Context, nc *nats.Conn, stream string, seq uint64) (*Message, error) {
	resp, err := nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+stream, fmt.Appendf(nil, `{"seq":%d}`, seq))
	if err != nil {
		return nil, failed(failedGets, fmt.Errorf("stream: get %d of %s: %w", seq, stream, err))
	}
	return direct(resp, resp.Header.Get(jetstream.SubjectHeader))
}

// atOnce is how many messages GetAll asks for before it has an answer.
const atOnce = 16

// GetAll returns the messages with the sequences, nil for one that is not there.
func GetAll(ctx context.Context, nc *nats.Conn, stream string, seqs []uint64) ([]*Message, error) {
	out := make([]*Message, len(seqs))
	errs := make([]error, len(seqs))
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i := range seqs {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if out[i], errs[i] = Get(ctx, nc, stream, seqs[i]); errors.Is(errs[i], ErrNotFound) {
				out[i], errs[i] = GetFromLeader(ctx, nc, stream, seqs[i])
			}
			if errors.Is(errs[i], ErrNotFound) {
				out[i], errs[i] = nil, nil
			}
		})
	}
	wg.Wait()
	return out, errors.Join(errs...)
}

// GetLastFromLeader returns the newest message on a subject by the word of the
// stream's leader.
func GetLastFromLeader(ctx context.Context, nc *nats.Conn, stream, subject string) (*Message, error) {
	return getFromLeader(ctx, nc, stream, map[string]any{"last_by_subj": subject})
}

// GetFromLeader returns the message with a sequence by the word of the stream's leader.
func GetFromLeader(ctx context.Context, nc *nats.Conn, stream string, seq uint64) (*Message, error) {
	return getFromLeader(ctx, nc, stream, map[string]any{"seq": seq})
}

func getFromLeader(ctx context.Context, nc *nats.Conn, stream string, query map[string]any) (*Message, error) {
	req, err := json.Marshal(query)
	if err != nil {
		return nil, failed(failedGets, fmt.Errorf("stream: get: %w", err))
	}
	resp, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, req)
	if err != nil {
		return nil, failed(failedGets, fmt.Errorf("stream: get from %s: %w", stream, err))
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  string    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(resp.Data, &answer); err != nil {
		return nil, failed(failedGets, fmt.Errorf("stream: get from %s: %w", stream, err))
	}
	if answer.Error != nil {
		if answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return nil, ErrNotFound
		}
		return nil, failed(failedGets, fmt.Errorf("stream: get from %s: %w", stream, answer.Error))
	}
	if answer.Message == nil {
		return nil, failed(failedGets, fmt.Errorf("stream: get from %s: the answer has no message", stream))
	}
	m := answer.Message
	out := &Message{Subject: m.Subject, Sequence: m.Seq, Time: m.Time, Data: m.Data}
	if m.Header != "" {
		raw, err := base64.StdEncoding.DecodeString(m.Header)
		if err != nil {
			return nil, failed(failedGets, fmt.Errorf("stream: get from %s: headers: %w", stream, err))
		}
		if out.Header, err = nats.DecodeHeadersMsg(raw); err != nil {
			return nil, failed(failedGets, fmt.Errorf("stream: get from %s: headers: %w", stream, err))
		}
	}
	return out, nil
}
