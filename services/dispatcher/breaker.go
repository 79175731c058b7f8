package dispatcher

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/posthornhq/posthorn/pkg/alerts"
	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/queue"
	"github.com/posthornhq/posthorn/pkg/subscription"
)

// learn takes from an attempt what it taught about the endpoint.
func (d *Dispatcher) learn(running context.Context, sub *subscription.Subscription, h *health, a *event.Attempt, res destination.Result, at place) {
	switch a.Outcome {
	case event.Delivered, event.Refused:
		// Refused is an answer: the endpoint is there.
		h.failures.Store(0)
		if s, ok := d.Lanes.Get(sub.Name); ok && (s.Has(queue.Failing) || s.Has(queue.Throttled)) {
			d.recovered(running, sub, at.probe)
		}
		return
	}
	n := h.failures.Add(1)
	if res.RetryAfter > 0 && res.Verdict == destination.Answered {
		d.isolate(running, sub, queue.Throttled, a, time.Now().Add(min(res.RetryAfter, throttleMost)))
		return
	}
	if n >= failuresMost || at.probe {
		d.isolate(running, sub, queue.Failing, a, time.Time{})
	}
}

// isolate gives a subscription a lane of its own, for a reason.
func (d *Dispatcher) isolate(running context.Context, sub *subscription.Subscription, why queue.Reason, a *event.Attempt, until time.Time) {
	if s, ok := d.Lanes.Get(sub.Name); ok && !s.Closing && s.Has(why) && !until.After(s.Until) {
		return
	}
	h := d.targets.healthOf(sub.Name)
	if busy := map[queue.Reason]*atomic.Bool{queue.Slow: &h.slowing, queue.Failing: &h.breaking}[why]; busy != nil {
		if !busy.CompareAndSwap(false, true) {
			return
		}
		defer busy.Store(false)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(running), moveWait)
	defer cancel()
	var begun time.Time
	mine, err := d.Lanes.Edit(ctx, sub.Name, func(s *queue.OwnState, there bool) queue.Change {
		if there && !s.Closing && s.Has(why) && !until.After(s.Until) {
			return queue.Keep
		}
		if !there || s.Closing {
			*s = queue.OwnState{Since: time.Now()}
		}
		if why == queue.Failing && s.Trouble.IsZero() {
			s.Trouble = time.Now()
		}
		begun = s.Trouble
		s.Reasons = s.With(why)
		switch why {
		case queue.Throttled:
			s.Until = later(s.Until, until)
		case queue.Failing:
			s.Probes = 0
			s.Until = later(s.Until, time.Now().Add(d.probeWait(0))) // no sooner than it asked for
		}
		if a != nil {
			s.Failures, s.Error = int(h.failures.Load()), cut(a.Error, 200)
		}
		return queue.Write
	})
	if err != nil {
		d.Log.Error("a subscription was not given a lane of its own; its next failure tries again", "subscription", sub.Name, "reason", why, "err", err)
		return
	}
	if mine {
		d.Log.Warn("a subscription has a lane of its own", "subscription", sub.Name, "reason", why)
		if why == queue.Failing && d.Alerts != nil {
			st := alerts.State{Since: begun, Failures: int(d.targets.healthOf(sub.Name).failures.Load())}
			if a != nil {
				st.Reason, st.Detail, st.Status = reasonOf(a), a.Error, a.Status
			}
			if err := d.Alerts.Failing(ctx, sub, st); err != nil {
				d.Log.Warn("that an endpoint fails was not told", "subscription", sub.Name, "err", err)
			}
		}
	}
}

// recovered says that an endpoint is there again.
func (d *Dispatcher) recovered(running context.Context, sub *subscription.Subscription, probe bool) {
	if !probe {
		busy := &d.targets.healthOf(sub.Name).mending
		if !busy.CompareAndSwap(false, true) {
			return
		}
		defer busy.Store(false)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(running), moveWait)
	defer cancel()
	failed, begun := false, time.Time{}
	mine, err := d.Lanes.Edit(ctx, sub.Name, func(s *queue.OwnState, _ bool) queue.Change {
		failed, begun = s.Has(queue.Failing), s.Trouble
		// A success from before the destination asked to be left alone says nothing.
		if !failed && !s.Has(queue.Throttled) || !probe && s.Has(queue.Throttled) && time.Now().Before(s.Until) {
			return queue.Keep
		}
		s.Reasons = s.Without(queue.Failing, queue.Throttled)
		s.Failures, s.Probes, s.Error, s.Until, s.Trouble = 0, 0, "", time.Time{}, time.Time{}
		s.Since = time.Now()
		return queue.Write
	})
	if err != nil {
		d.Log.Error("a lane was not opened; the next success tries again", "subscription", sub.Name, "err", err)
		return
	}
	if mine {
		d.Log.Info("the endpoint is back: the lane is open", "subscription", sub.Name)
		if failed && d.Alerts != nil {
			if err := d.Alerts.Recovered(ctx, sub, alerts.State{Since: begun, Until: time.Now()}); err != nil {
				d.Log.Warn("that an endpoint is back was not told", "subscription", sub.Name, "err", err)
			}
		}
	}
}

// reasonOf says in one word why an attempt failed.
func reasonOf(a *event.Attempt) string {
	if a.ErrorClass != "" {
		return a.ErrorClass
	}
	return strconv.Itoa(a.Status)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// cut returns the beginning of a text.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return text([]byte(s[:n])) + "…"
}
