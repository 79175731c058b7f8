package gateway

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are those of a Gateway.
type Metrics struct {
	requests *prometheus.CounterVec
	rejected *prometheus.CounterVec
	dropped  *prometheus.CounterVec
	latency  prometheus.Histogram
}

// NewMetrics registers the gateway's metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := none()
	reg.MustRegister(m.requests, m.rejected, m.dropped, m.latency)
	return m
}

func none() *Metrics {
	return &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "posthorn_gateway_requests_total", Help: "Requests of publishers, by source and status of the answer."}, []string{"source", "code"}),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "posthorn_gateway_rejected_total", Help: "Requests that the gateway refused, by reason."}, []string{"reason"}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "posthorn_gateway_dropped_total", Help: "Events that their source does not want."}, []string{"source"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "posthorn_gateway_request_seconds", Help: "Time to answer requests that were accepted.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)}),
	}
}

// answered counts a request that was accepted, which is always a 202.
func (m *Metrics) answered(source string, begun time.Time) {
	m.requests.WithLabelValues(source, "202").Inc()
	m.latency.Observe(time.Since(begun).Seconds())
}

// replied counts a request that was answered by its source itself.
func (m *Metrics) replied(source string, status int, begun time.Time) {
	m.requests.WithLabelValues(source, strconv.Itoa(status)).Inc()
	m.latency.Observe(time.Since(begun).Seconds())
}

func (m *Metrics) droppedBy(source string, n int) {
	if n > 0 {
		m.dropped.WithLabelValues(source).Add(float64(n))
	}
}
