package replay_test

import (
	"sync"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/replay"
)

func newJobs(t *testing.T) *replay.Jobs {
	t.Helper()
	kv, err := jstest.WithTopology(t, topology.Config{}).KeyValue(t.Context(), topology.BucketJobs)
	if err != nil {
		t.Fatal(err)
	}
	return replay.NewJobs(kv)
}

// Two jobs of one round would be taken for one another's repeats.
func TestNoTwoJobsHaveTheSameRound(t *testing.T) {
	t.Parallel()
	jobs := newJobs(t)
	var mu sync.Mutex
	rounds := map[int]string{}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			j, err := jobs.Create(t.Context(), replay.Job{})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if other, taken := rounds[j.Round()]; taken || j.Round()%replay.RoundStep != 0 || j.Round() == 0 {
				t.Errorf("%s has round %d, and so has %q", j.ID, j.Round(), other)
			}
			rounds[j.Round()] = j.ID
		})
	}
	wg.Wait()
	if len(rounds) != 20 {
		t.Errorf("%d jobs were created, want 20", len(rounds))
	}
}

func TestARetryByHandTakesNoJobsRound(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name        string
		after, want int // 0 is a conflict
	}{
		{"the first", 1, 2},
		{"the last", 998, 999},
		{"one more", 999, 0},
		{"after a job's", 1000, 1001},
		{"the last after a job's", 1999, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := replay.NextRound(tt.after)
			if got != tt.want || (err != nil) != (tt.want == 0) || err != nil && errs.KindOf(err) != errs.Conflict {
				t.Errorf("after %d comes %d, %v; want %d", tt.after, got, err, tt.want)
			}
		})
	}
}

// Who was slow must not write over who took the job.
func TestAJobIsSavedByCompareAndSet(t *testing.T) {
	t.Parallel()
	jobs := newJobs(t)
	mine, err := jobs.Create(t.Context(), replay.Job{})
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := jobs.Get(t.Context(), mine.ID)
	if err != nil {
		t.Fatal(err)
	}
	theirs.Owner = "them"
	if err := jobs.Save(t.Context(), &theirs); err != nil {
		t.Fatal(err)
	}
	mine.Owner = "me"
	if err := jobs.Save(t.Context(), &mine); errs.KindOf(err) != errs.Stale {
		t.Errorf("saved over somebody else's: %v, want it stale", err)
	}
	// A cancel is no worker's write, and goes through all the same.
	if got, err := jobs.Cancel(t.Context(), mine.ID); err != nil || got.State != replay.Cancelled || got.Owner != "them" {
		t.Errorf("cancelled: %+v, %v", got, err)
	}
}

func TestWhatIsOverForLongIsForgotten(t *testing.T) {
	t.Parallel()
	jobs := newJobs(t)
	now := time.Now()
	want := []string{}
	for _, finished := range []time.Time{{}, now, now.Add(-time.Hour)} {
		j, err := jobs.Create(t.Context(), replay.Job{})
		if err != nil {
			t.Fatal(err)
		}
		if !finished.IsZero() {
			j.State, j.FinishedAt = replay.Done, finished
			if err := jobs.Save(t.Context(), &j); err != nil {
				t.Fatal(err)
			}
		}
		want = append([]string{j.ID}, want...)
	}
	if n, err := jobs.Forget(t.Context(), now.Add(-time.Minute)); n != 1 || err != nil {
		t.Errorf("forgot %d, %v; want the oldest alone", n, err)
	}
	left, _, err := jobs.List(t.Context(), "", 10, "")
	if err != nil || len(left) != 2 {
		t.Fatalf("%d are left, %v; want 2", len(left), err)
	}
	for _, j := range left {
		if j.ID == want[0] {
			t.Errorf("%s is left, want it forgotten", j.ID)
		}
	}
	// Its number is not given out again.
	if j, err := jobs.Create(t.Context(), replay.Job{}); err != nil || j.Number != 4 {
		t.Errorf("the next has number %d, %v; want 4", j.Number, err)
	}
}
