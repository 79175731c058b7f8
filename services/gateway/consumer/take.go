package consumer

import (
	"context"
	"fmt"
	"net/http"
	"time"
	"unicode/utf8"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/posthornhq/posthorn/pkg/amqp"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/source"
	"github.com/posthornhq/posthorn/pkg/telemetry"
	"github.com/posthornhq/posthorn/services/gateway"
)

const (
	// acceptTimeout bounds one try at storing a batch. What was begun is finished:
	// a stop does not cut it short.
	acceptTimeout = 25 * time.Second
	// rejectTimeout bounds the recording of a rejection.
	rejectTimeout = 2 * time.Second
	// closedEvery is how often a pause looks whether the connection is still there.
	closedEvery = 100 * time.Millisecond
)

// An item is a message that is neither acknowledged nor refused yet.
type item struct {
	delivery amqp091.Delivery
	in       source.Incoming
	header   http.Header // its trace, as of a request
	received time.Time
}

// take makes events of a batch and settles its messages. An error means that the
// connection is lost.
func (q *queue) take(ctx context.Context, ch *amqp091.Channel, batch []amqp091.Delivery) error {
	begun := time.Now()
	items := make([]item, 0, len(batch))
	for i := range batch {
		d := &batch[i]
		if d.Redelivered {
			q.Metrics.redelivered.WithLabelValues(q.source.Name()).Inc()
		}
		it := item{delivery: *d, received: begun, header: traceOf(d.Headers)}
		var err error
		if it.in, err = q.read(d, begun); err != nil {
			q.reject(ctx, err)
			if err := q.refuse(d); err != nil {
				return err
			}
			continue
		}
		items = append(items, it)
	}
	for tries := 1; len(items) > 0; tries++ {
		var err error
		var last error
		if items, last, err = q.store(ctx, items); err != nil || len(items) == 0 {
			return err
		}
		if tries == 1 {
			q.log.Error("messages of an AMQP source cannot be stored now; they wait", "messages", len(items), "err", last)
		}
		q.Metrics.held.WithLabelValues(q.source.Name()).Set(float64(len(items)))
		goOn := q.wait(ctx, ch, amqp.Pause(tries)) && time.Since(begun) < q.cfg.HoldFor
		q.Metrics.held.WithLabelValues(q.source.Name()).Set(0)
		if !goOn {
			return q.requeue(ch, items)
		}
	}
	return nil
}

// wait pauses. It reports false when there is no reason to go on.
func (q *queue) wait(ctx context.Context, ch *amqp091.Channel, d time.Duration) bool {
	timer, tick := time.NewTimer(d), time.NewTicker(closedEvery)
	defer timer.Stop()
	defer tick.Stop()
	for !ch.IsClosed() {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-tick.C:
		}
	}
	return false
}

// requeue gives messages back to their queue.
func (q *queue) requeue(ch *amqp091.Channel, items []item) error {
	q.Metrics.messages.WithLabelValues(q.source.Name(), requeued).Add(float64(len(items)))
	// The last stands for all: what came before it is settled or among them.
	if err := ch.Nack(items[len(items)-1].delivery.DeliveryTag, true, true); err != nil {
		return fmt.Errorf("give messages of queue %q back: %w", q.spec.GetQueue(), err)
	}
	return nil
}

// read makes an event of a message.
func (q *queue) read(d *amqp091.Delivery, now time.Time) (source.Incoming, error) {
	if int64(len(d.Body)) > q.cfg.MaxBytes {
		return source.Incoming{}, errs.New(errs.TooLarge, "the body has %d bytes; the limit is %d", len(d.Body), q.cfg.MaxBytes).Because("too-large")
	}
	headers, _ := plain(d.Headers).(map[string]any)
	in, err := q.source.ReceiveMessage(&source.Message{
		Exchange: d.Exchange, RoutingKey: d.RoutingKey, Redelivered: d.Redelivered,
		ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, MessageID: d.MessageId, Type: d.Type, AppID: d.AppId, UserID: d.UserId,
		CorrelationID: d.CorrelationId, ReplyTo: d.ReplyTo, Expiration: d.Expiration, Priority: d.Priority, Timestamp: d.Timestamp,
		Headers: headers, Body: d.Body,
	})
	if err != nil {
		return in, err
	}
	ev := &in.Event
	ev.Source, ev.Context, ev.Direction, ev.Received = q.source.Name(), q.source.Context(), event.Incoming, now.UTC()
	return in, nil
}

