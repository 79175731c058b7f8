package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// benchOptions are what bench measures with.
type benchOptions struct {
	duration    time.Duration
	connections int
	size        int
	rate        int
	inFlight    int
	count       int // events of a closed loop, when it does not end by the clock
	durability  string
	redisURL    string
	profile     string
	scenario    string
	// progress is told what is measured now.
	progress func(what string)
}

// benchRow is what was measured of one way to publish.
type benchRow struct {
	Name string `json:"name"`
	// Accepted and Delivered are events a second in a closed loop.
	Accepted  float64 `json:"acceptedPerSecond"`
	Delivered float64 `json:"deliveredPerSecond"`
	// AcceptedEvents and DeliveredEvents are those of all loads, and equal.
	AcceptedEvents  int `json:"acceptedEvents"`
	DeliveredEvents int `json:"deliveredEvents"`
	// P50, P95 and P99 are end to end at the fixed rate, in milliseconds.
	P50 float64 `json:"p50Milliseconds"`
	P95 float64 `json:"p95Milliseconds"`
	P99 float64 `json:"p99Milliseconds"`
	// InTime is the share of the events at the fixed rate whose first attempt had come
	// within [budget], in percent.
	InTime float64 `json:"within150MillisecondsPercent"`
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
			o.progress = func(string) {}
			if isTerminal(a.stderr) {
				o.progress = func(what string) { _, _ = fmt.Fprintf(a.stderr, "measuring %s ...\n", what) }
			}
			if o.scenario == "isolation" {
				return showIsolation(cmd.Context(), a, &o)
			}
			rows, err := bench(cmd.Context(), &o)
			if err != nil {
				return err
			}
			doc, err := json.Marshal(rows)
			if err != nil {
				return fmt.Errorf("bench: %w", err)
			}
			return a.show(doc, func(t *table) {
				t.row("WAY", "ACCEPTED/S", "DELIVERED/S", "P50 MS", "P95 MS", "P99 MS", "IN 150 MS", "CPU S/1000", "PEAK MB")
				for _, r := range rows {
					t.row(r.Name, fmt.Sprintf("%.0f", r.Accepted), fmt.Sprintf("%.0f", r.Delivered), fmt.Sprintf("%.2f", r.P50), fmt.Sprintf("%.2f", r.P95),
						fmt.Sprintf("%.2f", r.P99), fmt.Sprintf("%.2f %%", r.InTime), fmt.Sprintf("%.3f", r.CPU), fmt.Sprintf("%.0f", r.Memory))
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
	f.IntVar(&o.inFlight, "in-flight", 8, "unanswered events of each gRPC stream")
	f.StringVar(&o.profile, "cpuprofile", "", "save CPU and allocation profiles of the closed loops as <this>-<way>-<durability>.cpu.pprof and .allocs.pprof")
	f.StringVar(&o.scenario, "scenario", "path", "path: what an event costs; isolation: what endpoints that hang or are dead cost the others")
	f.StringVar(&o.redisURL, "redis-url", "", "Redis for the claims")
	return cmd
}

// check also says which durabilities are meant.
func (o *benchOptions) check() ([]string, error) {
	if o.size < minBenchSize || o.connections < 1 || o.rate < 1 || o.inFlight < 1 || o.duration < time.Second {
		return nil, usageError{err: fmt.Errorf("--size is at least %d, --connections, --rate and --in-flight at least 1, --duration at least 1s", minBenchSize)}
	}
	if o.scenario != "" && o.scenario != "path" && o.scenario != "isolation" {
		return nil, usageError{err: fmt.Errorf("--scenario %q is none of path, isolation", o.scenario)}
	}
	switch o.durability {
	case "both":
		return []string{"flush", "fsync"}, nil
	case "flush", "fsync":
		return []string{o.durability}, nil
	default:
		return nil, usageError{err: fmt.Errorf("--durability %q is none of flush, fsync, both", o.durability)}
	}
}

// bench runs every measurement, one after another.
func bench(ctx context.Context, o *benchOptions) ([]benchRow, error) {
	modes, err := o.check()
	if err != nil {
		return nil, err
	}
	// Children end with it, whatever else goes wrong.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sink, endpoint, err := startSink(ctx)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer sink.stop()

	row, err := measureRelay(ctx, o, endpoint)
	if err != nil {
		return nil, fmt.Errorf("bench: relay: %w", err)
	}
	rows := []benchRow{*row}
	for _, mode := range modes {
		for _, way := range []string{"HTTP", "gRPC stream"} {
			// A platform of its own, so that none finds the data of another.
			row, err := measurePlatform(ctx, o, mode, way, endpoint)
			if err != nil {
				return nil, fmt.Errorf("bench: %s, %s: %w", way, mode, err)
			}
			rows = append(rows, *row)
		}
	}
	return rows, nil
}

const benchKey = "bench-key-for-a-loopback-platform-of-a-minute"

func startSink(ctx context.Context) (*child, *benchEndpoint, error) {
	addrs, err := freeAddrs(ctx, 1)
	if err != nil {
		return nil, nil, err
	}
	sink, err := startChild(ctx, nil, "bench-sink", addrs[0])
	if err != nil {
		return nil, nil, err
	}
	if err := waitFor(ctx, addrs[0]); err != nil {
		err = fmt.Errorf("the sink: %w", sink.explain(err))
		sink.stop()
		return nil, nil, err
	}
	return sink, &benchEndpoint{addr: addrs[0]}, nil
}

// startPlatform starts all roles in one process, on addresses of which the first is
// the gateway's, the fifth the broker's and the last that of the metrics.
func startPlatform(ctx context.Context, o *benchOptions, mode string) (*child, []string, error) {
	addrs, err := freeAddrs(ctx, 8)
	if err != nil {
		return nil, nil, err
	}
	serve := []string{
		"serve", "--data", "{dir}/data", "--http", addrs[0], "--grpc", addrs[1], "--api-http", addrs[2],
		"--api-grpc", addrs[3], "--broker", addrs[4], "--registry", addrs[5], "--nats-listen", addrs[6], "--metrics", addrs[7],
		"--allow-net", "127.0.0.0/8", "--log-level", "warn", "--durability", mode,
	}
	if o.redisURL != "" {
		serve = append(serve, "--redis-url", o.redisURL)
	}
	if o.profile != "" {
		serve = append(serve, "--pprof")
	}
	p, err := startChild(ctx, []string{"POSTHORN_ADMIN_KEY=" + benchKey}, serve...)
	return p, addrs, err
}

func measurePlatform(ctx context.Context, o *benchOptions, mode, way string, endpoint *benchEndpoint) (*benchRow, error) {
	p, addrs, err := startPlatform(ctx, o, mode)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	if err := setUpPlatform(ctx, "http://"+addrs[0], benchKey, endpoint.hook()); err != nil {
		return nil, p.explain(err)
	}
	m := measurement{name: way + ", " + mode, options: o, child: p, endpoint: endpoint, send: httpSender(addrs[0], "/events/bench", o)}
	file := "http"
	if way != "HTTP" {
		m.send, file = grpcSender(addrs[4], o), "grpc"
	}
	if o.profile != "" {
		m.profile = func(ctx context.Context) error {
			return profile(ctx, addrs[7], o.profile+"-"+file+"-"+mode, o.duration)
		}
	}
	row, err := m.run(ctx)
	return row, p.explain(err)
}

func measureRelay(ctx context.Context, o *benchOptions, endpoint *benchEndpoint) (*benchRow, error) {
	addrs, err := freeAddrs(ctx, 1)
	if err != nil {
		return nil, err
	}
	r, err := startChild(ctx, nil, "bench-relay", addrs[0], endpoint.hook())
	if err != nil {
		return nil, err
	}
	defer r.stop()
	if err := waitFor(ctx, addrs[0]); err != nil {
		return nil, r.explain(err)
	}
	m := measurement{name: "plain relay, nothing stored", options: o, child: r, endpoint: endpoint, send: httpSender(addrs[0], "/", o)}
	row, err := m.run(ctx)
	return row, r.explain(err)
}

// A measurement is of one way to publish, to one process.
type measurement struct {
	name     string
	options  *benchOptions
	child    *child
	endpoint *benchEndpoint
	send     sender
	profile  func(ctx context.Context) error // beside the closed loop; nil for none
}

// run warms up, runs the closed loop until everything is delivered, and then
// the fixed rate.
func (m *measurement) run(ctx context.Context) (*benchRow, error) {
	o := m.options
	m.options.progress(m.name)
	row := &benchRow{Name: m.name}
	if _, _, err := m.load(ctx, row, time.Second, 0); err != nil {
		return nil, fmt.Errorf("warm up: %w", err)
	}
	profiled := make(chan error, 1)
	if m.profile != nil {
		go func() { profiled <- m.profile(ctx) }()
	} else {
		profiled <- nil
	}
	pid := m.child.cmd.Process.Pid
	before := cpuSeconds(pid)
	r, at, err := m.load(ctx, row, o.duration, 0)
	if err != nil {
		return nil, fmt.Errorf("closed loop: %w", err)
	}
	row.CPU = (cpuSeconds(pid) - before) / float64(r.accepted) * 1000
	row.Memory = peakMemory(pid)
	row.Accepted = float64(r.accepted) / r.took.Seconds()
	row.Delivered = float64(at.Events) / time.Unix(0, at.Last).Sub(r.begun).Seconds()
	if err := <-profiled; err != nil {
		return nil, err
	}
	if _, at, err = m.load(ctx, row, o.duration, o.rate); err != nil {
		return nil, fmt.Errorf("%d a second: %w", o.rate, err)
	}
	row.P50, row.P95, row.P99, row.InTime = at.P50, at.P95, at.P99, at.InTime
	return row, nil
}

// load sends for a while and waits until everything is delivered.
func (m *measurement) load(ctx context.Context, row *benchRow, d time.Duration, rate int) (result, *arrivals, error) {
	number, err := m.endpoint.begin(ctx)
	if err != nil {
		return result{}, nil, err
	}
	r, err := m.send(ctx, load{number: number, duration: d, rate: rate})
	if err != nil {
		return r, nil, err
	}
	if r.accepted == 0 {
		return r, nil, errors.New("nothing was accepted")
	}
	at, err := m.endpoint.drained(ctx, r.accepted)
	if err != nil {
		return r, nil, err
	}
	row.AcceptedEvents += r.accepted
	row.DeliveredEvents += at.Events
	return r, at, nil
}
