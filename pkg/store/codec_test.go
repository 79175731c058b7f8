package store

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthornhq/posthorn/pkg/event"
)

func TestAStoredEventReadsAsTheBytesThatCame(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 2, 3, 4, 5, 6, 123456789, time.UTC)
	whole := event.Event{
		ID: NewID(), Type: "community.certes.dev/github/1/push", Source: "github", Context: "testing", Tenant: "acme",
		Direction: event.Incoming, Subject: "<&>\n\u2028", DataContentType: "text/plain", DataSchema: "https://example.com/s",
		Extensions: map[string]string{"a": "1", "b": "ü"}, ExternalID: "x", ExternalSource: "/y", Time: at, Received: at,
		SchemaVersion: 7, CorrelationIDs: []string{"a.1-0-0", "b.1-0-0"}, TraceParent: "00-1-2-01", TraceState: "v=1",
		Receipt: []event.Step{{Name: "hmac", Outcome: "ok", At: at, Took: time.Millisecond}},
	}
	tests := []struct {
		name string
		data string
	}{
		{"nothing", ""},
		{"white space and order of keys", "{\n  \"b\": 1,\t\"a\": 2 }\r\n"},
		{"a number beyond float64", `{"n":12345678901234567890.123456789012345678901234567890}`},
		{"HTML", `"<script>&amp;</script>"`},
		{"not UTF-8", "\xff\xfe\x00\x80"},
		{"only newlines", "\n\n\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ev := whole
			ev.Data = []byte(tt.data)
			value, err := encode(&ev, false)
			if err != nil {
				t.Fatal(err)
			}
			got, payload, err := decode(value)
			if err != nil {
				t.Fatal(err)
			}
			if payload != 0 {
				t.Errorf("payload is %d, want 0", payload)
			}
			if diff := cmp.Diff(&ev, got); diff != "" {
				t.Errorf("read back (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodeRefusesWhatIsNoEvent(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, value string }{
		{"no line", `{"id":"ev_1","direction":"out"}`},
		{"no JSON", "ev_1\n{}"},
		{"an unknown direction", "{\"id\":\"ev_1\",\"direction\":\"up\"}\n{}"},
		{"nothing", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if ev, _, err := decode([]byte(tt.value)); err == nil {
				t.Errorf("decode %q: got %+v, want an error", tt.value, ev)
			}
		})
	}
}

func FuzzDataIsKeptExactly(f *testing.F) {
	f.Add([]byte("{\"a\":1.0}\n"), "order.created", "s")
	f.Add([]byte{0, 10, 255}, "t\n", "\"")
	f.Fuzz(func(t *testing.T, data []byte, typ, subject string) {
		value, err := encode(&event.Event{ID: "ev_1", Type: typ, Subject: subject, Data: data}, false)
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := decode(value)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Data, data) {
			t.Errorf("data is %q, want %q", got.Data, data)
		}
	})
}

func FuzzDecodeDoesNotPanic(f *testing.F) {
	f.Add([]byte("{\"id\":\"ev_1\",\"direction\":\"in\"}\n{}"))
	f.Fuzz(func(_ *testing.T, value []byte) { _, _, _ = decode(value) })
}
