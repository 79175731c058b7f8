package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// result is what a sender did.
type result struct {
	begun    time.Time
	took     time.Duration
	accepted int
}

// A sender publishes for a while: in a closed loop, or with a rate above 0 so
// many events a second. It fails if anything is refused.
type sender func(ctx context.Context, d time.Duration, rate int) (result, error)

// benchBody returns an event of size bytes that carries when it was sent.
func benchBody(size int) []byte {
	body := fmt.Appendf(nil, `{"sent":"%020d","pad":"`, time.Now().UnixNano())
	return append(append(body, bytes.Repeat([]byte("x"), max(size-len(body)-2, 0))...), `"}`...)
}

// each runs one loop a connection. At a rate, the connections take turns.
func each(ctx context.Context, o *benchOptions, d time.Duration, rate int, open func() (send func(body []byte) error, closed func(), err error)) (result, error) {
	r := result{begun: time.Now()}
	var accepted atomic.Int64
	var wg sync.WaitGroup
	failed := make(chan error, o.connections)
	due := make(chan struct{})
	for range o.connections {
		send, closed, err := open()
		if err != nil {
			return r, err
		}
		wg.Go(func() {
			defer closed()
			for {
				if rate > 0 {
					if _, more := <-due; !more {
						return
					}
				} else if time.Since(r.begun) >= d || ctx.Err() != nil {
					return
				}
				if err := send(benchBody(o.size)); err != nil {
					failed <- err
					return
				}
				accepted.Add(1)
			}
		})
	}
	if rate > 0 {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		for time.Since(r.begun) < d && ctx.Err() == nil {
			<-tick.C
			due <- struct{}{}
		}
		tick.Stop()
	}
	close(due)
	wg.Wait()
	r.took, r.accepted = time.Since(r.begun), int(accepted.Load())
	select {
	case err := <-failed:
		return r, err
	default:
		return r, ctx.Err()
	}
}

// httpSender posts over keep-alive connections. It writes and reads the bytes
// itself, so that the generator takes little of the machine.
func httpSender(addr, path string, o *benchOptions) sender {
	head := "POST " + path + " HTTP/1.1\r\nHost: " + addr + "\r\nContent-Type: application/json\r\nContent-Length: "
	return func(ctx context.Context, d time.Duration, rate int) (result, error) {
		return each(ctx, o, d, rate, func() (func([]byte) error, func(), error) {
			var dialer net.Dialer
			conn, err := dialer.DialContext(ctx, "tcp", addr)
			if err != nil {
				return nil, nil, fmt.Errorf("connect: %w", err)
			}
			in := bufio.NewReader(conn)
			return func(body []byte) error {
				req := append(strconv.AppendInt([]byte(head), int64(len(body)), 10), "\r\n\r\n"...)
				if _, err := conn.Write(append(req, body...)); err != nil {
					return fmt.Errorf("send: %w", err)
				}
				return readAnswer(in)
			}, func() { _ = conn.Close() }, nil
		})
	}
}

// readAnswer reads an HTTP/1.1 answer with a Content-Length.
func readAnswer(in *bufio.Reader) error {
	length, status := 0, ""
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		line = strings.TrimRight(line, "\r\n")
		if status == "" {
			status = line
			continue
		}
		if line == "" {
			break
		}
		if k, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(k, "Content-Length") {
			if length, err = strconv.Atoi(strings.TrimSpace(v)); err != nil {
				return fmt.Errorf("read the answer: %w", err)
			}
		}
	}
	if _, err := in.Discard(length); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if !strings.HasPrefix(status, "HTTP/1.1 202") {
		return fmt.Errorf("answered %s", status)
	}
	return nil
}

// grpcSender publishes over one stream a connection, one event at a time.
func grpcSender(addr string, o *benchOptions) sender {
	return func(ctx context.Context, d time.Duration, rate int) (result, error) {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return result{}, fmt.Errorf("connect: %w", err)
		}
		defer func() { _ = conn.Close() }()
		c := posthornv1.NewEventBrokerClient(conn)
		return each(ctx, o, d, rate, func() (func([]byte) error, func(), error) {
			st, err := c.Publish(ctx)
			if err != nil {
				return nil, nil, fmt.Errorf("open a stream: %w", err)
			}
			return func(body []byte) error {
				err := st.Send(&posthornv1.PublishRequest{Event: &posthornv1.Event{
					Type: "bench.event", Source: "bench", Direction: posthornv1.Event_INCOMING, Data: body,
				}})
				if err != nil {
					return fmt.Errorf("send: %w", err)
				}
				resp, err := st.Recv()
				if err != nil {
					return fmt.Errorf("read the answer: %w", err)
				}
				if r := resp.GetRefusal(); r != nil {
					return fmt.Errorf("refused: %s", r.GetMessage())
				}
				return nil
			}, func() { _ = st.CloseSend() }, nil
		})
	}
}

