package consumer

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/posthornhq/posthorn/pkg/amqp"
	"github.com/posthornhq/posthorn/pkg/source"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

const (
	// steady is how long a queue must have been consumed to count as one that
	// works: then a loss is followed by a try at once.
	steady = 5 * time.Second
	// closeTimeout bounds the farewell to a broker.
	closeTimeout = 2 * time.Second
	// maxBuffer bounds the messages that wait here; all of them are unacknowledged.
	maxBuffer = 1000
)

// A queue is one source, as it was when it was last edited.
type queue struct {
	*Consumers
	source   *source.Source
	endpoint amqp.Endpoint
	spec     *posthornv1.AmqpSource
	log      *slog.Logger
}

func newQueue(c *Consumers, s *source.Source) *queue {
	endpoint, spec, _ := s.AMQP() // those that are not are not wanted
	return &queue{
		Consumers: c, source: s, endpoint: endpoint, spec: spec,
		log: c.Log.With("source", s.Name(), "broker", endpoint.String(), "queue", spec.GetQueue()),
	}
}

// A failure says at which stage the queue could not be consumed.
type failure struct {
	stage string
	err   error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// run consumes until ctx is done, and begins anew whenever that ends.
func (q *queue) run(ctx context.Context) {
	// Also one that never was: an alert needs something to look at.
	q.Metrics.connected.WithLabelValues(q.source.Name()).Set(0)
	var complaints amqp.Complaints
	for failed := 0; ; {
		begun := time.Now()
		f := q.connect(ctx, complaints.Over)
		if ctx.Err() != nil {
			return
		}
		q.Metrics.failures.WithLabelValues(q.source.Name(), f.stage).Inc()
		if complaints.Due(f.Error(), time.Now()) {
			q.log.Error("an AMQP source is not consumed; it will be tried for without end", "stage", f.stage, "err", f)
		}
		failed++
		if f.stage == stageLost && time.Since(begun) > steady {
			failed = 0
			continue
		}
		timer := time.NewTimer(amqp.Pause(failed))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// connect consumes the queue until ctx is done or something fails. It calls works
// when messages can come.
func (q *queue) connect(ctx context.Context, works func()) *failure {
	conn, err := q.endpoint.Dial(ctx, q.Dialer, amqp.Options{Name: q.cfg.Name + ", source " + q.source.Name(), RootCAs: q.cfg.RootCAs})
	if err != nil {
		return &failure{stageConnect, err}
	}
	// What is not acknowledged goes back to the queue with this.
	defer func() { _ = conn.CloseDeadline(time.Now().Add(closeTimeout)) }()
	ch, err := conn.Channel()
	if err != nil {
		return &failure{stageConnect, fmt.Errorf("open a channel: %w", err)}
	}
	if q.spec.GetDeclare() {
		if err := q.declare(ch); err != nil {
			return &failure{stageDeclare, err}
		}
	}
	lost, cancelled := ch.NotifyClose(make(chan *amqp091.Error, 1)), ch.NotifyCancel(make(chan string, 1))
	prefetch := source.Prefetch(q.spec)
	if err := ch.Qos(prefetch, 0, false); err != nil {
		return &failure{stageConsume, fmt.Errorf("set the prefetch of queue %q: %w", q.spec.GetQueue(), err)}
	}
	deliveries, err := ch.Consume(q.spec.GetQueue(), "", false, false, false, false, nil)
	if err != nil {
		return &failure{stageConsume, fmt.Errorf("consume queue %q: %w", q.spec.GetQueue(), err)}
	}
	works()
	q.log.Info("an AMQP source is consumed", "prefetch", prefetch)
	q.Metrics.connected.WithLabelValues(q.source.Name()).Set(1)
	defer q.Metrics.connected.WithLabelValues(q.source.Name()).Set(0)

	// The library hands messages out one by one; what has come is gathered here.
	buffer := make(chan amqp091.Delivery, min(prefetch, maxBuffer))
	over := make(chan struct{})
	defer close(over)
	go func() {
		defer close(buffer)
		for d := range deliveries {
			select {
			case buffer <- d:
			case <-over:
				return
			}
		}
	}()
	if err := q.consume(ctx, ch, buffer); err != nil {
		return &failure{stageLost, err}
	}
	select {
	case <-ctx.Done():
		return nil
	case <-cancelled:
		return &failure{stageLost, fmt.Errorf("queue %q was deleted, or moved to another node", q.spec.GetQueue())}
	case e := <-lost:
		return &failure{stageLost, fmt.Errorf("queue %q: %w", q.spec.GetQueue(), amqp.Reason(e))}
	}
}

// declare makes the queue and its bindings, or makes sure that they are there.
func (q *queue) declare(ch *amqp091.Channel) error {
	name, dlx := q.spec.GetQueue(), q.spec.GetDeadLetterExchange()
	var args amqp091.Table
	if dlx != "" {
		// A dead letter for an exchange that is not there is dropped in silence.
		if err := ch.ExchangeDeclarePassive(dlx, "direct", true, false, false, false, nil); err != nil {
			return fmt.Errorf("dead-letter exchange %q of queue %q: %w", dlx, name, err)
		}
		args = amqp091.Table{"x-dead-letter-exchange": dlx}
	}
	if _, err := ch.QueueDeclare(name, true, false, false, false, args); err != nil {
		return fmt.Errorf("declare queue %q with dead-letter exchange %q: %w", name, dlx, err)
	}
	for _, b := range q.spec.GetBindings() {
		if kind := b.GetExchangeType(); kind != "" {
			if err := ch.ExchangeDeclare(b.GetExchange(), kind, true, false, false, false, nil); err != nil {
				return fmt.Errorf("declare exchange %q of type %s for queue %q: %w", b.GetExchange(), kind, name, err)
			}
		}
		keys := b.GetRoutingKeys()
		if len(keys) == 0 {
			keys = []string{""}
		}
		for _, key := range keys {
			if err := ch.QueueBind(name, key, b.GetExchange(), false, nil); err != nil {
				return fmt.Errorf("bind queue %q to exchange %q by %q: %w", name, b.GetExchange(), key, err)
			}
		}
	}
	return nil
}

// consume takes what comes, batch by batch, until ctx is done or nothing comes
// any more.
func (q *queue) consume(ctx context.Context, ch *amqp091.Channel, buffer <-chan amqp091.Delivery) error {
	var next *amqp091.Delivery // that did not fit
	for {
		if next == nil {
			select {
			case <-ctx.Done():
				return nil
			case d, ok := <-buffer:
				if !ok {
					return nil
				}
				next = &d
			}
		}
		var batch []amqp091.Delivery
		batch, next = q.gather(next, buffer)
		select {
		case <-ctx.Done():
			return nil // the queue has them again when the connection is closed
		default:
		}
		if ch.IsClosed() {
			return nil // nobody would hear the answers
		}
		if err := q.take(ctx, ch, batch); err != nil {
			return err
		}
	}
}

// gather returns what has come already, from first on, as much as a batch may
// have, and the message that did not fit any more.
func (q *queue) gather(first *amqp091.Delivery, buffer <-chan amqp091.Delivery) (batch []amqp091.Delivery, next *amqp091.Delivery) {
	batch = append(batch, *first)
	bytes := int64(len(first.Body))
	for len(batch) < q.cfg.MaxBatch {
		select {
		case d, ok := <-buffer:
			if !ok {
				return batch, nil
			}
			if bytes += int64(len(d.Body)); bytes > q.cfg.MaxBytes {
				return batch, &d
			}
			batch = append(batch, d)
		default:
			return batch, nil
		}
	}
	return batch, nil
}
