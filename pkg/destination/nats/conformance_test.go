package nats

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/pkg/certs/certstest"
	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/destination/destinationtest"
	"github.com/posthornhq/posthorn/pkg/netguard"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

const (
	hushPassword = "hush-password-1"
	hushHeader   = "hush-header-2"
)

// conforming returns what makes destinations, with or without JetStream.
func conforming(log io.Writer, js bool) (at func(t *testing.T, url string) destination.Destination) {
	return func(t *testing.T, url string) destination.Destination {
		c := NewClient(netguard.New(loopback), slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})), Config{ReconnectWait: 50 * time.Millisecond, ConnectTimeout: 30 * time.Second})
		t.Cleanup(c.Close)
		password := hushPassword
		return newSubject(t, c, &posthornv1.Nats{
			Url: url, Subject: "orders.{type}.{tenant}", Jetstream: js, Username: "ann", Password: &password, Headers: map[string]string{"X-Key": hushHeader},
		})
	}
}

func suite(log *logs, js bool) destinationtest.Suite {
	at := conforming(log, js)
	speaking := func(then func(string, net.Conn) bool) destinationtest.Make {
		return func(t *testing.T) destination.Destination { return at(t, speak(t, then)) }
	}
	return destinationtest.Suite{
		Secrets: []string{hushPassword, hushHeader},
		Log:     log.String,
		Unauthorized: func(t *testing.T) destination.Destination {
			return at(t, serve(t, server.Options{Username: "ann", Password: "another"}).ClientURL())
		},
		Silent: speaking(func(string, net.Conn) bool { return true }),
		Cut:    speaking(func(line string, _ net.Conn) bool { return !strings.HasPrefix(line, "HPUB") }),
		Nobody: func(t *testing.T) destination.Destination { return at(t, "nats://127.0.0.1:1") },
		NoName: func(t *testing.T) destination.Destination { return at(t, "nats://no-such-host..invalid") },
		Untrusted: func(t *testing.T) destination.Destination {
			cert, key := certstest.New(t).Issue(t, "server")
			pair, err := tls.X509KeyPair(cert, key)
			if err != nil {
				t.Fatal(err)
			}
			s := serve(t, server.Options{TLS: true, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}})
			return at(t, strings.Replace(s.ClientURL(), "nats://", "tls://", 1))
		},
		Blocked: func(t *testing.T) destination.Destination {
			c := NewClient(netguard.New(nil), slog.New(slog.NewTextHandler(log, nil)), Config{ConnectTimeout: 30 * time.Second})
			t.Cleanup(c.Close)
			return newSubject(t, c, &posthornv1.Nats{Url: serve(t, server.Options{}).ClientURL(), Subject: "orders", Headers: map[string]string{"X-Key": hushHeader}})
		},
	}
}

func TestCoreNATSConforms(t *testing.T) {
	t.Parallel()
	log := &logs{}
	at := conforming(log, false)
	s := suite(log, false)
	s.Accepts = func(t *testing.T) destination.Destination {
		return at(t, serve(t, server.Options{Username: "ann", Password: hushPassword}).ClientURL())
	}
	s.Refuses = func(t *testing.T) destination.Destination {
		return at(t, serve(t, server.Options{Username: "ann", Password: hushPassword, MaxPayload: 8}).ClientURL())
	}
	s.Slow = func(t *testing.T) destination.Destination {
		return at(t, speak(t, func(line string, conn net.Conn) bool {
			if strings.HasPrefix(line, "PING") {
				<-time.After(50 * time.Millisecond)
				_, err := io.WriteString(conn, "PONG\r\n")
				return err == nil
			}
			return true
		}))
	}
	s.Lacks = map[string]string{
		"Unavailable": "a server takes a message, or closes the connection",
		"Huge":        "what is answered is PONG",
	}
	destinationtest.Run(t, s)
}

func TestJetStreamConforms(t *testing.T) {
	t.Parallel()
	log := &logs{}
	at := conforming(log, true)
	s := suite(log, true)
	// stream serves one that has room for so many messages and bytes of each.
	stream := func(messages int64, size int32) destinationtest.Make {
		return func(t *testing.T) destination.Destination {
			srv := serve(t, server.Options{JetStream: true})
			js, err := jetstream.New(connect(t, srv), jetstream.WithDefaultTimeout(30*time.Second))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
				Name: "ORDERS", Subjects: []string{"orders.>"}, MaxMsgs: messages, MaxMsgSize: size, Discard: jetstream.DiscardNew,
			}); err != nil {
				t.Fatal(err)
			}
			if messages == 1 {
				if _, err := js.Publish(t.Context(), "orders.first", nil); err != nil {
					t.Fatal(err)
				}
			}
			return at(t, srv.ClientURL())
		}
	}
	s.Accepts = stream(-1, -1)
	s.Refuses = stream(-1, 8)
	s.Unavailable = stream(1, -1)
	s.Lacks = map[string]string{
		"Slow": "a stream that answers late is Silent until it answers",
		"Huge": "an acknowledgement is written by the server, and has its size",
	}
	destinationtest.Run(t, s)
}
