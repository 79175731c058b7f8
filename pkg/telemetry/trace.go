package telemetry

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/trace"
)

// A traceparent of version 00 is "00-<32 hex trace>-<16 hex span>-<2 hex
// flags>" (W3C Trace Context, 3.2.2).
const (
	traceparentLen = 55
	traceEnd       = 35
	spanStart      = 36
	spanEnd        = 52

	zeroTrace = "00000000000000000000000000000000"
	zeroSpan  = "0000000000000000"
)

// Extract returns the trace context of a request if it is valid, unchanged, and
// otherwise a new root. The root is flagged as sampled, because the platform
// records each step of every event. A tracestate that is invalid, or
// that comes without a valid traceparent, is dropped as the specification says.
func Extract(header http.Header) (traceparent, tracestate string) {
	values := header["Traceparent"]
	if len(values) != 1 || !validTraceparent(values[0]) {
		return newTraceparent("", "01"), ""
	}
	traceparent = values[0]
	if traceparent[:2] != "00" {
		// What a later version appends we cannot pass on as ours.
		traceparent = "00" + traceparent[2:traceparentLen]
	}
	return traceparent, validTracestate(header["Tracestate"])
}

// Child returns the trace context of a new span in the trace of traceparent,
// with the same flags, or a new root if traceparent is not valid.
func Child(traceparent string) string {
	if !validTraceparent(traceparent) {
		return newTraceparent("", "01")
	}
	return newTraceparent(traceparent[3:traceEnd], traceparent[spanEnd+1:traceparentLen])
}

// newTraceparent makes a span ID, and a trace ID if there is none. They have to
// be unique, not secret, so the runtime's generator does.
func newTraceparent(traceID, flags string) string {
	var raw [16]byte
	var buf [traceparentLen]byte
	b := append(buf[:0], "00-"...)
	if traceID != "" {
		b = append(b, traceID...)
	} else {
		binary.BigEndian.PutUint64(raw[:8], nonZero())
		binary.BigEndian.PutUint64(raw[8:], rand.Uint64())
		b = hex.AppendEncode(b, raw[:])
	}
	b = append(b, '-')
	binary.BigEndian.PutUint64(raw[:8], nonZero())
	b = hex.AppendEncode(b, raw[:8])
	b = append(b, '-')
	b = append(b, flags...)
	return string(b)
}

// nonZero returns a random number that is valid as an ID, which all zeroes are not.
func nonZero() uint64 {
	for {
		if n := rand.Uint64(); n != 0 {
			return n
		}
	}
}

// validTraceparent follows the specification (3.2.2.3, 4.3): version ff is
// invalid, version 00 has its exact length, later ones may append fields.
func validTraceparent(s string) bool {
	if len(s) < traceparentLen || s[2] != '-' || s[traceEnd] != '-' || s[spanEnd] != '-' {
		return false
	}
	version, traceID, span := s[:2], s[3:traceEnd], s[spanStart:spanEnd]
	if len(s) > traceparentLen && (version == "00" || s[traceparentLen] != '-') {
		return false
	}
	return isHex(version) && version != "ff" &&
		isHex(traceID) && traceID != zeroTrace &&
		isHex(span) && span != zeroSpan &&
		isHex(s[spanEnd+1:traceparentLen])
}

// validTracestate joins the header's values, and returns nothing if they are
// not a list that the specification allows.
func validTracestate(values []string) string {
	if len(values) == 0 {
		return ""
	}
	state := strings.Join(values, ",")
	if _, err := trace.ParseTraceState(state); err != nil {
		return ""
	}
	return state
}
