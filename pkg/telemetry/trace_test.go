package telemetry_test

import (
	"net/http"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/posthornhq/posthorn/pkg/telemetry"
)

const (
	validParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	validTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
)

func traceHeader(parent, state string) http.Header {
	h := http.Header{}
	if parent != "" {
		h.Set("traceparent", parent)
	}
	if state != "" {
		h.Set("tracestate", state)
	}
	return h
}

func TestExtract(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name                  string
		parent, state         string
		wantParent, wantState string // an empty parent means a new root
	}{
		{"valid", validParent, "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7", validParent, "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"},
		{"not sampled stays so", validParent[:53] + "00", "", validParent[:53] + "00", ""},
		{"later version with more fields", "cc" + validParent[2:] + "-what-the-future-brings", "", validParent, ""},
		{"invalid state is dropped alone", validParent, "no equals sign", validParent, ""},
		{"state with one vendor twice", validParent, "a=1,a=2", validParent, ""},
		{"state without parent", "", "congo=t61rcWkgMzE", "", ""},
		{"none", "", "", "", ""},
		{"version 00 with more fields", validParent + "-more", "", "", ""},
		{"later version run together", "cc" + validParent[2:] + "more", "", "", ""},
		{"version ff", "ff" + validParent[2:], "", "", ""},
		{"version no hex", "0x" + validParent[2:], "", "", ""},
		{"zero trace", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", "", "", ""},
		{"zero span", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", "", "", ""},
		{"upper case", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01", "", "", ""},
		{"flags no hex", validParent[:53] + "0z", "", "", ""},
		{"dash out of place", "00-4bf92f3577b34da6a3ce929d0e0e473600f067aa0ba902b7--01", "", "", ""},
		{"short", validParent[:54], "", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			parent, state := telemetry.Extract(traceHeader(tt.parent, tt.state))
			if state != tt.wantState {
				t.Errorf("tracestate is %q, want %q", state, tt.wantState)
			}
			if tt.wantParent != "" && parent != tt.wantParent {
				t.Errorf("traceparent is %q, want %q", parent, tt.wantParent)
			}
			if tt.wantParent == "" && (parent == tt.parent || !spanContext(t, parent).IsSampled()) {
				t.Errorf("traceparent is %q, want a new, sampled root", parent)
			}
			spanContext(t, parent)
		})
	}
}

// Which of two parents is meant nobody can know.
func TestExtractOfTwoParentsIsANewRoot(t *testing.T) {
	t.Parallel()
	h := traceHeader(validParent, "")
	h.Add("traceparent", validParent)
	if parent, _ := telemetry.Extract(h); strings.Contains(parent, validTrace) {
		t.Errorf("traceparent is %q, want another trace than %q", parent, validTrace)
	}
}

func TestExtractJoinsStates(t *testing.T) {
	t.Parallel()
	h := traceHeader(validParent, "a=1")
	h.Add("tracestate", "b=2")
	if _, state := telemetry.Extract(h); state != "a=1,b=2" {
		t.Errorf("tracestate is %q, want %q", state, "a=1,b=2")
	}
}

func TestChild(t *testing.T) {
	t.Parallel()
	for _, flags := range []string{"00", "01"} {
		parent := spanContext(t, validParent[:53]+flags)
		child := spanContext(t, telemetry.Child(validParent[:53]+flags))
		if child.TraceID() != parent.TraceID() {
			t.Errorf("child's trace is %s, want its parent's, %s", child.TraceID(), parent.TraceID())
		}
		if child.SpanID() == parent.SpanID() {
			t.Errorf("child's span is its parent's, %s", child.SpanID())
		}
		if child.TraceFlags() != parent.TraceFlags() {
			t.Errorf("child's flags are %s, want its parent's, %s", child.TraceFlags(), parent.TraceFlags())
		}
	}
	for _, invalid := range []string{"", "nonsense", "ff" + validParent[2:]} {
		spanContext(t, telemetry.Child(invalid))
	}
}

// spanContext reads a traceparent with OpenTelemetry's own parser, the one that
// most receivers have.
func spanContext(t *testing.T, traceparent string) trace.SpanContext {
	t.Helper()
	carrier := propagation.MapCarrier{"traceparent": traceparent}
	sc := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(t.Context(), carrier))
	if !sc.IsValid() {
		t.Fatalf("OpenTelemetry does not accept traceparent %q", traceparent)
	}
	return sc
}

func BenchmarkExtract(b *testing.B) {
	for _, bb := range []struct {
		name   string
		header http.Header
	}{
		{"valid", traceHeader(validParent, "")},
		{"valid with state", traceHeader(validParent, "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7")},
		{"none", http.Header{}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				telemetry.Extract(bb.header)
			}
		})
	}
}

func BenchmarkChild(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		telemetry.Child(validParent)
	}
}
