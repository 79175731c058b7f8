package app

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/embedded"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/commit"
	"github.com/posthornhq/posthorn/pkg/config"
	"github.com/posthornhq/posthorn/pkg/stream"
	"github.com/posthornhq/posthorn/services/broker"
)

// openNATS starts the embedded server with its commit barrier, or leaves both
// to an external one.
func (a *App) openNATS(ctx context.Context) error {
	if !a.cfg.Embedded() {
		return nil
	}
	sync, release, supported, err := func() (func() error, func() error, bool, error) {
		if !a.cfg.Fsync() {
			return nil, nil, true, nil
		}
		return commit.FileSystem(parentOf(a.cfg.Data))
	}()
	if err != nil {
		return err
	}
	a.release = release
	tlsConfig, err := a.serverTLS(false)
	if err != nil {
		return err
	}
	a.server, err = embedded.Start(ctx, embedded.Config{
		Dir: a.cfg.Data, Listen: a.cfg.NATSListen, SyncAlways: a.cfg.Fsync() && !supported, TLS: tlsConfig,
	}, a.log)
	if err != nil {
		return err
	}
	a.Facts.NATS = a.server.URL()
	if sync != nil {
		// The directory is there now, and may be a mount point of its own.
		if err := release(); err != nil {
			return fmt.Errorf("app: %w", err)
		}
		if sync, a.release, _, err = commit.FileSystem(a.cfg.Data); err != nil {
			return err
		}
		a.barrier = commit.New(sync, commit.NewMetrics(a.reg))
	}
	a.checkpoint, err = broker.OpenCheckpoint(a.cfg.Data)
	return err
}

// parentOf returns the directory that exists for sure once dir is made.
func parentOf(dir string) string {
	if dir == "" {
		return "."
	}
	return filepath.Dir(filepath.Clean(dir))
}

// connect opens a connection. Each role has its own: messages of one connection
// are read by the server one after another.
func (a *App) connect(name string) (*nats.Conn, error) {
	log := a.log.With("connection", name)
	opts := []nats.Option{
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.PingInterval(10 * time.Second),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			log.Warn("NATS complains", "subject", subject, "err", err)
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("the connection to NATS is lost; it is tried again without end", "err", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("connected to NATS again", "url", nc.ConnectedUrlRedacted()) }),
	}
	var nc *nats.Conn
	var err error
	if a.server != nil {
		nc, err = a.server.Connect("posthorn-"+name, opts...)
	} else {
		opts = append(opts, nats.Name("posthorn-"+name), nats.Timeout(5*time.Second))
		if a.cfg.NATSCreds != "" {
			opts = append(opts, nats.UserCredentials(a.cfg.NATSCreds))
		}
		if a.certs != nil {
			// Used where the URL or the server asks for TLS.
			opts = append(opts, func(o *nats.Options) error { o.TLSConfig = a.certs.Client(); return nil })
		}
		nc, err = nats.Connect(a.cfg.NATSURL.Reveal(), opts...)
	}
	if err != nil {
		return nil, fmt.Errorf("app: connect to NATS at %s: %w", a.cfg.NATSURL, err)
	}
	a.conns = append(a.conns, nc)
	return nc, nil
}

// TopologyConfig returns the limits that cfg asks for. free is the free disk in
// bytes, of which the streams without a limit of their own get shares when they
// are made; 0 is not known.
func TopologyConfig(cfg *config.Config, free int64) topology.Config {
	return topology.Config{
		Replicas:         cfg.Store.Replicas,
		Budget:           free / 100 * 75,
		EventsBytes:      int64(cfg.Store.MaxBytes),
		DeliveriesBytes:  int64(cfg.Deliveries.MaxBytes),
		AttemptsBytes:    int64(cfg.Attempts.MaxBytes),
		DeadLettersBytes: int64(cfg.DeadLetters.MaxBytes),
		RejectionsBytes:  int64(cfg.Rejections.MaxBytes),
		EventsAge:        cfg.Store.MaxAge,
		AttemptsAge:      cfg.Attempts.MaxAge,
		DeadLettersAge:   cfg.DeadLetters.MaxAge,
		RejectionsAge:    cfg.Rejections.MaxAge,
	}
}

// leastDisk is the free disk below which starting makes no sense.
const leastDisk = 64 << 20

// ensureTopology brings the assets up to date.
func (a *App) ensureTopology(ctx context.Context, js jetstream.JetStream) error {
	free := int64(0)
	if a.cfg.Embedded() {
		var err error
		if free, err = FreeDisk(a.cfg.Data); err != nil {
			return err
		}
		if free < leastDisk {
			return fmt.Errorf("app: the disk of %s has %s left, and at least %s are needed; make room, or give another directory with --data",
				a.cfg.Data, config.Bytes(free), config.Bytes(leastDisk))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := a.ensureAssets(ctx, js, free); err != nil {
		return err
	}
	s, err := js.Stream(ctx, topology.BucketStream(topology.BucketEvents))
	if err != nil {
		return fmt.Errorf("app: look at the events: %w", err)
	}
	a.Facts.Limit = s.CachedInfo().Config.MaxBytes
	return nil
}

// ensureAssets makes the assets. A cluster that has just started elects leaders,
// and learns of its servers one by one, for some seconds; it is tried again until
// ctx is done.
func (a *App) ensureAssets(ctx context.Context, js jetstream.JetStream, free int64) error {
	for {
		done, err := topology.Ensure(ctx, js, TopologyConfig(a.cfg, free))
		a.Facts.Topology = append(a.Facts.Topology, done...)
		if err == nil || !stream.Temporary(err) {
			return err
		}
		a.log.Debug("JetStream does not take the assets yet", "err", err)
		timer := time.NewTimer(500 * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
}

// wait is the barrier as a function, which does nothing where there is none.
func (a *App) wait(ctx context.Context) error { return a.barrier.Wait(ctx) }

// natsCheck is the readiness of JetStream.
func (a *App) natsCheck(js jetstream.JetStream) func(context.Context) error {
	return func(ctx context.Context) error {
		if a.server != nil && !a.server.Running() {
			return errors.New("JetStream is off; the log says why, most often a full disk")
		}
		if err := a.barrier.Err(); err != nil {
			return err
		}
		if _, err := js.AccountInfo(ctx); err != nil {
			return fmt.Errorf("JetStream does not answer: %w", err)
		}
		return nil
	}
}
