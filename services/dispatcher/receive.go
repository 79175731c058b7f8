package dispatcher

import (
	"context"
	"sync"
	"time"

	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/errs"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// receiveAgain is the pause of a stream after the queue could not be reached.
const receiveAgain = time.Second

// A receiver is one stream of deliveries to a client, and what the client has not
// answered of it.
type receiver struct {
	p     *Puller
	name  string
	slots chan struct{}
	send  func(*posthornv1.PulledDelivery) error

	answers sync.WaitGroup // that are being taken

	mu    sync.Mutex
	out   map[string]*outstanding
	ended bool
}

// begin says that the client has answered; the caller calls r.answers.Done when that
// is dealt with. It reports false when the stream has ended.
func (r *receiver) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return false
	}
	r.answers.Add(1)
	return true
}

// outstanding is a lease that a client has.
type outstanding struct {
	ticket *ticket
	timer  *time.Timer // which ends it here when it runs out
}

func (p *Puller) receiver(name string, inFlight int, send func(*posthornv1.PulledDelivery) error) *receiver {
	return &receiver{p: p, name: name, slots: make(chan struct{}, inFlight), send: send, out: map[string]*outstanding{}}
}

// run hands out deliveries until ctx is done, the Puller stops, or send fails. A slot
// is taken before a delivery is asked for. What the client leaves unanswered when it
// goes has failed.
func (r *receiver) run(ctx context.Context) error {
	defer r.end(ctx)
	for {
		n, err := r.enter(ctx)
		if err != nil {
			return err
		}
		got, err := r.p.next(ctx, r.name, n, MaxWait)
		r.leave(n - len(got))
		if err != nil {
			if errs.KindOf(err) != errs.Unavailable {
				return err
			}
			select { // ours to mend
			case <-ctx.Done():
			case <-r.p.stopping:
			case <-time.After(receiveAgain):
			}
			continue
		}
		for i := range got {
			r.keep(got[i].ticket)
		}
		for i := range got {
			if err := r.send(got[i].message); err != nil {
				return err
			}
		}
	}
}

// enter takes all slots that are free, waiting for the first.
func (r *receiver) enter(ctx context.Context) (int, error) {
	for waiting := true; waiting; {
		changed := r.p.change()
		if _, err := r.p.subscription(r.name); err != nil {
			return 0, err
		}
		select {
		case r.slots <- struct{}{}:
			waiting = false
		case <-changed:
			continue
		case <-ctx.Done():
			waiting = false
		case <-r.p.stopping:
			waiting = false
		}
	}
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case r.p.stopped():
		return 0, errs.New(errs.Unavailable, "this process stops; call again, and answer the leases that you have")
	}
	for n := 1; ; n++ {
		select {
		case r.slots <- struct{}{}:
		default:
			return n, nil
		}
	}
}

func (r *receiver) leave(n int) {
	for range n {
		<-r.slots
	}
}

// keep notes a lease that the client is about to have. Its slot comes free when it
// is answered in this process, or runs out.
func (r *receiver) keep(t *ticket) {
	o := &outstanding{ticket: t}
	r.mu.Lock()
	r.out[t.id()] = o
	r.mu.Unlock()
	r.p.hold(t, func(until time.Time) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.out[t.id()] != o {
			return
		}
		o.timer.Stop()
		if until.IsZero() {
			delete(r.out, t.id())
			<-r.slots
			return
		}
		again := *t
		again.Until = until
		o.ticket = &again
		o.timer = time.AfterFunc(time.Until(until), func() { r.p.release(t) })
	})
	r.mu.Lock()
	o.timer = time.AfterFunc(time.Until(t.Until), func() { r.p.release(t) })
	r.mu.Unlock()
}

// end gives back what the client has not answered, as failed: it may have failed
// because of it. When the process stops the client is still there, and can answer
// through another.
func (r *receiver) end(ctx context.Context) {
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	r.answers.Wait()
	r.mu.Lock()
	left := make([]*ticket, 0, len(r.out))
	for _, o := range r.out {
		o.timer.Stop()
		left = append(left, o.ticket)
	}
	clear(r.out)
	r.mu.Unlock()
	stopped := r.p.stopped()
	var wg sync.WaitGroup
	for _, t := range left {
		r.p.release(t)
		if stopped {
			continue
		}
		wg.Go(func() {
			_, err := r.p.fail(ctx, t, failure{class: destination.ClassClosed, reason: "the subscriber's stream ended before it answered"})
			if err != nil && errs.KindOf(err) != errs.Stale {
				r.p.log(t).with().Warn("a delivery was not given back; it comes again when its lease runs out", "err", err)
			}
		})
	}
	wg.Wait()
}
