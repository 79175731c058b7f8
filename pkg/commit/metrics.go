package commit

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are those of a Barrier.
type Metrics = metrics

type metrics struct {
	latency prometheus.Histogram
	waiters prometheus.Histogram
	// worst is the longest sync since it was last read, in nanoseconds.
	worst atomic.Int64
}

// NewMetrics registers the barrier's metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &metrics{
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "posthorn_commit_seconds", Help: "Time of one sync of the data directory's file system.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 15),
		}),
		waiters: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "posthorn_commit_group_size", Help: "Requests that shared one sync.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 10),
		}),
	}
	reg.MustRegister(m.latency, m.waiters)
	return m
}

func (m *metrics) orNone() *metrics {
	if m == nil {
		return &metrics{}
	}
	return m
}

func (m *metrics) observe(d time.Duration, waiters int) {
	for {
		w := m.worst.Load()
		if int64(d) <= w || m.worst.CompareAndSwap(w, int64(d)) {
			break
		}
	}
	if m.latency != nil {
		m.latency.Observe(d.Seconds())
		m.waiters.Observe(float64(waiters))
	}
}

// slow is the sync time from which the disk is worth a warning, when it stays
// there: publishers wait for it.
const slow = 250 * time.Millisecond

// Watch warns in the log while syncs stay slow, until ctx is done.
func (b *Barrier) Watch(ctx context.Context, log *slog.Logger) error {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	var bad int
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if worst := time.Duration(b.metrics.worst.Swap(0)); worst > slow {
			bad++
			if bad == 3 {
				log.Warn("the disk is slow: publishers wait for it; give the data directory a file system of its own", "sync", worst)
				bad = 0
			}
			continue
		}
		bad = 0
	}
}
