package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

// arrivals is what a sink says of the load that it counts.
type arrivals struct {
	// Events counts each event once, Again every further time that one came.
	Events int `json:"events"`
	Again  int `json:"again"`
	// Strays belong to no load, or to one that is over: a late duplicate.
	Strays int `json:"strays"`
	// Last is when the last event came, in Unix nanoseconds.
	Last int64 `json:"last"`
	// P50, P95 and P99 are in milliseconds, from before an event was sent to its
	// being here.
	P50 float64 `json:"p50,omitempty"`
	P95 float64 `json:"p95,omitempty"`
	P99 float64 `json:"p99,omitempty"`
	Max float64 `json:"max,omitempty"`
	// First is when the first event came, in Unix nanoseconds.
	First int64 `json:"first,omitempty"`
	// InTime is the share that came within [budget], in percent.
	InTime float64 `json:"inTime,omitempty"`
}

// budget is the most that the platform may add from an event's receipt to its
// first attempt (C19).
const budget = 150 * time.Millisecond

// newBenchSink is the endpoint. It answers 200, notes what came, and says so:
//
//	POST /reset/<n>   begins to count load n, and no other
//	GET  /stats       arrivals, without the latencies
//	GET  /latencies   arrivals
//	POST /close       answers 503 from now on, and notes nothing
//	POST /open        as at the beginning
//
// Events that are posted to /hang are never answered.
func newBenchSink() *cobra.Command {
	return &cobra.Command{
		Use: "bench-sink <listen>", Hidden: true, Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			var lc net.ListenConfig
			l, err := lc.Listen(cmd.Context(), "tcp", args[0])
			if err != nil {
				return fmt.Errorf("bench-sink: %w", err)
			}
			context.AfterFunc(cmd.Context(), func() { _ = l.Close() })
			s := &benchSink{}
			for {
				conn, err := l.Accept()
				if errors.Is(err, net.ErrClosed) {
					return nil
				}
				if err != nil {
					return fmt.Errorf("bench-sink: %w", err)
				}
				go s.serve(conn) // ends with its connection, and that with the process
			}
		},
	}
}

// benchSink counts what comes. It reads and writes HTTP/1.1 by hand, so that
// the endpoint takes little of the machine.
type benchSink struct {
	mu   sync.Mutex
	run  int
	shut bool
	seen []bool // by number in the load
	took []time.Duration
	at   arrivals
}

func (s *benchSink) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	in := bufio.NewReader(conn)
	ok := []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	no := []byte("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
	var body []byte
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return
		}
		answer := ok
		event, hang := bytes.HasPrefix(line, []byte("POST /hook ")), bytes.HasPrefix(line, []byte("POST /hang "))
		if !event && !hang {
			answer = s.control(string(line))
		}
		length, err := readHeader(in)
		if err != nil {
			return
		}
		body = slices.Grow(body[:0], length)[:length]
		if _, err := io.ReadFull(in, body); err != nil {
			return
		}
		if hang {
			_, _ = in.ReadByte() // until the other side gives up
			return
		}
		if event && !s.note(body) {
			answer = no
		}
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
}

// control answers the bench's own requests.
func (s *benchSink) control(line string) []byte {
	_, path, _ := strings.Cut(strings.TrimSpace(line), " ")
	path, _, _ = strings.Cut(path, " ")
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, ok := strings.CutPrefix(path, "/reset/"); ok {
		s.run, _ = strconv.Atoi(n) // no number is no load
		s.at, s.seen, s.took = arrivals{Strays: s.at.Strays}, s.seen[:0], s.took[:0]
	}
	switch path {
	case "/close":
		s.shut = true
	case "/open":
		s.shut = false
	}
	at := s.at
	if path == "/latencies" {
		slices.Sort(s.took)
		at.P50, at.P95, at.P99 = percentile(s.took, 50), percentile(s.took, 95), percentile(s.took, 99)
		at.Max = percentile(s.took, 100)
		at.InTime = share(s.took, budget)
	}
	doc, err := json.Marshal(at)
	if err != nil {
		return []byte("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
	}
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(doc), doc)
}

// percentile returns the nearest rank of sorted durations, in milliseconds; 0 of none.
func percentile(sorted []time.Duration, p int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	rank := (len(sorted)*p + 99) / 100
	return float64(sorted[max(rank, 1)-1]) / float64(time.Millisecond)
}

