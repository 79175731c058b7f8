package dispatcher

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthornhq/posthorn/pkg/event"
)

// Metrics are those of a Dispatcher.
type Metrics struct {
	attempts   *prometheus.CounterVec
	delivered  prometheus.Counter // of attempts, since it is the hot one
	duplicates prometheus.Counter
	moved      prometheus.Counter
	lanes      *prometheus.GaugeVec
	letters    *prometheus.CounterVec
	latency    prometheus.Histogram
	endToEnd   prometheus.Histogram
	inFlight   prometheus.Gauge
}

// NewMetrics registers the dispatcher's metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := none()
	reg.MustRegister(m.attempts, m.duplicates, m.moved, m.lanes, m.letters, m.latency, m.endToEnd, m.inFlight)
	return m
}

func none() *Metrics {
	m := &Metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "posthorn_attempts_total", Help: "Attempts at deliveries, by outcome."}, []string{"outcome"}),
		duplicates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "posthorn_deliveries_duplicate_total", Help: "Deliveries that came again and were dropped without sending."}),
		moved: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "posthorn_deliveries_moved_total", Help: "Deliveries that were moved to their subscription's own lane."}),
		lanes: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "posthorn_own_lanes", Help: "Subscriptions that have a lane of their own, by reason; one can have several."}, []string{"reason"}),
		letters: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "posthorn_deadletters_total", Help: "Deliveries that were given up, by reason."}, []string{"reason"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "posthorn_attempt_seconds", Help: "Time of one attempt.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 16)}),
		endToEnd: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "posthorn_delivery_seconds", Help: "Time from acceptance to the destination's answer, of deliveries that succeeded.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 20)}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "posthorn_attempts_in_flight", Help: "Attempts that are being made."}),
	}
	m.delivered = m.attempts.WithLabelValues(string(event.Delivered))
	return m
}

func (m *Metrics) attempted(a *event.Attempt, ev *event.Event) {
	m.latency.Observe(a.Latency.Seconds())
	if a.Outcome == event.Delivered {
		m.delivered.Inc()
		m.endToEnd.Observe(time.Since(ev.Received).Seconds())
		return
	}
	m.attempts.WithLabelValues(string(a.Outcome)).Inc()
}

func (m *Metrics) duplicate() { m.duplicates.Inc() }

func (m *Metrics) dead(reason string) { m.letters.WithLabelValues(reason).Inc() }
