package dedup_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/posthornhq/posthorn/pkg/dedup"
	"github.com/posthornhq/posthorn/pkg/dedup/redistest"
	"github.com/posthornhq/posthorn/pkg/errs"
)

func mustClaim(t *testing.T, c dedup.Claims, key, owner string) dedup.Claim {
	t.Helper()
	got, err := c.Claim(t.Context(), key, owner, hour)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func mustDone(t *testing.T, c dedup.Claims, key, owner string) {
	t.Helper()
	if err := c.Done(t.Context(), key, owner, hour); err != nil {
		t.Fatal(err)
	}
}

// With on_redis_down: wait there is no fallback, and the delivery waits.
func TestRedisDownIsUnavailable(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c := dedup.NewRedis(server.Client(), "")
	server.Kill()
	if _, err := c.Claim(t.Context(), "k", "ev_1", hour); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("claim gives %v, want an error of kind %s", err, errs.Unavailable)
	}
	if err := c.Done(t.Context(), "k", "ev_1", hour); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("done gives %v, want an error of kind %s", err, errs.Unavailable)
	}
	server.Restart()
	if got := mustClaim(t, c, "k", "ev_2"); !got.Fresh {
		t.Errorf("claim after the restart is %+v, want a fresh one", got)
	}
}

// outage is a fallback with its Redis.
type outage struct {
	*dedup.Fallback
	server *redistest.Server
	redis  *dedup.Redis
	reg    *prometheus.Registry
	log    *bytes.Buffer
}

