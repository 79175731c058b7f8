package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/posthornhq/posthorn/pkg/policy"
	"github.com/posthornhq/posthorn/pkg/queue"
	"github.com/posthornhq/posthorn/pkg/subscription"
)

const (
	// failuresMost is how many attempts one after another fail before a
	// subscription gets a lane of its own.
	failuresMost = 5
	// probeFirst is the wait before the first try at an endpoint that fails; each
	// one after is twice as long, up to the probe interval.
	probeFirst = time.Second
	// moveWait bounds the wait for what is about lanes, which nobody waits for.
	moveWait = 5 * time.Second
	// tendEvery is how often an own lane is looked at: whether it is still needed.
	tendEvery = 5 * time.Second
	// closeAfter is how long a lane is listened to after it began to close: longer
	// than a router takes to hear of it.
	closeAfter = 10 * time.Second
	// throttleMost bounds how long an endpoint can ask to be left alone.
	throttleMost = time.Hour
	// spare is how often more than the policy says a delivery in a lane that is ordered
	// and limited is handed out: who stops before its turn hands it back untried.
	spare = 10
	// limitedAhead is for how long a process reserves turns in a limited lane: what
	// it reserves another cannot have.
	limitedAhead = 500 * time.Millisecond
)

// ownLanes are those that this process runs.
type ownLanes struct {
	mu sync.Mutex
	m  map[string]*ownLane
}

// An ownLane is a subscription's own lane, as this process runs it.
type ownLane struct {
	name string
	stop context.CancelFunc
	wake chan struct{} // the state may have changed
	pace pacer

	mu    sync.Mutex
	mode  mode
	end   context.CancelFunc // of what runs in this mode
	parts uint32             // parts beside the wanted ones that something waits in
	made  mode               // as which the consumers are; zero if that is not known
}

// A mode is how a lane is run. A lane whose mode changes stops what it does and
// begins anew.
type mode struct {
	kind       kind
	parts      uint32 // bit n is part n
	slots      int
	ordered    bool
	rate       float64
	maxDeliver int
	ackWait    time.Duration
	schedule   string
}

type kind uint8

const (
	idle  kind = iota // nothing is pulled
	probe             // one at a time, when its time has come
	open
)

// laneChanged is called for every change to the state of an own lane.
func (d *Dispatcher) laneChanged(name string) {
	d.own.mu.Lock()
	l := d.own.m[name]
	d.own.mu.Unlock()
	if _, there := d.Lanes.Get(name); l == nil || !there {
		d.lanesChanged() // it is begun, or ended
		return
	}
	d.poke(l)
}

