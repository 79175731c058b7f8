package telemetry_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthornhq/posthorn/pkg/telemetry"
)

// get asks a handler with the given health.
func get(t *testing.T, health *telemetry.Health, path string) (int, telemetry.Report) {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	telemetry.Handler(telemetry.NewRegistry(), health, false).ServeHTTP(w, r)
	var report telemetry.Report
	if err := json.Unmarshal(w.Body.Bytes(), &report); err != nil {
		t.Fatalf("GET %s: %v in body %q", path, err, w.Body)
	}
	return w.Code, report
}

func TestHealth(t *testing.T) {
	t.Parallel()
	good := func(context.Context) error { return nil }
	bad := func(context.Context) error { return errors.New("connection refused") }
	ok := telemetry.Result{Status: "ok"}

	tests := []struct {
		name   string
		set    func(h *telemetry.Health)
		path   string
		status int
		want   telemetry.Report
	}{
		{
			"a process without parts lives", func(*telemetry.Health) {}, "/healthz", 200,
			telemetry.Report{Status: "ok", Checks: map[string]telemetry.Result{}},
		},
		{
			"a failing check kills nobody", func(h *telemetry.Health) { h.Part("broker"); h.Register("redis", bad) }, "/healthz", 200,
			telemetry.Report{Status: "ok", Checks: map[string]telemetry.Result{"broker": ok}},
		},
		{
			"a part that died", func(h *telemetry.Health) { h.Part("gateway"); h.Part("broker")(errors.New("boom")) }, "/healthz", 503,
			telemetry.Report{Status: "failed", Checks: map[string]telemetry.Result{
				"gateway": ok, "broker": {Status: "failed", Error: "broker ended: boom"},
			}},
		},
		{
			"a part that ended without error died too", func(h *telemetry.Health) { h.Part("broker")(nil) }, "/healthz", 503,
			telemetry.Report{Status: "failed", Checks: map[string]telemetry.Result{
				"broker": {Status: "failed", Error: "broker ended"},
			}},
		},
		{
			"ready", func(h *telemetry.Health) { h.Part("broker"); h.Register("jetstream", good) }, "/readyz", 200,
			telemetry.Report{Status: "ok", Checks: map[string]telemetry.Result{"broker": ok, "jetstream": ok}},
		},
		{
			"one check of two fails", func(h *telemetry.Health) { h.Register("jetstream", good); h.Register("redis", bad) }, "/readyz", 503,
			telemetry.Report{Status: "failed", Checks: map[string]telemetry.Result{
				"jetstream": ok, "redis": {Status: "failed", Error: "connection refused"},
			}},
		},
		{
			"nobody is ready with a dead part", func(h *telemetry.Health) { h.Part("broker")(nil); h.Register("jetstream", good) }, "/readyz", 503,
			telemetry.Report{Status: "failed", Checks: map[string]telemetry.Result{
				"broker": {Status: "failed", Error: "broker ended"}, "jetstream": ok,
			}},
		},
		{
			"a passing check does not hide a dead part of its name", func(h *telemetry.Health) { h.Part("broker")(nil); h.Register("broker", good) }, "/readyz", 503,
			telemetry.Report{Status: "failed", Checks: map[string]telemetry.Result{
				"broker": {Status: "failed", Error: "broker ended"},
			}},
		},
		{
			"the later of two checks of one name counts", func(h *telemetry.Health) { h.Register("redis", bad); h.Register("redis", good) }, "/readyz", 200,
			telemetry.Report{Status: "ok", Checks: map[string]telemetry.Result{"redis": ok}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var h telemetry.Health
			tt.set(&h)
			status, report := get(t, &h, tt.path)
			if status != tt.status {
				t.Errorf("GET %s answers %d, want %d", tt.path, status, tt.status)
			}
			if diff := cmp.Diff(tt.want, report); diff != "" {
				t.Errorf("GET %s (-want +got):\n%s", tt.path, diff)
			}
		})
	}
}

// Two hanging checks cost one timeout, and however many probes come meanwhile,
// a check that ignores its context hangs once.
func TestReadyIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var h telemetry.Health
		var runs atomic.Int32
		release := make(chan struct{})
		h.Register("deaf", func(context.Context) error { runs.Add(1); <-release; return nil })
		h.Register("slow", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		h.Register("fine", func(context.Context) error { return nil })

		for range 3 {
			start := time.Now()
			results := h.Ready(t.Context())
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("two hanging checks took %s, want 2s", took)
			}
			if results["deaf"] == nil || results["slow"] == nil || results["fine"] != nil {
				t.Errorf("results are %v, want errors of deaf and slow alone", results)
			}
		}
		if n := runs.Load(); n != 1 {
			t.Errorf("the deaf check ran %d times at once, want 1", n)
		}
		close(release)
	})
}

func TestReadyCachesForHalfASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var h telemetry.Health
		var runs atomic.Int32
		h.Register("jetstream", func(context.Context) error { runs.Add(1); return nil })

		h.Ready(t.Context())
		h.Ready(t.Context())
		if n := runs.Load(); n != 1 {
			t.Errorf("two requests at once ran the check %d times, want 1", n)
		}
		<-time.After(501 * time.Millisecond) // on the fake clock of synctest
		h.Ready(t.Context())
		if n := runs.Load(); n != 2 {
			t.Errorf("a request half a second later made it %d runs, want 2", n)
		}
	})
}

// A probe that hangs up must not turn the next one's answer red.
func TestRequestThatEndsDoesNotSpoilTheResult(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var h telemetry.Health
		release := make(chan struct{})
		h.Register("redis", func(ctx context.Context) error {
			select {
			case <-release:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		ctx, hangUp := context.WithCancel(t.Context())
		hangUp()
		h.Ready(ctx)
		close(release)
		if err := h.Ready(t.Context())["redis"]; err != nil {
			t.Errorf("the check gives %v, want success", err)
		}
	})
}

func TestHandlerServes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		path     string
		profiles bool
		status   int
		body     string
	}{
		{"metrics", "/metrics", false, 200, "go_goroutines"},
		{"no profiles unless asked", "/debug/pprof/", false, 404, ""},
		{"profiles", "/debug/pprof/", true, 200, "goroutine"},
		{"one profile", "/debug/pprof/goroutine?debug=1", true, 200, "goroutine profile"},
		{"nothing else", "/", true, 404, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := httptest.NewRecorder()
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, tt.path, nil)
			telemetry.Handler(telemetry.NewRegistry(), &telemetry.Health{}, tt.profiles).ServeHTTP(w, r)
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.body) {
				t.Errorf("GET %s answers %d %.200q, want %d with %q", tt.path, w.Code, w.Body, tt.status, tt.body)
			}
		})
	}
}
