package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthornhq/posthorn/jetstream/embedded"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/certs"
	"github.com/posthornhq/posthorn/pkg/commit"
	"github.com/posthornhq/posthorn/pkg/config"
	"github.com/posthornhq/posthorn/pkg/telemetry"
	"github.com/posthornhq/posthorn/services/broker"
)

// An App is a process of the platform.
type App struct {
	cfg    *config.Config
	log    *slog.Logger
	reg    *prometheus.Registry
	health *telemetry.Health
	ready  chan struct{}

	server     *embedded.Server // nil with an external NATS
	conns      []*nats.Conn
	barrier    *commit.Barrier // nil where stored does not wait for the disk
	release    func() error    // of the barrier's file system
	diskFull   atomic.Bool     // of an embedded server
	checkpoint *broker.Checkpoint
	routed     atomic.Bool   // whether the router began, which the checkpoint is about
	certs      *certs.Keeper // nil without TLS
	parts      []part
	// doors let work in. They open after all parts and close before them.
	doors []part

	// Facts is what a person who starts the process wants to know.
	Facts Facts
	// version is what Ping and the spans say of this program.
	version string
}

// Facts is what a person who starts the process wants to know.
type Facts struct {
	NATS       string // URL
	AdminKey   string // when it was made by this start
	KeyFile    string
	KeyNote    string // what to do about a key that is not to be had
	Limit      int64  // bytes for events
	LookedBack uint64 // events that are looked at again after an unclean stop
	Unclean    bool
	Topology   []topology.Difference // what Ensure did
}

// part is something that runs until its context is done.
type part struct {
	name string
	run  func(ctx context.Context) error
	// ready, if set, is closed when the parts after this one may start.
	ready <-chan struct{}
}

// New builds the platform that cfg describes, of a version of the program. It does nothing for others until
// [App.Run]; close it with [App.Close] if that is not called.
func New(ctx context.Context, cfg *config.Config, log *slog.Logger, version string) (*App, error) {
	a := &App{version: version, cfg: cfg, log: log, reg: telemetry.NewRegistry(), health: &telemetry.Health{}, ready: make(chan struct{})}
	if err := a.build(ctx); err != nil {
		return nil, errors.Join(err, a.Close(context.WithoutCancel(ctx), false))
	}
	return a, nil
}

// Ready is closed when the process takes events.
func (a *App) Ready() <-chan struct{} { return a.ready }

// Run runs the parts until ctx is done, or one of them fails, and then stops
// them in reverse order. It returns nil after a clean stop.
func (a *App) Run(ctx context.Context) error {
	base := context.WithoutCancel(ctx)
	all := append(a.parts, a.doors...)
	failed := make(chan error, len(all))
	started := make([]*runningPart, 0, len(all))
	var err error
start:
	for _, p := range all {
		started = append(started, a.start(base, p, failed))
		if p.ready == nil {
			continue
		}
		select {
		case <-p.ready:
		case err = <-failed:
			break start
		case <-ctx.Done():
			break start
		}
	}
	if err == nil && ctx.Err() == nil {
		close(a.ready)
		select {
		case <-ctx.Done():
		case err = <-failed:
		}
	}
	a.log.Info("stopping: attempts in flight are finished, new ones not begun")
	clean := a.stop(started)
	return errors.Join(err, a.Close(base, clean && err == nil))
}

type runningPart struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
}

func (a *App) start(base context.Context, p part, failed chan<- error) *runningPart {
	ctx, cancel := context.WithCancel(base)
	r := &runningPart{name: p.name, cancel: cancel, done: make(chan struct{})}
	died := a.health.Part(p.name)
	go func() {
		defer close(r.done)
		if err := p.run(ctx); err != nil && ctx.Err() == nil {
			died(err)
			failed <- fmt.Errorf("%s: %w", p.name, err)
		}
	}()
	return r
}

// stop stops the parts in reverse order, within the time that the
// configuration gives, and reports whether all of them ended.
func (a *App) stop(parts []*runningPart) bool {
	deadline := time.NewTimer(a.cfg.ShutdownTimeout)
	defer deadline.Stop()
	clean := true
	for _, p := range slices.Backward(parts) {
		p.cancel()
		select {
		case <-p.done:
			continue
		default:
		}
		select {
		case <-p.done:
		case <-deadline.C:
			deadline.Reset(0) // for the ones before, too
			a.log.Warn("a part did not end in time; what it held comes again after the restart", "part", p.name)
			clean = false
		}
	}
	return clean
}

// Close ends the connections and the embedded server. clean says that
// everything that was begun is finished, so that the next start need not look back.
func (a *App) Close(ctx context.Context, clean bool) error {
	var errs []error
	var wg sync.WaitGroup
	for _, nc := range a.conns {
		wg.Go(func() {
			// What was sent without an answer (acks) must reach the server.
			_ = nc.FlushTimeout(2 * time.Second) // the server may be gone
			nc.Close()
		})
	}
	wg.Wait()
	a.conns = nil
	if a.server != nil {
		errs = append(errs, a.server.Stop())
		a.server = nil
	}
	// A start that came to nothing before the router began leaves nothing behind that
	// the next one need look back for, but what the process before may have left.
	nothing := !a.routed.Load() && a.checkpoint != nil && !a.checkpoint.Unclean()
	if a.checkpoint != nil && (clean || nothing) {
		if a.barrier != nil {
			// The server wrote its state on the way down.
			errs = append(errs, a.barrier.Wait(ctx))
		}
		errs = append(errs, a.checkpoint.Close())
	}
	a.checkpoint = nil
	if a.release != nil {
		errs = append(errs, a.release())
		a.release = nil
	}
	return errors.Join(errs...)
}