// benchSink is the endpoint: it answers 200 and notes when each event came.
type benchSink struct {
	l net.Listener

	mu    sync.Mutex
	count int
	at    time.Time
	took  []time.Duration
}

func startSink(ctx context.Context) (*benchSink, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	s := &benchSink{l: l}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			go s.serve(conn)
		}
	}()
	return s, nil
}

func (s *benchSink) url() string { return "http://" + s.l.Addr().String() + "/hook" }
func (s *benchSink) close()      { _ = s.l.Close() }

func (s *benchSink) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	var body []byte
	for {
		length := 0
		for {
			line, err := in.ReadSlice('\n')
			if err != nil {
				return
			}
			if len(line) <= 2 {
				break
			}
			if len(line) > 15 && bytes.EqualFold(line[:15], []byte("content-length:")) {
				if length, err = strconv.Atoi(string(bytes.TrimSpace(line[15:]))); err != nil {
					return
				}
			}
		}
		body = slices.Grow(body[:0], length)[:length]
		if _, err := io.ReadFull(in, body); err != nil {
			return
		}
		s.note(body)
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
}

func (s *benchSink) note(body []byte) {
	now := time.Now()
	const prefix = len(`{"sent":"`)
	var sent int64
	if len(body) > prefix+20 {
		sent, _ = strconv.ParseInt(string(body[prefix:prefix+20]), 10, 64) // 0 shows in the latencies
	}
	s.mu.Lock()
	s.count++
	s.at = now
	s.took = append(s.took, now.Sub(time.Unix(0, sent)))
	s.mu.Unlock()
}

func (s *benchSink) reset() {
	s.mu.Lock()
	s.count, s.took = 0, s.took[:0]
	s.mu.Unlock()
}

func (s *benchSink) last() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at
}

// latencies returns the 50th, 95th and 99th percentile in milliseconds.
func (s *benchSink) latencies() (p50, p95, p99 float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Sort(s.took)
	at := func(p int) float64 {
		if len(s.took) == 0 {
			return 0
		}
		return float64(s.took[min(len(s.took)*p/100, len(s.took)-1)]) / float64(time.Millisecond)
	}
	return at(50), at(95), at(99)
}

// waitFor waits until n events came. More than n would be a duplicate, fewer a
// loss; either ends the bench.
func (s *benchSink) waitFor(ctx context.Context, n int) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	most := time.NewTimer(time.Minute)
	defer most.Stop()
	for {
		s.mu.Lock()
		count := s.count
		s.mu.Unlock()
		switch {
		case count == n:
			return nil
		case count > n:
			return fmt.Errorf("%d events were accepted and %d delivered", n, count)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-most.C:
			return fmt.Errorf("%d events were accepted, and a minute later %d are delivered", n, count)
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

// setUpPlatform makes the source and the subscription, as soon as it answers.
func setUpPlatform(ctx context.Context, base, key, hook string) error {
	if err := waitFor(ctx, strings.TrimPrefix(base, "http://")); err != nil {
		return err
	}
	for path, body := range map[string]string{
		"/api/v1/sources/bench":       `{"kind":"GENERIC","type":"bench.event"}`,
		"/api/v1/subscriptions/bench": `{"types":["bench.#"],"direction":"INCOMING","destination":{"webhook":{"url":"` + hook + `"}}}`,
	} {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, base+path, strings.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+key)
		var client http.Client
		resp, err := client.Do(req)
		if err != nil {
			return fmt.Errorf("set up: %w", err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("set up %s: %s", path, resp.Status)
		}
	}
	return nil
}

func waitFor(ctx context.Context, addr string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	most := time.NewTimer(20 * time.Second)
	defer most.Stop()
	for {
		var client http.Client
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/", http.NoBody)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-most.C:
			return fmt.Errorf("nothing answers on %s: %w", addr, err)
		case <-tick.C:
		}
	}
}

func freeAddrs(ctx context.Context, n int) ([]string, error) {
	var held []net.Listener
	defer func() {
		for _, l := range held {
			_ = l.Close()
		}
	}()
	out := make([]string, n)
	for i := range out {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
		held = append(held, l)
		out[i] = l.Addr().String()
	}
	return out, nil
}

// cpuSeconds returns the CPU time of a process from /proc/<pid>/stat, whose
// clock ticks a hundred times a second; 0 where there is no /proc.
func cpuSeconds(pid int) float64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	if err1 != nil || err2 != nil {
		return 0
	}
	return float64(user+system) / 100
}

// peakMemory returns VmHWM of a process in MB; 0 where there is no /proc.
func peakMemory(pid int) float64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")))
			if err == nil {
				return float64(kb) / 1000
			}
		}
	}
	return 0
}
