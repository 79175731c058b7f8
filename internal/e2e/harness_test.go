package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
)

// binary builds posthorn once for all tests: without the race detector, as
// people run it.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "posthorn-e2e-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "posthorn")
	out, err := exec.Command("go", "build", "-o", path, "github.com/posthornhq/posthorn/services/posthorn").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path)) // a leftover in the temporary directory
	}
	os.Exit(code)
}

// A platform is a posthorn process.
type platform struct {
	t    *testing.T
	dir  string // data directory
	args []string
	env  []string // the test's own, if nil
	http string   // base URL
	nats string
	grpc string // broker
	obs  string // metrics base URL
	key  string

	cmd    *exec.Cmd
	stdout *output
	stderr *output
	exited chan error
}

// output collects what a process writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// nextPort counts through ports below the range from which the kernel gives
// out its own, so that nobody takes one between here and the process's start.
var nextPort atomic.Int32

// addrs returns n free loopback addresses that no other test gets.
func addrs(t *testing.T, n int) []string {
	t.Helper()
	var out []string
	for len(out) < n {
		addr := fmt.Sprintf("127.0.0.1:%d", 20_000+(int32(os.Getpid()*64)+nextPort.Add(1))%12_000)
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue // somebody else's
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		out = append(out, addr)
	}
	return out
}

// newPlatform prepares a process on dir; [platform.start] starts it.
func newPlatform(t *testing.T, dir string, args ...string) *platform {
	t.Helper()
	a := addrs(t, 8)
	p := &platform{
		t: t, dir: dir, http: "http://" + a[0], nats: "nats://" + a[6], grpc: a[4], obs: "http://" + a[7], key: "e2e-" + strings.Repeat("k", 40),
		args: append([]string{
			"serve", "--data", dir, "--http", a[0], "--grpc", a[1], "--api-http", a[2], "--api-grpc", a[3],
			"--broker", a[4], "--registry", a[5], "--nats-listen", a[6], "--metrics", a[7], "--allow-net", "127.0.0.0/8",
		}, args...),
	}
	t.Cleanup(p.kill)
	return p
}

// authorized is the context of a gRPC call by the administrator.
func (p *platform) authorized() context.Context {
	return metadata.AppendToOutgoingContext(p.t.Context(), "authorization", "Bearer "+p.key)
}

// serve starts a platform on a new data directory and waits until it is ready.
func serve(t *testing.T, args ...string) *platform {
	t.Helper()
	p := newPlatform(t, filepath.Join(t.TempDir(), "data"), args...)
	p.start()
	p.ready()
	return p
}

func (p *platform) start() {
	p.t.Helper()
	bin, err := binary()
	if err != nil {
		p.t.Fatal(err)
	}
	p.stdout, p.stderr = &output{}, &output{}
	p.cmd = exec.Command(bin, p.args...)
	if p.cmd.Env = p.env; p.env == nil {
		p.cmd.Env = append(os.Environ(), "POSTHORN_ADMIN_KEY="+p.key)
	}
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	exited := make(chan error, 1)
	p.exited = exited
	cmd := p.cmd
	go func() { exited <- cmd.Wait() }()
}

// ready waits until the process takes events.
func (p *platform) ready() {
	p.t.Helper()
	p.until("ready", 60*time.Second, func() bool {
		select {
		case err := <-p.exited:
			p.exited <- err
			p.t.Fatalf("posthorn ended while it started: %v\n%s", err, p.stderr)
		default:
		}
		return strings.Contains(p.stdout.String(), "Posthorn is ready")
	})
}

// until polls a condition that shows itself only from outside.
func (p *platform) until(what string, most time.Duration, f func() bool) {
	p.t.Helper()
	if !poll(most, f) {
		p.t.Fatalf("%s: not within %s; log:\n%s", what, most, tail(p.stderr.String()))
	}
}

func poll(most time.Duration, f func() bool) bool {
	deadline := time.Now().Add(most)
	for !f() {
		if time.Now().After(deadline) {
			return false
		}
		<-time.After(10 * time.Millisecond)
	}
	return true
}

func tail(s string) string {
	if len(s) > 8000 {
		return "…" + s[len(s)-8000:]
	}
	return s
}

// kill ends the process as kill -9 does, if it runs.
func (p *platform) kill() {
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.exited
	p.cmd = nil
}

