package dedup_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/dedup"
	"github.com/posthornhq/posthorn/pkg/dedup/deduptest"
	"github.com/posthornhq/posthorn/pkg/dedup/redistest"
)

func newKV(t testing.TB) *dedup.KV {
	t.Helper()
	return dedup.NewKV(jstest.WithTopology(t, topology.Config{}))
}

func newFallback(t testing.TB, primary dedup.Claims, secondary *dedup.KV) *dedup.Fallback {
	t.Helper()
	f, err := dedup.NewFallback(primary, secondary, slog.New(slog.DiscardHandler), nil, dedup.FallbackConfig{Timeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestRedisConforms(t *testing.T) {
	t.Parallel()
	deduptest.Run(t, dedup.NewRedis(redistest.Start(t).Client(), "posthorn:"))
}

func TestKVConforms(t *testing.T) {
	t.Parallel()
	deduptest.Run(t, newKV(t))
}

func TestInstrumentedConforms(t *testing.T) {
	t.Parallel()
	c, err := dedup.Instrument(newKV(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	deduptest.Run(t, c)
}

func TestFallbackConformsWhileRedisIsUp(t *testing.T) {
	t.Parallel()
	redis := dedup.NewRedis(redistest.Start(t).Client(), "")
	deduptest.Run(t, newFallback(t, redis, newKV(t)))
}

func TestFallbackConformsWhileRedisIsDown(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	redis := dedup.NewRedis(server.Client(), "")
	server.Kill()
	deduptest.Run(t, newFallback(t, redis, newKV(t)))
}

// After an outage the KV has claims, and each call asks both.
func TestFallbackConformsAfterAnOutage(t *testing.T) {
	t.Parallel()
	redis := dedup.NewRedis(redistest.Start(t).Client(), "")
	kv := newKV(t)
	if _, err := kv.Claim(t.Context(), "ingest:of-the-outage:k", "ev_1", hour); err != nil {
		t.Fatal(err)
	}
	deduptest.Run(t, newFallback(t, redis, kv))
}
