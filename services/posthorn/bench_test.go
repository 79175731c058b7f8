package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestBenchBodyIsReadAsWritten(t *testing.T) {
	t.Parallel()
	for _, size := range []int{minBenchSize, 512} {
		before := time.Now().UnixNano()
		body := benchBody(size, 3, 1234567)
		if len(body) != size || !json.Valid(body) {
			t.Errorf("body of %d bytes is %d bytes, valid JSON %t: %s", size, len(body), json.Valid(body), body)
		}
		run, seq, sent, ok := readBenchBody(body)
		if !ok || run != 3 || seq != 1234567 || sent < before {
			t.Errorf("read back run %d, number %d, sent %d, %t; want 3, 1234567, %d or later, true", run, seq, sent, ok, before)
		}
	}
	if _, _, _, ok := readBenchBody([]byte(`{"id":1}`)); ok {
		t.Error("a body of somebody else is read as the bench's")
	}
}

// C19: of what came, that which came in time.
func TestShareOfWhatCameInTime(t *testing.T) {
	t.Parallel()
	ms := func(list ...int) (all []time.Duration) {
		for _, n := range list {
			all = append(all, time.Duration(n)*time.Millisecond)
		}
		return all
	}
	tests := []struct {
		name string
		took []time.Duration
		want float64
	}{
		{"none", nil, 0},
		{"all", ms(1, 2, 150), 100},
		{"three of four", ms(1, 2, 150, 151), 75},
		{"none of two", ms(151, 200), 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := share(tt.took, budget); got != tt.want {
				t.Errorf("%v%% of %v, want %v%%", got, tt.took, tt.want)
			}
		})
	}
}

// startTestSink returns an endpoint whose sink is in this process.
func startTestSink(t *testing.T) *benchEndpoint {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	s := &benchSink{}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(conn)
		}
	}()
	return &benchEndpoint{addr: l.Addr().String()}
}

func hook(t *testing.T, e *benchEndpoint, body []byte) {
	t.Helper()
	resp, err := http.Post(e.hook(), "application/json", strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("the sink answered %s, want 200", resp.Status)
	}
}

// A count alone would take a loss and a duplicate for two deliveries.
func TestDrainedTellsOneEventFromAnother(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		numbers []int64
		stray   bool
		want    string
	}{
		{"each event once", []int64{1, 0}, false, ""},
		{"one lost, another twice", []int64{0, 0}, false, "1 of them again"},
		{"one more than was accepted", []int64{0, 1, 2}, false, "3 are delivered"},
		{"one of the load before", []int64{0, 1}, true, "1 after their load"},
		{"one lost", []int64{0}, false, context.DeadlineExceeded.Error()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := startTestSink(t)
			run, err := e.begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range tt.numbers {
				hook(t, e, benchBody(minBenchSize, run, n))
			}
			if tt.stray {
				hook(t, e, benchBody(minBenchSize, run-1, 0))
			}
			most := 30 * time.Second
			if tt.want == context.DeadlineExceeded.Error() {
				most = 2 * time.Second // for what never comes
			}
			ctx, cancel := context.WithTimeout(t.Context(), most)
			defer cancel()
			at, err := e.drained(ctx, 2)
			if tt.want == "" {
				if err != nil || at.Events != 2 || at.P50 <= 0 || at.P99 < at.P50 {
					t.Errorf("drained: %+v, %v; want 2 events with latencies", at, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("drained: %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestARefusalEndsTheLoad(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "full", http.StatusServiceUnavailable)
	}))
	t.Cleanup(srv.Close)
	o := &benchOptions{connections: 4, size: 512}
	for _, rate := range []int{0, 200} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		r, err := httpSender(srv.Listener.Addr().String(), "/", o)(ctx, load{number: 1, duration: time.Hour, rate: rate})
		cancel()
		if err == nil || !strings.Contains(err.Error(), "503") || r.accepted != 0 {
			t.Errorf("at rate %d: %d accepted, %v; want none, and the 503", rate, r.accepted, err)
		}
	}
}

func TestTheRateHolds(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(srv.Close)
	o := &benchOptions{connections: 4, size: 512}
	r, err := httpSender(srv.Listener.Addr().String(), "/", o)(t.Context(), load{number: 1, duration: time.Second / 2, rate: 200})
	if err != nil {
		t.Fatal(err)
	}
	if r.accepted != 100 {
		t.Errorf("%d events in half a second, want 100", r.accepted)
	}
}

func TestBenchRefusesWhatItCannotMeasure(t *testing.T) {
	t.Parallel()
	good := benchOptions{duration: time.Second, connections: 1, size: 512, rate: 1, inFlight: 1, durability: "both"}
	if modes, err := good.check(); err != nil || len(modes) != 2 {
		t.Fatalf("good options: %v, %v; want two durabilities", modes, err)
	}
	for name, change := range map[string]func(*benchOptions){
		"no connection":         func(o *benchOptions) { o.connections = 0 },
		"a size without room":   func(o *benchOptions) { o.size = minBenchSize - 1 },
		"no rate":               func(o *benchOptions) { o.rate = 0 },
		"nothing in flight":     func(o *benchOptions) { o.inFlight = 0 },
		"too short":             func(o *benchOptions) { o.duration = time.Millisecond },
		"an unknown durability": func(o *benchOptions) { o.durability = "never" },
	} {
		o := good
		change(&o)
		if _, err := o.check(); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// The whole of it, as a user runs it.
func TestBenchDeliversWhatWasAccepted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var stderr strings.Builder
	// TestMain put the program into PATH.
	cmd := exec.CommandContext(ctx, "posthorn", "bench", "--duration", "1s", "--connections", "8", "--durability", "flush", "-o", "json")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("posthorn bench: %v\n%s", err, stderr.String())
	}
	if stderr.Len() > 0 {
		t.Errorf("said %q where no terminal is, want nothing", stderr.String())
	}
	var rows []map[string]any
	if err := json.Unmarshal(out, &rows); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if len(rows) != 3 {
		t.Fatalf("%d rows, want the relay, HTTP and gRPC: %s", len(rows), out)
	}
	for _, r := range rows {
		for _, field := range []string{
			"acceptedPerSecond", "deliveredPerSecond", "acceptedEvents", "deliveredEvents",
			"p50Milliseconds", "p95Milliseconds", "p99Milliseconds", "within150MillisecondsPercent", "cpuSecondsPer1000", "peakMemoryMB",
		} {
			if n, ok := r[field].(float64); !ok || n <= 0 {
				t.Errorf("%v: %s is %v, want a number above 0", r["name"], field, r[field])
			}
		}
		if r["acceptedEvents"] != r["deliveredEvents"] {
			t.Errorf("%v: %v events accepted and %v delivered", r["name"], r["acceptedEvents"], r["deliveredEvents"])
		}
	}
}
