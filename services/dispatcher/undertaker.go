package dispatcher

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/policy"
)

// advisory is the server's word on a delivery that it handed out for the last
// time and got no answer for (io.nats.jetstream.advisory.v1.max_deliver).
type advisory struct {
	Stream     string `json:"stream"`
	Consumer   string `json:"consumer"`
	StreamSeq  uint64 `json:"stream_seq"`
	Deliveries int    `json:"deliveries"`
}

// ourRetry is the wait before an advisory comes again that was not dealt with.
const ourRetry = 5 * time.Second

// Bury turns deliveries that died with their dispatcher on the last try into
// dead letters, until ctx is done: the server keeps their messages, but hands
// them out no more.
func (d *Dispatcher) Bury(ctx context.Context, js jetstream.JetStream) error {
	consumer, err := js.CreateOrUpdateConsumer(ctx, topology.StreamAdvisories, topology.Advisories())
	if err != nil {
		select {
		case <-ctx.Done():
			return nil // told to stop before it began
		default:
			return fmt.Errorf("dispatcher: consume advisories: %w", err)
		}
	}
	work := context.WithoutCancel(ctx)
	run, err := consumer.Consume(func(msg jetstream.Msg) {
		if err := d.advised(work, msg.Data()); err != nil {
			d.Log.Error("an advisory was not dealt with; it will come again", "err", err)
			if err := msg.NakWithDelay(ourRetry); err != nil {
				d.Log.Error("its repeat waits for the consumer's AckWait", "err", err)
			}
			return
		}
		if err := msg.Ack(); err != nil {
			d.Log.Warn("an advisory comes again, and is known", "err", err)
		}
	}, jetstream.PullMaxMessages(100), jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		if ctx.Err() == nil {
			d.Log.Warn("the consumer of advisories complains", "err", err)
		}
	}))
	if err != nil {
		return fmt.Errorf("dispatcher: consume advisories: %w", err)
	}
	<-ctx.Done()
	run.Drain()
	<-run.Closed()
	return nil
}

func (d *Dispatcher) advised(ctx context.Context, data []byte) error {
	var a advisory
	if err := json.Unmarshal(data, &a); err != nil {
		d.Log.Error("an advisory cannot be read; it is passed over", "err", err)
		return nil
	}
	dl, err := d.Queue.Get(ctx, a.StreamSeq)
	if errs.KindOf(err) == errs.NotFound {
		return nil // somebody settled it
	}
	if err != nil {
		return err
	}
	dl.Attempt = dl.Tries + a.Deliveries
	who := "dispatcher"
	if dl.Own {
		dl.Policy = policy.DefaultName
		if sub, ok := d.Catalog.Subscription(dl.Subscription); ok {
			dl.Policy, dl.Priority = sub.Policy, sub.Priority
			if sub.Pulled {
				who = "subscriber"
			}
		}
	}
	mine, err := d.claim(ctx, &dl, d.Catalog.Policy(dl.Policy))
	if err != nil {
		return err
	}
	// Else it was delivered, and only the settling was lost; or it was moved, and the
	// copy goes on.
	if mine {
		ev, err := d.Events.Get(ctx, dl.Event)
		if err != nil && errs.KindOf(err) != errs.NotFound {
			return err
		}
		dead := letter(&dl, ev, "max-deliveries", "the "+who+" died, or did not answer in time, on the last of "+strconv.Itoa(a.Deliveries)+" tries")
		if err := d.last(ctx, ev, dead); err != nil {
			return err
		}
		if err := d.Letters.Put(ctx, dead); err != nil {
			return err
		}
		if err := d.Claims.Done(ctx, claimKey(&dl), strconv.FormatUint(dl.Sequence, 10), d.cfg.DoneTTL); err != nil {
			return err
		}
		d.Metrics.dead(dead.Reason)
		d.Log.Warn("dead letter", "event", dl.Event, "subscription", dl.Subscription, "reason", dead.Reason)
	}
	return d.Queue.Remove(ctx, a.StreamSeq)
}

// last puts what is known of the last recorded attempt into a dead letter.
func (d *Dispatcher) last(ctx context.Context, ev *event.Event, dead *event.DeadLetter) error {
	if ev == nil {
		return nil
	}
	attempts, err := d.Ledger.Attempts(ctx, ev.ID, ev.Received)
	if err != nil {
		return err
	}
	for _, a := range attempts {
		if a.Subscription == dead.Subscription && a.Round == dead.Round {
			dead.Status = a.Status
		}
	}
	return nil
}
