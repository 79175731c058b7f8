package app_test

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/posthornhq/posthorn/pkg/config"
	"github.com/posthornhq/posthorn/services/app"
)

// A start that comes to nothing must not make the next one look back, nor hide that
// the process before ended without saying so.
func TestAStartThatIsRefusedLeavesTheMarkOfTheStopBefore(t *testing.T) {
	t.Parallel()
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	cfg := config.Default()
	cfg.Data = filepath.Join(t.TempDir(), "data")
	cfg.HTTP, cfg.GRPC, cfg.APIHTTP, cfg.APIGRPC = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Broker, cfg.Registry, cfg.Dispatcher, cfg.NATSListen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Metrics = taken.Addr().String()
	mark := filepath.Join(cfg.Data, "running")
	refused := func() {
		t.Helper()
		_, err := app.New(t.Context(), cfg, slog.New(slog.DiscardHandler), "test")
		if err == nil || !strings.Contains(err.Error(), taken.Addr().String()) {
			t.Fatalf("a start with an address that is taken gives %v, want an error about it", err)
		}
	}
	refused()
	if _, err := os.Stat(mark); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after a start that was refused the mark of an unclean stop is there (%v), want it gone", err)
	}
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused()
	if _, err := os.Stat(mark); err != nil {
		t.Errorf("the mark that was there before is gone: %v", err)
	}
}
