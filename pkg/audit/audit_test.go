package audit_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/audit"
	"github.com/posthornhq/posthorn/pkg/stream"
)

func newRecorder(t *testing.T) (*audit.Recorder, jetstream.Stream) {
	t.Helper()
	js := jstest.WithTopology(t, topology.Config{})
	pub, err := stream.New(js.Conn())
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), topology.StreamAudit)
	if err != nil {
		t.Fatal(err)
	}
	return audit.New(pub), s
}

func TestAChangeIsOneMessageUnderItsNamesSubject(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, kind, resource, subject string }{
		{"a plain name", "sources", "github", "audit.sources.github"},
		{"a type with dots", "schemas", "order.created", "audit.schemas.order%2Ecreated"},
		{"what NATS reserves", "schemas", "a b.*.>/c", "audit.schemas.a%20b%2E%2A%2E%3E%2Fc"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rec, s := newRecorder(t)
			want := audit.Change{
				Kind: tt.kind, Name: tt.resource, Action: audit.Updated, Who: "admin", Revision: 7,
				At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Fields: []string{"paused"},
			}
			if err := rec.Record(t.Context(), want); err != nil {
				t.Fatal(err)
			}
			msg, err := s.GetLastMsgForSubject(t.Context(), tt.subject)
			if err != nil {
				t.Fatalf("nothing on %s: %v", tt.subject, err)
			}
			var got audit.Change
			if err := json.Unmarshal(msg.Data, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("recorded change differs (-want +got):\n%s", diff)
			}
		})
	}
}

// Who repeats a record because its answer got lost must not make it two.
func TestARevisionIsRecordedOnce(t *testing.T) {
	t.Parallel()
	rec, s := newRecorder(t)
	for _, revision := range []uint64{3, 3, 4} {
		if err := rec.Record(t.Context(), audit.Change{Kind: "policies", Name: "p", Action: audit.Created, Revision: revision}); err != nil {
			t.Fatal(err)
		}
	}
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.State.Msgs != 2 {
		t.Errorf("%d messages for two revisions, want 2", info.State.Msgs)
	}
}
