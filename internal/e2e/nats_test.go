package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/jetstream/jstest"
)

// A result is how a command ended.
type result struct {
	stdout, stderr string
	code           int
}

// runCommand runs a command to its end, at most for a minute.
func runCommand(t *testing.T, env []string, stdin, name string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout, stderr strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	cmd.Env = append(os.Environ(), env...)
	err := cmd.Run()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		t.Fatalf("%s %v: %v", name, args, err)
	}
	return result{stdout: stdout.String(), stderr: stderr.String(), code: cmd.ProcessState.ExitCode()}
}

// natsCLI finds the nats command where the Taskfile builds it.
func natsCLI(t *testing.T) string {
	t.Helper()
	if path, err := exec.LookPath("nats"); err == nil {
		return path
	}
	path := filepath.Join(repository(t), ".bin", "nats")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("this test needs the nats CLI: run task natscli (%v)", err)
	}
	return path
}

// repository returns the root of the module.
func repository(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// An operator sees everything with the tool that comes with NATS.
func TestNATSCLIReadsTheTopology(t *testing.T) {
	t.Parallel()
	cli := natsCLI(t)
	s := newSink(t, nil)
	p := serve(t, "--log-level", "warn")
	p.subscribe("seen", "order.*", "OUTGOING", s.URL, "")
	event := id(t, p.must("POST", "/api/v1/events", `{"type":"order.created","tenant":"acme","data":{"n":9007199254740993}}`))
	p.until("it is delivered", 20*time.Second, func() bool { return s.times(event) == 1 })

	tests := []struct {
		name string
		args []string
		want []string
	}{
		{"streams", []string{"stream", "report"}, []string{
			"EVENTS", "DELIVERIES", "ATTEMPTS", "DEADLETTERS", "REJECTIONS", "AUDIT", "ADVISORIES", "KV_events", "OBJ_payloads",
		}},
		{"consumers", []string{"consumer", "report", "DELIVERIES"}, []string{"default_high", "default_normal", "default_low"}},
		{"buckets", []string{"kv", "ls"}, []string{"events", "config", "secrets", "schemas", "identity", "dedup"}},
		{"a stream", []string{"stream", "info", "EVENTS"}, []string{"posthorn.writer: pkg/store", "events.>"}},
		{"health of a stream", []string{"server", "check", "stream", "--stream", "DELIVERIES"}, []string{"OK DELIVERIES"}},
		{"an event", []string{"kv", "get", "events", event, "--raw"}, []string{
			`"id":"` + event + `"`, `"type":"order.created"`, `"tenant":"acme"`, `{"n":9007199254740993}`,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := runCommand(t, nil, "", cli, append([]string{"--server", p.nats}, tt.args...)...)
			if got.code != 0 {
				t.Fatalf("nats %v: exit code %d, want 0\n%s%s", tt.args, got.code, got.stdout, got.stderr)
			}
			for _, want := range tt.want {
				if !strings.Contains(got.stdout, want) {
					t.Errorf("nats %v does not show %q:\n%s", tt.args, want, got.stdout)
				}
			}
		})
	}
}

// Where Posthorn may not make its streams, an operator makes them of the files.
func TestNATSCLITakesTheAssetFiles(t *testing.T) {
	t.Parallel()
	cli := natsCLI(t)
	files, err := filepath.Glob(filepath.Join(repository(t), "jetstream", "topology", "assets", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no asset files: %v", err)
	}
	server := jstest.Start(t, t.TempDir())
	for _, file := range files {
		got := runCommand(t, nil, "", cli, "--server", server.URL(), "stream", "add", "--config", file)
		if got.code != 0 {
			t.Errorf("nats stream add --config %s: exit code %d, want 0\n%s%s", filepath.Base(file), got.code, got.stdout, got.stderr)
		}
	}
	bin := posthorn(t)
	// What was made of the files is what the platform wants.
	got := runCommand(t, nil, "", bin, "topology", "diff", "--nats-url", server.URL(), "-o", "json")
	if strings.TrimSpace(got.stdout) != "[]" || got.code != 0 {
		t.Errorf("topology diff: exit code %d and %s, want 0 and []\n%s", got.code, got.stdout, got.stderr)
	}
}

// posthorn returns the path of the binary.
func posthorn(t *testing.T) string {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// The topology can be looked at, compared and widened while the platform runs.
func TestTopologyCommand(t *testing.T) {
	t.Parallel()
	p := serve(t, "--log-level", "warn", "--attempts-max-bytes", "64MiB")
	run := func(args ...string) result {
		return runCommand(t, nil, "", posthorn(t), append(append([]string{"topology"}, args...), "--nats-url", p.nats)...)
	}
	printed := run("print", "-o", "json")
	var streams []struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal([]byte(printed.stdout), &streams); err != nil || len(streams) == 0 {
		t.Errorf("topology print shows %d streams (%v):\n%s%s", len(streams), err, printed.stdout, printed.stderr)
	}
	have := fmt.Sprint(64 << 20)
	tests := []struct {
		name   string
		args   []string
		code   int
		stdout []string
		stderr []string
	}{
		{"nothing differs", []string{"diff", "--attempts-max-bytes", "64MiB"}, 0, []string{"nothing differs"}, nil},
		{"more would be widened", []string{"diff", "--attempts-max-bytes", "128MiB"}, 0, []string{"ATTEMPTS", "max_bytes", have}, nil},
		{"less is told", []string{"diff", "--attempts-max-bytes", "1MiB"}, 0, []string{"refuse", "ATTEMPTS", "max_bytes", have}, nil},
		{"less is refused", []string{"apply", "--attempts-max-bytes", "1MiB"}, 1, nil, []string{"ATTEMPTS: max_bytes " + have, "1048576"}},
		{"a refusal changed nothing", []string{"diff", "--attempts-max-bytes", "64MiB"}, 0, []string{"nothing differs"}, nil},
		{"more is applied", []string{"apply", "--attempts-max-bytes", "128MiB"}, 0, []string{"ATTEMPTS", "max_bytes"}, nil},
		{"then nothing differs", []string{"diff", "--attempts-max-bytes", "128MiB"}, 0, []string{"nothing differs"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := run(tt.args...)
			if got.code != tt.code {
				t.Errorf("topology %v: exit code %d, want %d\n%s%s", tt.args, got.code, tt.code, got.stdout, got.stderr)
			}
			for _, want := range tt.stdout {
				if !strings.Contains(got.stdout, want) {
					t.Errorf("topology %v: stdout lacks %q:\n%s", tt.args, want, got.stdout)
				}
			}
			if tt.code != 0 && got.stdout != "" {
				t.Errorf("topology %v: stdout is %q beside the refusal, want nothing", tt.args, got.stdout)
			}
			for _, want := range tt.stderr {
				if !strings.Contains(got.stderr, want) {
					t.Errorf("topology %v: stderr lacks %q:\n%s", tt.args, want, got.stderr)
				}
			}
		})
	}
	// It still takes events.
	p.must("POST", "/api/v1/events", `{"type":"order.created","data":{}}`)
}
