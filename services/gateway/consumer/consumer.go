package consumer

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthornhq/posthorn/pkg/amqp"
	"github.com/posthornhq/posthorn/pkg/source"
	"github.com/posthornhq/posthorn/services/gateway"
)

// Catalog knows the sources. It is satisfied by *catalog.Catalog.
type Catalog interface {
	Sources() []*source.Source
}

// Config holds what operators may tune. The zero value is usable.
type Config struct {
	// MaxBytes bounds the body of a message, and all of a batch. Default 8 MiB.
	MaxBytes int64
	// MaxBatch bounds the messages that are stored at once. Default 100.
	MaxBatch int
	// HoldFor is how long messages that cannot be stored are held before they are
	// given back to their queue. It must be less than the broker's
	// consumer_timeout, which is 30m unless somebody changed it. Default 10m.
	HoldFor time.Duration
	// RootCAs are trusted to sign the brokers' certificates. Default those of the
	// system.
	RootCAs *x509.CertPool
	// Name is what brokers show of our connections. Default "posthorn gateway".
	Name string
}

func (c *Config) setDefaults() {
	if c.MaxBytes <= 0 {
		c.MaxBytes = 8 << 20
	}
	if c.MaxBatch <= 0 {
		c.MaxBatch = 100
	}
	if c.HoldFor <= 0 {
		c.HoldFor = 10 * time.Minute
	}
	if c.Name == "" {
		c.Name = "posthorn gateway"
	}
}

// Deps are the parts that Consumers work with.
type Deps struct {
	Accept     gateway.Acceptor
	Rejections gateway.Rejecter
	Catalog    Catalog
	Dialer     amqp.Dialer
	Log        *slog.Logger
	// Metrics may be nil.
	Metrics *Metrics
}

// Consumers take the messages of all sources of kind AMQP.
type Consumers struct {
	Deps
	cfg     Config
	changed chan struct{}
}

// New returns Consumers. They do nothing until [Consumers.Run] is called.
func New(d Deps, cfg Config) (*Consumers, error) {
	if d.Accept == nil || d.Rejections == nil || d.Catalog == nil || d.Dialer == nil || d.Log == nil {
		return nil, errors.New("consumer: a part is missing")
	}
	if d.Metrics == nil {
		d.Metrics = none()
	}
	cfg.setDefaults()
	return &Consumers{Deps: d, cfg: cfg, changed: make(chan struct{}, 1)}, nil
}

// CatalogChanged says that sources changed. It does not block.
func (c *Consumers) CatalogChanged() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// A running source has a goroutine.
type running struct {
	source *source.Source
	stop   context.CancelFunc
	done   chan struct{}
	// gone says that the source is not wanted any more. It stays among the others until
	// it is done: who puts it back meanwhile waits for it.
	gone atomic.Bool
}

func (r *running) over() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// Run consumes until ctx is done, finishes what is in hand, and returns nil.
func (c *Consumers) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	all := map[string]*running{}
	for {
		c.reconcile(ctx, all, &wg)
		select {
		case <-ctx.Done():
			return nil
		case <-c.changed:
		}
	}
}

// reconcile starts and stops what the catalog's state asks for.
func (c *Consumers) reconcile(ctx context.Context, all map[string]*running, wg *sync.WaitGroup) {
	wanted := map[string]*source.Source{}
	for _, s := range c.Catalog.Sources() {
		if _, _, ok := s.AMQP(); ok && !s.Spec().GetDisabled() {
			wanted[s.Name()] = s
		}
	}
	for name, r := range all {
		if wanted[name] == nil {
			r.gone.Store(true)
			r.stop()
			if r.over() {
				delete(all, name)
			}
		}
	}
	for name, s := range wanted {
		before := all[name]
		if before != nil && before.source == s && !before.gone.Load() {
			continue
		}
		own, stop := context.WithCancel(ctx)
		r := &running{source: s, stop: stop, done: make(chan struct{})}
		all[name] = r
		if before != nil {
			before.stop()
		}
		wg.Go(func() {
			defer close(r.done)
			defer stop()
			if before != nil {
				<-before.done // it finishes what it has in hand
			}
			newQueue(c, s).run(own)
			if r.gone.Load() {
				c.Metrics.forget(name)
			}
		})
	}
}
