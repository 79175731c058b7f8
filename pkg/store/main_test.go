package store

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/event"
)

// noBarrier stands for durability that the operating system gives.
type noBarrier struct{}

func (noBarrier) Wait(context.Context) error { return nil }

func open(t testing.TB, js jetstream.JetStream, cfg Config) *Store {
	t.Helper()
	s, err := New(js.Conn(), noBarrier{}, slog.New(slog.DiscardHandler), nil, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newEvent(data string) *event.Event {
	return &event.Event{
		ID: NewID(), Type: "order.created", Source: "shop", Context: "default",
		Received: time.Now().UTC(), Data: []byte(data),
	}
}

func mustAppend(t testing.TB, s *Store, ev *event.Event) Position {
	t.Helper()
	p, err := s.Append(t.Context(), ev)
	if err != nil {
		t.Fatalf("append %s: %v", ev.ID, err)
	}
	return p
}

// state returns what the server says of a stream.
func state(t testing.TB, js jetstream.JetStream, name string) jetstream.StreamState {
	t.Helper()
	st, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return st.CachedInfo().State
}

// eventually waits until f returns nil.
func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within 20 s: %v", what, err)
		}
	}
}

// router stands for the broker's: it acknowledges every ID.
func router(t testing.TB, js jetstream.JetStream) {
	t.Helper()
	c, err := js.CreateOrUpdateConsumer(t.Context(), topology.StreamEvents, topology.Router(0))
	if err != nil {
		t.Fatal(err)
	}
	run, err := c.Consume(func(m jetstream.Msg) {
		if err := m.Ack(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		run.Stop()
		<-run.Closed()
	})
}

// retain runs retention until the test ends.
func retain(t testing.TB, s *Store) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Retain(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("retain: got error %v, want nil", err)
		}
	})
}

// lagging answers as a replica does that has nothing.
func lagging(t testing.TB) nats.MsgHandler {
	return func(m *nats.Msg) {
		if err := m.RespondMsg(&nats.Msg{Header: nats.Header{"Status": {"404"}, "Description": {"Message Not Found"}}}); err != nil {
			t.Error(err)
		}
	}
}
