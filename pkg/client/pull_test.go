package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/client"
)

// inbox is a platform with a pull subscription of that name.
type inbox struct {
	t *testing.T
	// A request that the client gave up may be with the handler for a while yet, so
	// that a test takes the lock also when the client has stopped.
	mu      sync.Mutex
	waiting []string // IDs
	ackWait time.Duration
	acked   []string
	nacked  map[string]map[string]any
	extends int
	down    int // fetches that are answered with 503
	most    int // asked for at once
	arrived chan struct{}
}

func newInbox(t *testing.T, ids ...string) (*inbox, *client.Client) {
	t.Helper()
	in := &inbox{t: t, waiting: ids, ackWait: time.Minute, nacked: map[string]map[string]any{}, arrived: make(chan struct{}, 100)}
	srv := httptest.NewServer(in)
	t.Cleanup(srv.Close)
	c, err := client.New(srv.URL, client.Config{Key: "k", Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	return in, c
}

func (in *inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	in.mu.Lock()
	defer in.mu.Unlock()
	name, verb, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/api/v1/subscriptions/"), ":")
	w.Header().Set("Content-Type", "application/json")
	if name != "inbox" {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"detail":"there is no such subscription"}`)
		return
	}
	var req map[string]any
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		in.t.Error(err)
	}
	answer := func(v any) {
		if err := json.NewEncoder(w).Encode(v); err != nil {
			in.t.Error(err)
		}
	}
	tokens := func() (out []string) {
		list, _ := req["tokens"].([]any)
		for _, v := range list {
			out = append(out, fmt.Sprint(v))
		}
		return out
	}
	switch verb {
	case "fetch":
		if in.down > 0 {
			in.down--
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		n, _ := req["max"].(float64)
		in.most = max(in.most, int(n))
		if len(in.waiting) == 0 { // as if a long poll had ended
			in.mu.Unlock()
			select {
			case <-r.Context().Done():
			case <-time.After(20 * time.Millisecond):
			}
			in.mu.Lock()
		}
		out := []any{}
		for len(in.waiting) > 0 && len(out) < int(n) {
			out = append(out, json.RawMessage(fmt.Sprintf(
				`{"event":{"id":%q,"type":"order.created","source":"shop","data":{"n":9007199254740993, "f":1.10}},"subscription":"inbox","round":1,"attempt":2,"webhookId":%q,"token":"t-%s","ackWait":"%fs"}`,
				in.waiting[0], in.waiting[0], in.waiting[0], in.ackWait.Seconds())))
			in.waiting = in.waiting[1:]
		}
		answer(map[string]any{"deliveries": out})
	case "ack":
		in.acked = append(in.acked, tokens()...)
		answer(map[string]any{"results": make([]struct{}, len(tokens()))})
	case "nack":
		in.nacked[fmt.Sprint(req["token"])] = req
		answer(map[string]any{"result": struct{}{}})
	case "extend":
		in.extends++
		answer(map[string]any{"results": []any{map[string]any{"token": fmt.Sprintf("%s+%d", strings.Split(tokens()[0], "+")[0], in.extends)}}})
	}
	select {
	case in.arrived <- struct{}{}:
	default: // whoever waits has enough to wake up by
	}
}

// until waits for something that a request changes.
func (in *inbox) until(what string, f func() bool) {
	in.t.Helper()
	end := time.After(30 * time.Second)
	for {
		in.mu.Lock()
		ok := f()
		in.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-in.arrived:
		case <-end:
			in.t.Fatalf("not within 30s: %s", what)
		}
	}
}

// receive runs until the returned function is called.
func receive(t *testing.T, c *client.Client, fn func(context.Context, client.Event) error, opts client.ReceiveOptions) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Receive(ctx, "inbox", fn, opts) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("receive: %v, want nil", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func TestReceiveAcksWhatTheHandlerTookAndNacksTheRest(t *testing.T) {
	t.Parallel()
	in, c := newInbox(t, "good", "bad", "never", "later", "undecodable")
	var mux client.Mux
	client.On(&mux, "order.created", func(ctx context.Context, ev client.Event, data struct {
		N json.Number `json:"n"`
	}) error {
		d, ok := client.DeliveryOf(ctx)
		if !ok || d.Attempt != 2 || d.Stored.GetSource() != "shop" || data.N != "9007199254740993" || string(ev.Data) != `{"n":9007199254740993,"f":1.10}` {
			t.Errorf("got %+v with %v", ev, data)
		}
		switch ev.DeliveryID {
		case "bad":
			return errors.New("no disk")
		case "never":
			return &client.NackError{DeadLetter: true, Err: errors.New("no such order")}
		case "later":
			return fmt.Errorf("busy: %w", &client.NackError{Delay: time.Minute})
		case "undecodable":
			return &client.Error{Status: http.StatusUnprocessableEntity}
		}
		return nil
	})
	stop := receive(t, c, mux.Handle, client.ReceiveOptions{})
	in.until("all are answered", func() bool { return len(in.acked)+len(in.nacked) == 5 })
	stop()
	in.mu.Lock()
	defer in.mu.Unlock()
	if !slices.Equal(in.acked, []string{"t-good"}) {
		t.Errorf("acked %v", in.acked)
	}
	for token, want := range map[string]map[string]any{
		"t-bad":         {"reason": "no disk"},
		"t-never":       {"reason": "no such order", "deadLetter": true},
		"t-later":       {"delay": "60s"},
		"t-undecodable": {"deadLetter": true},
	} {
		for k, v := range want {
			if in.nacked[token][k] != v {
				t.Errorf("%s: nack %v, want %s %v", token, in.nacked[token], k, v)
			}
		}
	}
	if in.nacked["t-bad"]["deadLetter"] != nil {
		t.Errorf("a failure that may pass became a dead letter: %v", in.nacked["t-bad"])
	}
}

func TestReceiveAsksForNoMoreThanItHasHandlers(t *testing.T) {
	t.Parallel()
	in, c := newInbox(t, "a", "b", "c", "d", "e", "f")
	release := make(chan struct{})
	running := make(chan struct{}, 10)
	stop := receive(t, c, func(context.Context, client.Event) error {
		running <- struct{}{}
		<-release
		return nil
	}, client.ReceiveOptions{Concurrency: 2})
	<-running
	<-running
	if len(running) > 0 {
		t.Error("a third handler runs")
	}
	close(release)
	in.until("all are acked", func() bool { return len(in.acked) == 6 })
	stop()
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.most > 2 {
		t.Errorf("asked for %d at once, want 2", in.most)
	}
}

// What takes long keeps its lease, and is answered by the newest token.
func TestReceiveExtendsWhatTakesLong(t *testing.T) {
	t.Parallel()
	in, c := newInbox(t, "long")
	in.ackWait = time.Second
	release := make(chan struct{})
	stop := receive(t, c, func(ctx context.Context, _ client.Event) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}, client.ReceiveOptions{})
	in.until("two extensions", func() bool { return in.extends >= 2 })
	close(release)
	in.until("it is acked", func() bool { return len(in.acked) == 1 })
	stop()
	in.mu.Lock()
	defer in.mu.Unlock()
	if !strings.HasPrefix(in.acked[0], "t-long+") {
		t.Errorf("acked by %s, want a token that an extension gave", in.acked[0])
	}
}

func TestReceiveFinishesWhatItHasBegun(t *testing.T) {
	t.Parallel()
	in, c := newInbox(t, "begun")
	began, release := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- c.Receive(ctx, "inbox", func(context.Context, client.Event) error {
			close(began)
			<-release
			return nil
		}, client.ReceiveOptions{})
	}()
	<-began
	cancel()
	close(release)
	if err := <-done; err != nil {
		t.Errorf("receive: %v, want nil", err)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if !slices.Equal(in.acked, []string{"t-begun"}) {
		t.Errorf("acked %v, want what had begun", in.acked)
	}
}

func TestReceiveGoesOnAfterAnOutageAndEndsWhereThereIsNothingToFetch(t *testing.T) {
	t.Parallel()
	in, c := newInbox(t, "a")
	in.down = 2
	var mu sync.Mutex
	complaints := 0
	stop := receive(t, c, func(context.Context, client.Event) error { return nil }, client.ReceiveOptions{OnError: func(error) {
		mu.Lock()
		defer mu.Unlock()
		complaints++
	}})
	in.until("it is acked", func() bool { return len(in.acked) == 1 })
	stop()
	if complaints != 2 {
		t.Errorf("%d errors were told, want 2", complaints)
	}
	err := c.Receive(t.Context(), "nobody", func(context.Context, client.Event) error { return nil }, client.ReceiveOptions{})
	if !client.IsNotFound(err) {
		t.Errorf("got error %v, want that there is no such subscription", err)
	}
}
