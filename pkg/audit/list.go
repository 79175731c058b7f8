package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/stream"
)

// A Query selects changes. Empty fields select all.
type Query struct {
	Kind, Name, Who string
	From, To        time.Time
	Limit           int
	// Before is the ID of the last one seen; empty begins with the newest.
	Before string
}

// List returns changes, newest first, and the ID to go on before; empty when
// there are no more.
func List(ctx context.Context, js jetstream.JetStream, q Query) ([]Change, string, error) {
	var before uint64
	if q.Before != "" {
		n, err := strconv.ParseUint(q.Before, 10, 64)
		if err != nil {
			return nil, "", errs.Field("cursor", "%q is not one that a list gave", q.Before)
		}
		before = n
	}
	kind, name := "*", "*"
	if q.Kind != "" {
		kind = token(q.Kind)
	}
	if q.Name != "" {
		name = token(q.Name)
	}
	var out []Change
	ended := false // what follows is older than asked for
	next, err := stream.Backwards(ctx, js, topology.StreamAudit, topology.AuditSubject(kind, name), before, func(m *jetstream.RawStreamMsg) (bool, error) {
		if !q.From.IsZero() && m.Time.Before(q.From) {
			ended = true
			return false, nil
		}
		if !q.To.IsZero() && !m.Time.Before(q.To) {
			return true, nil
		}
		var c Change
		if err := json.Unmarshal(m.Data, &c); err != nil {
			return false, fmt.Errorf("audit: decode %d: %w", m.Sequence, err)
		}
		c.ID = strconv.FormatUint(m.Sequence, 10)
		if q.Who == "" || q.Who == c.Who {
			out = append(out, c)
		}
		return len(out) < q.Limit, nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("audit: list: %w", err)
	}
	if next == 0 || ended {
		return out, "", nil
	}
	return out, strconv.FormatUint(next, 10), nil
}
