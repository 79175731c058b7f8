package amqp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/posthornhq/posthorn/pkg/backoff"
)

const (
	// dialTimeout bounds the making of a connection, handshakes included.
	dialTimeout = 15 * time.Second
	// heartbeat is how often both sides show that they live. A peer that says
	// nothing for three times as long is taken for dead.
	heartbeat = 10 * time.Second
)

// A Dialer makes the connections. It is satisfied by *netguard.Guard.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Options say how to connect. The zero value is usable.
type Options struct {
	// Name is what the broker shows of the connection.
	Name string
	// RootCAs are trusted to sign the broker's certificate. Default those of the
	// system.
	RootCAs *x509.CertPool
}

// Dial connects to the endpoint. It does not outlast ctx by more than a moment.
func (e Endpoint) Dial(ctx context.Context, d Dialer, o Options) (*amqp091.Connection, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	scheme := "amqp"
	if e.TLS {
		scheme = "amqps"
	}
	host, _, err := net.SplitHostPort(e.Address)
	if err != nil {
		return nil, fmt.Errorf("amqp: %w", err)
	}
	properties := amqp091.NewConnectionProperties()
	properties.SetClientConnectionName(o.Name)
	stop := func() bool { return true }
	var raw net.Conn
	conn, err := amqp091.DialConfig(scheme+"://"+e.Address, amqp091.Config{
		SASL:      []amqp091.Authentication{&plain{amqp091.PlainAuth{Username: e.Username, Password: e.Password}, properties}},
		Vhost:     e.Vhost,
		Heartbeat: heartbeat,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, ServerName: host, RootCAs: o.RootCAs,
		},
		Properties: properties,
		Dial: func(network, address string) (net.Conn, error) {
			c, err := d.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			// The library takes the deadline away when the handshakes are over, and
			// knows no context.
			if until, ok := ctx.Deadline(); ok {
				if err := c.SetDeadline(until); err != nil {
					_ = c.Close()
					return nil, err
				}
			}
			raw = c
			stop = context.AfterFunc(ctx, func() { _ = c.Close() })
			return c, nil
		},
	})
	if cut := !stop(); cut && err == nil {
		err = net.ErrClosed
	}
	if err != nil {
		if raw != nil {
			_ = raw.Close()
		}
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
		return nil, fmt.Errorf("connect to %s as %s: %w", e, e.Username, err)
	}
	return conn, nil
}

// plain is the authentication by user and password, and has the broker say why it does
// not take them. RabbitMQ does so for a client that asks for it; from any other it hides
// for three seconds, and then hangs up. The library has no setting for it and writes its
// list of capabilities right before it asks for the response.
type plain struct {
	amqp091.PlainAuth
	properties amqp091.Table
}

// Response implements [amqp091.Authentication].
func (p *plain) Response() string {
	if capabilities, ok := p.properties["capabilities"].(amqp091.Table); ok {
		capabilities["authentication_failure_close"] = true
	}
	return p.PlainAuth.Response()
}

// pauses are those between tries. They end nowhere: a broker that is away for a
// week is connected to when it is back.
var pauses = backoff.Schedule{Initial: 200 * time.Millisecond, Max: 5 * time.Second, Jitter: 0.5}

// Pause returns how long to wait before the next try after n that failed. It is
// never the same for all, so that they do not all come at once.
func Pause(n int) time.Duration { return pauses.Delay(n, rand.Float64) }

// Reason returns what ended a connection or channel, as far as it is known.
func Reason(e *amqp091.Error) error {
	if e == nil {
		return errClosed
	}
	return e
}

var errClosed = fmt.Errorf("the connection was closed: %w", net.ErrClosed)
