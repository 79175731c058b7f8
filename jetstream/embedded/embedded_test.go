package embedded_test

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/embedded"
	"github.com/posthornhq/posthorn/jetstream/jstest"
)

func start(t *testing.T, cfg embedded.Config) (*embedded.Server, error) {
	return embedded.Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
}

func TestStartSaysWhatIsInTheWay(t *testing.T) {
	t.Parallel()
	inUse := t.TempDir()
	jstest.Start(t, inUse)

	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// Where not even root may write: JetStream's own folder is a file.
	blocked := t.TempDir()
	if err := os.WriteFile(filepath.Join(blocked, "nats"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := taken.Close(); err != nil {
			t.Error(err)
		}
	})

	tests := []struct {
		name string
		cfg  embedded.Config
		want string
	}{
		{"no directory", embedded.Config{}, "no data directory"},
		{"a directory in use", embedded.Config{Dir: inUse}, "another process is running on the data directory " + inUse},
		{"a directory below a file", embedded.Config{Dir: filepath.Join(file, "data")}, "make the data directory"},
		{"a file for a directory", embedded.Config{Dir: file}, "make the data directory"},
		{"no folder for JetStream", embedded.Config{Dir: blocked}, "did not start on " + blocked},
		{"a taken port", embedded.Config{Dir: t.TempDir(), Listen: taken.Addr().String()}, "cannot listen on " + taken.Addr().String()},
		{"no port", embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1"}, "is not host:port"},
		{"a port that is none", embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:65536"}, "not a number from 0 to 65535"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			begun := time.Now()
			s, err := start(t, tt.cfg)
			if took := time.Since(begun); took > 30*time.Second {
				t.Errorf("the error took %v, want it at once", took)
			}
			if err == nil {
				t.Fatalf("started, want an error with %q (stop: %v)", tt.want, s.Stop())
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %q, want one with %q", err, tt.want)
			}
		})
	}
}

// An error must not leave the directory locked.
func TestADirectoryIsFreeAfterAFailedStart(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", jstest.Addr(t))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if s, err := start(t, embedded.Config{Dir: dir, Listen: taken.Addr().String()}); err == nil {
		t.Fatalf("started on a taken port (stop: %v)", s.Stop())
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := start(t, embedded.Config{Dir: dir, Listen: taken.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}

func TestRestartKeepsTheData(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := start(t, embedded.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if s.URL() != "" {
		t.Errorf("a server that does not listen has URL %s", s.URL())
	}
	js := jstest.Connect(t, s)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "s", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	if !s.Running() {
		t.Error("it does not say that it runs")
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if s.Running() {
		t.Error("it says that it runs after it was stopped")
	}

	st, err := jstest.Connect(t, jstest.Start(t, dir)).Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	m, err := st.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(m.Data); got != "kept" {
		t.Errorf("after a restart the message is %q, want kept", got)
	}
}
