package amqp

// Connections returns how many brokers are connected to, or would be.
func (p *Pool) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}
