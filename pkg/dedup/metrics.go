package dedup

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Instrumented counts what the claims below it answer:
//
//	posthorn_dedup_claims_total{kind,result}  result is fresh, own (again by its
//	    owner), done (by its owner already), duplicate (another's), unsure or error
//	posthorn_dedup_errors_total{operation}    claim, done, takeover or release
//
// Kind is what a key begins with, up to its first colon: ingest, delivery or
// else other, because publishers must not be able to make series.
type Instrumented struct {
	claims  Claims
	results map[string]*results
	errors  *prometheus.CounterVec
}

var _ Claims = (*Instrumented)(nil)

// results are counters that are looked up once.
type results struct {
	fresh, own, done, duplicate, unsure, failed prometheus.Counter
}

const otherKind = "other"

// Instrument returns claims that are counted in reg; nil counts for nobody.
func Instrument(claims Claims, reg prometheus.Registerer) (*Instrumented, error) {
	total := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "posthorn_dedup_claims_total",
		Help: "Claims on keys, by what was answered.",
	}, []string{"kind", "result"})
	failed := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "posthorn_dedup_errors_total",
		Help: "Calls that the backend of claims did not answer.",
	}, []string{"operation"})
	if err := register(reg, total, failed); err != nil {
		return nil, err
	}
	i := &Instrumented{claims: claims, results: make(map[string]*results), errors: failed}
	for _, kind := range []string{"ingest", "delivery", otherKind} {
		i.results[kind] = &results{
			fresh:     total.WithLabelValues(kind, "fresh"),
			own:       total.WithLabelValues(kind, "own"),
			done:      total.WithLabelValues(kind, "done"),
			duplicate: total.WithLabelValues(kind, "duplicate"),
			unsure:    total.WithLabelValues(kind, "unsure"),
			failed:    total.WithLabelValues(kind, "error"),
		}
	}
	return i, nil
}

func register(reg prometheus.Registerer, collectors ...prometheus.Collector) error {
	if reg == nil {
		return nil
	}
	for _, c := range collectors {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("dedup: register metrics: %w", err)
		}
	}
	return nil
}

// Claim implements [Claims].
func (i *Instrumented) Claim(ctx context.Context, key, owner string, ttl time.Duration) (Claim, error) {
	c, err := i.claims.Claim(ctx, key, owner, ttl)
	kind, _, _ := strings.Cut(key, ":")
	r, ok := i.results[kind]
	if !ok {
		r = i.results[otherKind]
	}
	switch {
	case err != nil:
		r.failed.Inc()
		i.errors.WithLabelValues("claim").Inc()
	case c.Unsure:
		r.unsure.Inc()
	case c.Fresh:
		r.fresh.Inc()
	case c.Owner != owner:
		r.duplicate.Inc()
	case c.Done:
		r.done.Inc()
	default:
		r.own.Inc()
	}
	return c, err
}

// Done implements [Claims].
func (i *Instrumented) Done(ctx context.Context, key, owner string, ttl time.Duration) error {
	return i.count("done", i.claims.Done(ctx, key, owner, ttl))
}

// Takeover implements [Claims].
func (i *Instrumented) Takeover(ctx context.Context, key string, old Claim, owner string, ttl time.Duration) (bool, error) {
	ok, err := i.claims.Takeover(ctx, key, old, owner, ttl)
	return ok, i.count("takeover", err)
}

// Release implements [Claims].
func (i *Instrumented) Release(ctx context.Context, key, owner string) error {
	return i.count("release", i.claims.Release(ctx, key, owner))
}

func (i *Instrumented) count(operation string, err error) error {
	if err != nil {
		i.errors.WithLabelValues(operation).Inc()
	}
	return err
}
