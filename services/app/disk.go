package app

import (
	"context"
	"time"

	"github.com/posthornhq/posthorn/pkg/config"
	"github.com/posthornhq/posthorn/pkg/errs"
)

const (
	// reserve is the free disk, beside room for the largest event, below which none
	// are taken in. Of a full disk the NATS server says nothing to those who publish,
	// and they would wait for an answer in vain; and what is delivered meanwhile
	// could not be recorded.
	reserve = 16 << 20
	// diskLook is how often the disk is looked at.
	diskLook = time.Second
)

// watchDisk looks at the disk of the data until ctx is done. Free returns the bytes
// that are free there.
func (a *App) watchDisk(ctx context.Context, free func() (int64, error)) error {
	tick := time.NewTicker(diskLook)
	defer tick.Stop()
	for {
		a.lookAtDisk(free)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (a *App) lookAtDisk(free func() (int64, error)) {
	n, err := free()
	if err != nil {
		a.log.Debug("the disk cannot be looked at", "err", err)
		return
	}
	full := n < reserve+int64(a.cfg.MaxEventBytes)
	if a.diskFull.Swap(full) == full {
		return
	}
	if full {
		a.log.Error("the disk is full, and publishers are turned away; make room", "data", a.cfg.Data, "free", config.Bytes(n).String())
	} else {
		a.log.Info("the disk has room again", "data", a.cfg.Data, "free", config.Bytes(n).String())
	}
}

// room is an error while the disk is full.
func (a *App) room() error {
	if !a.diskFull.Load() {
		return nil
	}
	return errs.New(errs.Full, "the disk that events are stored on is full; try again when there is room on it").Because("full")
}
