package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/posthornhq/posthorn/pkg/bucket"
	"github.com/posthornhq/posthorn/pkg/errs"
)

// A State is where a job is in its life.
type State string

const (
	Pending   State = "PENDING" // nobody works on it yet
	Running   State = "RUNNING"
	Done      State = "DONE"
	Cancelled State = "CANCELLED"
	Failed    State = "FAILED" // it cannot go on; Error says why
)

// States lists all.
func States() []State { return []State{Pending, Running, Done, Cancelled, Failed} }

// A Job delivers stored events again.
type Job struct {
	ID     string `json:"id"`
	Number int    `json:"number"` // see [Job.Round]
	Filter Filter `json:"filter"`
	// Subscription is the only one that gets the events; all that match now if empty.
	Subscription string `json:"subscription,omitempty"`
	// Force delivers to Subscription also what it does not ask for.
	Force bool `json:"force,omitempty"`
	// Rate is how many deliveries are queued a second; 0 is no limit.
	Rate float64 `json:"rate,omitempty"`

	State      State     `json:"state"`
	CreatedBy  string    `json:"createdBy"`
	CreatedAt  time.Time `json:"createdAt"`
	UpdatedAt  time.Time `json:"updatedAt"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`
	// Error is why it failed, or what it waits for.
	Error string `json:"error,omitempty"`

	Progress
	// Owner is the worker that has it; empty if none has.
	Owner string `json:"owner,omitempty"`
	// Revision is that of its entry in the bucket; not stored.
	Revision uint64 `json:"-"`
}

// Progress is how far a job is.
type Progress struct {
	// Total is how many events the filter selects, once Counted.
	Total   uint64 `json:"total"`
	Counted bool   `json:"counted"`
	// Seen of them were looked at. Queued is how many deliveries came of that, and
	// Skipped how many of the events came to none.
	Seen    uint64 `json:"seen"`
	Queued  uint64 `json:"queued"`
	Skipped uint64 `json:"skipped"`
	// Position is up to where on stream EVENTS everything is queued; with IDs, of how
	// many of them.
	Position uint64 `json:"position"`
	// Ahead is up to where deliveries may be queued, beyond Position, and QueuedFrom
	// where on stream DELIVERIES those would be at the lowest.
	Ahead      uint64 `json:"ahead,omitempty"`
	QueuedFrom uint64 `json:"queuedFrom,omitempty"`
}

// RoundStep is between the rounds of two jobs.
const RoundStep = 1000

// Round is the round of all deliveries of a job: its number, times [RoundStep]. It is
// the same in each pass over an event, so a stretch that is repeated after a crash is
// known by the names of its deliveries. Retries by hand count on from there.
func (j *Job) Round() int { return j.Number * RoundStep }

// Over reports whether nothing comes of the job any more.
func (j *Job) Over() bool { return j.State != Pending && j.State != Running }

// NextRound returns the round of a retry by hand after a round, or an error of kind
// [errs.Conflict] if that one belongs to a job.
func NextRound(after int) (int, error) {
	if (after+1)%RoundStep == 0 {
		return 0, errs.New(errs.Conflict, "this delivery has been retried %d times by hand; start a replay of its event instead", RoundStep-1)
	}
	return after + 1, nil
}

// NewID returns a new job ID: "replay_" and a ULID (github.com/ulid/spec).
func NewID() string { return "replay_" + ulid.Make().String() }

// validID reports whether s can be a job ID.
func validID(s string) bool {
	rest, ok := strings.CutPrefix(s, "replay_")
	return ok && len(rest) == ulid.EncodedSize
}

// Keys in bucket jobs.
const (
	jobPrefix = "replay."
	numberKey = "number.replay"
)

// numberTries is how often a number is asked for while others take theirs.
const numberTries = 50

// Jobs are all jobs of the platform. It is safe for concurrent use.
type Jobs struct {
	jobs    *bucket.Bucket[Job]
	numbers *bucket.Bucket[int]
}

// NewJobs returns the jobs in KV bucket jobs.
func NewJobs(kv jetstream.KeyValue) *Jobs {
	return &Jobs{jobs: bucket.New(kv, jobPrefix, bucket.JSON[Job]()), numbers: bucket.New(kv, "", bucket.JSON[int]())}
}

// Create makes a job of what a caller wants, which must be valid, and returns it.
func (s *Jobs) Create(ctx context.Context, j Job) (Job, error) {
	number, err := s.nextNumber(ctx)
	if err != nil {
		return Job{}, err
	}
	now := time.Now().UTC()
	j.ID, j.Number, j.State, j.CreatedAt, j.UpdatedAt = NewID(), number, Pending, now, now
	if j.Revision, err = s.jobs.Create(ctx, j.ID, j); err != nil {
		return Job{}, fmt.Errorf("replay: create a job: %w", err)
	}
	return j, nil
}

