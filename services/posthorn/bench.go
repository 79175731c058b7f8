package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// benchOptions are what bench measures with.
type benchOptions struct {
	duration    time.Duration
	connections int
	size        int
	rate        int
	durability  string
	redisURL    string
}

// benchRow is what was measured of one way to publish.
type benchRow struct {
	Name string `json:"name"`
	// Accepted and Delivered are events a second in a closed loop.
	Accepted  float64 `json:"acceptedPerSecond"`
	Delivered float64 `json:"deliveredPerSecond"`
	// P50, P95 and P99 are end to end at the fixed rate, in milliseconds; 0 where
	// not measured.
	P50 float64 `json:"p50Milliseconds,omitempty"`
	P95 float64 `json:"p95Milliseconds,omitempty"`
	P99 float64 `json:"p99Milliseconds,omitempty"`
	// CPU is seconds of the measured process per 1,000 events; Memory its peak in MB.
	CPU    float64 `json:"cpuSecondsPer1000"`
	Memory float64 `json:"peakMemoryMB"`
}

func newBench(a *app) *cobra.Command {
	var o benchOptions
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure what an event costs on this machine",
		Long: `Measure what an event costs on this machine: events a second in a closed loop over HTTP and over
the gRPC stream, end-to-end latency at a fixed rate, CPU and memory; and beside it, in the same
run, a plain relay that answers 202 and posts each body on without storing anything.

The platform, the relay and the endpoint are child processes on free loopback ports, with a data
directory that is removed at the end.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			rows, err := a.bench(cmd.Context(), &o)
			if err != nil {
				return err
			}
			doc, err := json.Marshal(rows)
			if err != nil {
				return fmt.Errorf("bench: %w", err)
			}
			return a.show(doc, func(t *table) {
				t.row("WAY", "ACCEPTED/S", "DELIVERED/S", "P50 MS", "P95 MS", "P99 MS", "CPU S/1000", "PEAK MB")
				for _, r := range rows {
					t.row(r.Name, fmt.Sprintf("%.0f", r.Accepted), fmt.Sprintf("%.0f", r.Delivered), ms(r.P50), ms(r.P95), ms(r.P99),
						fmt.Sprintf("%.3f", r.CPU), fmt.Sprintf("%.0f", r.Memory))
				}
			})
		},
	}
	f := cmd.Flags()
	f.DurationVar(&o.duration, "duration", 10*time.Second, "length of each measurement")
	f.IntVar(&o.connections, "connections", 64, "connections of the closed loop")
	f.IntVar(&o.size, "size", 512, "bytes of an event's data")
	f.IntVar(&o.rate, "rate", 200, "events a second for the latencies")
	f.StringVar(&o.durability, "durability", "both", "flush, fsync or both")
	f.StringVar(&o.redisURL, "redis-url", "", "Redis for the claims")
	return cmd
}

func ms(v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", v)
}

// bench runs every measurement, one after another.
func (a *app) bench(ctx context.Context, o *benchOptions) ([]benchRow, error) {
	if o.size < 64 || o.connections < 1 || o.rate < 1 || o.duration < time.Second {
		return nil, usageError{err: errors.New("--size is at least 64, --connections and --rate at least 1, --duration at least 1s")}
	}
	modes := []string{o.durability}
	switch o.durability {
	case "both":
		modes = []string{"flush", "fsync"}
	case "flush", "fsync":
	default:
		return nil, usageError{err: fmt.Errorf("--durability %q is none of flush, fsync, both", o.durability)}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	endpoint, err := startSink(ctx)
	if err != nil {
		return nil, err
	}
	defer endpoint.close()

	relay, err := measureRelay(ctx, o, endpoint)
	if err != nil {
		return nil, err
	}
	rows := []benchRow{*relay}
	for _, mode := range modes {
		more, err := a.measurePlatform(ctx, o, mode, endpoint)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

// A child is a process that is measured. It ends with [child.stop].
type child struct {
	cmd *exec.Cmd
	dir string
	log strings.Builder
}

func startChild(ctx context.Context, dir string, env []string, args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	c := &child{dir: dir, cmd: exec.CommandContext(ctx, self, args...)}
	c.cmd.Env = append(os.Environ(), env...)
	c.cmd.Stderr = &c.log
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("bench: start %s: %w", args[0], err)
	}
	return c, nil
}

// stop ends the process and removes its directory.
func (c *child) stop() {
	_ = c.cmd.Process.Kill() // it may have ended
	_ = c.cmd.Wait()         // killed
	if c.dir != "" {
		_ = os.RemoveAll(c.dir) // a leftover in the temporary directory
	}
}

// measurePlatform measures a platform of its own for HTTP, and then gRPC.
func (a *app) measurePlatform(ctx context.Context, o *benchOptions, mode string, endpoint *benchSink) ([]benchRow, error) {
	var rows []benchRow
	for _, way := range []string{"HTTP", "gRPC stream"} {
		row, err := a.measureWay(ctx, o, mode, way, endpoint)
		if err != nil {
			return nil, fmt.Errorf("bench: %s over %s: %w", mode, way, err)
		}
		rows = append(rows, *row)
	}
	return rows, nil
}

func (a *app) measureWay(ctx context.Context, o *benchOptions, mode, way string, endpoint *benchSink) (*benchRow, error) {
	dir, err := os.MkdirTemp("", "posthorn-bench-")
	if err != nil {
		return nil, err
	}
	addrs, err := freeAddrs(ctx, 8)
	if err != nil {
		return nil, err
	}
	const key = "bench-key-for-a-loopback-platform-of-a-minute"
	serve := []string{
		"serve", "--data", filepath.Join(dir, "data"), "--http", addrs[0], "--grpc", addrs[1], "--api-http", addrs[2],
		"--api-grpc", addrs[3], "--broker", addrs[4], "--registry", addrs[5], "--nats-listen", addrs[6], "--metrics", addrs[7],
		"--allow-net", "127.0.0.0/8", "--log-level", "error", "--durability", mode,
	}
	if o.redisURL != "" {
		serve = append(serve, "--redis-url", o.redisURL)
	}
	p, err := startChild(ctx, dir, []string{"POSTHORN_ADMIN_KEY=" + key}, serve...)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	if err := setUpPlatform(ctx, "http://"+addrs[0], key, endpoint.url()); err != nil {
		return nil, fmt.Errorf("%w; its log: %s", err, p.log.String())
	}
	var send sender
	if way == "HTTP" {
		send = httpSender(addrs[0], "/events/bench", o)
	} else {
		send = grpcSender(addrs[4], o)
	}
	return measure(ctx, way+", "+mode, o, send, p, endpoint)
}

func measureRelay(ctx context.Context, o *benchOptions, endpoint *benchSink) (*benchRow, error) {
	addrs, err := freeAddrs(ctx, 1)
	if err != nil {
		return nil, err
	}
	r, err := startChild(ctx, "", nil, "bench-relay", addrs[0], endpoint.url())
	if err != nil {
		return nil, err
	}
	defer r.stop()
	if err := waitFor(ctx, addrs[0]); err != nil {
		return nil, err
	}
	return measure(ctx, "plain relay, nothing stored", o, httpSender(addrs[0], "/", o), r, endpoint)
}

// measure warms up, runs the closed loop until everything is delivered, and
// then the fixed rate.
func measure(ctx context.Context, name string, o *benchOptions, send sender, p *child, endpoint *benchSink) (*benchRow, error) {
	run := func(d time.Duration, rate int) (result, error) {
		endpoint.reset()
		r, err := send(ctx, d, rate)
		if err != nil {
			return r, err
		}
		return r, endpoint.waitFor(ctx, r.accepted)
	}
	if _, err := run(time.Second, 0); err != nil {
		return nil, err
	}
	cpu := cpuSeconds(p.cmd.Process.Pid)
	r, err := run(o.duration, 0)
	if err != nil {
		return nil, err
	}
	cpu = cpuSeconds(p.cmd.Process.Pid) - cpu
	row := &benchRow{
		Name:      name,
		Accepted:  float64(r.accepted) / r.took.Seconds(),
		Delivered: float64(r.accepted) / endpoint.last().Sub(r.begun).Seconds(),
		CPU:       cpu / float64(r.accepted) * 1000,
		Memory:    peakMemory(p.cmd.Process.Pid),
	}
	if _, err := run(o.duration, o.rate); err != nil {
		return nil, err
	}
	row.P50, row.P95, row.P99 = endpoint.latencies()
	return row, nil
}
