package consumer

import "github.com/prometheus/client_golang/prometheus"

// Outcomes of a message, as label of a metric.
const (
	accepted  = "accepted"
	duplicate = "duplicate"
	refused   = "refused"  // for good; dead-lettered
	requeued  = "requeued" // given back to the queue
)

// Stages at which a source can fail, as label of a metric.
const (
	stageConnect = "connect"
	stageDeclare = "declare"
	stageConsume = "consume"
	stageLost    = "lost"
)

// Metrics are those of Consumers.
type Metrics struct {
	messages    *prometheus.CounterVec
	redelivered *prometheus.CounterVec
	held        *prometheus.GaugeVec
	connected   *prometheus.GaugeVec
	failures    *prometheus.CounterVec
}

// NewMetrics registers the metrics of Consumers.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := none()
	reg.MustRegister(m.messages, m.redelivered, m.held, m.connected, m.failures)
	return m
}

func none() *Metrics {
	return &Metrics{
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "posthorn_gateway_amqp_messages_total", Help: "Messages of AMQP sources, by what became of them."}, []string{"source", "outcome"}),
		redelivered: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "posthorn_gateway_amqp_redelivered_total", Help: "Messages of AMQP sources that their broker had delivered before."}, []string{"source"}),
		held: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "posthorn_gateway_amqp_held_messages", Help: "Messages of AMQP sources that wait because they cannot be stored now."}, []string{"source"}),
		connected: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "posthorn_gateway_amqp_connected", Help: "1 while the queue of an AMQP source is consumed, else 0."}, []string{"source"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "posthorn_gateway_amqp_failures_total", Help: "How often an AMQP source could not be consumed, by what failed; the log says why."}, []string{"source", "stage"}),
	}
}

// forget takes a source that is gone out of the gauges.
func (m *Metrics) forget(source string) {
	m.connected.DeleteLabelValues(source)
	m.held.DeleteLabelValues(source)
}