// poke makes a lane look at its state.
func (d *Dispatcher) poke(l *ownLane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.end != nil && d.mode(l) != l.mode {
		l.end()
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// mode says how a lane is to be run now. The lane's lock is held.
func (d *Dispatcher) mode(l *ownLane) mode {
	sub, there := d.Catalog.Subscription(l.name)
	s, _ := d.Lanes.Get(l.name)
	m := mode{kind: open, parts: 1, slots: d.cfg.Concurrency}
	p := d.Catalog.Policy(policy.DefaultName)
	if there {
		p = d.Catalog.Policy(sub.Policy)
		if sub.MaxInFlight > 0 {
			m.slots = sub.MaxInFlight
		}
	}
	m.maxDeliver, m.ackWait, m.schedule = p.MaxDeliver(), p.AckWait(), fmt.Sprint(p.Describe())
	if !there || sub.Disabled {
		m.parts |= l.parts | l.mode.parts
		return m // what is left becomes dead letters
	}
	m.parts = partsOf(sub)
	if sub.Ordered {
		m.ordered, m.slots = true, 1
	}
	if sub.Ordered && sub.Rate > 0 {
		m.maxDeliver += spare
	}
	if sub.Blocking {
		m.maxDeliver = -1
	}
	if sub.Rate > 0 {
		m.rate = sub.Rate
		// No more than can be in flight at that rate: what waits here waits for nothing.
		m.slots = max(1, min(m.slots, int(sub.Rate*(p.Timeout+time.Second).Seconds())))
	}
	m.parts |= l.parts
	switch {
	case sub.Pulled || sub.Paused:
		m.kind = idle
	case s.Has(queue.Failing) || s.Has(queue.Throttled):
		m.kind = probe
	}
	return m
}

// partsOf returns the parts that a subscription's deliveries are queued in, as bits.
func partsOf(sub *subscription.Subscription) uint32 {
	if sub.Key == nil {
		return 1
	}
	return (1<<subscription.Parts - 1) << 1
}

// reconcileOwn makes the lanes that run here those that there are.
func (d *Dispatcher) reconcileOwn(ctx context.Context, wg *sync.WaitGroup) error {
	states := d.Lanes.All()
	reasons := map[queue.Reason]int{}
	for sub := range d.Catalog.Subscriptions().All() {
		if s, ok := states[sub.Name]; sub.OwnLane() && (!ok || s.Closing) {
			if err := d.openFor(ctx, sub.Name); err != nil {
				return err
			}
			states[sub.Name] = queue.OwnState{}
		}
	}
	for _, s := range states {
		for _, r := range s.Reasons {
			reasons[r]++
		}
	}
	for _, r := range []queue.Reason{queue.Failing, queue.Slow, queue.Throttled} {
		d.Metrics.lanes.WithLabelValues(string(r)).Set(float64(reasons[r]))
	}
	d.own.mu.Lock()
	defer d.own.mu.Unlock()
	for name := range states {
		if l := d.own.m[name]; l != nil {
			d.poke(l)
			continue
		}
		laneCtx, stop := context.WithCancel(ctx)
		l := &ownLane{name: name, stop: stop, wake: make(chan struct{}, 1)}
		l.pace = pacer{lanes: d.Lanes, name: name}
		d.own.m[name] = l
		wg.Go(func() {
			defer stop()
			d.runOwn(laneCtx, l)
		})
	}
	for name, l := range d.own.m {
		if _, ok := states[name]; !ok {
			l.stop()
			delete(d.own.m, name)
		}
	}
	return nil
}

// openFor writes down that a subscription has a lane of its own because it asks
// for it, so that everybody sees it, people too.
func (d *Dispatcher) openFor(ctx context.Context, name string) error {
	_, err := d.Lanes.Edit(ctx, name, func(s *queue.OwnState, there bool) queue.Change {
		if there && !s.Closing {
			return queue.Keep
		}
		*s = queue.OwnState{Since: time.Now()}
		return queue.Write
	})
	return err
}

// sweep finds deliveries that wait in lanes that nobody runs: a router that had
// not heard of a lane's end, or a policy's, put them there. And it removes the
// consumers of own lanes that are no more: a dispatcher that had not heard of it
// made them again.
func (d *Dispatcher) sweep(ctx context.Context) error {
	there, err := d.Queue.Lanes(ctx)
	if err != nil {
		return err
	}
	run := map[queue.Lane]bool{}
	for _, l := range there {
		run[l.Lane] = true
		if _, open := d.Lanes.Get(l.Subscription); l.Subscription == "" || open || l.Waiting > 0 || l.Pending > 0 {
			continue
		}
		if sub, ok := d.Catalog.Subscription(l.Subscription); ok && sub.OwnLane() {
			continue
		}
		if _, err := d.Queue.RemoveLane(ctx, l.Lane); err != nil {
			return err
		}
	}
	used, err := d.Queue.Used(ctx)
	if err != nil {
		return err
	}
	for lane := range used {
		if lane.Subscription == "" {
			if !run[lane] {
				if err := d.Queue.EnsureLane(ctx, shared(lane, d.Catalog.Policy(lane.Policy))); err != nil {
					return err
				}
				d.lanesChanged() // a lane that has a consumer is run
			}
			continue
		}
		d.own.mu.Lock()
		l := d.own.m[lane.Subscription]
		d.own.mu.Unlock()
		if l != nil {
			l.mu.Lock()
			l.parts |= 1 << lane.Part
			l.mu.Unlock()
			d.poke(l)
			continue
		}
		_, err := d.Lanes.Edit(ctx, lane.Subscription, func(s *queue.OwnState, there bool) queue.Change {
			if there {
				return queue.Keep
			}
			*s = queue.OwnState{Since: time.Now(), Closing: true}
			return queue.Write
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// runOwn runs a lane until ctx is done.
func (d *Dispatcher) runOwn(ctx context.Context, l *ownLane) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { d.tend(ctx, l) })
	for ctx.Err() == nil {
		runCtx, end := context.WithCancel(ctx)
		l.mu.Lock()
		m := d.mode(l)
		l.mode, l.end = m, end
		l.mu.Unlock()
		err := d.ensureOwn(runCtx, l, m)
		if err == nil {
			err = d.runMode(ctx, runCtx, l, m)
		}
		changed := runCtx.Err() != nil // what broke off with it is no error
		end()
		if err != nil && !changed {
			d.Log.Warn("an own lane ended and is begun again", "subscription", l.name, "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(laneRetry):
			}
		}
	}
}

// ensureOwn makes the consumers of a lane as its mode wants them.
func (d *Dispatcher) ensureOwn(ctx context.Context, l *ownLane, m mode) error {
	like := mode{parts: m.parts, ordered: m.ordered, maxDeliver: m.maxDeliver, ackWait: m.ackWait, schedule: m.schedule}
	l.mu.Lock()
	done := l.made == like
	l.mu.Unlock()
	if done || m.kind == idle {
		return nil
	}
	for _, lane := range m.lanes(l.name) {
		if err := d.Queue.EnsureLane(ctx, queue.LaneConfig{
			Lane: lane, Ordered: m.ordered, MaxDeliver: m.maxDeliver, AckWait: m.ackWait, Describe: map[string]string{"posthorn.policy": m.schedule},
		}); err != nil {
			return err
		}
	}
	l.mu.Lock()
	l.made = like
	l.mu.Unlock()
	return nil
}

// lost notes that the consumers are not what they were thought to be.
func (l *ownLane) lost() {
	l.mu.Lock()
	l.made = mode{}
	l.mu.Unlock()
}

func (m mode) lanes(name string) []queue.Lane {
	var out []queue.Lane
	for part := range 32 {
		if m.parts&(1<<part) != 0 {
			out = append(out, queue.Own(name, part))
		}
	}
	return out
}

// runMode runs a lane until its mode changes, which ends ctx. What it has begun then
// goes on until the lane itself ends.
func (d *Dispatcher) runMode(lane, ctx context.Context, l *ownLane, m mode) error {
	handle := func(try bool) func(*queue.Lease) {
		return func(lease *queue.Lease) { d.handleOwn(lane, ctx, l, m, lease, try) }
	}
	switch m.kind {
	case probe:
		return d.probe(ctx, l, m, handle(true))
	case open:
		var wg sync.WaitGroup
		lanes := m.lanes(l.name)
		errs := make([]error, len(lanes))
		for i, lane := range lanes {
			wg.Go(func() {
				errs[i] = d.Queue.Consume(ctx, lane, m.slots, handle(false))
				if errors.Is(errs[i], queue.ErrNoLane) {
					l.lost()
				}
			})
		}
		wg.Wait()
		return errors.Join(errs...)
	}
	<-ctx.Done()
	return nil
}

// probe makes one try at a time, no sooner than the lane's state says; among all
// dispatchers, whoever moves the time on makes it.
func (d *Dispatcher) probe(ctx context.Context, l *ownLane, m mode, handle func(*queue.Lease)) error {
	for ctx.Err() == nil {
		s, ok := d.Lanes.Get(l.name)
		if !ok {
			return nil
		}
		// Not all at the same moment: one of them is enough.
		timer := time.NewTimer(time.Until(s.Until) + rand.N(10*time.Millisecond))
		select {
		case <-ctx.Done():
		case <-l.wake:
		case <-timer.C:
		}
		timer.Stop()
		if ctx.Err() != nil || time.Now().Before(s.Until) {
			continue
		}
		var until time.Time
		mine, err := d.Lanes.Edit(ctx, l.name, func(s *queue.OwnState, there bool) queue.Change {
			if !there || time.Now().Before(s.Until) {
				return queue.Keep
			}
			until = time.Now().Add(d.probeWait(s.Probes))
			s.Until = until
			s.Probes++
			return queue.Write
		})
		if err != nil || !mine {
			if err != nil && ctx.Err() == nil {
				return err
			}
			continue
		}
		if err := d.probeOnce(ctx, l, m, until, handle); err != nil {
			return err
		}
	}
	return nil
}

// probeWait is the wait after the nth probe, from 0.
func (d *Dispatcher) probeWait(n int) time.Duration {
	if n > 30 {
		return d.cfg.ProbeInterval
	}
	return min(d.cfg.ProbeInterval, probeFirst<<n)
}

// probeOnce takes one delivery, from whichever part has one, and tries it. It gives
// up when the next probe is due.
func (d *Dispatcher) probeOnce(ctx context.Context, l *ownLane, m mode, until time.Time, handle func(*queue.Lease)) error {
	waitCtx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	lanes := m.lanes(l.name)
	rand.Shuffle(len(lanes), func(i, j int) { lanes[i], lanes[j] = lanes[j], lanes[i] })
	for waitCtx.Err() == nil {
		for _, lane := range lanes {
			lookCtx, cancel := waitCtx, context.CancelFunc(func() {})
			if len(lanes) > 1 {
				lookCtx, cancel = context.WithTimeout(waitCtx, 200*time.Millisecond)
			}
			n, err := d.Queue.Take(lookCtx, lane, 1, handle)
			cancel()
			if errors.Is(err, queue.ErrNoLane) {
				l.lost()
			}
			if err != nil || n > 0 {
				return err
			}
		}
	}
	return nil
}

// handleOwn makes an attempt at a delivery from an own lane. Now ends when the
// lane's mode does, running when the lane does.
func (d *Dispatcher) handleOwn(running, now context.Context, l *ownLane, m mode, lease *queue.Lease, probe bool) {
	dl := lease.Delivery()
	dl.Policy = policy.DefaultName
	sub, there := d.Catalog.Subscription(l.name)
	if there {
		dl.Policy, dl.Priority = sub.Policy, sub.Priority
	}
	p := d.Catalog.Policy(dl.Policy)
	if !probe && there && !sub.Disabled { // else it becomes a dead letter
		if s, _ := d.Lanes.Get(l.name); !m.ordered && (s.Has(queue.Failing) || s.Has(queue.Throttled)) {
			d.giveBack(running, lease, m.ordered) // fetched before that was known
			return
		}
		if m.rate > 0 && !l.pace.wait(now, m.rate, lease, p.AckWait()/2) && !(m.ordered && d.keepPlace(running, l, lease, p.AckWait()/2)) {
			d.giveBack(running, lease, m.ordered)
			return
		}
	}
	d.handle(running, lease, p, place{lease: lease, own: l, probe: probe})
}

// keepPlace waits for a turn in an ordered lane whose mode changed meanwhile, since
// what is handed back there costs a try: by the new limit, if there still is one, and
// after the pause, if it is paused. It reports false when running is done first.
func (d *Dispatcher) keepPlace(running context.Context, l *ownLane, lease *queue.Lease, every time.Duration) bool {
	for running.Err() == nil {
		ctx, cancel := context.WithCancel(running)
		l.mu.Lock()
		// Who runs the lane waits for this delivery, and does not set these.
		m, before := d.mode(l), l.end
		l.mode, l.end = m, func() { before(); cancel() }
		l.mu.Unlock()
		turn := m.kind != idle
		if turn && m.rate > 0 {
			turn = l.pace.wait(ctx, m.rate, lease, every)
		}
		for !turn && pause(ctx, every) {
			_ = lease.Extend() // if it runs out all the same, it is handed out again
		}
		cancel()
		if turn {
			return true
		}
	}
	return false
}

// giveBack hands a delivery back that was not tried, without using up a try: as a
// copy, since the queue counts how often it hands out a message. In an ordered lane
// a copy would lose its place, so there one of the spare ones is used up.
func (d *Dispatcher) giveBack(running context.Context, lease *queue.Lease, ordered bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(running), moveWait)
	defer cancel()
	var err error
	if ordered {
		err = lease.Retry(time.Millisecond)
	} else {
		err = d.Queue.Move(ctx, lease, lease.Delivery().Part)
	}
	if err != nil {
		d.Log.Error("a delivery was not handed back; it will come again when the lease runs out", "subscription", lease.Delivery().Subscription, "err", err)
	}
}

// tend gives a lane up that is of no more use, until ctx is done.
func (d *Dispatcher) tend(ctx context.Context, l *ownLane) {
	every := min(tendEvery, d.cfg.Hold)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := d.tendOnce(ctx, l); err != nil && ctx.Err() == nil {
			d.Log.Warn("an own lane was not looked after", "subscription", l.name, "err", err)
		}
	}
}

func (d *Dispatcher) tendOnce(ctx context.Context, l *ownLane) error {
	sub, there := d.Catalog.Subscription(l.name)
	if there && sub.OwnLane() {
		return nil
	}
	s, ok := d.Lanes.Get(l.name)
	if !ok {
		return nil
	}
	hold := d.cfg.Hold
	if s.Closing {
		hold = min(closeAfter, max(hold, time.Second))
	}
	if time.Since(s.Since) < hold {
		return nil
	}
	if h := d.targets.healthOf(l.name); there && !sub.Disabled && !s.Closing && (s.Has(queue.Failing) || s.Has(queue.Throttled) || h.failures.Load() > 0 || h.long.Load() > longLeast) {
		return nil
	}
	l.mu.Lock()
	lanes := l.mode.lanes(l.name)
	l.mu.Unlock()
	for _, lane := range lanes {
		if empty, err := d.Queue.Empty(ctx, lane); err != nil || !empty {
			return err
		}
	}
	if !s.Closing {
		_, err := d.Lanes.Edit(ctx, l.name, func(now *queue.OwnState, _ bool) queue.Change {
			if now.Closing || len(now.Reasons) != len(s.Reasons) || !now.Since.Equal(s.Since) {
				return queue.Keep
			}
			*now = queue.OwnState{Closing: true, Since: time.Now()}
			return queue.Write
		})
		return err
	}
	return d.closeOwn(ctx, l, lanes)
}

// closeOwn removes a lane that has closed. Should a delivery come into it all the
// same, sweep finds it.
func (d *Dispatcher) closeOwn(ctx context.Context, l *ownLane, lanes []queue.Lane) error {
	for _, lane := range lanes {
		if gone, err := d.Queue.RemoveLane(ctx, lane); err != nil || !gone {
			return err
		}
	}
	mine, err := d.Lanes.Edit(ctx, l.name, func(s *queue.OwnState, there bool) queue.Change {
		if !there || !s.Closing {
			return queue.Keep // opened again; its consumers are made again
		}
		return queue.Remove
	})
	if err != nil || !mine {
		return err
	}
	d.Log.Info("a subscription shares its policy's lane again", "subscription", l.name)
	return d.Lanes.Forget(ctx, l.name)
}
