package redistest

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/posthornhq/posthorn/pkg/dedup"
)

// startTimeout is generous: it decides only how late a broken test fails.
const startTimeout = 20 * time.Second

// A Server is a redis-server process.
type Server struct {
	t      testing.TB
	dir    string
	cmd    *exec.Cmd
	output bytes.Buffer
}

// Start starts a server and waits until it answers.
func Start(t testing.TB) *Server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Fatalf("this test needs a real Redis: apt-get install redis-server (%v)", err)
	}
	// Not t.TempDir(): with a test's name in it the path of the socket would be
	// longer than the 107 bytes that a socket's may have.
	dir, err := os.MkdirTemp("", "redis")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, dir: dir}
	t.Cleanup(func() {
		s.Kill()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s.Restart()
	return s
}

// URL returns what [dedup.OpenRedis] takes. Its time limits are such that a slow
// disk makes no command fail that the server has carried out.
func (s *Server) URL() string {
	return "unix://" + s.socket() + "?dial_timeout=60s&read_timeout=60s&write_timeout=60s"
}

// Client returns a client that is closed when the test ends.
func (s *Server) Client() *redis.Client {
	s.t.Helper()
	c, err := dedup.OpenRedis(s.URL())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return c
}

// Kill ends the process at once, as kill -9 does, and waits for that.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	// An error means that it has ended by itself; Wait's says how, and it was killed.
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

// Restart starts the process again after [Server.Kill], with what it had.
func (s *Server) Restart() {
	s.t.Helper()
	s.Kill()
	s.cmd = exec.Command("redis-server",
		"--port", "0", "--unixsocket", s.socket(), "--dir", s.dir,
		"--save", "", "--appendonly", "yes", "--appendfsync", "always")
	s.cmd.Stdout, s.cmd.Stderr = &s.output, &s.output
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		s.t.Fatalf("start redis-server: %v", err)
	}
	s.await()
}

func (s *Server) await() {
	s.t.Helper()
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: s.socket(), MaxRetries: -1})
	defer client.Close()
	ctx, cancel := context.WithTimeout(s.t.Context(), startTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := client.Ping(ctx).Err()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.Kill() // so that its output is whole
			s.t.Fatalf("redis-server does not answer after %s: %v\n%s", startTimeout, err, s.output.Bytes())
		}
	}
}

func (s *Server) socket() string { return filepath.Join(s.dir, "s") }
