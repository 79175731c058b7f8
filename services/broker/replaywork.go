package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/replay"
	"github.com/posthornhq/posthorn/pkg/stream"
)

const (
	// replayPage is how many events are prepared at once, and replayInFlight how many
	// deliveries of a job wait for the queue's answer at most: what is accepted at
	// the same time finds the queue's connection free.
	replayPage     = 500
	replayInFlight = 500
	// replayTouch is how many events are written anew at once.
	replayTouch = 16
	// replayYoung is how long a subscription may be unknown to this process that
	// another has just made.
	replayYoung = 30 * time.Second
	// The pauses after a failure.
	replayRetryFrom, replayRetryTo = 200 * time.Millisecond, 15 * time.Second
)

var (
	errJobCancelled = errors.New("the replay was cancelled")
	errJobLost      = errors.New("the replay is another worker's")
)

// A replaying is this process's work on one job.
type replaying struct {
	*Replays
	mu    sync.Mutex // guards what follows
	job   replay.Job
	saved time.Time // when the job was written last

	// repeated are the deliveries up to again, by event and subscription, that are in
	// the queue from an earlier pass over the same stretch.
	again    uint64
	repeated map[string]bool
	limit    *rate.Limiter // nil if there is none
	flight   []flying
	pending  int // publishes in flight
	acked    uint64
}

// flying is an event whose deliveries are on their way into the queue.
type flying struct {
	at      uint64
	queued  []stream.Pending
	already int // deliveries that are there from an earlier pass
}

// work delivers until the job is over, ctx is done, or another has taken it.
func (r *Replays) work(ctx context.Context, j replay.Job) {
	w := &replaying{Replays: r, job: j, saved: time.Now()}
	if j.Rate > 0 {
		w.limit = rate.NewLimiter(rate.Limit(j.Rate), max(1, int(j.Rate/10)))
	}
	log := r.broker.Log.With("replay", j.ID)
	log.Info("working on a replay", "position", j.Position, "round", j.Round())
	run, stop := context.WithCancelCause(ctx)
	var beat sync.WaitGroup
	beat.Go(func() { w.heartbeat(run, stop) })
	err := w.passes(run)
	stop(nil)
	beat.Wait()
	if cause := context.Cause(run); errors.Is(cause, errJobCancelled) || errors.Is(cause, errJobLost) {
		err = cause
	}
	// Its last word outlives the signal that stops it.
	last, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer done()
	if err := w.leave(last, err); err != nil {
		log.Warn("the end of the work on a replay was not written; another goes on where it was written last", "err", err)
	}
	log.Info("no longer working on a replay", "state", w.job.State, "queued", w.job.Queued, "why", err)
}

// leave writes how the work ended.
func (w *replaying) leave(ctx context.Context, err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	gone, isGone := errors.AsType[goneError](err)
	w.job.Owner = ""
	switch {
	case errors.Is(err, errJobLost):
		return nil
	case errors.Is(err, errJobCancelled):
		now, err := w.jobs.Get(ctx, w.job.ID)
		if err != nil || now.State != replay.Cancelled {
			return err
		}
		now.Progress, now.Owner = w.job.Progress, ""
		w.job = now
	case isGone:
		w.job.State, w.job.Error = replay.Failed, gone.Error()+"; what was queued before stays queued"
		w.job.FinishedAt = time.Now().UTC()
	case err == nil:
		w.job.State, w.job.Error, w.job.Ahead = replay.Done, "", 0
		w.job.FinishedAt = time.Now().UTC()
	}
	if saveErr := w.store(ctx); !errors.Is(saveErr, errJobCancelled) && !errors.Is(saveErr, errJobLost) {
		return saveErr
	}
	return nil // at the last moment
}

// heartbeat writes the progress until ctx is done, and ends the work if the job is
// this process's no more.
func (w *replaying) heartbeat(ctx context.Context, stop context.CancelCauseFunc) {
	tick := time.NewTicker(max(w.cfg.Lease/10, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := w.save(ctx)
		if errors.Is(err, errJobCancelled) || errors.Is(err, errJobLost) {
			stop(err)
			return
		}
	}
}

// save writes the progress. It is not cut short by ctx: a write that may or may not
// have been made would look like another's.
func (w *replaying) save(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.cfg.Lease)
	defer cancel()
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.store(ctx)
	if err != nil && time.Since(w.saved) > w.cfg.Lease {
		return errJobLost // others have taken it, or will
	}
	return err
}

