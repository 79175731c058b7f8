package store

import "github.com/prometheus/client_golang/prometheus"

// Metrics are those of a Store.
type Metrics struct {
	misses  prometheus.Counter
	bytes   *prometheus.GaugeVec
	limit   *prometheus.GaugeVec
	purged  prometheus.Counter
	blocked prometheus.Gauge
}

// NewMetrics registers the store's metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := none()
	reg.MustRegister(m.misses, m.bytes, m.limit, m.purged, m.blocked)
	return m
}

func none() *Metrics {
	return &Metrics{
		misses: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "posthorn_store_cache_misses_total", Help: "Reads of events that the cache of recent ones could not answer."}),
		bytes: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "posthorn_store_bytes", Help: "Bytes in use, by asset."}, []string{"asset"}),
		limit: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "posthorn_store_limit_bytes", Help: "Byte limit, by asset."}, []string{"asset"}),
		purged: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "posthorn_store_purged_events_total", Help: "Events that retention removed."}),
		blocked: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "posthorn_store_full", Help: "1 while the store is near its limit with events that are undelivered: publishers are or will be turned away with 503."}),
	}
}

func (m *Metrics) orNone() *Metrics {
	if m == nil {
		return none()
	}
	return m
}
