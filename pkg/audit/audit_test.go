package audit_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/audit"
	"github.com/posthornhq/posthorn/pkg/errs"
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

func TestListsAreNewestFirstAndFiltered(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	pub, err := stream.New(js.Conn())
	if err != nil {
		t.Fatal(err)
	}
	rec := audit.New(pub)
	for i, c := range []audit.Change{
		{Kind: "policies", Name: "p", Who: "ann", After: json.RawMessage(`{"a":1}`)},
		{Kind: "policies", Name: "q", Who: "bob"},
		{Kind: "sources", Name: "p", Who: "ann", After: json.RawMessage(`"` + strings.Repeat("x", audit.MaxDocument) + `"`)},
		{Kind: "policies", Name: "p", Who: "bob", Before: json.RawMessage(`{"a":1}`)},
	} {
		c.Revision, c.Action = uint64(i+1), audit.Updated
		if err := rec.Record(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name string
		q    audit.Query
		want []string
		next string
	}{
		{"all", audit.Query{Limit: 10}, []string{"4", "3", "2", "1"}, ""},
		{"a page", audit.Query{Limit: 2}, []string{"4", "3"}, "3"},
		{"the next page", audit.Query{Limit: 2, Before: "3"}, []string{"2", "1"}, "1"},
		{"a kind", audit.Query{Kind: "sources", Limit: 10}, []string{"3"}, ""},
		{"a name", audit.Query{Name: "p", Limit: 10}, []string{"4", "3", "1"}, ""},
		{"both", audit.Query{Kind: "policies", Name: "p", Limit: 10}, []string{"4", "1"}, ""},
		{"a person", audit.Query{Who: "ann", Limit: 10}, []string{"3", "1"}, ""},
		{"the future", audit.Query{From: time.Now().Add(time.Hour), Limit: 10}, nil, ""},
		{"the past", audit.Query{To: time.Now().Add(-time.Hour), Limit: 10}, nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, next, err := audit.List(t.Context(), js, tt.q)
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, c := range got {
				ids = append(ids, c.ID)
			}
			if diff := cmp.Diff(tt.want, ids); diff != "" || next != tt.next {
				t.Errorf("next is %q, want %q; IDs (-want +got):\n%s", next, tt.next, diff)
			}
		})
	}
	all, _, err := audit.List(t.Context(), js, audit.Query{Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	if string(all[0].Before) != `{"a":1}` || string(all[3].After) != `{"a":1}` || all[1].After != nil {
		t.Errorf("documents are %s, %s and %.20s, want the two small ones and not the large", all[0].Before, all[3].After, all[1].After)
	}
	if _, _, err := audit.List(t.Context(), js, audit.Query{Before: "x"}); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a cursor that is none: got error %v, want it refused", err)
	}
}