// store writes the job if it is this process's still. The lock is held.
func (w *replaying) store(ctx context.Context) error {
	err := w.write(ctx)
	if errs.KindOf(err) != errs.Stale {
		return err
	}
	now, err := w.jobs.Get(ctx, w.job.ID)
	switch {
	case err != nil:
		return err
	case now.State == replay.Cancelled && w.job.State != replay.Cancelled:
		return errJobCancelled
	case now.Owner != w.owner:
		return errJobLost
	}
	w.job.Revision = now.Revision // a write of ours whose answer was lost
	return w.write(ctx)
}

// write puts the job into the bucket. Everything up to its position is in the queue
// for good before that says so.
func (w *replaying) write(ctx context.Context) error {
	if err := w.broker.Store.Commit(ctx); err != nil {
		return err
	}
	if err := w.jobs.Save(ctx, &w.job); err != nil {
		return err
	}
	w.saved = time.Now()
	return nil
}

// passes goes over the job's events until all are queued. A failure that may pass
// begins a new pass where the one before has come to.
func (w *replaying) passes(ctx context.Context) error {
	pause := replayRetryFrom
	for {
		before := w.job.Position
		err := w.pass(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if _, gone := errors.AsType[goneError](err); gone && time.Since(w.job.CreatedAt) > replayYoung {
			return err
		}
		if w.job.Position > before {
			pause = replayRetryFrom
		}
		w.say(waitsFor(err))
		w.broker.Log.Warn("a replay waits", "replay", w.job.ID, "err", err, "again", pause)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, replayRetryTo)
	}
}

// waitsFor returns what may be shown of an error.
func waitsFor(err error) string {
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return "waits: " + e.Message
	}
	if e, ok := errors.AsType[goneError](err); ok {
		return "waits: " + e.Error()
	}
	return "waits: the event store does not answer"
}

func (w *replaying) say(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.job.Error = text
}

func (w *replaying) pass(ctx context.Context) error {
	defer func() { w.flight, w.pending = nil, 0 }()
	sel, err := replay.Select(w.js, w.job.Filter)
	if err != nil {
		return err
	}
	if !w.job.Counted {
		total, err := sel.Count(ctx)
		if err != nil {
			return err
		}
		w.mu.Lock()
		w.job.Total, w.job.Counted = total, true
		w.mu.Unlock()
	}
	if err := w.lookBack(ctx); err != nil {
		return err
	}
	for {
		page := make([]replay.Selected, 0, replayPage)
		end, err := sel.Next(ctx, w.job.Position, w.pageSize(), func(s replay.Selected) error {
			page = append(page, s)
			return nil
		})
		if err != nil {
			return err
		}
		if err := w.page(ctx, page); err != nil {
			return err
		}
		if end {
			return nil
		}
	}
}

// pageSize is about a second's work: what is prepared is not looked at again.
func (w *replaying) pageSize() int {
	if w.job.Rate > 0 {
		return min(max(1, int(w.job.Rate)), replayPage)
	}
	return replayPage
}

