package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/policy"
	"github.com/posthornhq/posthorn/pkg/queue"
)

const (
	// lookEvery is how often the lanes are looked over without a change.
	lookEvery = 30 * time.Second
	// laneRetry is the pause before a lane that ended is begun again.
	laneRetry = time.Second
)

// running is a lane that hands out leases, with the settings that its consumer has.
type running struct {
	cancel   context.CancelFunc
	settings string
}

// Run dispatches until ctx is done, waits for the attempts in flight, and
// returns nil. It returns an error only if it cannot go on.
func (d *Dispatcher) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer func() {
		wg.Wait()
		d.watching.Wait() // none is begun any more
	}()
	lanes := map[queue.Lane]*running{}
	var sweptAt time.Time
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		err := errors.Join(d.reconcile(ctx, lanes, &wg), d.reconcileOwn(ctx, &wg))
		if time.Since(sweptAt) >= lookEvery {
			sweptAt = time.Now()
			err = errors.Join(err, d.sweep(ctx))
			d.targets.forget(d.there)
		}
		if err != nil && ctx.Err() == nil {
			d.Log.Error("the lanes could not be brought up to date; they will be again soon", "err", err)
			tick.Reset(laneRetry)
		} else {
			tick.Reset(lookEvery)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.changed:
		case <-tick.C:
		}
	}
}

func (d *Dispatcher) there(name string) bool {
	_, ok := d.Catalog.Subscription(name)
	return ok
}

// reconcile gives every policy a lane for each priority, and the lanes of
// policies that are gone the time to run empty.
func (d *Dispatcher) reconcile(ctx context.Context, lanes map[queue.Lane]*running, wg *sync.WaitGroup) error {
	wanted := map[queue.Lane]*policy.Policy{}
	for _, p := range d.Catalog.Policies() {
		for _, prio := range event.Priorities() {
			wanted[queue.Shared(p.Name, prio)] = p
		}
	}
	// A subscription can name a policy that is not there: one that does not
	// compile, or that somebody deleted behind the Master API's back.
	for s := range d.Catalog.Subscriptions().All() {
		for _, prio := range event.Priorities() {
			if key := queue.Shared(s.Policy, prio); wanted[key] == nil {
				wanted[key] = d.Catalog.Policy(s.Policy)
			}
		}
	}
	there, err := d.Queue.Lanes(ctx)
	if err != nil {
		return err
	}
	var failed error
	for _, l := range there {
		key := l.Lane
		if key.Subscription != "" {
			continue // own lanes have their own
		}
		if wanted[key] != nil {
			continue
		}
		gone := false
		if l.Waiting == 0 && l.Pending == 0 {
			if gone, err = d.Queue.RemoveLane(ctx, key); err != nil {
				failed = errors.Join(failed, err)
			}
		}
		if gone {
			if r := lanes[key]; r != nil {
				r.cancel()
				delete(lanes, key)
			}
			continue
		}
		// What is queued by a policy that is gone goes by the default's settings.
		wanted[key] = d.Catalog.Policy(l.Policy)
	}
	for key, p := range wanted {
		if err := d.ensure(ctx, key, p, lanes, wg); err != nil {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// shared returns how a shared lane is handed out by a policy.
func shared(key queue.Lane, p *policy.Policy) queue.LaneConfig {
	return queue.LaneConfig{Lane: key, MaxDeliver: p.MaxDeliver(), AckWait: p.AckWait(), Describe: p.Describe()}
}

func (d *Dispatcher) ensure(ctx context.Context, key queue.Lane, p *policy.Policy, lanes map[queue.Lane]*running, wg *sync.WaitGroup) error {
	settings := fmt.Sprint(p.MaxDeliver(), p.AckWait(), p.Describe())
	r := lanes[key]
	if r != nil && r.settings == settings {
		return nil
	}
	if err := d.Queue.EnsureLane(ctx, shared(key, p)); err != nil {
		return err
	}
	if r != nil {
		r.settings = settings
		return nil
	}
	laneCtx, cancel := context.WithCancel(ctx)
	lanes[key] = &running{cancel: cancel, settings: settings}
	wg.Go(func() {
		defer cancel()
		d.lane(laneCtx, key)
	})
	return nil
}

// laneAhead is how many times the slots of the process a shared lane may have leases:
// one that has its share of the slots must have some that wait as well, or what it
// leaves free for the time of a pull goes to a lower priority.
const laneAhead = 2

// lane hands out a lane's leases until ctx is done. If the lane's consumer is
// deleted under it, it is made again.
func (d *Dispatcher) lane(ctx context.Context, key queue.Lane) {
	for {
		err := d.Queue.Consume(ctx, key, laneAhead*d.cfg.Concurrency, func(l *queue.Lease) { d.handleShared(ctx, l) })
		if ctx.Err() != nil {
			return
		}
		d.Log.Warn("a lane ended and is begun again", "policy", key.Policy, "priority", key.Priority, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(laneRetry):
		}
		if err := d.Queue.EnsureLane(ctx, shared(key, d.Catalog.Policy(key.Policy))); err != nil && ctx.Err() == nil {
			d.Log.Warn("its consumer was not made", "err", err)
		}
	}
}

// text returns b as valid UTF-8.
func text(b []byte) string { return strings.ToValidUTF8(string(b), "\uFFFD") }
