package telemetry_test

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/posthornhq/posthorn/pkg/telemetry"
)

func TestSpansArriveWithTheIDsThatTravelled(t *testing.T) {
	t.Parallel()
	got := make(chan []*otlp.Span, 10)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		var req collector.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &req); err != nil {
			t.Errorf("%s %s: %v", r.Method, r.URL, err)
			return
		}
		var spans []*otlp.Span
		for _, rs := range req.GetResourceSpans() {
			for _, ss := range rs.GetScopeSpans() {
				spans = append(spans, ss.GetSpans()...)
			}
		}
		got <- spans
	}))
	defer srv.Close()
	s, err := telemetry.NewSpans(t.Context(), srv.URL+"/v1/traces", "test")
	if err != nil {
		t.Fatal(err)
	}
	const publisher = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	own := s.Enter(publisher)
	if own == publisher || own[:35] != publisher[:35] {
		t.Fatalf("entering %s gives %s, want another span of the trace", publisher, own)
	}
	begun := time.Unix(1_800_000_000, 0)
	s.Record(t.Context(), &telemetry.Span{
		Name: "accept order.created", Parent: publisher, Own: own, Begun: begun, Ended: begun.Add(time.Second), Kind: trace.SpanKindServer,
		Attributes: []attribute.KeyValue{attribute.String("posthorn.event", "ev_1")},
	})
	child := telemetry.Child(own)
	s.Record(t.Context(), &telemetry.Span{Name: "deliver s", Parent: own, Own: child, Begun: begun, Ended: begun, Err: errors.New("answered 503")})
	root, _ := telemetry.Extract(nil)
	s.Record(t.Context(), &telemetry.Span{Name: "root", Own: root, Begun: begun, Ended: begun})
	s.Record(t.Context(), &telemetry.Span{Name: "without IDs", Own: "00-x"})
	unsampled := strings.TrimSuffix(publisher, "01") + "00"
	s.Record(t.Context(), &telemetry.Span{Name: "not sampled", Parent: unsampled, Own: telemetry.Child(unsampled), Begun: begun, Ended: begun})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
	close(got)
	byName := map[string]*otlp.Span{}
	for spans := range got {
		for _, sp := range spans {
			byName[sp.GetName()] = sp
		}
	}
	if len(byName) != 3 {
		t.Fatalf("%d spans arrived, want 3: %v", len(byName), byName)
	}
	for name, want := range map[string]struct{ own, parent string }{
		"accept order.created": {own, publisher[36:52]}, "deliver s": {child, own[36:52]}, "root": {root, ""},
	} {
		sp := byName[name]
		if hex.EncodeToString(sp.GetTraceId()) != want.own[3:35] || hex.EncodeToString(sp.GetSpanId()) != want.own[36:52] || hex.EncodeToString(sp.GetParentSpanId()) != want.parent {
			t.Errorf("%s is %x %x below %x, want %s below %q", name, sp.GetTraceId(), sp.GetSpanId(), sp.GetParentSpanId(), want.own, want.parent)
		}
	}
	if sp := byName["accept order.created"]; sp.GetEndTimeUnixNano()-sp.GetStartTimeUnixNano() != 1e9 || len(sp.GetAttributes()) != 1 {
		t.Errorf("the span is %v, want a second with its attribute", sp)
	}
	if sp := byName["deliver s"]; sp.GetStatus().GetMessage() != "answered 503" {
		t.Errorf("the failed span is %v, want its error", sp)
	}
}

func TestNoSpansAreNoWork(t *testing.T) {
	t.Parallel()
	var s *telemetry.Spans
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	if got := s.Enter(parent); got != parent {
		t.Errorf("entering gives %s, want the caller's own", got)
	}
	s.Record(t.Context(), &telemetry.Span{Own: parent})
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
