package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// load publishes at a rate until ctx is done and returns the IDs of all events
// that were answered with a 2xx, with the time of the answer.
func (p *platform) load(ctx context.Context, perSecond int, mark string) map[string]time.Time {
	var mu sync.Mutex
	acked := map[string]time.Time{}
	var wg sync.WaitGroup
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	n := 0
	for {
		select {
		case <-ctx.Done():
			wg.Wait()
			return acked
		case <-tick.C:
		}
		for range perSecond / 100 {
			n++
			body := fmt.Sprintf(`{"type":"order.created","source":"crash","data":{"n":%d,"mark":%q}}`, n, mark)
			wg.Go(func() {
				status, answer, err := p.call("POST", "/api/v1/events", body)
				if err != nil || status != http.StatusAccepted {
					return // not answered: the publisher's to send again
				}
				mu.Lock()
				acked[id(p.t, answer)] = time.Now()
				mu.Unlock()
			})
		}
	}
}

// Every event that was answered is delivered or in the dead letters, whenever
// the process dies; and twice only what was in flight when it died.
func TestKillMinusNineLosesNothing(t *testing.T) {
	s := newSink(t, nil)
	p := newPlatform(t, filepath.Join(t.TempDir(), "data"), "--log-level", "warn")
	p.start()
	p.ready()
	p.subscribe("crash", "order.*", "OUTGOING", s.URL, "")
	acked := map[string]time.Time{}
	var kills []time.Time
	for round := range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan map[string]time.Time)
		go func() { done <- p.load(ctx, 1000, fmt.Sprint(round)) }()
		before := s.count()
		p.until("half a second of load is delivered", 30*time.Second, func() bool { return s.count() > before+500*(round+1)/2 })
		kills = append(kills, time.Now())
		p.kill()
		cancel()
		maps.Copy(acked, <-done)
		p.start()
		p.ready()
	}
	if len(acked) < 1000 {
		t.Fatalf("only %d events were answered; that is no test", len(acked))
	}
	missing := func() (n int) {
		for id := range acked {
			if s.times(id) == 0 {
				n++
			}
		}
		return n
	}
	if !poll(60*time.Second, func() bool { return missing() == 0 }) {
		dead := p.deadLetters()
		for id := range acked {
			if s.times(id) == 0 && !dead[id] {
				t.Errorf("%s was answered, and is neither delivered nor in the dead letters", id)
			}
		}
		if t.Failed() {
			t.Fatalf("log:\n%s", tail(p.stderr.String()))
		}
	}
	duplicates := 0
	first := map[string]time.Time{}
	for _, r := range s.all() {
		at, again := first[r.id]
		if !again {
			first[r.id] = r.at
			continue
		}
		duplicates++
		// Its first delivery must have been under way when some process died; on a
		// busy machine its settling may lag.
		near := false
		for _, k := range kills {
			if k.Sub(at).Abs() < 10*time.Second {
				near = true
			}
		}
		if !near {
			t.Errorf("%s was delivered twice, first at %s, far from any kill", r.id, at)
		}
	}
	// A process has 128 slots; those attempts that take long are beside them.
	if most := len(kills) * 2 * 128; duplicates > most {
		t.Errorf("%d of %d were delivered twice, want no more than the %d that were in flight", duplicates, len(acked), most)
	}
	t.Logf("%d events answered over %d kills, %d delivered twice", len(acked), len(kills), duplicates)
}

// A stop cuts no attempt and burns no lease.
func TestSIGTERMDrains(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{}, 100)
	leave := make(chan struct{})
	s := newSink(t, func(int, *received) int {
		entered <- struct{}{}
		<-leave
		return http.StatusOK
	})
	p := serve(t)
	p.subscribe("slow", "order.*", "OUTGOING", s.URL, "")
	for i := range 10 {
		p.must("POST", "/api/v1/events", fmt.Sprintf(`{"type":"order.created","data":{"n":%d}}`, i))
	}
	for range 10 {
		<-entered
	}
	ended := make(chan error, 1)
	go func() { ended <- p.ends(30 * time.Second) }()
	// The signal is on its way; the attempts end only after it arrived.
	if !poll(20*time.Second, func() bool { _, _, err := p.call("GET", "/", ""); return err != nil }) {
		t.Error("the gateway still answers after SIGTERM")
	}
	close(leave)
	if err := <-ended; err != nil {
		t.Fatalf("posthorn ended with %v; log:\n%s", err, tail(p.stderr.String()))
	}
	p.start()
	p.ready()
	p.must("POST", "/api/v1/events", `{"type":"order.created","data":{"last":true}}`)
	p.until("the next event", 20*time.Second, func() bool { return s.count() >= 11 })
	if s.count() != 11 {
		t.Errorf("the endpoint got %d requests, want 11: each event once", s.count())
	}
}
