package nats

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	gonats "github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"golang.org/x/sync/singleflight"

	"github.com/posthornhq/posthorn/pkg/destination"
)

// A Dialer makes the connections. It is satisfied by *netguard.Guard.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Config holds what operators may tune. The zero value is usable.
type Config struct {
	// IdleTimeout is how long a connection that nobody uses is kept. Default 5m.
	IdleTimeout time.Duration
	// ConnectTimeout bounds one try to connect to one server. Default 5s.
	ConnectTimeout time.Duration
	// ReconnectWait is the pause before a server is tried again. Default 1s.
	ReconnectWait time.Duration
	// Platform is the connection over which the platform itself works, nil without one,
	// and OwnSubjects what its streams take, as first tokens. Deliveries to these
	// subjects on that server, or in its cluster, are refused.
	Platform    *gonats.Conn
	OwnSubjects []string
	// RootCAs are trusted to sign the servers' certificates. Default those of the
	// system.
	RootCAs *x509.CertPool
}

func (c *Config) setDefaults() {
	if c.IdleTimeout <= 0 {
		c.IdleTimeout = 5 * time.Minute
	}
	if c.ConnectTimeout <= 0 {
		c.ConnectTimeout = 5 * time.Second
	}
	if c.ReconnectWait <= 0 {
		c.ReconnectWait = time.Second
	}
}

// A Client has the connections that destinations share. It is safe for concurrent
// use.
type Client struct {
	dial Dialer
	log  *slog.Logger
	cfg  Config

	mu     sync.Mutex
	conns  map[settings]*conn
	closed bool
}

// NewClient returns a Client that connects through dial. It connects to nothing
// until the first [Subject.Send].
func NewClient(dial Dialer, log *slog.Logger, cfg Config) *Client {
	cfg.setDefaults()
	return &Client{dial: dial, log: log, cfg: cfg, conns: make(map[settings]*conn)}
}

// settings are what makes two destinations share a connection.
type settings struct{ url, credentials, token, username, password string }

// A conn is a connection that is made when it is needed.
type conn struct {
	client   *Client
	settings settings
	servers  int
	denials  denials
	flight   singleflight.Group

	// Of client.mu.
	users int
	idle  *time.Timer

	mu      sync.Mutex
	gone    bool // closed for good; what is being connected is not kept
	nc      *gonats.Conn
	tries   int           // to connect again, that failed
	failed  error         // why the last one did
	changed chan struct{} // closed when one of them changes
}

// acquire returns the connection for settings, which stays until it is released.
func (c *Client) acquire(s settings) *conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	cn := c.conns[s]
	if cn == nil {
		cn = &conn{client: c, settings: s, servers: 1 + strings.Count(s.url, ","), changed: make(chan struct{}), gone: c.closed}
		c.conns[s] = cn
	}
	cn.users++
	if cn.idle != nil {
		cn.idle.Stop()
		cn.idle = nil
	}
	return cn
}

func (c *Client) release(cn *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cn.users--; cn.users == 0 {
		cn.idle = time.AfterFunc(c.cfg.IdleTimeout, func() { c.drop(cn) })
	}
}

// drop closes a connection that nobody has begun to use again.
func (c *Client) drop(cn *conn) {
	c.mu.Lock()
	unused := cn.users == 0 && c.conns[cn.settings] == cn
	if unused {
		delete(c.conns, cn.settings)
	}
	c.mu.Unlock()
	if unused {
		cn.close()
	}
}

// Close closes all connections. Attempts in flight fail, and so do later ones.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	all := c.conns
	c.conns = make(map[settings]*conn)
	c.mu.Unlock()
	for _, cn := range all {
		cn.close()
	}
}

func (c *conn) close() {
	c.mu.Lock()
	nc := c.nc
	c.nc, c.gone = nil, true
	c.mu.Unlock()
	if nc != nil {
		nc.Close()
	}
}

