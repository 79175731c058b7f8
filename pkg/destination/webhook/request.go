package webhook

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/destination/cloudevent"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/signature"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// newRequest makes the request of one attempt. Nothing of it is reused: the
// transport may still be writing one whose answer, or whose end, is known.
func (w *Webhook) newRequest(ctx context.Context, m *destination.Message) *http.Request {
	body := w.body(m)
	req := w.template.WithContext(ctx)
	req.Header = w.header(m, body)
	if len(body) > 0 {
		// The transport knows these types as bytes in memory, and sends header and
		// body in one packet; it flushes before a reader that may block.
		req.Body = io.NopCloser(bytes.NewReader(body))
		req.ContentLength = int64(len(body))
		// Asked for only when a kept connection turned out to be closed before the
		// first byte was written.
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	}
	return req
}

// body returns what is sent, which must not be changed.
func (w *Webhook) body(m *destination.Message) []byte {
	if w.format == posthornv1.Webhook_CLOUDEVENTS_STRUCTURED {
		return cloudevent.Structured(m.Event)
	}
	return m.Event.Data
}

// A headerMaker fills a header whose values share one array.
type headerMaker struct {
	header http.Header
	values []string
}

// set needs key in canonical form.
func (h *headerMaker) set(key, value string) {
	h.values = append(h.values, value)
	n := len(h.values)
	h.header[key] = h.values[n-1 : n : n]
}

// setIf is set for values that may be missing, or come from outside and be none
// that a header can carry. One that cannot must not make the event undeliverable.
func (h *headerMaker) setIf(key, value string) {
	if value != "" && httpguts.ValidHeaderFieldValue(value) {
		h.set(key, value)
	}
}

func (w *Webhook) header(m *destination.Message, body []byte) http.Header {
	ev := m.Event
	n := 16 + len(ev.Extensions) // all that is set below
	h := headerMaker{header: make(http.Header, n+len(w.static)), values: make([]string, 0, n)}
	for _, f := range w.static {
		h.header[f.key] = f.values
	}

	// What is computed is written to one buffer and becomes one string.
	buf := make([]byte, 0, 384)
	buf = strconv.AppendInt(buf, m.Now.Unix(), 10)
	timestamp := len(buf)
	buf = signature.SignStandard(buf, w.keys, ev.ID, m.Now, body)
	standard := len(buf)
	if w.certes != nil {
		buf = w.signer.Append(buf, body)
	}
	certes := len(buf)
	buf = cloudevent.Time(ev).AppendFormat(buf, time.RFC3339Nano)
	text := string(buf)

	h.set("Webhook-Id", ev.ID)
	h.set("Webhook-Timestamp", text[:timestamp])
	h.set("Webhook-Signature", text[timestamp:standard])
	h.setIf("Hmac-Sig", text[standard:certes])
	if m.Delivery != nil && m.Delivery.Attempt > 0 {
		h.set("Webhook-Attempt", strconv.Itoa(m.Delivery.Attempt))
	}
	if w.jwtHeader != "" {
		h.set(w.jwtHeader, w.jwtPrefix+signature.DeliveryJWT(w.certes, w.jwtIssuer, w.subscription, ev.ID, body, m.Now))
	}
	h.setIf("Traceparent", m.TraceParent)
	h.setIf("Tracestate", ev.TraceState)
	h.setIf("X-Correlation-Id", strings.Join(ev.CorrelationIDs, ", "))

	switch w.format {
	case posthornv1.Webhook_CLOUDEVENTS_STRUCTURED:
		h.set("Content-Type", "application/cloudevents+json")
	case posthornv1.Webhook_CLOUDEVENTS_BINARY:
		h.set("Content-Type", contentType(ev))
		h.setAttributes(ev, text[certes:])
	default:
		h.set("Content-Type", contentType(ev))
	}
	return h.header
}

// setAttributes sets the ce- headers of CloudEvents binary mode.
func (h *headerMaker) setAttributes(ev *event.Event, when string) {
	h.set("Ce-Id", cloudevent.Encode(ev.CloudEventID()))
	h.set("Ce-Source", cloudevent.Encode(ev.CloudEventSource()))
	h.set("Ce-Type", cloudevent.Encode(ev.Type))
	h.set("Ce-Time", when)
	if ev.Subject != "" {
		h.set("Ce-Subject", cloudevent.Encode(ev.Subject))
	}
	if ev.DataSchema != "" {
		h.set("Ce-Dataschema", cloudevent.Encode(ev.DataSchema))
	}
	for name, value := range ev.Extensions {
		if cloudevent.IsExtension(name) {
			h.set(http.CanonicalHeaderKey("ce-"+name), cloudevent.Encode(value))
		}
	}
}

// contentType returns the event's, or if no header can carry that, one that
// promises nothing.
func contentType(ev *event.Event) string {
	if t := ev.ContentType(); httpguts.ValidHeaderFieldValue(t) {
		return t
	}
	return "application/octet-stream"
}
