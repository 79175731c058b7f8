package api_test

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/posthornhq/posthorn/pkg/client"
	"github.com/posthornhq/posthorn/pkg/replay"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
	"github.com/posthornhq/posthorn/services/api"
)

// replays are the real jobs, on which nobody works.
type replays struct {
	*replay.Jobs
	w *fakeWorld
}

func (r replays) Preview(_ context.Context, j *replay.Job) (api.ReplayPreview, error) {
	r.w.asked = *j
	return api.ReplayPreview{Events: 7, Deliveries: 9, Examples: []string{"ev_1"}, AtLeast: true}, replay.Validate(j)
}

func (r replays) Start(ctx context.Context, j *replay.Job) (replay.Job, error) {
	r.w.asked = *j
	if err := replay.Validate(j); err != nil {
		return replay.Job{}, err
	}
	return r.Create(ctx, *j)
}

func TestReplaysAreStartedListedAndCancelled(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, r *rig) {
		const path = "/api/v1/replays"
		r.do("GET", path, "").is(200).has("items", []any{}).has("nextCursor", "")
		r.do("POST", path, `{"filter":{"types":["order.*"]},"dryRun":true}`).is(200).
			has("preview.events", 7).has("preview.deliveries", 9).has("preview.examples.0", "ev_1").has("preview.atLeast", true).has("replay", nil)
		r.do("GET", path, "").is(200).has("items", []any{})

		first := r.do("POST", path, `{"filter":{"types":["order.*","#.paid"],"from":"2026-01-31T09:00:00Z","to":"2026-02-01T09:00:00Z","source":"shop",
			"context":"test","tenant":"acme"},"subscription":"erp","force":true,"ratePerSecond":2.5}`).is(200).
			has("replay.state", "PENDING").has("replay.round", 1000).has("replay.createdBy", "admin").has("replay.total", nil).
			has("replay.filter.types.1", "#.paid").has("preview", nil).field("replay.id").(string)
		job, ok := r.world.asked.(replay.Job)
		from := time.Date(2026, 1, 31, 9, 0, 0, 0, time.UTC)
		if !ok || !job.Filter.From.Equal(from) || !job.Filter.To.Equal(from.Add(24*time.Hour)) || job.Filter.Source != "shop" || job.Filter.Context != "test" ||
			job.Filter.Tenant != "acme" || job.Subscription != "erp" || !job.Force || job.Rate != 2.5 || job.CreatedBy != "admin" {
			t.Errorf("started %+v", r.world.asked)
		}
		second := r.do("POST", path, `{"all":true}`).is(200).has("replay.round", 2000).field("replay.id").(string)

		r.do("POST", path, `{}`).problem(400, "filter")
		r.do("POST", path, `{"filter":{"ids":["no"]}}`).problem(400, "ids[0]")
		r.do("POST", path, `{"filter":{"from":"2026-02-01T00:00:00Z","to":"2026-01-01T00:00:00Z"}}`).problem(400, "to")
		r.do("POST", path, `{"subscription":"erp","ratePerSecond":-1}`).problem(400, "ratePerSecond")
		r.do("GET", path+"/"+first, "").is(200).has("subscription", "erp")
		r.do("GET", path+"/replay_x", "").problem(404, "")

		list := r.do("GET", path+"?limit=1", "").is(200).has("items.0.id", second)
		r.do("GET", path+"?limit=1&cursor="+list.field("nextCursor").(string), "").is(200).has("items.0.id", first).has("nextCursor", "")
		r.do("GET", path+"?cursor=x", "").problem(400, "cursor")
		r.do("GET", path+"?limit=0x", "").problem(400, "limit")

		r.do("POST", path+"/"+first+":cancel", "{}").is(200).has("state", "CANCELLED")
		r.do("POST", path+"/"+first+":cancel", "{}").is(200).has("state", "CANCELLED")
		r.do("POST", path+"/replay_x:cancel", "{}").problem(404, "")
		r.do("GET", path+"?state=CANCELLED", "").is(200).has("items.0.id", first).has("items.1", nil)
		// Each once, though it was cancelled twice.
		r.do("GET", "/api/v1/audit?kind=replays", "").is(200).has("items.0.name", first).has("items.0.action", "cancelled").has("items.0.who", "admin").
			has("items.1.name", second).has("items.1.action", "created").has("items.2.name", first).has("items.2.action", "created").has("items.3", nil)
	})
}

func TestTheClientSpeaksOfReplays(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	server := httptest.NewServer(r.handler)
	t.Cleanup(server.Close)
	c, err := client.New(server.URL, client.Config{Key: r.key, Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.StartReplay(t.Context(), &posthornv1.StartReplayRequest{DryRun: true})
	if err != nil || p.GetPreview().GetEvents() != 7 {
		t.Errorf("previewed %v, %v", p, err)
	}
	started, err := c.StartReplay(t.Context(), &posthornv1.StartReplayRequest{Subscription: "erp", Filter: &posthornv1.ReplayFilter{Types: []string{"a"}}})
	if err != nil {
		t.Fatal(err)
	}
	id := started.GetReplay().GetId()
	got, err := c.GetReplay(t.Context(), id)
	if err != nil || !proto.Equal(got, started.GetReplay()) {
		t.Errorf("got %v, %v; want what was started", got, err)
	}
	if got, err := c.CancelReplay(t.Context(), id); err != nil || got.GetState() != posthornv1.Replay_CANCELLED {
		t.Errorf("cancelled %v, %v", got, err)
	}
	n := 0
	for job, err := range c.ListReplays(t.Context(), &posthornv1.ListReplaysRequest{State: posthornv1.Replay_CANCELLED}) {
		if n++; err != nil || job.GetId() != id {
			t.Errorf("listed %v, %v", job, err)
		}
	}
	if n != 1 {
		t.Errorf("listed %d, want 1", n)
	}
	if _, err := c.GetReplay(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "name") {
		t.Errorf("without an ID: %v, want an error", err)
	}
}
