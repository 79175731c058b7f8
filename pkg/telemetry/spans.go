package telemetry

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Spans exports what the platform does for an event as OpenTelemetry spans over
// OTLP/HTTP (C18). A nil Spans exports nothing and costs nothing.
//
// The platform carries trace context as text, so a span is told of when it is
// over, with the IDs that have travelled meanwhile.
type Spans struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// NewSpans returns Spans that are sent to an OTLP/HTTP endpoint, for instance
// http://127.0.0.1:4318/v1/traces. Nothing is sent before the first span.
func NewSpans(ctx context.Context, endpoint, version string) (*Spans, error) {
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(endpoint))
	if err != nil {
		return nil, fmt.Errorf("telemetry: OpenTelemetry: %w", err)
	}
	p := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter), sdktrace.WithIDGenerator(givenIDs{}), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", "posthorn"), attribute.String("service.version", version))),
	)
	return &Spans{provider: p, tracer: p.Tracer("github.com/posthornhq/posthorn")}, nil
}

// Close sends what is left, until ctx is done.
func (s *Spans) Close(ctx context.Context) error {
	if s == nil {
		return nil
	}
	if err := s.provider.Shutdown(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("telemetry: OpenTelemetry: %w", err)
	}
	return nil
}

// Enter returns the trace context under which what follows belongs to a span of
// ours; that of the caller, if nothing is exported.
func (s *Spans) Enter(traceparent string) string {
	if s == nil {
		return traceparent
	}
	return Child(traceparent)
}

// A Span is something that is over.
type Span struct {
	Name string
	// Parent is the trace context that it began with; empty for none. Own is what
	// [Spans.Enter] or [Child] made of it.
	Parent, Own  string
	Begun, Ended time.Time
	Kind         trace.SpanKind
	Attributes   []attribute.KeyValue
	// Err is what went wrong; its text is exported.
	Err error
}

// Record exports a span. One whose trace context is not valid is left out. What
// ctx itself has of a trace counts for nothing.
func (s *Spans) Record(ctx context.Context, span *Span) {
	if s == nil || !validTraceparent(span.Own) {
		return
	}
	ctx = context.WithValue(ctx, givenID{}, span.Own)
	parent := trace.SpanContext{} // a root
	if validTraceparent(span.Parent) && span.Parent[3:traceEnd] == span.Own[3:traceEnd] {
		parent = spanContext(span.Parent)
	}
	ctx = trace.ContextWithRemoteSpanContext(ctx, parent)
	_, sp := s.tracer.Start(ctx, span.Name, trace.WithTimestamp(span.Begun), trace.WithSpanKind(span.Kind), trace.WithAttributes(span.Attributes...))
	if span.Err != nil {
		sp.SetStatus(codes.Error, span.Err.Error())
	}
	sp.End(trace.WithTimestamp(span.Ended))
}

func spanContext(traceparent string) trace.SpanContext {
	t, s := ids(traceparent)
	flags, err := hex.DecodeString(traceparent[spanEnd+1 : traceparentLen])
	if err != nil {
		return trace.SpanContext{}
	}
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: t, SpanID: s, TraceFlags: trace.TraceFlags(flags[0]), Remote: true})
}

func ids(traceparent string) (t trace.TraceID, s trace.SpanID) {
	// It is valid, so what is decoded here are digits.
	_, _ = hex.Decode(t[:], []byte(traceparent[3:traceEnd]))
	_, _ = hex.Decode(s[:], []byte(traceparent[spanStart:spanEnd]))
	return t, s
}

// givenIDs gives a span the IDs that have travelled in its name already.
type givenIDs struct{}

type givenID struct{}

func given(ctx context.Context) (trace.TraceID, trace.SpanID) {
	own, ok := ctx.Value(givenID{}).(string)
	if !ok || !validTraceparent(own) {
		own = newTraceparent("", "01")
	}
	return ids(own)
}

// NewIDs implements [sdktrace.IDGenerator], for a root.
func (givenIDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) { return given(ctx) }

// NewSpanID implements [sdktrace.IDGenerator].
func (givenIDs) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	_, s := given(ctx)
	return s
}
