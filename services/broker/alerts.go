package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/alerts"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/subscription"
)

// wanted leaves of the subscriptions that match an alert those that ask for
// alerts by name, but not the one that the alert is about: who takes all business
// events by "#" is no operator, and trouble with a subscription is not told to it.
func wanted(matches []*subscription.Subscription, alert *event.Event) []*subscription.Subscription {
	out := matches[:0]
	for _, s := range matches {
		if s.Name != alert.Subject && s.Names(alert.Type) {
			out = append(out, s)
		}
	}
	return out
}

// AlertsConfig holds what may be tuned. The zero value is usable.
type AlertsConfig struct {
	// Every is how often a subscription's dead letters are told at most. The first
	// is told at once, and the others together when this time is over. Default 1m,
	// at most 1m.
	Every time.Duration
}

// alertsAhead is how many dead letters are read ahead.
const alertsAhead = 500

// RunAlerts tells of dead letters, until ctx is done. Several brokers may run it:
// they share the consumer, and each letter is one's to tell.
//
// A letter is acknowledged when it is told. Of those that wait to be told together
// the newest stays unacknowledged, so that they are told by somebody if this
// process dies, though not counted.
func (b *Broker) RunAlerts(ctx context.Context, js jetstream.JetStream, p *alerts.Publisher, cfg AlertsConfig) error {
	if cfg.Every <= 0 || cfg.Every > time.Minute {
		cfg.Every = time.Minute
	}
	// Also on the way down: it remembers from when on there is something to tell.
	work := context.WithoutCancel(ctx)
	consumer, err := js.CreateOrUpdateConsumer(work, topology.StreamDeadLetters, topology.Alerts())
	if err != nil {
		return fmt.Errorf("broker: consume dead letters: %w", err)
	}
	messages := make(chan jetstream.Msg)
	run, err := consumer.Consume(func(msg jetstream.Msg) {
		messages <- msg
	}, jetstream.PullMaxMessages(alertsAhead), jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		if ctx.Err() == nil {
			b.Log.Warn("the consumer of dead letters complains", "err", err)
		}
	}))
	if err != nil {
		return fmt.Errorf("broker: consume dead letters: %w", err)
	}
	h := herald{b: b, publisher: p, every: cfg.Every, open: map[string]*bundle{}}
	tick := time.NewTicker(max(cfg.Every/10, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case msg := <-messages:
			h.take(work, msg, time.Now())
		case <-tick.C:
			h.tell(work, time.Now())
		case <-ctx.Done():
			run.Drain() // what was read ahead is handed back, not left to its AckWait
			for closed := false; !closed; {
				select {
				case msg := <-messages:
					h.back(msg)
				case <-run.Closed():
					closed = true
				}
			}
			h.tell(work, time.Now().Add(cfg.Every))
			return nil
		}
	}
}

// A herald tells of dead letters. It is for one goroutine.
type herald struct {
	b         *Broker
	publisher *alerts.Publisher
	every     time.Duration
	open      map[string]*bundle // by subscription: it was told of lately
}

// A bundle is what came for a subscription since its last alert.
type bundle struct {
	told    time.Time
	letters alerts.Letters
	newest  jetstream.Msg // of the letters, unacknowledged; nil if there are none
}

// take tells of a letter, or keeps it to be told with others.
func (h *herald) take(ctx context.Context, msg jetstream.Msg, now time.Time) {
	var l event.DeadLetter
	md, err := msg.Metadata()
	if err == nil {
		err = json.Unmarshal(msg.Data(), &l)
	}
	if err != nil {
		h.b.Log.Error("a dead letter cannot be read; it is passed over", "subject", msg.Subject(), "err", err)
		h.done(msg)
		return
	}
	if alerts.Is(l.Type) {
		// An alert that cannot be delivered is no reason for another.
		h.done(msg)
		return
	}
	l.ID = fmt.Sprint(md.Sequence.Stream)
	at := h.open[l.Subscription]
	if at == nil {
		one := alerts.Letters{Count: 1, Since: l.At, Until: l.At, Last: l}
		if !h.publish(ctx, one) {
			h.back(msg)
			return
		}
		h.open[l.Subscription] = &bundle{told: now}
		h.done(msg)
		return
	}
	if at.newest == nil {
		at.letters = alerts.Letters{Since: l.At}
	} else {
		h.done(at.newest)
	}
	at.newest = msg
	at.letters.Count++
	at.letters.Until, at.letters.Last = l.At, l
}

// tell tells of what waited long enough, and forgets subscriptions of which
// nothing came.
func (h *herald) tell(ctx context.Context, now time.Time) {
	for name, at := range h.open {
		if now.Sub(at.told) < h.every {
			continue
		}
		if at.newest == nil {
			delete(h.open, name)
			continue
		}
		if !h.publish(ctx, at.letters) {
			// The newest is handed back, to be told alone where the others can't.
			h.back(at.newest)
			delete(h.open, name)
			continue
		}
		h.done(at.newest)
		h.open[name] = &bundle{told: now}
	}
}

func (h *herald) publish(ctx context.Context, l alerts.Letters) bool {
	s, _ := h.b.Catalog.Subscription(l.Last.Subscription)
	err := h.publisher.DeadLetters(ctx, s, l)
	if kind := errs.KindOf(err); err != nil && (kind == errs.Invalid || kind == errs.TooLarge) {
		// Somebody stored a schema for alerts that alerts don't satisfy.
		h.b.Log.Error("dead letters are not told of, since the alert is refused", "subscription", l.Last.Subscription, "err", err)
		return true
	}
	if err != nil {
		h.b.Log.Error("dead letters are not told of; it is tried again", "subscription", l.Last.Subscription, "count", l.Count, "err", err)
		return false
	}
	return true
}

func (h *herald) done(msg jetstream.Msg) {
	if err := msg.Ack(); err != nil {
		h.b.Log.Warn("a dead letter that was told comes again, and is known", "err", err)
	}
}

func (h *herald) back(msg jetstream.Msg) {
	if err := msg.NakWithDelay(routeRetry); err != nil {
		h.b.Log.Warn("a dead letter to tell of comes again after the consumer's AckWait", "err", err)
	}
}