// share returns how many of sorted durations are within a limit, in percent; 0 of none.
func share(sorted []time.Duration, limit time.Duration) float64 {
	if len(sorted) == 0 {
		return 0
	}
	n, _ := slices.BinarySearch(sorted, limit+1)
	return 100 * float64(n) / float64(len(sorted))
}

// note counts an event, and reports false if the sink is closed.
func (s *benchSink) note(body []byte) bool {
	now := time.Now()
	run, seq, sent, ok := readBenchBody(body)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut {
		return false
	}
	if !ok || run != s.run {
		s.at.Strays++
		return true
	}
	for len(s.seen) <= seq {
		s.seen = append(s.seen, false)
	}
	if s.seen[seq] {
		s.at.Again++
		return true
	}
	s.seen[seq] = true
	s.at.Events++
	s.at.Last = now.UnixNano()
	if s.at.First == 0 {
		s.at.First = s.at.Last
	}
	s.took = append(s.took, now.Sub(time.Unix(0, sent)))
	return true
}

// A benchEndpoint is the sink as the bench sees it, in a process of its own.
type benchEndpoint struct {
	addr string
	runs int
}

func (e *benchEndpoint) hook() string { return "http://" + e.addr + "/hook" }

// hang is where events are never answered.
func (e *benchEndpoint) hang() string { return "http://" + e.addr + "/hang" }

// begin starts the count of a new load and returns its number.
func (e *benchEndpoint) begin(ctx context.Context) (int, error) {
	e.runs++
	_, err := e.ask(ctx, http.MethodPost, "/reset/"+strconv.Itoa(e.runs))
	return e.runs, err
}

func (e *benchEndpoint) ask(ctx context.Context, method, path string) (*arrivals, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+e.addr+path, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("the sink: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("the sink: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	var at arrivals
	if err := json.NewDecoder(resp.Body).Decode(&at); err != nil {
		return nil, fmt.Errorf("the sink: %w", err)
	}
	return &at, nil
}

// drained waits until n events of the load came. An event that is missing after
// three minutes is an error, as is one that came twice.
func (e *benchEndpoint) drained(ctx context.Context, n int) (*arrivals, error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	most := time.NewTimer(3 * time.Minute)
	defer most.Stop()
	for {
		at, err := e.ask(ctx, http.MethodGet, "/stats")
		if err != nil {
			return nil, err
		}
		if at.Again > 0 || at.Strays > 0 || at.Events > n {
			return nil, fmt.Errorf("%d events were accepted; %d are delivered, %d of them again, and %d after their load", n, at.Events, at.Again, at.Strays)
		}
		if at.Events == n {
			return e.ask(ctx, http.MethodGet, "/latencies")
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-most.C:
			return nil, fmt.Errorf("%d events were accepted, and three minutes later %d are delivered", n, at.Events)
		case <-tick.C:
		}
	}
}

// newBenchRelay is the limit to compare with: 202 at once, and each body posted
// on by a bounded number of workers, with nothing stored.
func newBenchRelay() *cobra.Command {
	return &cobra.Command{
		Use: "bench-relay <listen> <url>", Hidden: true, Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			bodies := make(chan []byte, 1<<16)
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 128}}
			for range 128 {
				go func() {
					for b := range bodies {
						req, err := http.NewRequestWithContext(cmd.Context(), http.MethodPost, args[1], bytes.NewReader(b))
						if err != nil {
							continue
						}
						req.Header.Set("Content-Type", "application/json")
						resp, err := client.Do(req)
						if err != nil {
							continue
						}
						_, _ = io.Copy(io.Discard, resp.Body) // so that the connection is used again
						_ = resp.Body.Close()
					}
				}()
			}
			srv := &http.Server{Addr: args[0], ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodPost {
					return // who asks whether it is up
				}
				b, err := io.ReadAll(r.Body)
				if err != nil {
					return
				}
				bodies <- b
				w.Header().Set("Content-Length", "0")
				w.WriteHeader(http.StatusAccepted)
			})}
			context.AfterFunc(cmd.Context(), func() { _ = srv.Close() })
			if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("bench-relay: %w", err)
			}
			return nil
		},
	}
}