// ready returns the connection when it is there, and an error when it is known that
// it is not to be had for now.
func (c *conn) ready(ctx context.Context) (*gonats.Conn, error) {
	seen := -1
	for {
		c.mu.Lock()
		nc, tries, failed, changed := c.nc, c.tries, c.failed, c.changed
		c.mu.Unlock()
		if seen < 0 {
			seen = tries
		}
		switch {
		case nc == nil || nc.IsClosed():
			made, err := c.connect(ctx)
			if err != nil {
				return nil, err
			}
			return made, nil
		case nc.IsConnected():
			return nc, nil
		case tries-seen >= c.servers:
			return nil, failed // each of the servers was tried since we came
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// connect makes the connection; many that want it wait for one try.
func (c *conn) connect(ctx context.Context) (*gonats.Conn, error) {
	ch := c.flight.DoChan("", func() (any, error) {
		c.mu.Lock()
		nc := c.nc
		c.mu.Unlock()
		if nc != nil && !nc.IsClosed() {
			return nc, nil // it came while we were on our way
		}
		return c.open(context.WithoutCancel(ctx))
	})
	select {
	case res := <-ch:
		if res.Err != nil {
			return nil, res.Err
		}
		return res.Val.(*gonats.Conn), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// open makes a connection, which takes ConnectTimeout for each server at most.
func (c *conn) open(ctx context.Context) (*gonats.Conn, error) {
	options, dialer, err := c.options(ctx)
	if err != nil {
		return nil, err
	}
	nc, err := gonats.Connect(c.settings.url, options...)
	if err != nil {
		if errors.Is(err, gonats.ErrNoServers) && dialer.last() != nil {
			err = dialer.last() // says what nats.go leaves out
		}
		return nil, err
	}
	c.mu.Lock()
	gone := c.gone
	if !gone {
		c.nc = nc
	}
	c.mu.Unlock()
	if gone { // while it was made
		nc.Close()
		return nil, gonats.ErrConnectionClosed
	}
	return nc, nil
}

var errCredentials = errors.New("the credentials are not the content of a .creds file")

func (c *conn) options(ctx context.Context) ([]gonats.Option, *guarded, error) {
	cfg := c.client.cfg
	log := c.client.log.With("destination", c.settings.url)
	dialer := &guarded{ctx: ctx, dial: c.client.dial, timeout: cfg.ConnectTimeout}
	options := []gonats.Option{
		gonats.Name("posthorn"),
		gonats.Timeout(cfg.ConnectTimeout),
		gonats.SetCustomDialer(dialer),
		gonats.SkipHostLookup(), // the guard looks at where a name leads
		// Credentials go to the servers that they were given for.
		gonats.IgnoreDiscoveredServers(),
		gonats.MaxReconnects(-1),
		gonats.IgnoreAuthErrorAbort(),
		gonats.ReconnectWait(cfg.ReconnectWait),
		gonats.ReconnectBufSize(-1), // an attempt that failed must not succeed afterwards
		gonats.PingInterval(20 * time.Second),
		// Used where the URL or the server asks for TLS.
		func(o *gonats.Options) error {
			o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.RootCAs}
			return nil
		},
		gonats.ErrorHandler(func(_ *gonats.Conn, _ *gonats.Subscription, err error) { c.denials.heard(err) }),
		gonats.DisconnectErrHandler(func(_ *gonats.Conn, err error) {
			if err != nil {
				log.Warn("the connection to a NATS destination is lost; it is made again", "err", err)
			}
			c.denials.cut()
			c.change(nil)
		}),
		gonats.ReconnectHandler(func(*gonats.Conn) { c.change(nil) }),
		gonats.ReconnectErrHandler(func(_ *gonats.Conn, err error) { c.change(err) }),
		gonats.ClosedHandler(func(*gonats.Conn) { c.change(nil) }),
	}
	switch s := c.settings; {
	case s.credentials != "":
		// Checked here: nats.go would quote what it cannot read.
		if _, err := nkeys.ParseDecoratedJWT([]byte(s.credentials)); err != nil {
			return nil, nil, errCredentials
		}
		if _, err := nkeys.ParseDecoratedNKey([]byte(s.credentials)); err != nil {
			return nil, nil, errCredentials
		}
		options = append(options, gonats.UserCredentialBytes([]byte(s.credentials)))
	case s.token != "":
		options = append(options, gonats.Token(s.token))
	case s.username != "":
		options = append(options, gonats.UserInfo(s.username, s.password))
	}
	return options, dialer, nil
}

func (c *conn) change(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.tries, c.failed = c.tries+1, err
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// guarded is a [Dialer] as nats.go wants one. It keeps the last error.
type guarded struct {
	ctx     context.Context // never done: nats.go has none to give, now or when it connects again
	dial    Dialer
	timeout time.Duration

	mu  sync.Mutex
	err error
}

// Dial implements [gonats.CustomDialer].
func (g *guarded) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(g.ctx, g.timeout)
	defer cancel()
	conn, err := g.dial.DialContext(ctx, network, address)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = err
	return conn, err
}

func (g *guarded) last() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// denials tells attempts that the server did not let their messages through, which
// it says without naming the message, but by subject; and that the connection was cut.
type denials struct {
	mu      sync.Mutex
	last    error // that was heard
	waiting map[*denial]bool
	heardOf chan struct{} // closed when last changes; nil if nobody waits
}

// A denial is what one attempt learns.
type denial struct {
	all     *denials
	subject string
	cause   error
	cancel  func()
}

func (d *denials) watch(subject string) *denial {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.waiting == nil {
		d.waiting = make(map[*denial]bool)
	}
	w := &denial{all: d, subject: subject}
	d.waiting[w] = true
	return w
}

func (d *denials) unwatch(w *denial) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.waiting, w)
}

// heard takes in what the connection's error handler is called with.
func (d *denials) heard(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = err
	if d.heardOf != nil {
		close(d.heardOf)
		d.heardOf = nil
	}
	if !errors.Is(err, gonats.ErrPermissionViolation) {
		return
	}
	for w := range d.waiting {
		if strings.Contains(err.Error(), fmt.Sprintf("%q", w.subject)) {
			w.cause = err
			if w.cancel != nil {
				w.cancel()
			}
		}
	}
}

// cut ends the wait for answers that went with the connection.
func (d *denials) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for w := range d.waiting {
		if w.cancel != nil && w.cause == nil {
			w.cause = gonats.ErrDisconnected
			w.cancel()
		}
	}
}

// settled waits until what the connection had to say before its last answer was
// heard, and returns the denial if it was one of w.
func (d *denials) settled(ctx context.Context, nc *gonats.Conn, w *denial) error {
	for {
		d.mu.Lock()
		// Read with the lock held: so it is what was heard last, or will be heard yet,
		// and never what was heard before that.
		last := nc.LastError()
		if w.cause != nil || errors.Is(last, d.last) || !errors.Is(last, gonats.ErrPermissionViolation) {
			defer d.mu.Unlock()
			return w.cause
		}
		if d.heardOf == nil {
			d.heardOf = make(chan struct{})
		}
		ch := d.heardOf
		d.mu.Unlock()
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *denial) err() error {
	w.all.mu.Lock()
	defer w.all.mu.Unlock()
	return w.cause
}

// then calls f when the denial comes, until stop is called.
func (w *denial) then(f func()) (stop func()) {
	w.all.mu.Lock()
	defer w.all.mu.Unlock()
	w.cancel = f
	return func() {
		w.all.mu.Lock()
		defer w.all.mu.Unlock()
		w.cancel = nil
	}
}

var _ destination.Preparer = (*Subject)(nil)
