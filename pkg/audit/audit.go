package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/stream"
)

// What was done to a resource.
const (
	Created = "created"
	Updated = "updated"
	Deleted = "deleted"
	Rotated = "rotated"
	// Of a job, which ends by itself otherwise.
	Cancelled = "cancelled"
)

// A Change is one edit of one resource.
type Change struct {
	Kind   string `json:"kind"` // "sources", "subscriptions", …
	Name   string `json:"name"`
	Action string `json:"action"`
	// Who is the caller as the platform knows it.
	Who string    `json:"who"`
	At  time.Time `json:"at"`
	// Revision is that of the new value in its bucket; 0 when it was deleted.
	Revision uint64 `json:"revision,omitempty"`
	// Fields are those that differ from before, as paths in JSON's names.
	// "secrets" says that they were replaced.
	Fields []string `json:"fields,omitempty"`
	// Before and After are the resource without its secrets; missing where there
	// was or is none, or where it is larger than [MaxDocument].
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
	// ID is that of the record; not stored.
	ID string `json:"-"`
}

// MaxDocument is the largest Before or After of a change that is recorded, in
// bytes, so that both fit into one message.
const MaxDocument = 256 << 10

// A Publisher publishes and waits until the stream has it. It is satisfied by
// *stream.Publisher.
type Publisher interface {
	Publish(ctx context.Context, msg *nats.Msg) (*jetstream.PubAck, error)
}

var _ Publisher = (*stream.Publisher)(nil)

// A Recorder records changes.
type Recorder struct{ pub Publisher }

// New returns a Recorder that publishes through pub.
func New(pub Publisher) *Recorder { return &Recorder{pub: pub} }

// Record returns when the stream has c.
func (r *Recorder) Record(ctx context.Context, c Change) error {
	if len(c.Before) > MaxDocument {
		c.Before = nil
	}
	if len(c.After) > MaxDocument {
		c.After = nil
	}
	data, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("audit: encode change of %s %s: %w", c.Kind, c.Name, err)
	}
	msg := &nats.Msg{Subject: topology.AuditSubject(token(c.Kind), token(c.Name)), Data: data, Header: nats.Header{}}
	if c.Revision > 0 {
		// A revision is written once, so a repeat of its record is the same one.
		msg.Header.Set(jetstream.MsgIDHeader, c.Kind+"."+c.Name+"."+strconv.FormatUint(c.Revision, 10))
	}
	if _, err := r.pub.Publish(ctx, msg); err != nil {
		return fmt.Errorf("audit: record that %s %s was %s: %w", c.Kind, c.Name, c.Action, err)
	}
	return nil
}

// token returns a name as one token of a subject; most are one already.
func token(name string) string {
	return strings.ReplaceAll(url.PathEscape(name), ".", "%2E")
}
