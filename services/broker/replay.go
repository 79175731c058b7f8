package broker

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/replay"
	"github.com/posthornhq/posthorn/pkg/subscription"
)

// ReplayConfig holds what operators may tune. The zero value is usable.
type ReplayConfig struct {
	// Lease is how long a job may go unwritten before another process takes it over.
	// A tenth of it is how often progress is written. Default 10s, which lets a
	// takeover repeat its deliveries within [topology.DuplicateWindow].
	Lease time.Duration
	// Parallel is how many jobs this process works on at once. Default 4.
	Parallel int
	// PreviewFor bounds how long a preview counts. Default 10s.
	PreviewFor time.Duration
}

// Replays are the jobs that deliver stored events again. Any process may start,
// look at and cancel them; those that run [Replays.Run] work on them.
type Replays struct {
	broker *Broker
	js     jetstream.JetStream
	jobs   *replay.Jobs
	cfg    ReplayConfig
	owner  string
}

// NewReplays returns the jobs as b delivers them. js is for reading.
func NewReplays(b *Broker, js jetstream.JetStream, jobs *replay.Jobs, cfg ReplayConfig) *Replays {
	if cfg.Lease == 0 {
		cfg.Lease = 10 * time.Second
	}
	if cfg.Parallel == 0 {
		cfg.Parallel = 4
	}
	if cfg.PreviewFor == 0 {
		cfg.PreviewFor = 10 * time.Second
	}
	return &Replays{broker: b, js: js, jobs: jobs, cfg: cfg, owner: strings.TrimPrefix(replay.NewID(), "replay_")}
}

// A Preview is what a replay would do now.
type Preview struct {
	Events     uint64   // that are selected
	Deliveries uint64   // that would come of them
	Examples   []string // IDs of the first events with a delivery
	// AtLeast says that there was no time to count all.
	AtLeast bool
}

const (
	previewExamples = 5
	previewPage     = 500
)

// Preview counts what a job would do.
func (r *Replays) Preview(ctx context.Context, j *replay.Job) (Preview, error) {
	var p Preview
	sel, err := r.prepare(ctx, j)
	if err != nil {
		return p, err
	}
	begun, at := time.Now(), uint64(0)
	for end := false; !end; {
		if p.AtLeast = time.Since(begun) > r.cfg.PreviewFor; p.AtLeast {
			break
		}
		var page []replay.Selected
		if end, err = sel.Next(ctx, at, previewPage, func(s replay.Selected) error {
			page = append(page, s)
			return nil
		}); err != nil {
			return p, err
		}
		for _, s := range page {
			at = s.At
			seen, subs, err := r.targets(ctx, j, s.Event, false)
			if err != nil {
				return p, err
			}
			if seen == nil { // named, and not there (any more)
				continue
			}
			p.Events++
			p.Deliveries += uint64(len(subs))
			if len(subs) > 0 && len(p.Examples) < previewExamples {
				p.Examples = append(p.Examples, s.Event.ID)
			}
		}
	}
	return p, nil
}

// Start makes a job of what a caller wants. It is about what was accepted until now.
func (r *Replays) Start(ctx context.Context, j *replay.Job) (replay.Job, error) {
	if _, err := r.prepare(ctx, j); err != nil {
		return replay.Job{}, err
	}
	created, err := r.jobs.Create(ctx, *j)
	if err != nil {
		return replay.Job{}, err
	}
	return created, r.broker.Store.Commit(ctx)
}

// prepare checks a job that a caller wants, and gives it its end.
func (r *Replays) prepare(ctx context.Context, j *replay.Job) (*replay.Selection, error) {
	if err := replay.Validate(j); err != nil {
		return nil, err
	}
	if j.Subscription != "" {
		if sub, ok := r.broker.Catalog.Subscription(j.Subscription); !ok {
			return nil, errs.Field("subscription", "%s does not exist", j.Subscription)
		} else if sub.Disabled {
			return nil, errs.Field("subscription", "%s is disabled; enable it, then replay", j.Subscription)
		}
	}
	var err error
	if j.Filter.Until, err = replay.End(ctx, r.js); err != nil {
		return nil, errs.Wrap(err, errs.Unavailable, "the event store does not answer; try again later")
	}
	return replay.Select(r.js, j.Filter)
}

// Get returns a job.
func (r *Replays) Get(ctx context.Context, id string) (replay.Job, error) { return r.jobs.Get(ctx, id) }

// List returns a page of jobs, newest first, and the cursor of the next.
func (r *Replays) List(ctx context.Context, state replay.State, limit int, cursor string) ([]replay.Job, string, error) {
	return r.jobs.List(ctx, state, limit, cursor)
}

// Cancel ends a job; what it has queued is delivered.
func (r *Replays) Cancel(ctx context.Context, id string) (replay.Job, error) {
	j, err := r.jobs.Cancel(ctx, id)
	if err != nil {
		return j, err
	}
	return j, r.broker.Store.Commit(ctx)
}

// targets returns those who get an event of a job, with what expressions see of the
// event: nil, and nobody, if it is not there. Filters that fail are noted in the
// event's trace if note is set.
func (r *Replays) targets(ctx context.Context, j *replay.Job, ev *event.Event, note bool) (*view, []*subscription.Subscription, error) {
	b := r.broker
	var full *event.Event
	if len(j.Filter.IDs) > 0 || isVersionUpdate(ev) {
		var err error
		if full, err = b.Store.Get(ctx, ev.ID); errs.KindOf(err) == errs.NotFound {
			return nil, nil, nil
		} else if err != nil {
			return nil, nil, err
		}
		ev = full
	}
	seen := b.view(ev, full)
	var subs []*subscription.Subscription
	switch {
	case j.Subscription != "" && j.Force:
		sub, err := r.target(j)
		if err != nil {
			return nil, nil, err
		}
		return seen, []*subscription.Subscription{sub}, nil
	case isVersionUpdate(ev):
		subs = b.Catalog.Subscriptions().MatchTypes(nil, ev.Type, full.Subject)
	default:
		subs = b.Catalog.Subscriptions().Match(ev, nil)
	}
	var err error
	subs = slices.DeleteFunc(subs, func(s *subscription.Subscription) bool {
		if err != nil || j.Subscription != "" && s.Name != j.Subscription {
			return true
		}
		if s.Filter == nil {
			return false
		}
		var pass bool
		pass, err = r.passes(ctx, s, seen, note)
		return !pass
	})
	if errs.KindOf(err) == errs.NotFound { // a filter wanted to see it
		return nil, nil, nil
	}
	return seen, subs, err
}

func (r *Replays) passes(ctx context.Context, s *subscription.Subscription, seen *view, note bool) (bool, error) {
	if !note {
		facts, err := seen.facts(ctx, s.Filter.NeedsEvent())
		if err != nil {
			return false, err
		}
		pass, err := s.Filter.EvalFacts(ctx, facts)
		return pass && err == nil, nil
	}
	pass, noted, err := r.broker.passes(ctx, s, seen)
	if err == nil && noted != nil {
		_, err = noted.Wait(ctx)
	}
	return pass, err
}

// target returns the one subscription of a job, or a [goneError] if there is none.
func (r *Replays) target(j *replay.Job) (*subscription.Subscription, error) {
	sub, ok := r.broker.Catalog.Subscription(j.Subscription)
	if ok && !sub.Disabled {
		return sub, nil
	}
	return nil, goneError{j.Subscription}
}

// goneError says that a job has nobody to deliver to.
type goneError struct{ subscription string }

func (e goneError) Error() string {
	return "subscription " + e.subscription + " is deleted or disabled"
}
