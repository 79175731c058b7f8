package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/interceptor"
	"github.com/posthornhq/posthorn/pkg/source"
)

// An Acceptor takes responsibility for events. When it answers without error,
// the event is stored and will be delivered; until then it is the publisher's to
// send again. It records what it refuses.
//
// It is the broker, in this process or in another.
type Acceptor interface {
	Accept(ctx context.Context, ev event.Event, key string) (event.Receipt, error)
	AcceptAll(ctx context.Context, batch []event.Publish) []event.Result
}

// Catalog knows the sources and what their publishers must pass. It is satisfied
// by *catalog.Catalog.
type Catalog interface {
	Source(context, name string) (*source.Source, bool)
	// Flow returns the security of a policy; false if nobody may pass.
	Flow(policy string) (*interceptor.Flow, bool)
}

// Rejecter records what was refused. It is satisfied by *ledger.Ledger.
type Rejecter interface {
	Reject(ctx context.Context, r *event.Rejection) error
}

// Config holds what operators may tune. The zero value is usable.
type Config struct {
	// MaxBytes bounds the body of a request. Default 8 MiB.
	MaxBytes int64
	// TrustedProxies are those whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix
	// MaxBatch bounds the events of one request. Default 1000.
	MaxBatch int
	// Recorder keeps a sample of the requests. nil keeps nothing.
	Recorder Recorder
}

// acceptTimeout bounds the taking of one request. A publisher that hangs up does
// not end it: what was begun is finished.
const acceptTimeout = 25 * time.Second

// A Gateway turns publishers' requests into events.
type Gateway struct {
	accept     Acceptor
	catalog    Catalog
	rejections Rejecter
	log        *slog.Logger
	metrics    *Metrics
	limits     *limits
	cfg        Config
}

// New returns a Gateway.
func New(accept Acceptor, catalog Catalog, rejections Rejecter, log *slog.Logger, m *Metrics, cfg Config) (*Gateway, error) {
	if accept == nil || catalog == nil || rejections == nil || log == nil {
		return nil, errors.New("gateway: a part is missing")
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 8 << 20
	}
	if cfg.MaxBatch == 0 {
		cfg.MaxBatch = 1000
	}
	if m == nil {
		m = none()
	}
	limits, err := newLimits()
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	return &Gateway{limits: limits, accept: accept, catalog: catalog, rejections: rejections, log: log, metrics: m, cfg: cfg}, nil
}

// Handler returns what the gateway serves: / for health, /events/ for publishers.
func (g *Gateway) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/events/", g.serve)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, []byte(`{"status":"ok"}`))
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { writeNotFound(w, r) })
	return mux
}
