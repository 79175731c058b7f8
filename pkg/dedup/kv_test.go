package dedup_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/dedup"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/stream/streamtest"
)

// An operator reads claims with the tools of KV buckets.
func TestClaimsAreReadableInTheBucket(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	c := dedup.NewKV(js)
	ctx := t.Context()
	if _, err := c.Claim(ctx, "ingest:github:72d3162e-cc78-11e3", "ev_1", hour); err != nil {
		t.Fatal(err)
	}
	if err := c.Done(ctx, "delivery:ev_1:orders-erp:1", "17", hour); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Claim(ctx, "ingest:shop:50% off > 3", "ev_2", hour); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Claim(ctx, "ingest:shop:released", "ev_3", hour); err != nil {
		t.Fatal(err)
	}
	if err := c.Release(ctx, "ingest:shop:released", "ev_3"); err != nil {
		t.Fatal(err)
	}

	bucket, err := js.KeyValue(ctx, topology.BucketDedup)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := bucket.ListKeys(ctx)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for key := range keys.Keys() {
		entry, err := bucket.Get(ctx, key)
		if err != nil {
			t.Fatalf("get %q: %v", key, err)
		}
		got[key] = string(entry.Value())
	}
	want := map[string]string{
		"ingest.github.72d3162e-cc78-11e3":  "ev_1",
		"delivery.ev_1.orders-erp.1":        "done 17",
		"ingest.shop.50=25=20off=20=3E=203": "ev_2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("bucket (-want +got):\n%s", diff)
	}
}

// Every key costs the server memory: what has expired must leave nothing, no
// marker either.
func TestExpiredClaimsLeaveNothing(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	c := dedup.NewKV(js)
	for _, key := range []string{"a", "b", "c"} {
		if _, err := c.Claim(t.Context(), key, "ev_1", time.Second); err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	if err := c.Done(t.Context(), "b", "ev_1", time.Second); err != nil {
		t.Fatal(err)
	}
	if err := c.Release(t.Context(), "c", "ev_1"); err != nil {
		t.Fatal(err)
	}
	// What is there for a second may be gone if that is how long it took to look.
	if empty, err := c.Empty(t.Context()); empty && time.Since(begun) < time.Second || err != nil {
		t.Fatalf("empty is %v, %v, want false", empty, err)
	}
	await(t, "the bucket to be empty", func() bool {
		empty, err := c.Empty(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return empty
	})
}

// The server has the claim, and its answer is lost: the next try meets it, and
// must know it for its own.
func TestClaimWhoseAnswerIsLostIsOurs(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	answers := func(on bool) {
		t.Helper()
		s, err := js.Stream(t.Context(), topology.BucketStream(topology.BucketDedup))
		if err != nil {
			t.Fatal(err)
		}
		cfg := s.CachedInfo().Config
		cfg.NoAck = !on
		if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	c := dedup.NewKV(js)
	answers(false)
	results := make(chan dedup.Claim, 1)
	go func() {
		got, err := c.Claim(t.Context(), "ingest:lost:k", "ev_1", hour)
		if err != nil {
			t.Error(err)
		}
		results <- got
	}()
	await(t, "the server to have the claim", func() bool {
		empty, err := c.Empty(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return !empty
	})
	answers(true)
	if got := <-results; !got.Mine("ev_1") || !got.Fresh {
		t.Errorf("claim is %+v, want a fresh one of ev_1", got)
	}
	if got := mustClaim(t, c, "ingest:lost:k", "ev_2"); got.Owner != "ev_1" {
		t.Errorf("second claim is %+v, want that of ev_1", got)
	}
}

// A claim that no one answers, as in an election, waits instead of failing.
func TestClaimWaitsWhileNoOneAnswers(t *testing.T) {
	t.Parallel()
	js := jstest.New(t) // the bucket is not there yet: no one answers
	c := dedup.NewKV(js)
	type result struct {
		claim dedup.Claim
		err   error
	}
	results := make(chan result)
	go func() {
		claim, err := c.Claim(t.Context(), "ingest:early:k", "ev_1", hour)
		results <- result{claim, err}
	}()
	select {
	case r := <-results:
		t.Fatalf("claim gives %+v, %v without a bucket, want it to wait", r.claim, r.err)
	case <-time.After(50 * time.Millisecond): // long enough for several tries
	}
	if _, err := topology.Ensure(t.Context(), js, topology.Config{}); err != nil {
		t.Fatal(err)
	}
	if r := <-results; r.err != nil || !r.claim.Fresh {
		t.Errorf("claim gives %+v, %v, want a fresh one", r.claim, r.err)
	}
}

func TestClaimEndsWithItsContextWhileNoOneAnswers(t *testing.T) {
	t.Parallel()
	c := dedup.NewKV(jstest.New(t))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := c.Claim(ctx, "k", "ev_1", hour); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("claim gives %v, want %v", err, context.DeadlineExceeded)
	}
}

func TestClaimInAFullBucketIsRefused(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	s, err := js.Stream(t.Context(), topology.BucketStream(topology.BucketDedup))
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.MaxBytes = 1024
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	c := dedup.NewKV(js)
	before := streamtest.Failures(t)["claim"]
	for range 100 {
		if _, err = c.Claim(t.Context(), strings.Repeat("k", 150)+time.Now().String(), "ev_1", hour); err != nil {
			break
		}
	}
	if errs.KindOf(err) != errs.Full {
		t.Errorf("claims in a bucket of 1 KiB end with %v, want an error of kind %s", err, errs.Full)
	}
	if after := streamtest.Failures(t)["claim"]; after <= before {
		t.Errorf("%v failures are counted, before %v, want more", after, before)
	}
}

// await waits until ok, and fails the test if that takes too long.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatalf("waited a minute for %s", what)
}
