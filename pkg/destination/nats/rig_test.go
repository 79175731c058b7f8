package nats

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	gonats "github.com/nats-io/nats.go"

	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/destination/destinationtest"
	"github.com/posthornhq/posthorn/pkg/netguard"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// serve runs a server of somebody else's: not the platform's.
func serve(t *testing.T, opts server.Options) *server.Server {
	t.Helper()
	opts.Host, opts.NoSigs, opts.NoLog = "127.0.0.1", true, true
	opts.AuthTimeout, opts.TLSTimeout = 30, 30 // seconds: nobody here is turned away for being slow
	if opts.Port == 0 {
		opts.Port = server.RANDOM_PORT
	}
	if opts.JetStream {
		opts.StoreDir = t.TempDir()
	}
	s, err := server.NewServer(&opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server did not start")
	}
	return s
}

// connect is a subscriber's connection.
func connect(t *testing.T, s *server.Server, opts ...gonats.Option) *gonats.Conn {
	t.Helper()
	nc, err := gonats.Connect(s.ClientURL(), append([]gonats.Option{gonats.Timeout(30 * time.Second)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// listen returns what comes on a subject, from when it returns.
func listen(t *testing.T, nc *gonats.Conn, subject string) <-chan *gonats.Msg {
	t.Helper()
	ch := make(chan *gonats.Msg, 64)
	if _, err := nc.ChanSubscribe(subject, ch); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return ch
}

func next(t *testing.T, ch <-chan *gonats.Msg) *gonats.Msg {
	t.Helper()
	select {
	case m := <-ch:
		return m
	case <-time.After(20 * time.Second):
		t.Fatal("no message came")
		return nil
	}
}

// logs is a log that many may write to.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func newClient(t *testing.T, cfg Config) *Client {
	t.Helper()
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 30 * time.Second
	}
	c := NewClient(netguard.New(loopback), slog.New(slog.DiscardHandler), cfg)
	t.Cleanup(c.Close)
	return c
}

func newSubject(t *testing.T, c *Client, spec *posthornv1.Nats) *Subject {
	t.Helper()
	s, err := New(c, spec)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func send(t *testing.T, d destination.Destination, m *destination.Message) destination.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return d.Send(ctx, m)
}

func newMessage() *destination.Message { return destinationtest.NewMessage() }

// speak runs a server that greets as NATS does, answers the first PING, and hands
// what the client says after that, line by line, to then, until that returns false.
func speak(t *testing.T, then func(line string, conn net.Conn) bool) string {
	t.Helper()
	lis, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
			wg.Go(func() { greet(conn, then) })
		}
	})
	t.Cleanup(func() {
		lis.Close()
		mu.Lock()
		for _, conn := range open {
			conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return "nats://" + lis.Addr().String()
}

func greet(conn net.Conn, then func(line string, conn net.Conn) bool) {
	defer conn.Close()
	fmt.Fprintf(conn, "INFO {\"server_id\":\"X\",\"version\":\"2.15.0\",\"headers\":true,\"max_payload\":1048576,\"proto\":1}\r\n")
	greeted := false
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		switch {
		case !greeted && strings.HasPrefix(line, "PING"):
			greeted = true
			if _, err := io.WriteString(conn, "PONG\r\n"); err != nil {
				return
			}
		case greeted && !then(line, conn):
			return
		}
	}
}
