package amqp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/posthornhq/posthorn/pkg/amqp"
	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/netguard"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// DefaultRoutingKey is a subscription's that names none.
const DefaultRoutingKey = "{type}"

// An AMQP delivers the events of one subscription. It implements
// [destination.Destination].
type AMQP struct {
	pool         *Pool
	endpoint     amqp.Endpoint
	exchange     string
	key          string
	headers      map[string]string
	subscription string
}

// New compiles the destination of the named subscription. It connects to nothing
// until the first [AMQP.Send]. An error is an [errs.Invalid] one that names the
// field of the subscription.
func New(p *Pool, spec *posthornv1.Amqp, subscription string) (*AMQP, error) {
	const field = "destination.amqp"
	endpoint, err := amqp.Parse(field, spec.GetUrl(), spec.GetUsername(), spec.GetPassword())
	if err != nil {
		return nil, err
	}
	if err := amqp.ValidName(field+".exchange", spec.GetExchange()); err != nil {
		return nil, err
	}
	for name := range spec.GetHeaders() {
		if name == "" || len(name) > amqp.MaxShort {
			return nil, errs.Field(field+".headers", "%q is not the name of a header", name)
		}
	}
	return &AMQP{
		pool: p, endpoint: endpoint, exchange: spec.GetExchange(), key: cmp.Or(spec.GetRoutingKey(), DefaultRoutingKey),
		headers: spec.GetHeaders(), subscription: subscription,
	}, nil
}

// String returns the broker, the exchange and the routing key, without user and
// password.
func (a *AMQP) String() string { return a.to(a.key) }

func (a *AMQP) to(key string) string {
	return fmt.Sprintf("%s exchange %q routing key %q", a.endpoint, a.exchange, key)
}

// Send implements [destination.Destination].
func (a *AMQP) Send(ctx context.Context, m *destination.Message) destination.Result {
	begun := time.Now()
	r := a.send(ctx, m)
	r.Latency = time.Since(begun)
	return r
}

func (a *AMQP) send(ctx context.Context, m *destination.Message) destination.Result {
	key := a.routingKey(m.Event)
	if len(key) > amqp.MaxShort {
		// It is as long in every attempt.
		return destination.Result{Verdict: destination.Answered, Err: fmt.Errorf("exchange %q: the routing key of this event has %d bytes; AMQP allows %d", a.exchange, len(key), amqp.MaxShort)}
	}
	sent, err := a.pool.publish(ctx, a.endpoint, a.exchange, key, a.publishing(m))
	switch where := fmt.Sprintf("exchange %q, routing key %q", a.exchange, key); {
	case err != nil:
		return noAnswer(ctx, where, err)
	case sent.returned != nil:
		return destination.Result{ErrorClass: destination.ClassOther, Err: fmt.Errorf("%s: unroutable: the broker returned the message (%d %s); no queue is bound by this key",
			where, sent.returned.ReplyCode, clean(sent.returned.ReplyText))}
	case !sent.acked:
		return destination.Result{ErrorClass: destination.ClassOther, Err: fmt.Errorf("%s: the broker refused the message (basic.nack)", where)}
	}
	return destination.Result{Verdict: destination.Accepted}
}

// routingKey fills in the template.
func (a *AMQP) routingKey(ev *event.Event) string {
	if a.key == DefaultRoutingKey {
		return ev.Type
	}
	return strings.NewReplacer("{type}", ev.Type, "{tenant}", ev.Tenant, "{subject}", ev.Subject, "{context}", ev.Context).Replace(a.key)
}

// noAnswer is the result of an attempt of which nothing is known.
func noAnswer(ctx context.Context, where string, err error) destination.Result {
	class, text := classOf(ctx, err), err.Error()
	if class == destination.ClassTimeout {
		text = "no confirmation within the timeout"
	}
	return destination.Result{ErrorClass: class, Err: fmt.Errorf("%s: %s", where, clean(text))}
}

// classOf finds the error class. The order counts: what was refused by the guard
// or by TLS is a failure to connect too.
func classOf(ctx context.Context, err error) string {
	if errors.Is(err, netguard.ErrBlocked) {
		return destination.ClassBlocked
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return destination.ClassDNS
	}
	if isTLS(err) {
		return destination.ClassTLS
	}
	if e, ok := errors.AsType[*amqp091.Error](err); ok && e.Code == amqp091.AccessRefused {
		return destination.ClassAuth
	}
	if _, ok := errors.AsType[*downError](err); ok {
		return destination.ClassConnect
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return destination.ClassTimeout
	}
	if e, ok := errors.AsType[*amqp091.Error](err); ok && (e.Code == amqp091.ConnectionForced || e.Code == amqp091.ErrClosed.Code || e.Code == amqp091.FrameError) {
		return destination.ClassClosed
	}
	if errors.Is(err, errLost) || errors.Is(err, net.ErrClosed) {
		return destination.ClassClosed
	}
	return destination.ClassOther
}

// maxErrorText bounds an error's text, which may quote the broker.
const maxErrorText = 512

// clean makes a text short and valid UTF-8.
func clean(text string) string {
	if len(text) > maxErrorText {
		text = text[:maxErrorText] + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
