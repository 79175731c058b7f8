package app

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/posthornhq/posthorn/pkg/config"
	"github.com/posthornhq/posthorn/pkg/errs"
)

func TestAFullDiskTurnsPublishersAway(t *testing.T) {
	t.Parallel()
	a := &App{cfg: config.Default(), log: slog.New(slog.DiscardHandler)}
	for _, tt := range []struct {
		name string
		free int64
		err  error
		full bool
	}{
		{"much room", 1 << 30, nil, false},
		{"less than the largest event", 1 << 20, nil, true},
		{"nobody knows, and it was full", 0, errors.New("gone"), true},
		{"room again", 100 << 20, nil, false},
		{"nobody knows, and there was room", 0, errors.New("gone"), false},
		{"nothing", 0, nil, true},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		if err := a.watchDisk(ctx, func() (int64, error) {
			cancel() // it has looked once
			return tt.free, tt.err
		}); err != nil {
			t.Fatal(err)
		}
		err := a.room()
		if full := err != nil; full != tt.full || full && (errs.KindOf(err) != errs.Full || errs.ReasonOf(err) != "full") {
			t.Errorf("%s: %v, want an error of kind Full: %v", tt.name, err, tt.full)
		}
	}
}
