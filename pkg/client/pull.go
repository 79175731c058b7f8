package client

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"
)

const (
	// fetchWait is how long one request of [Client.Receive] waits for deliveries.
	fetchWait = 20 * time.Second
	// ackBatch is how many acks go in one request at most.
	ackBatch = 100
	// answerTime bounds an answer, which is given also when the caller has ended.
	answerTime = 20 * time.Second
)

// ReceiveOptions says how [Client.Receive] works. The zero value is usable.
type ReceiveOptions struct {
	// Concurrency is how many calls of the handler run at once. Default 16.
	Concurrency int
	// OnError is told what went wrong beside the handler and will be tried again, such
	// as a platform that is out of reach. May be nil.
	OnError func(error)
}

type deliveryKey struct{}

// DeliveryOf returns the delivery that a handler of [Client.Receive] was called for.
func DeliveryOf(ctx context.Context) (*Delivery, bool) {
	d, ok := ctx.Value(deliveryKey{}).(*Delivery)
	return d, ok
}

// Receive fetches the deliveries of a pull subscription and calls handler for each,
// until ctx is done; it then waits for the handlers that run, and returns nil. Any
// number of processes may receive of one subscription, and share its deliveries.
//
// When handler returns nil, the delivery is done. An error is a nack, whose reason is
// the error's text: the delivery comes again by the subscription's policy. A
// [*NackError] says more; an [*Error] whose status the default policy would not retry
// (4xx but 408 and 429) makes it a dead letter, as it would of a webhook. While handler
// runs, the lease is extended; should that fail for good, the handler's context ends.
// Delivery is at least once: handler may see a DeliveryID again.
//
// A [Mux] may be the handler, by its Handle. An error is returned if the platform says
// that the subscription cannot be fetched.
func (c *Client) Receive(ctx context.Context, subscription string, handler func(context.Context, Event) error, opts ReceiveOptions) error {
	if opts.Concurrency < 1 {
		opts.Concurrency = 16
	}
	if opts.OnError == nil {
		opts.OnError = func(error) {}
	}
	r := &pulling{
		c: c, subscription: subscription, handler: handler, onError: opts.OnError,
		slots: make(chan struct{}, opts.Concurrency), done: make(chan *Delivery, opts.Concurrency),
	}
	var acker sync.WaitGroup
	acker.Go(func() { r.acks(context.WithoutCancel(ctx)) })
	err := r.run(ctx)
	r.calls.Wait()
	close(r.done)
	acker.Wait()
	return err
}

// pulling is one call of Receive.
type pulling struct {
	c            *Client
	subscription string
	handler      func(context.Context, Event) error
	onError      func(error)
	slots        chan struct{}
	calls        sync.WaitGroup
	done         chan *Delivery // to be acked; their slots are taken until they are
}

func (r *pulling) run(ctx context.Context) error {
	delay := firstDelay
	for {
		n := r.enter(ctx)
		if n == 0 {
			return nil
		}
		got, err := r.c.Fetch(ctx, r.subscription, FetchOptions{Max: n, Wait: fetchWait})
		for range n - len(got) {
			<-r.slots
		}
		if err == nil {
			delay = firstDelay
			for _, d := range got {
				r.calls.Go(func() { r.handle(context.WithoutCancel(ctx), d) })
			}
			continue
		}
		if over(ctx) {
			return nil
		}
		if e, ok := errors.AsType[*Error](err); ok && e.Status >= 400 && e.Status < 500 && e.Status != http.StatusTooManyRequests && e.Status != http.StatusRequestTimeout {
			return err
		}
		r.onError(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
		delay = min(2*delay, maxDelay)
	}
}

func over(ctx context.Context) bool { return ctx.Err() != nil }

// enter takes all slots that are free, waiting for the first; none if ctx is done.
func (r *pulling) enter(ctx context.Context) int {
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return 0
	}
	for n := 1; ; n++ {
		select {
		case r.slots <- struct{}{}:
		default:
			return n
		}
	}
}

func (r *pulling) handle(ctx context.Context, d *Delivery) {
	work, cancel := context.WithCancel(context.WithValue(ctx, deliveryKey{}, d))
	var keeper sync.WaitGroup
	keeper.Go(func() { r.keep(work, cancel, d) })
	err := r.handler(work, d.Event)
	cancel()
	keeper.Wait() // which may change the token
	if err == nil {
		r.done <- d
		return
	}
	defer func() { <-r.slots }()
	answer, end := context.WithTimeout(ctx, answerTime)
	defer end()
	if err := r.c.Nack(answer, d, nackOf(err)); err != nil {
		r.onError(err) // it comes again when the lease runs out
	}
}

// nackOf says what an error of a handler means.
func nackOf(err error) NackError {
	if e, ok := errors.AsType[*NackError](err); ok {
		return NackError{Delay: e.Delay, DeadLetter: e.DeadLetter, Err: err}
	}
	e, ok := errors.AsType[*Error](err)
	final := ok && e.Status >= 400 && e.Status < 500 && e.Status != http.StatusRequestTimeout && e.Status != http.StatusTooManyRequests
	return NackError{DeadLetter: final, Err: err}
}

// keep extends a lease until ctx is done. One that is lost ends the handler's context.
func (r *pulling) keep(ctx context.Context, cancel context.CancelFunc, d *Delivery) {
	for {
		left := time.Until(d.Expires())
		if pause(ctx, max(left/2, 100*time.Millisecond)) != nil {
			return
		}
		err := r.c.Extend(ctx, d)
		switch {
		case err == nil || ctx.Err() != nil:
		case IsRefusal(err) || !time.Now().Before(d.Expires()):
			r.onError(err)
			cancel()
			return
		}
	}
}

// acks sends acks together that come together, until r.done is closed.
func (r *pulling) acks(ctx context.Context) {
	for d := range r.done {
		batch := []*Delivery{d}
	more:
		for len(batch) < ackBatch {
			select {
			case d, ok := <-r.done:
				if !ok {
					break more
				}
				batch = append(batch, d)
			default:
				break more
			}
		}
		answer, cancel := context.WithTimeout(ctx, answerTime)
		results, err := r.c.ackAll(answer, batch)
		cancel()
		if err != nil {
			results = []error{err}
		}
		for _, err := range results {
			if err != nil {
				r.onError(err) // it comes again when the lease runs out
			}
		}
		for range batch {
			<-r.slots
		}
	}
}