// page queues the deliveries of some events, in their order.
func (w *replaying) page(ctx context.Context, page []replay.Selected) error {
	if len(page) == 0 {
		return nil
	}
	if err := w.announce(ctx, page[len(page)-1].At); err != nil {
		return err
	}
	prepared := make([]prepared, len(page))
	g, touching := errgroup.WithContext(ctx)
	g.SetLimit(replayTouch)
	for i, s := range page {
		g.Go(func() (err error) {
			prepared[i], err = w.prepareEvent(touching, s)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i := range prepared {
		if err := w.queue(ctx, page[i].At, &prepared[i]); err != nil {
			return errors.Join(err, w.land(context.WithoutCancel(ctx), 0))
		}
	}
	return w.land(context.WithoutCancel(ctx), 0)
}

// announce writes up to where deliveries will be queued, before the first of them is,
// so that who comes after a crash knows which may be there.
func (w *replaying) announce(ctx context.Context, ahead uint64) error {
	w.mu.Lock()
	if w.job.Ahead <= w.job.Position {
		w.job.QueuedFrom = w.acked + 1
	}
	w.job.Ahead = max(w.job.Ahead, ahead)
	w.mu.Unlock()
	return w.save(ctx)
}

// prepared are the deliveries of an event.
type prepared struct {
	trace      string
	deliveries []event.Delivery
	already    int
}

// prepareEvent returns the deliveries of an event, which is written anew if there are
// any, so that retention takes it for young.
func (w *replaying) prepareEvent(ctx context.Context, s replay.Selected) (prepared, error) {
	var p prepared
	if w.job.Subscription != "" {
		if _, err := w.target(&w.job); err != nil {
			return p, err
		}
	}
	seen, subs, err := w.targets(ctx, &w.job, s.Event, true)
	if err != nil {
		return p, err
	}
	var tried map[string]bool
	if s.At <= w.again && len(subs) > 0 {
		if tried, err = w.tried(ctx, s.Event.ID); err != nil {
			return p, err
		}
	}
	for _, sub := range subs {
		d := event.Delivery{
			Event: s.Event.ID, Subscription: sub.Name, Round: w.job.Round(), Policy: sub.Policy,
			// What is replayed waits behind what is new, where the two share a lane.
			Priority: event.Low, Own: w.broker.ownLane(sub),
		}
		if w.repeated[d.Key()] || tried[sub.Name] {
			p.already++
			continue
		}
		if sub.Ordered {
			if d.Part, err = w.broker.part(ctx, sub, seen); err != nil {
				return p, err
			}
			if len(w.job.Filter.IDs) == 0 {
				d.Place = s.At
			}
		}
		p.deliveries = append(p.deliveries, d)
	}
	if len(p.deliveries) == 0 {
		return p, nil
	}
	ev, revision, err := w.broker.Store.Touch(ctx, s.Event.ID)
	if errs.KindOf(err) == errs.NotFound {
		return prepared{already: p.already}, nil // kept no longer
	}
	if err != nil {
		return p, err
	}
	p.trace = ev.TraceParent
	for i := range p.deliveries {
		p.deliveries[i].Revision = revision
	}
	return p, nil
}

// queue begins to queue the deliveries of the event at a place.
func (w *replaying) queue(ctx context.Context, at uint64, p *prepared) error {
	f := flying{at: at, already: p.already}
	for i := range p.deliveries {
		if w.limit != nil {
			if err := w.limit.Wait(ctx); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.land(context.WithoutCancel(ctx), replayInFlight-1-len(f.queued)); err != nil {
			return err
		}
		f.queued = append(f.queued, w.broker.Queue.Enqueue(&p.deliveries[i], p.trace))
		w.pending++
	}
	w.flight = append(w.flight, f)
	return nil
}

// land waits until at most some publishes are in flight, oldest first, and notes what
// has come into the queue.
func (w *replaying) land(ctx context.Context, most int) error {
	for len(w.flight) > 0 && (w.pending > most || len(w.flight[0].queued) == 0) {
		f := w.flight[0]
		for i := range f.queued {
			ack, err := f.queued[i].Wait(ctx)
			if err != nil {
				return fmt.Errorf("broker: queue a replayed delivery: %w", err)
			}
			w.acked = max(w.acked, ack.Sequence)
		}
		w.flight = w.flight[1:]
		w.pending -= len(f.queued)
		w.mu.Lock()
		w.job.Position, w.job.Error = f.at, ""
		w.job.Seen++
		w.job.Queued += uint64(len(f.queued) + f.already)
		if len(f.queued)+f.already == 0 {
			w.job.Skipped++
		}
		w.mu.Unlock()
	}
	return nil
}

// lookBack finds which deliveries of the stretch that may have been queued before are
// in the queue still. Those that are not there any more have been tried: see tried.
func (w *replaying) lookBack(ctx context.Context) error {
	w.again, w.repeated = 0, nil
	s, err := w.js.Stream(ctx, topology.StreamDeliveries)
	if err != nil {
		return fmt.Errorf("broker: look at %s: %w", topology.StreamDeliveries, err)
	}
	w.acked = max(w.acked, s.CachedInfo().State.LastSeq)
	if w.job.Ahead <= w.job.Position {
		return nil
	}
	w.again, w.repeated = w.job.Ahead, map[string]bool{}
	err = stream.EachByLeader(ctx, w.js, topology.StreamDeliveries, topology.LiveDeliveries, w.job.QueuedFrom, 1000, func(m *jetstream.RawStreamMsg) error {
		d, ok := topology.ParseDeliverySubject(m.Subject)
		if ok && m.Header.Get(topology.HeaderRound) == fmt.Sprint(w.job.Round()) {
			d.Event, d.Round = string(m.Data), w.job.Round()
			w.repeated[d.Key()] = true
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("broker: look for a replay's deliveries: %w", err)
	}
	return nil
}

// tried returns the subscriptions to which an event was tried to deliver in the job's
// round. Every delivery is recorded before it leaves the queue.
func (w *replaying) tried(ctx context.Context, id string) (map[string]bool, error) {
	attempts, err := w.broker.Ledger.Attempts(ctx, id, w.job.CreatedAt.Add(-time.Minute))
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for i := range attempts {
		if attempts[i].Round == w.job.Round() {
			out[attempts[i].Subscription] = true
		}
	}
	return out, nil
}
