package telemetry

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"
)

const (
	// checkTimeout bounds one run of a check, and how long a request waits for it.
	checkTimeout = 2 * time.Second
	// resultAge is how long a result is good for, so that many probes are not
	// many checks.
	resultAge = 500 * time.Millisecond
)

// Health knows whether this process lives and whether it can work.
//
// It lives while none of its parts has died ([Health.Part], shown at /healthz);
// restarting it may help when one has. It is ready while it lives and all checks
// pass ([Health.Register], shown at /readyz); a check is about something outside,
// such as JetStream or Redis, where a restart helps nobody.
//
// The zero value has no parts and no checks: alive and ready.
type Health struct {
	mu     sync.Mutex
	parts  map[string]error
	checks []*check
}

// A CheckFunc returns nil if all is well, or else what is wrong. It should
// return when ctx is done, after 2 s. Its error is shown to anyone who can
// reach the port, so it must hold no credentials.
type CheckFunc func(ctx context.Context) error

// Register adds a check of readiness. Of two checks with one name the later counts.
func (h *Health) Register(name string, f CheckFunc) {
	h.mu.Lock()
	defer h.mu.Unlock()
	added := &check{name: name, run: f}
	for i, c := range h.checks {
		if c.name == name {
			h.checks[i] = added
			return
		}
	}
	h.checks = append(h.checks, added)
}

// Part adds a part of the process that is expected to run until the process
// stops. Whoever runs it calls died when it ends before that; err may be nil.
func (h *Health) Part(name string) (died func(err error)) {
	set := func(err error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.parts == nil {
			h.parts = make(map[string]error)
		}
		h.parts[name] = err
	}
	set(nil)
	return func(err error) {
		if err == nil {
			set(fmt.Errorf("%s ended", name))
			return
		}
		set(fmt.Errorf("%s ended: %w", name, err))
	}
}

// Live returns what each part died of, nil for one that runs.
func (h *Health) Live() map[string]error {
	h.mu.Lock()
	defer h.mu.Unlock()
	results := make(map[string]error, len(h.parts)+len(h.checks))
	maps.Copy(results, h.parts)
	return results
}

// Ready returns what Live does, and the result of each check, at most 500 ms
// old. Checks run in parallel, for at most 2 s.
func (h *Health) Ready(ctx context.Context) map[string]error {
	h.mu.Lock()
	checks := append([]*check(nil), h.checks...)
	h.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	running := make([]*run, len(checks))
	for i, c := range checks {
		running[i] = c.start(ctx)
	}
	results := h.Live()
	for i, r := range running {
		if err := r.wait(ctx); err != nil || results[checks[i].name] == nil {
			results[checks[i].name] = err
		}
	}
	return results
}

// A check keeps its last run, which may not be over.
type check struct {
	name string
	run  CheckFunc

	mu   sync.Mutex
	last *run
}

// A run of a check. Its other fields are set before done is closed.
type run struct {
	done chan struct{}
	err  error
	at   time.Time
}

// start returns the last run while it goes on or is fresh, else a new one. A
// check that ignores its context thus hangs once, not once for each request.
func (c *check) start(ctx context.Context) *run {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last != nil {
		select {
		case <-c.last.done:
			if time.Since(c.last.at) < resultAge {
				return c.last
			}
		default:
			return c.last
		}
	}
	r := &run{done: make(chan struct{})}
	c.last = r
	go func() {
		defer close(r.done)
		// The result is for later requests too: this one's end must not spoil it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
		defer cancel()
		r.err = c.run(ctx)
		r.at = time.Now()
	}()
	return r
}

func (r *run) wait(ctx context.Context) error {
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
	}
	select {
	case <-r.done: // at the same moment: its own error says more
		return r.err
	default:
		return fmt.Errorf("no answer within %s", checkTimeout)
	}
}
