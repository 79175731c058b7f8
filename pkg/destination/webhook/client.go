package webhook

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// A Dialer makes the connections. It is satisfied by *netguard.Guard.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Config holds what operators may tune. The zero value is usable.
type Config struct {
	// MaxIdlePerHost is the number of idle connections kept to one endpoint. With
	// fewer than the attempts in flight, connections are made and thrown away at
	// full load. Default 128, the dispatcher's own default.
	MaxIdlePerHost int

	// MaxIdle is the number of idle connections kept in all. Default 1024.
	MaxIdle int

	// IdleTimeout is how long an idle connection is kept. Default 90s.
	IdleTimeout time.Duration

	// MaxHeaderBytes bounds the header of an answer. Default 64 KiB.
	MaxHeaderBytes int64

	// RootCAs are trusted to sign the endpoints' certificates. Default those of
	// the system.
	RootCAs *x509.CertPool

	// Version is sent as "User-Agent: Posthorn/<version>". Default "devel".
	Version string
}

func (c *Config) setDefaults() {
	if c.MaxIdlePerHost <= 0 {
		c.MaxIdlePerHost = 128
	}
	if c.MaxIdle <= 0 {
		c.MaxIdle = 1024
	}
	if c.IdleTimeout <= 0 {
		c.IdleTimeout = 90 * time.Second
	}
	if c.MaxHeaderBytes <= 0 {
		c.MaxHeaderBytes = 64 << 10
	}
	if c.Version == "" {
		c.Version = "devel"
	}
}

// A Client has the connections that all webhooks share. It is safe for
// concurrent use.
type Client struct {
	transport *http.Transport
	userAgent string

	mu        sync.Mutex
	certified *lru.Cache[[sha256.Size]byte, *http.Transport]
}

// maxCertificates is how many client certificates have connections at a time.
const maxCertificates = 256

// NewClient returns a Client that connects through dial. It connects to nothing
// until the first [Webhook.Send].
func NewClient(dial Dialer, cfg Config) *Client {
	cfg.setDefaults()
	// A transport that makes room loses its idle connections now, and those that are
	// in use when they have been idle for IdleTimeout.
	certified, err := lru.NewWithEvict(maxCertificates, func(_ [sha256.Size]byte, t *http.Transport) { t.CloseIdleConnections() })
	if err != nil {
		panic(err) // the size is a constant
	}
	return &Client{
		userAgent: "Posthorn/" + cfg.Version,
		certified: certified,
		transport: &http.Transport{
			// Proxy stays nil: a proxy would dial in the guard's place.
			DialContext:         dial.DialContext,
			ForceAttemptHTTP2:   true, // else a DialContext of one's own means HTTP/1 only
			TLSHandshakeTimeout: 10 * time.Second,
			TLSClientConfig: &tls.Config{
				MinVersion:         tls.VersionTLS12,
				RootCAs:            cfg.RootCAs,
				ClientSessionCache: tls.NewLRUClientSessionCache(cfg.MaxIdle),
			},
			// The beginning of the answer is kept for people; it must be readable.
			DisableCompression:     true,
			MaxIdleConns:           cfg.MaxIdle,
			MaxIdleConnsPerHost:    cfg.MaxIdlePerHost,
			IdleConnTimeout:        cfg.IdleTimeout,
			MaxResponseHeaderBytes: cfg.MaxHeaderBytes,
			// ResponseHeaderTimeout stays 0: an attempt's context has its deadline,
			// and a second timer would cost every request three allocations.
			HTTP2: &http.HTTP2Config{
				// A dead HTTP/2 connection takes every attempt given to it until TCP
				// notices, which takes a quarter of an hour.
				SendPingTimeout: 15 * time.Second,
				PingTimeout:     5 * time.Second,
			},
		},
	}
}

// Close drops the idle connections. Attempts in flight go on.
func (c *Client) Close() {
	c.transport.CloseIdleConnections()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.certified.Purge()
}
