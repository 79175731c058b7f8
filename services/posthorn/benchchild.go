package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A child is a process of the bench. It ends with [child.stop].
type child struct {
	cmd *exec.Cmd
	dir string
	log string // a file in dir
}

// startChild runs this program again. What it says goes to a file in a directory
// of its own, which stop removes.
func startChild(ctx context.Context, env []string, args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "posthorn-bench-")
	if err != nil {
		return nil, err
	}
	c := &child{dir: dir, log: filepath.Join(dir, "log")}
	log, err := os.Create(c.log)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	defer func() { _ = log.Close() }() // the child has its own
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "{dir}", dir)
	}
	c.cmd = exec.CommandContext(ctx, self, args...)
	c.cmd.Env = append(os.Environ(), env...)
	c.cmd.Stderr = log
	if err := c.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", args[0], err), os.RemoveAll(dir))
	}
	return c, nil
}

// stop ends the process and removes its directory.
func (c *child) stop() {
	_ = c.cmd.Process.Kill() // it may have ended
	_ = c.cmd.Wait()         // killed
	_ = os.RemoveAll(c.dir)  // a leftover in the temporary directory
}

// explain adds what the process said to an error.
func (c *child) explain(err error) error {
	said, readErr := os.ReadFile(c.log)
	if err == nil || readErr != nil || len(said) == 0 {
		return err
	}
	return fmt.Errorf("%w; the process said: %s", err, bytes.TrimSpace(said[max(0, len(said)-2000):]))
}

// profile saves a CPU and an allocation profile of the next d to
// <prefix>.cpu.pprof and <prefix>.allocs.pprof.
func profile(ctx context.Context, metrics, prefix string, d time.Duration) error {
	seconds := strconv.Itoa(max(int(d.Seconds()), 1))
	failed := make(chan error, 2)
	for name, path := range map[string]string{"cpu": "profile", "allocs": "allocs"} {
		go func() {
			failed <- save(ctx, "http://"+metrics+"/debug/pprof/"+path+"?seconds="+seconds, prefix+"."+name+".pprof")
		}()
	}
	return errors.Join(<-failed, <-failed)
}

func save(ctx context.Context, url, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("profile: %s", resp.Status)
	}
	doc, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	if err := os.WriteFile(file, doc, 0o600); err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	return nil
}

// setUpPlatform makes the source and the subscription, as soon as it answers.
func setUpPlatform(ctx context.Context, base, key, hook string) error {
	return putAll(ctx, base, key, map[string]string{
		"/api/v1/sources/bench":       `{"kind":"GENERIC","type":"bench.event"}`,
		"/api/v1/subscriptions/bench": `{"types":["bench.#"],"direction":"INCOMING","destination":{"webhook":{"url":"` + hook + `"}}}`,
	})
}

// putAll makes resources, as soon as the platform answers.
func putAll(ctx context.Context, base, key string, resources map[string]string) error {
	if err := waitFor(ctx, strings.TrimPrefix(base, "http://")); err != nil {
		return err
	}
	for path, body := range resources {
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
