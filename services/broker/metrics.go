package broker

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthornhq/posthorn/pkg/event"
)

// Metrics are those of a Broker.
type Metrics struct {
	acceptedIn, acceptedOut, duplicates prometheus.Counter
	rejected                            *prometheus.CounterVec
	routed, unmatched, filterErrors     prometheus.Counter
	routeErrors                         prometheus.Counter
	routeLag                            prometheus.Histogram
}

// NewMetrics registers the broker's metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	accepted := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "posthorn_events_accepted_total", Help: "Events that were stored and answered, by direction."}, []string{"direction"})
	m := none()
	m.acceptedIn, m.acceptedOut = accepted.WithLabelValues("in"), accepted.WithLabelValues("out")
	reg.MustRegister(accepted, m.duplicates, m.rejected, m.routed, m.unmatched, m.filterErrors, m.routeErrors, m.routeLag)
	return m
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func none() *Metrics {
	return &Metrics{
		acceptedIn: counter("unregistered_in", ""), acceptedOut: counter("unregistered_out", ""),
		duplicates: counter("posthorn_events_duplicate_total", "Publishes that were answered with an earlier event's ID."),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "posthorn_events_rejected_total", Help: "Publishes that were refused, by reason."}, []string{"reason"}),
		routed:       counter("posthorn_deliveries_routed_total", "Deliveries that were queued."),
		unmatched:    counter("posthorn_events_unmatched_total", "Events that no subscription matched."),
		filterErrors: counter("posthorn_filter_errors_total", "Filters that could not be evaluated, which counts as no match."),
		routeErrors:  counter("posthorn_route_errors_total", "Events whose routing failed and is repeated."),
		routeLag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "posthorn_route_lag_seconds", Help: "Time from acceptance to routing.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16)}),
	}
}

func (m *Metrics) accepted(ev *event.Event, duplicate bool) {
	switch {
	case duplicate:
		m.duplicates.Inc()
	case ev.Direction == event.Incoming:
		m.acceptedIn.Inc()
	default:
		m.acceptedOut.Inc()
	}
}

// Rejected counts a publish that was refused for a reason in one word.
func (m *Metrics) Rejected(reason string) { m.rejected.WithLabelValues(reason).Inc() }

func (m *Metrics) lag(stored time.Time) { m.routeLag.Observe(time.Since(stored).Seconds()) }
