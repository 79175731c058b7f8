package dispatcher

import (
	"context"
	"log/slog"

	"github.com/posthornhq/posthorn/pkg/event"
)

// A note logs about one delivery. Of most there is nothing to say, so what says which
// one it is, is put together only then.
type note struct {
	log *slog.Logger
	dl  *event.Delivery
}

func (n note) with() *slog.Logger {
	return n.log.With("event", n.dl.Event, "subscription", n.dl.Subscription, "round", n.dl.Round, "attempt", n.dl.Attempt)
}

// debug reports whether what is said of every delivery is to be said.
func (n note) debug(ctx context.Context) bool { return n.log.Enabled(ctx, slog.LevelDebug) }