// store hands items to the broker, settles those that it took or refused for
// good, and returns the others, with what is wrong.
func (q *queue) store(ctx context.Context, items []item) (again []item, wrong, lost error) {
	batch := make([]event.Publish, len(items))
	for i := range items {
		batch[i] = items[i].publish()
	}
	acceptCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), acceptTimeout)
	defer cancel()
	results := q.Accept.AcceptAll(acceptCtx, batch)

	// All of them at once, if that is true of all: on this channel everything
	// before them is settled.
	all := true
	for i := range results {
		all = all && results[i].Err == nil
	}
	for i := range results {
		d := &items[i].delivery
		switch err := results[i].Err; {
		case err == nil:
			q.count(&results[i].Receipt)
			if !all || i == len(results)-1 {
				if err := d.Ack(all); err != nil {
					return nil, nil, fmt.Errorf("acknowledge a message of queue %q: %w", q.spec.GetQueue(), err)
				}
			}
		case forGood(err): // the broker has recorded it
			if err := q.refuse(d); err != nil {
				return nil, nil, err
			}
		default:
			again, wrong = append(again, items[i]), err
		}
	}
	return again, wrong, nil
}

func (q *queue) count(r *event.Receipt) {
	outcome := accepted
	if r.Duplicate {
		outcome = duplicate
	}
	q.Metrics.messages.WithLabelValues(q.source.Name(), outcome).Inc()
}

// forGood reports whether an event can never be stored. All else is the platform's
// own, and may pass.
func forGood(err error) bool {
	kind := errs.KindOf(err)
	return kind == errs.Invalid || kind == errs.TooLarge
}

// refuse sends a message to the queue's dead-letter exchange.
func (q *queue) refuse(d *amqp091.Delivery) error {
	q.Metrics.messages.WithLabelValues(q.source.Name(), refused).Inc()
	if err := d.Nack(false, false); err != nil {
		return fmt.Errorf("refuse a message of queue %q: %w", q.spec.GetQueue(), err)
	}
	return nil
}

// reject records what was refused before the broker saw it.
func (q *queue) reject(ctx context.Context, err error) {
	status := http.StatusBadRequest
	if errs.KindOf(err) == errs.TooLarge {
		status = http.StatusRequestEntityTooLarge
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rejectTimeout)
	defer cancel()
	rej := &event.Rejection{
		Source: q.source.Name(), Context: q.source.Context(), Status: status, Reason: errs.ReasonOf(err), Detail: errs.MessageOf(err),
		Violations: errs.ViolationsOf(err), RemoteAddr: q.endpoint.Address, At: time.Now(),
	}
	if err := q.Rejections.Reject(ctx, rej); err != nil {
		q.log.Warn("a rejection was not recorded", "reason", rej.Reason, "err", err)
	}
}

// publish returns the event anew for each try: the broker writes into it.
func (it *item) publish() event.Publish {
	ev := it.in.Event
	if len(it.header["Traceparent"]) > 0 {
		ev.TraceParent, ev.TraceState = telemetry.Extract(it.header)
	}
	ev.CorrelationIDs = gateway.Correlation(it.header[gateway.CorrelationHeader], it.received)
	return event.Publish{Event: ev, Key: it.in.Key}
}

// traceOf returns the headers of a message that a request would have too.
func traceOf(headers amqp091.Table) http.Header {
	h := http.Header{}
	for name, value := range headers {
		switch key := http.CanonicalHeaderKey(name); key {
		case "Traceparent", "Tracestate", gateway.CorrelationHeader:
			if text, ok := value.(string); ok {
				h[key] = []string{text}
			}
		}
	}
	return h
}

// plain returns a value of a header as one that JSON has a form for.
func plain(v any) any {
	switch v := v.(type) {
	case amqp091.Table:
		m := make(map[string]any, len(v))
		for name, value := range v {
			m[name] = plain(value)
		}
		return m
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = plain(v[i])
		}
		return list
	case string:
		if !utf8.ValidString(v) {
			return []byte(v) // base64
		}
		return v
	case time.Time:
		return v.UTC()
	case float32, float64:
		return fmt.Sprint(v) // some have no form in JSON
	}
	return v
}
