package jstest

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/embedded"
	"github.com/posthornhq/posthorn/jetstream/topology"
)

// patience is the time for a call that a server answers at once, on a machine that
// may stall.
const patience = 30 * time.Second

// New returns JetStream of a new server without any stream.
func New(t testing.TB) jetstream.JetStream {
	t.Helper()
	s := Start(t, t.TempDir())
	return Connect(t, s)
}

// WithTopology returns JetStream of a new server that has all assets.
func WithTopology(t testing.TB, cfg topology.Config) jetstream.JetStream {
	t.Helper()
	js := New(t)
	if _, err := topology.Ensure(t.Context(), js, cfg); err != nil {
		t.Fatal(err)
	}
	return js
}

// Start starts a server on dir, listening on a free loopback port.
func Start(t testing.TB, dir string) *embedded.Server {
	t.Helper()
	s, err := embedded.Start(t.Context(), embedded.Config{Dir: dir, Listen: "127.0.0.1:0"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Connect returns JetStream over a connection that ends with the test.
func Connect(t testing.TB, s *embedded.Server) jetstream.JetStream {
	t.Helper()
	nc, err := s.Connect(t.Name(), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// nextPort counts through ports below the range from which the kernel gives out
// its own, and below those of internal/e2e.
var nextPort atomic.Int32

// Addr returns a loopback address that nobody listens on, and that nobody takes
// who asks for a free port meanwhile: for what has to listen there later, or again.
func Addr(t testing.TB) string {
	t.Helper()
	const first, ports = 10_000, 10_000
	for range ports {
		addr := fmt.Sprintf("127.0.0.1:%d", first+(os.Getpid()*64+int(nextPort.Add(1)))%ports)
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
		if err != nil {
			continue // somebody else's
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return addr
	}
	t.Fatalf("no port from %d is free", first)
	return ""
}