func newOutage(t *testing.T) *outage {
	t.Helper()
	o := &outage{server: redistest.Start(t), reg: prometheus.NewRegistry(), log: &bytes.Buffer{}}
	o.redis = dedup.NewRedis(o.server.Client(), "")
	var err error
	// A Redis that is killed refuses at once; one that is slow is not down.
	o.Fallback, err = dedup.NewFallback(o.redis, newKV(t), slog.New(slog.NewTextHandler(o.log, nil)), o.reg,
		dedup.FallbackConfig{Timeout: 30 * time.Second, Retry: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// back starts Redis again and waits until the fallback has noticed.
func (o *outage) back(t *testing.T) {
	t.Helper()
	o.server.Restart()
	await(t, "the fallback to notice that Redis is back", func() bool {
		mustClaim(t, o, "delivery:probe:s:1", "1")
		return o.gauge(t) == 0
	})
}

func (o *outage) gauge(t *testing.T) float64 {
	t.Helper()
	families, err := o.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "posthorn_dedup_fallback_active" {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatal("posthorn_dedup_fallback_active is not registered")
	return 0
}

// Redis knows that a delivery is done, and dies. It must not be made again
// without the dispatcher's knowing that it may be the second time.
func TestOutageIsNotSilent(t *testing.T) {
	t.Parallel()
	o := newOutage(t)
	if got := mustClaim(t, o, "delivery:ev_1:s:1", "1"); !got.Fresh || got.Unsure {
		t.Fatalf("claim with Redis up is %+v, want a fresh one that is sure", got)
	}
	mustDone(t, o, "delivery:ev_1:s:1", "1")
	o.server.Kill()

	got := mustClaim(t, o, "delivery:ev_1:s:1", "1")
	if !got.Unsure {
		t.Errorf("claim of what Redis knows to be done is %+v, want it unsure", got)
	}
	if o.gauge(t) != 1 {
		t.Errorf("posthorn_dedup_fallback_active is %v, want 1", o.gauge(t))
	}
	if !strings.Contains(o.log.String(), "Redis is down") {
		t.Errorf("log is %q, want a line about Redis", o.log)
	}
	// Who does not go on releases it, and then is not told that it is sure.
	if err := o.Release(t.Context(), "delivery:ev_1:s:1", "1"); err != nil {
		t.Fatal(err)
	}
	if got := mustClaim(t, o, "delivery:ev_1:s:1", "1"); !got.Unsure {
		t.Errorf("claim after a release is %+v, want it unsure", got)
	}
	if err := o.Release(t.Context(), "delivery:ev_1:s:1", "1"); err != nil {
		t.Fatal(err)
	}

	o.back(t)
	if got := mustClaim(t, o, "delivery:ev_1:s:1", "1"); !got.Done || got.Unsure {
		t.Errorf("claim with Redis back is %+v, want one that is done", got)
	}
}

func TestClaimsOfAnOutageHoldAfterIt(t *testing.T) {
	t.Parallel()
	o := newOutage(t)
	mustClaim(t, o, "delivery:before:s:1", "1")
	o.server.Kill()

	mustDone(t, o, "delivery:before:s:1", "1") // claimed before, done during
	mustClaim(t, o, "delivery:done:s:1", "2")
	mustDone(t, o, "delivery:done:s:1", "2")
	mustClaim(t, o, "ingest:undone:k", "ev_3")
	if got := mustClaim(t, o, "ingest:undone:k", "ev_4"); got.Owner != "ev_3" || got.Unsure {
		t.Errorf("second claim during the outage is %+v, want that of ev_3, and sure", got)
	}
	o.back(t)

	tests := []struct {
		key, owner string
		want       dedup.Claim
	}{
		{"delivery:before:s:1", "1", dedup.Claim{Owner: "1", Done: true}},
		{"delivery:done:s:1", "2", dedup.Claim{Owner: "2", Done: true}},
		{"delivery:done:s:1", "9", dedup.Claim{Owner: "2", Done: true}},
		{"ingest:undone:k", "ev_5", dedup.Claim{Owner: "ev_3"}},
		{"ingest:undone:k", "ev_3", dedup.Claim{Owner: "ev_3"}},
		{"ingest:new:k", "ev_6", dedup.Claim{Owner: "ev_6", Fresh: true}},
	}
	for _, tt := range tests {
		if got := mustClaim(t, o, tt.key, tt.owner); got != tt.want {
			t.Errorf("claim of %s by %s after the outage is %+v, want %+v", tt.key, tt.owner, got, tt.want)
		}
		// Redis has learned it, for when the KV's claim has expired.
		got := mustClaim(t, o.redis, tt.key, "someone-else")
		if got.Owner != tt.want.Owner || got.Done != tt.want.Done {
			t.Errorf("Redis has %+v for %s, want what the fallback says, %+v", got, tt.key, tt.want)
		}
	}
	if n, err := testutil.GatherAndCount(o.reg, "posthorn_dedup_fallback_unsure_total"); n != 1 || err != nil {
		t.Errorf("posthorn_dedup_fallback_unsure_total has %d series, %v, want 1", n, err)
	}
}

// A process that starts after the outage saw nothing of it.
func TestClaimsOfAnOutageHoldForAProcessThatDidNotSeeIt(t *testing.T) {
	t.Parallel()
	redis := dedup.NewRedis(redistest.Start(t).Client(), "")
	kv := newKV(t)
	mustDone(t, kv, "delivery:ev_1:s:1", "1") // by another process
	f := newFallback(t, redis, kv)
	if got := mustClaim(t, f, "delivery:ev_1:s:1", "1"); !got.Done {
		t.Errorf("claim is %+v, want one that is done", got)
	}
}

// Nor did one that has been up all the time, and found the KV empty before.
func TestClaimsOfAnOutageAreNoticedWithinASecondOrTwo(t *testing.T) {
	t.Parallel()
	redis := dedup.NewRedis(redistest.Start(t).Client(), "")
	kv := newKV(t)
	f := newFallback(t, redis, kv)
	mustClaim(t, f, "delivery:ev_0:s:1", "1") // looks, and finds it empty
	mustDone(t, kv, "delivery:ev_1:s:1", "1")
	begun := time.Now()
	await(t, "the fallback to ask the KV", func() bool {
		got := mustClaim(t, f, "delivery:ev_1:s:1", "1")
		return got.Done
	})
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("noticed after %s, want about a second", took)
	}
}

func TestTakeoverAfterAnOutageHoldsInBoth(t *testing.T) {
	t.Parallel()
	o := newOutage(t)
	o.server.Kill()
	mustClaim(t, o, "ingest:k:k", "ev_1")
	o.back(t)
	old := mustClaim(t, o, "ingest:k:k", "ev_2")
	won, err := o.Takeover(t.Context(), "ingest:k:k", old, "ev_2", hour)
	if !won || err != nil {
		t.Fatalf("takeover of %+v gives %v, %v, want true", old, won, err)
	}
	for _, owner := range []string{"ev_2", "ev_3"} {
		if got := mustClaim(t, o, "ingest:k:k", owner); got.Owner != "ev_2" || got.Done {
			t.Errorf("claim by %s is %+v, want that of ev_2", owner, got)
		}
	}
}
