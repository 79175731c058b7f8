package amqp

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/posthornhq/posthorn/pkg/amqp"
)

// Config holds what operators may tune. The zero value is usable.
type Config struct {
	// IdleTimeout is how long a connection is kept that nobody uses. Default 5m.
	IdleTimeout time.Duration
	// RootCAs are trusted to sign the brokers' certificates. Default those of the
	// system.
	RootCAs *x509.CertPool
	// Name is what brokers show of our connections. Default "posthorn".
	Name string
}

func (c *Config) setDefaults() {
	if c.IdleTimeout <= 0 {
		c.IdleTimeout = 5 * time.Minute
	}
	if c.Name == "" {
		c.Name = "posthorn"
	}
}

// A Pool has the connections that all destinations share, one for each broker
// and user. It is safe for concurrent use.
type Pool struct {
	dialer amqp.Dialer
	log    *slog.Logger
	cfg    Config

	mu    sync.Mutex
	links map[amqp.Endpoint]*link
	fresh []*link // that nobody supervises yet
	wake  chan struct{}
}

// NewPool returns a Pool that connects through d. It connects to nothing before
// [Pool.Run].
func NewPool(d amqp.Dialer, log *slog.Logger, cfg Config) *Pool {
	cfg.setDefaults()
	return &Pool{dialer: d, log: log, cfg: cfg, links: map[amqp.Endpoint]*link{}, wake: make(chan struct{}, 1)}
}

// Run supervises the connections until ctx is done, closes them, and returns nil.
func (p *Pool) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		p.mu.Lock()
		fresh := p.fresh
		p.fresh = nil
		p.mu.Unlock()
		for _, l := range fresh {
			wg.Go(func() { l.run(ctx) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		}
	}
}

// publish sends a message and waits for what the broker says of it.
func (p *Pool) publish(ctx context.Context, to amqp.Endpoint, exchange, key string, msg amqp091.Publishing) (answer, error) {
	s, err := p.session(ctx, to)
	if err != nil {
		return answer{}, err
	}
	return s.publish(ctx, exchange, key, msg)
}

// session returns the live connection to an endpoint. While one is being made it
// waits; when the last try failed, and the next is not due, it fails at once, so
// that a broker that is away holds up nobody else's deliveries.
func (p *Pool) session(ctx context.Context, to amqp.Endpoint) (*session, error) {
	for {
		s, err := p.link(to).session(ctx)
		if !errors.Is(err, errRetired) {
			return s, err
		}
	}
}

func (p *Pool) link(to amqp.Endpoint) *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	l, ok := p.links[to]
	if !ok {
		l = &link{pool: p, to: to, tried: make(chan struct{}), used: time.Now()}
		p.links[to] = l
		p.fresh = append(p.fresh, l)
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	return l
}

// errRetired means that the link was closed for want of use at that moment.
var errRetired = errors.New("amqp: the connection was idle and is closed")

// A downError says why there is no connection.
type downError struct{ cause error }

func (e *downError) Error() string { return "not connected: " + e.cause.Error() }
func (e *downError) Unwrap() error { return e.cause }

// A link is the supervised connection to one endpoint.
type link struct {
	pool *Pool
	to   amqp.Endpoint

	mu      sync.Mutex
	up      *session      // nil if there is none
	err     error         // why not
	tried   chan struct{} // closed when the try that is under way ends; nil if none is
	used    time.Time
	retired bool
}

// session returns what there is, once the try that is under way has ended.
func (l *link) session(ctx context.Context) (*session, error) {
	for {
		l.mu.Lock()
		l.used = time.Now()
		up, err, tried, retired := l.up, l.err, l.tried, l.retired
		l.mu.Unlock()
		switch {
		case retired:
			return nil, errRetired
		case up != nil:
			return up, nil
		case tried == nil:
			return nil, &downError{err}
		}
		select {
		case <-tried:
		case <-ctx.Done():
			if err != nil {
				return nil, &downError{err} // of the try before
			}
			return nil, context.Cause(ctx)
		}
	}
}

// run keeps the connection until ctx is done or nobody has used it for a while.
func (l *link) run(ctx context.Context) {
	log := l.pool.log.With("broker", l.to.String())
	failed, complaints := 0, amqp.Complaints{}
	for {
		conn, err := l.to.Dial(ctx, l.pool.dialer, amqp.Options{Name: l.pool.cfg.Name, RootCAs: l.pool.cfg.RootCAs})
		var begun time.Time
		if err == nil {
			begun = time.Now()
			complaints.Over()
			log.Info("connected to an AMQP broker")
			err = l.serve(ctx, conn)
		} else {
			l.ended(nil, err)
		}
		if ctx.Err() != nil || errors.Is(err, errRetired) {
			l.retire(err)
			return
		}
		// One that was up for a while is tried for at once when it is lost; one that
		// ends as soon as it begins is not begun in a loop.
		if failed++; time.Since(begun) > steady && !begun.IsZero() {
			failed = 0
		}
		if complaints.Due(err.Error(), time.Now()) {
			log.Warn("no connection to an AMQP broker; it will be tried for without end", "err", err)
		}
		if failed > 0 && !l.pause(ctx, amqp.Pause(failed)) {
			l.retire(ctx.Err())
			return
		}
		l.mu.Lock()
		l.tried = make(chan struct{})
		l.mu.Unlock()
	}
}

// steady is how long a connection must have lived to count as one that worked.
const steady = 5 * time.Second

// pause waits. It reports false if ctx is done or nobody is interested any more.
func (l *link) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return !l.idle()
	}
}

// serve hands the connection out until it is lost or idle, and says which.
func (l *link) serve(ctx context.Context, conn *amqp091.Connection) error {
	s := newSession(conn)
	l.mu.Lock()
	l.up, l.err = s, nil
	close(l.tried)
	l.tried = nil
	l.mu.Unlock()
	err := s.run(ctx, l.pool.cfg.IdleTimeout/4, l.idle)
	l.ended(s, err)
	s.close()
	return err
}

// ended takes note of the end of a try or of a connection.
func (l *link) ended(s *session, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up, l.err = nil, err
	if s == nil {
		close(l.tried)
		l.tried = nil
	}
}

// idle reports whether nobody has used the link for a while, and then takes it
// out of the pool.
func (l *link) idle() bool {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.used) < l.pool.cfg.IdleTimeout {
		return false
	}
	delete(l.pool.links, l.to)
	l.retired = true
	return true
}

// retire tells those who wait, and if the link is still in the pool, those who come,
// that it will not be connected any more.
func (l *link) retire(err error) {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pool.links[l.to] == l {
		l.err = fmt.Errorf("the platform is stopping: %w", err)
	}
	if l.tried != nil {
		close(l.tried)
		l.tried = nil
	}
}
