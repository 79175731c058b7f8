package broker

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/replay"
)

// replayKept is how long a job is listed after its end, and replayForget how often
// those that are older are looked for.
const replayKept, replayForget = 31 * 24 * time.Hour, time.Hour

// Run works on jobs until ctx is done, leaves them to others, and returns nil.
func (r *Replays) Run(ctx context.Context) error {
	board := &board{known: map[string]sighting{}, mine: map[string]bool{}, changed: make(chan struct{}, 1)}
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { r.watch(ctx, board) })
	tick := time.NewTicker(max(r.cfg.Lease/4, time.Millisecond))
	defer tick.Stop()
	forget := time.NewTicker(replayForget)
	defer forget.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-forget.C:
			if _, err := r.jobs.Forget(ctx, time.Now().Add(-replayKept)); err != nil && ctx.Err() == nil {
				r.broker.Log.Warn("old replays could not be forgotten; they will be in an hour", "err", err)
			}
			continue
		case <-board.changed:
		case <-tick.C:
		}
		for _, j := range board.free(r.cfg.Lease, r.cfg.Parallel) {
			j.State, j.Owner = replay.Running, r.owner
			if err := r.jobs.Save(ctx, &j); err != nil {
				board.drop(j.ID)
				if errs.KindOf(err) != errs.Stale && ctx.Err() == nil {
					r.broker.Log.Warn("a replay could not be begun; it will be tried again", "replay", j.ID, "err", err)
				}
				continue
			}
			all.Go(func() {
				defer board.leave(j.ID)
				r.work(ctx, j)
			})
		}
	}
}

// watch keeps the board up to date.
func (r *Replays) watch(ctx context.Context, b *board) {
	for ctx.Err() == nil {
		err := r.jobs.Watch(ctx, b.see, func(id string, err error) {
			r.broker.Log.Warn("a replay cannot be read", "replay", id, "err", err)
		})
		if ctx.Err() != nil {
			return
		}
		r.broker.Log.Warn("the replays are not watched for a moment", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// A board is what this process knows of the jobs that are not over.
type board struct {
	mu      sync.Mutex
	known   map[string]sighting
	mine    map[string]bool
	changed chan struct{}
}

// A sighting is a job, and when it was seen to have changed: by this process's own
// clock, so that clocks which differ make nobody take what another works on.
type sighting struct {
	job replay.Job
	at  time.Time
}

func (b *board) see(j replay.Job) {
	b.mu.Lock()
	if j.Over() {
		delete(b.known, j.ID)
	} else if b.known[j.ID].job.Revision != j.Revision {
		b.known[j.ID] = sighting{j, time.Now()}
	}
	b.mu.Unlock()
	if j.Owner == "" {
		b.wake()
	}
}

func (b *board) wake() {
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// free takes jobs that nobody works on, the oldest first, as long as there are not
// too many.
func (b *board) free(lease time.Duration, most int) []replay.Job {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []replay.Job
	for id, s := range b.known {
		if !b.mine[id] && (s.job.Owner == "" || time.Since(s.at) >= lease) {
			out = append(out, s.job)
		}
	}
	slices.SortFunc(out, func(x, y replay.Job) int { return x.Number - y.Number })
	out = out[:min(len(out), max(0, most-len(b.mine)))]
	for _, j := range out {
		b.mine[j.ID] = true
	}
	return out
}

// drop says that this process does not work on a job after all.
func (b *board) drop(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.mine, id)
}

// leave says that it works on it no more, and has time for another.
func (b *board) leave(id string) {
	b.drop(id)
	b.wake()
}
