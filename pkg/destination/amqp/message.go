package amqp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/posthornhq/posthorn/pkg/amqp"
	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/destination/cloudevent"
)

const (
	// attributePrefix is that of CloudEvents attributes (AMQP protocol binding, 3.1.3.1).
	attributePrefix = "cloudEvents:"
	// headerPublish carries what a message that comes back is known by.
	headerPublish = "posthorn-publish"
)

// publishing writes an attempt as a message.
func (a *AMQP) publishing(m *destination.Message) amqp091.Publishing {
	ev := m.Event
	headers := make(amqp091.Table, len(a.headers)+len(ev.Extensions)+14)
	for name, value := range a.headers {
		headers[name] = value
	}
	set := func(name, value string) {
		if value != "" && len(name) <= amqp.MaxShort {
			headers[name] = strings.ToValidUTF8(value, "\uFFFD")
		}
	}
	for name, value := range ev.Extensions {
		if cloudevent.IsExtension(name) {
			set(attributePrefix+name, value)
		}
	}
	set(attributePrefix+"specversion", "1.0")
	set(attributePrefix+"id", ev.CloudEventID())
	set(attributePrefix+"source", ev.CloudEventSource())
	set(attributePrefix+"type", ev.Type)
	set(attributePrefix+"time", cloudevent.Time(ev).Format(time.RFC3339Nano))
	set(attributePrefix+"subject", ev.Subject)
	set(attributePrefix+"dataschema", ev.DataSchema)
	set("traceparent", m.TraceParent)
	set("tracestate", ev.TraceState)
	set("x-correlation-id", strings.Join(ev.CorrelationIDs, ", "))
	set("posthorn-subscription", a.subscription)
	if m.Delivery != nil && m.Delivery.Attempt > 0 {
		headers["posthorn-attempt"] = int32(m.Delivery.Attempt)
	}
	return amqp091.Publishing{
		Headers:      headers,
		ContentType:  short(ev.ContentType(), "application/octet-stream"),
		DeliveryMode: amqp091.Persistent,
		MessageId:    ev.ID,
		Timestamp:    cloudevent.Time(ev),
		Type:         short(ev.Type, ""),
		AppId:        "posthorn",
		Body:         ev.Data,
	}
}

// Prepare implements [destination.Preparer]. What a message that comes back is known by
// is no part of it, since it is given when the message goes.
func (a *AMQP) Prepare(_ context.Context, m *destination.Message) destination.Request {
	msg := a.publishing(m)
	r := destination.Request{Method: "basic.publish", Target: a.to(a.routingKey(m.Event)), Body: msg.Body}
	add := func(name, value string) {
		if value != "" {
			r.Header = append(r.Header, destination.HeaderField{Name: name, Value: value})
		}
	}
	add("content_type", msg.ContentType)
	add("delivery_mode", strconv.Itoa(int(msg.DeliveryMode)))
	add("message_id", msg.MessageId)
	add("timestamp", msg.Timestamp.UTC().Format(time.RFC3339))
	add("type", msg.Type)
	add("app_id", msg.AppId)
	for _, name := range slices.Sorted(maps.Keys(msg.Headers)) {
		value := fmt.Sprint(msg.Headers[name])
		if own, ok := a.headers[name]; ok && own == value {
			value = destination.MaskedValue
		}
		add(name, value)
	}
	return r
}

// short returns s, or if no short string can hold it, instead.
func short(s, instead string) string {
	if len(s) > amqp.MaxShort {
		return instead
	}
	return s
}

// isTLS says whether err is about a handshake or a certificate.
func isTLS(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return true
	}
	op, ok := errors.AsType[*net.OpError](err)
	return ok && (op.Op == "remote error" || op.Op == "local error")
}
