package broker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/posthornhq/posthorn/pkg/dedup"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/ledger"
	"github.com/posthornhq/posthorn/pkg/queue"
	"github.com/posthornhq/posthorn/pkg/source"
	"github.com/posthornhq/posthorn/pkg/store"
	"github.com/posthornhq/posthorn/pkg/subscription"
	"github.com/posthornhq/posthorn/pkg/telemetry"
)

// Schemas validates data against the newest schema of a type. It is satisfied
// by *schema.Registry.
type Schemas interface {
	// ValidateContent returns the version used, 0 if the type has no schema, and what
	// is wrong.
	ValidateContent(typ string, version int, contentType string, data []byte) (used int, violations []event.Violation)
}

// Catalog knows the sources and subscriptions. It is satisfied by *catalog.Catalog.
type Catalog interface {
	Source(context, name string) (*source.Source, bool)
	Subscription(name string) (*subscription.Subscription, bool)
	Subscriptions() *subscription.Index
}

// Config holds what operators may tune. The zero value is usable.
type Config struct {
	// Window is how long an idempotency key is remembered. Default 24h.
	Window time.Duration
}

// Deps are the parts that a Broker works with.
type Deps struct {
	Store   *store.Store
	Queue   *queue.Queue
	Ledger  *ledger.Ledger
	Claims  dedup.Claims
	Schemas Schemas
	Catalog Catalog
	// Lanes knows which subscriptions have a lane of their own. May be nil.
	Lanes interface {
		Open(subscription string) bool
	}
	Log     *slog.Logger
	Metrics *Metrics
	// Spans exports what accepting takes. May be nil.
	Spans *telemetry.Spans
	// Room returns an error, for the publisher, while nothing can be stored. May be nil.
	Room func() error
}

// A Broker accepts and routes events. It is safe for concurrent use.
type Broker struct {
	Deps
	cfg Config
	// marks are claims being marked as done, which no answer waits for.
	marks sync.WaitGroup
	noted notes
}

// New returns a Broker. It accepts at once, and routes while [Broker.Run] runs.
func New(d Deps, cfg Config) *Broker {
	if cfg.Window == 0 {
		cfg.Window = 24 * time.Hour
	}
	if d.Metrics == nil {
		d.Metrics = none()
	}
	return &Broker{Deps: d, cfg: cfg}
}

// Drain waits for what answers did not wait for. Call it when nothing is
// accepted any more.
func (b *Broker) Drain(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		b.marks.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}
