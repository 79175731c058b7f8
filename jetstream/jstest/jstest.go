package jstest

import (
	"log/slog"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/embedded"
	"github.com/posthornhq/posthorn/jetstream/topology"
)

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
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}
