package queue

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthornhq/posthorn/jetstream/topology"
)

const (
	// fetchGrace is how long the server may take to say that a fetch has run out.
	fetchGrace = 2 * time.Second
	// fetchRest is how long the rest may take once the first is there: a lane that
	// hands out few at a time leaves the request unfilled.
	fetchRest = 200 * time.Millisecond
	// fetchAgain and fetchAgainMost are the pauses before a fetch that the server
	// refused because others wait for what there is.
	fetchAgain, fetchAgainMost = 10 * time.Millisecond, 250 * time.Millisecond
)

// Fetch returns at most n leases of a lane: those that there are, or, if there are
// none, the first that come within wait. What had been handed out when ctx ended is
// returned too, for the caller to give back. The error is [ErrNoLane] if the lane has
// no consumer.
func (q *Queue) Fetch(ctx context.Context, from Lane, n int, wait time.Duration) ([]*Lease, error) {
	end := time.Now().Add(wait)
	for pause := fetchAgain; ; pause = min(2*pause, fetchAgainMost) {
		f := &fetch{q: q, name: from.String(), n: n}
		leases, err := f.run(ctx, max(time.Until(end), 0))
		left := time.Until(end)
		if err != nil || len(leases) > 0 || !f.busy || left <= 0 || ctx.Err() != nil {
			return leases, err
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-time.After(min(pause, left)):
		}
	}
}

// fetch is one request of [Queue.Fetch].
type fetch struct {
	q    *Queue
	name string
	n    int
	busy bool // others wait for what there is
}

func (f *fetch) run(ctx context.Context, wait time.Duration) ([]*Lease, error) {
	nc := f.q.nc
	inbox := nc.NewInbox()
	got := make(chan *nats.Msg, f.n+8) // and what the server says of the request
	sub, err := nc.Subscribe(inbox, func(m *nats.Msg) { got <- m })
	if err != nil {
		return nil, fmt.Errorf("queue: fetch from lane %s: %w", f.name, err)
	}
	closed := make(chan struct{})
	sub.SetClosedHandler(func(string) { close(closed) })
	// no_wait with a time: the server answers with what it has, and waits only while
	// that is nothing. Without a time it does not wait at all.
	req, err := json.Marshal(struct {
		Batch   int           `json:"batch"`
		Expires time.Duration `json:"expires,omitempty"`
		NoWait  bool          `json:"no_wait"`
	}{f.n, wait, true})
	if err == nil {
		err = nc.PublishRequest(topology.NextSubject(topology.StreamDeliveries, f.name), inbox, req)
	}
	var leases []*Lease
	if err == nil {
		leases, err = f.collect(ctx, wait, got)
	}
	// Drain: what is on its way still comes.
	if dErr := sub.Drain(); dErr == nil {
		select {
		case <-closed:
		case <-time.After(drainWait):
		}
	}
	for {
		select {
		case m := <-got:
			if _, over, _ := f.status(m); !over {
				leases = f.take(leases, m)
			}
			continue
		default:
		}
		break
	}
	if err != nil && len(leases) == 0 {
		return nil, fmt.Errorf("queue: fetch from lane %s: %w", f.name, err)
	}
	return leases, nil
}

func (f *fetch) collect(ctx context.Context, wait time.Duration, got <-chan *nats.Msg) ([]*Lease, error) {
	timer := time.NewTimer(wait + fetchGrace)
	defer timer.Stop()
	var leases []*Lease
	done, rest := ctx.Done(), fetchRest
	for len(leases) < f.n {
		select {
		case <-done:
			// What the server takes up while the request ends would have used a try
			// for nothing.
			done, rest = nil, quiet
			timer.Reset(rest)
		case <-timer.C:
			return leases, nil
		case m := <-got:
			end, over, err := f.status(m)
			if end {
				return leases, err
			}
			if !over {
				leases = f.take(leases, m)
				timer.Reset(rest)
			}
		}
	}
	return leases, nil
}

// status reads what the server says of the request instead of a message: whether
// that ends it, and whether it is that at all.
func (f *fetch) status(m *nats.Msg) (end, is bool, err error) {
	code := m.Header.Get("Status")
	if code == "" || len(m.Data) > 0 {
		return false, false, nil
	}
	switch desc := m.Header.Get("Description"); {
	case code == "100":
		return false, true, nil
	case code == "503", code == "409" && desc == "Consumer Deleted":
		return true, true, ErrNoLane
	case code == "408" && desc == "Requests Pending":
		f.busy = true
	case code == "409": // leadership, limits: not for long
		f.busy = true
	}
	return true, true, nil
}

func (f *fetch) take(leases []*Lease, m *nats.Msg) []*Lease {
	l, err := newLease(f.q.nc, m)
	if err != nil {
		// As in a lane: nothing is to be left behind that comes again and again.
		f.q.log.Error("a message on DELIVERIES is no delivery; it is removed", "err", err, "subject", m.Subject)
		if err := m.Respond([]byte("+TERM not a delivery")); err != nil {
			f.q.log.Error("remove it", "err", err)
		}
		return leases
	}
	return append(leases, l)
}