// nextNumber takes a number that no job has had. One that is not used is lost.
func (s *Jobs) nextNumber(ctx context.Context) (int, error) {
	for range numberTries {
		last, err := s.numbers.Get(ctx, numberKey)
		switch {
		case errs.KindOf(err) == errs.NotFound:
			_, err = s.numbers.Create(ctx, numberKey, 1)
		case err == nil:
			_, err = s.numbers.Update(ctx, numberKey, last.Value+1, last.Revision)
		}
		if err == nil {
			return last.Value + 1, nil
		}
		if k := errs.KindOf(err); k != errs.Stale && k != errs.Conflict {
			return 0, fmt.Errorf("replay: take a number: %w", err)
		}
	}
	return 0, errs.New(errs.Unavailable, "too many jobs are started at this moment; try again")
}

// Get returns a job. The error is of kind [errs.NotFound] if there is none.
func (s *Jobs) Get(ctx context.Context, id string) (Job, error) {
	if !validID(id) {
		return Job{}, errs.New(errs.NotFound, "there is no replay of that ID; they look like replay_01J9Z…, and `posthorn replay list` shows them")
	}
	e, err := s.jobs.Get(ctx, id)
	if errs.KindOf(err) == errs.NotFound {
		return Job{}, errs.New(errs.NotFound, "replay %s does not exist", id)
	}
	return jobOf(e), err
}

func jobOf(e bucket.Entry[Job]) Job {
	j := e.Value
	j.Revision = e.Revision
	return j
}

// List returns a page of jobs, newest first, and the cursor of the next, "" on the
// last. State selects; empty is all.
func (s *Jobs) List(ctx context.Context, state State, limit int, after string) ([]Job, string, error) {
	if after != "" && !strings.HasPrefix(after, "replay_") {
		return nil, "", errs.Field("cursor", "%q is not one that a list gave", after)
	}
	all, err := s.jobs.List(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("replay: list jobs: %w", err)
	}
	var out []Job
	for _, e := range all {
		if (state == "" || e.Value.State == state) && (after == "" || e.Key < after) {
			out = append(out, jobOf(e))
		}
	}
	// IDs begin with the time.
	slices.SortFunc(out, func(a, b Job) int { return cmp.Compare(b.ID, a.ID) })
	if len(out) <= limit {
		return out, "", nil
	}
	return out[:limit], out[limit-1].ID, nil
}

// Save writes a job over the revision that it has, and gives it the new one. The
// error is of kind [errs.Stale] if somebody else wrote it meanwhile.
func (s *Jobs) Save(ctx context.Context, j *Job) error {
	j.UpdatedAt = time.Now().UTC()
	revision, err := s.jobs.Update(ctx, j.ID, *j, j.Revision)
	if err != nil {
		return fmt.Errorf("replay: save %s: %w", j.ID, err)
	}
	j.Revision = revision
	return nil
}

// Cancel ends a job; what it has queued is delivered. One that is over already is
// an error of kind [errs.Conflict], unless it was cancelled.
func (s *Jobs) Cancel(ctx context.Context, id string) (Job, error) {
	for {
		j, err := s.Get(ctx, id)
		if err != nil || j.State == Cancelled {
			return j, err
		}
		if j.Over() {
			return j, errs.New(errs.Conflict, "replay %s is over: it is %s", id, j.State)
		}
		j.State, j.FinishedAt = Cancelled, time.Now().UTC()
		err = s.Save(ctx, &j)
		if err == nil || errs.KindOf(err) != errs.Stale {
			return j, err
		}
		if ctx.Err() != nil {
			return j, errors.Join(err, context.Cause(ctx))
		}
	}
}

// Forget deletes the jobs that were over before a time, and returns how many.
func (s *Jobs) Forget(ctx context.Context, before time.Time) (int, error) {
	all, err := s.jobs.List(ctx)
	if err != nil {
		return 0, fmt.Errorf("replay: list jobs: %w", err)
	}
	n := 0
	for _, e := range all {
		if !e.Value.Over() || !e.Value.FinishedAt.Before(before) {
			continue
		}
		if err := s.jobs.Delete(ctx, e.Key, e.Revision); err == nil {
			n++
		} else if errs.KindOf(err) != errs.Stale { // another process was faster
			return n, fmt.Errorf("replay: forget %s: %w", e.Key, err)
		}
	}
	return n, nil
}

// Watch calls changed with every job and then with every change, until ctx is done.
// What cannot be read is given to bad.
func (s *Jobs) Watch(ctx context.Context, changed func(Job), bad func(id string, err error)) error {
	return s.jobs.Watch(ctx, func(e bucket.Entry[Job]) {
		if !e.Deleted {
			changed(jobOf(e))
		}
	}, func() {}, bad)
}
