package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Two brokers route and two dispatchers deliver; one of each dies. Order is kept, a
// limit too, and an endpoint that fails gets everything when it is back.
func TestLanesOutliveABrokerAndADispatcher(t *testing.T) {
	t.Parallel()
	r := newRoles(t)
	gw := r.run("gateway,api,registry,broker")
	other := r.run("broker", "--broker", addrs(t, 1)[0])
	first := r.run("dispatcher")
	r.run("dispatcher")

	var down atomic.Bool
	down.Store(true)
	failing := newSink(t, func(int, *received) int {
		if down.Load() {
			return 503
		}
		return 200
	})
	n := atomic.Int32{}
	ordered := newSink(t, func(int, *received) int {
		if n.Add(1)%7 == 0 {
			return 503
		}
		return 200
	})
	limited := newSink(t, nil)
	gw.must("PUT", "/api/v1/policies/quick", `{"delivery":{"maxRetries":10,"timeout":"5s","backoff":{"initial":"0.01s","max":"0.1s"}}}`)
	gw.subscribe("failing", "order.*", "OUTGOING", failing.URL, `,"policy":"quick"`)
	gw.subscribe("ordered", "order.*", "OUTGOING", ordered.URL, `,"policy":"quick","ordered":true`)
	gw.subscribe("limited", "order.limited", "OUTGOING", limited.URL, `,"ratePerSecond":20`)

	var ids []string
	publish := func(typ string) {
		ids = append(ids, id(t, gw.must("POST", "/api/v1/events", `{"type":"`+typ+`","data":{}}`)))
	}
	const total = 300
	for i := range total {
		switch i {
		case total / 3:
			gw.until("the failing endpoint has a lane of its own", 30*time.Second, func() bool {
				return natsSays(t, r.url, "kv", "get", "lanes", "lane.failing", "--raw", "failing")
			})
			first.kill()
		case total / 2:
			other.kill()
		}
		if i%10 == 0 {
			publish("order.limited")
		} else {
			publish("order.created")
		}
	}
	down.Store(false)
	got := func(s *sink) int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.byID)
	}
	gw.until("everything is delivered", 120*time.Second, func() bool {
		return got(failing) == total && got(ordered) == total && got(limited) == total/10
	})
	gw.until("the queue is empty", 60*time.Second, func() bool { return queued(t, r.url) == 0 })

	// The first time that each was there; what was refused comes again before the next.
	var order []string
	for _, rec := range ordered.all() {
		if key, _, _ := strings.Cut(rec.id, "."); !slices.Contains(order, key) {
			order = append(order, key)
		}
	}
	if !slices.Equal(order, ids) {
		for i := range order {
			if order[i] != ids[i] {
				t.Fatalf("the %d. event is %s, want %s", i+1, order[i], ids[i])
			}
		}
		t.Fatalf("%d events, want %d", len(order), len(ids))
	}
	if letters := gw.must("GET", "/api/v1/deadletters", ""); strings.Contains(letters, `"subscription"`) {
		t.Errorf("dead letters: %s", letters)
	}
	at := make([]time.Time, 0, total)
	for _, rec := range limited.all() {
		at = append(at, rec.at)
	}
	slices.SortFunc(at, time.Time.Compare)
	if took := at[len(at)-1].Sub(at[0]); took < (total/10-1)*time.Second/20/2 {
		t.Errorf("%d deliveries at 20 a second took %s", len(at), took)
	}
}

var cliOnce sync.Mutex

// natsSays runs the nats CLI and reports whether it says so.
func natsSays(t *testing.T, url string, argsAndWant ...string) bool {
	t.Helper()
	cliOnce.Lock()
	defer cliOnce.Unlock()
	args, want := argsAndWant[:len(argsAndWant)-1], argsAndWant[len(argsAndWant)-1]
	out, err := exec.Command("nats", append([]string{"--server", url}, args...)...).CombinedOutput()
	return err == nil && strings.Contains(string(out), want)
}

// queued returns how many messages are on DELIVERIES.
func queued(t *testing.T, url string) int {
	t.Helper()
	out, err := exec.Command("nats", "--server", url, "stream", "info", "DELIVERIES", "--json").Output()
	if err != nil {
		return -1
	}
	var info struct {
		State struct {
			Messages int `json:"messages"`
		} `json:"state"`
	}
	if err := json.Unmarshal(out, &info); err != nil {
		t.Fatal(fmt.Errorf("%w: %s", err, out))
	}
	return info.State.Messages
}