// stop sends SIGTERM and returns how the process ended.
func (p *platform) stop(most time.Duration) error {
	p.t.Helper()
	err := p.ends(most)
	if errors.Is(err, errRuns) {
		p.t.Fatalf("%v; log:\n%s", err, tail(p.stderr.String()))
	}
	return err
}

var errRuns = errors.New("posthorn goes on")

// ends is [platform.stop] for goroutines other than the test's.
func (p *platform) ends(most time.Duration) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("%w: %w", errRuns, err)
	}
	select {
	case err := <-p.exited:
		p.cmd = nil
		return err
	case <-time.After(most):
		return fmt.Errorf("%w for %s after SIGTERM", errRuns, most)
	}
}

// api makes a call of the Master API and returns the status and the body.
func (p *platform) api(method, path, body string) (int, string) {
	p.t.Helper()
	status, out, err := p.call(method, path, body)
	if err != nil {
		p.t.Fatalf("%s %s: %v", method, path, err)
	}
	return status, out
}

var httpClient = &http.Client{
	Timeout:   40 * time.Second,
	Transport: &http.Transport{MaxIdleConnsPerHost: 256},
}

func (p *platform) call(method, path, body string, header ...string) (int, string, error) {
	req, err := http.NewRequestWithContext(context.Background(), method, p.http+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "Bearer "+p.key)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := httpClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	out, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(out), err
}

// must makes a call that has to be answered with a 2xx.
func (p *platform) must(method, path, body string) string {
	p.t.Helper()
	status, out := p.api(method, path, body)
	if status/100 != 2 {
		p.t.Fatalf("%s %s: %d %s; log:\n%s", method, path, status, out, tail(p.stderr.String()))
	}
	return out
}

// subscribe makes a subscription that delivers to url.
func (p *platform) subscribe(name, types, direction, url, more string) {
	p.t.Helper()
	p.must("PUT", "/api/v1/subscriptions/"+name, fmt.Sprintf(
		`{"types":[%q],"direction":%q,"destination":{"webhook":{"url":%q}}%s}`, types, direction, url, more))
}

// id reads the ID from an answer to a publish.
func id(t *testing.T, answer string) string {
	t.Helper()
	var v struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal([]byte(answer), &v); err != nil || v.ID == "" {
		t.Fatalf("the answer %q has no id: %v", answer, err)
	}
	return v.ID
}

// A sink is an endpoint that keeps what it got.
type sink struct {
	*httptest.Server
	mu     sync.Mutex
	got    []received
	byID   map[string]int
	answer func(n int, r *received) int // status for the n-th request, from 1
}

type received struct {
	id     string
	header http.Header
	body   []byte
	at     time.Time
}

func newSink(t *testing.T, answer func(n int, r *received) int) *sink {
	t.Helper()
	s := &sink{byID: map[string]int{}, answer: answer}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		rec := received{id: r.Header.Get("webhook-id"), header: r.Header.Clone(), body: body, at: time.Now()}
		s.mu.Lock()
		s.got = append(s.got, rec)
		s.byID[rec.id]++
		n := len(s.got)
		s.mu.Unlock()
		if s.answer != nil {
			w.WriteHeader(s.answer(n, &rec))
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *sink) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.got)
}

func (s *sink) all() []received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]received(nil), s.got...)
}

func (s *sink) times(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

// deadLetters returns the events that have a dead letter.
func (p *platform) deadLetters() map[string]bool {
	p.t.Helper()
	out := map[string]bool{}
	cursor := ""
	for {
		var page struct {
			Items []struct {
				EventID string `json:"eventId"`
			} `json:"items"`
			NextCursor string `json:"nextCursor"`
		}
		if err := json.Unmarshal([]byte(p.must("GET", "/api/v1/deadletters?limit=1000&cursor="+cursor, "")), &page); err != nil {
			p.t.Fatal(err)
		}
		for _, d := range page.Items {
			out[d.EventID] = true
		}
		if cursor = page.NextCursor; cursor == "" {
			return out
		}
	}
}

// field reads a text from an answer.
func field(t *testing.T, answer, name string) string {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(answer), &v); err != nil {
		t.Fatal(err)
	}
	text, ok := v[name].(string)
	if !ok || text == "" {
		t.Fatalf("the answer %q has no %s", answer, name)
	}
	return text
}
