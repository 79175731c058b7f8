package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/topology"
)

// checkpointEvery is how often the router's position is made durable: the most
// that is routed again after an unclean stop.
const checkpointEvery = 5 * time.Second

// A Checkpoint is the sequence of EVENTS up to which every delivery is known to
// be on the disk, in a file beside the data of an embedded server.
//
// After a loss of power the disk may have the router's acknowledgement and not
// the delivery that it was for. Then the router begins again at the checkpoint;
// message IDs and claims drop what is already there. A fixed span of time would
// not do: a router that lags routes in its last minute what was accepted long
// before.
type Checkpoint struct {
	dir     string
	unclean bool
	seq     uint64
}

const (
	runningFile    = "running"
	checkpointFile = "router.checkpoint"
)

// OpenCheckpoint reads the checkpoint of a data directory and marks the
// directory as in use until [Checkpoint.Close].
func OpenCheckpoint(dir string) (*Checkpoint, error) {
	c := &Checkpoint{dir: dir}
	if _, err := os.Stat(filepath.Join(dir, runningFile)); err == nil {
		c.unclean = true
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("broker: look for the mark of an unclean stop: %w", err)
	}
	b, err := os.ReadFile(filepath.Join(dir, checkpointFile))
	switch {
	case errors.Is(err, os.ErrNotExist): // the beginning is safe
	case err != nil:
		return nil, fmt.Errorf("broker: read the checkpoint: %w", err)
	default:
		// A file that a crash left half written means the beginning, too.
		c.seq, _ = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	}
	if err := writeDurably(dir, runningFile, "the process that uses this directory runs, or ended without saying so\n"); err != nil {
		return nil, err
	}
	return c, nil
}

// Unclean reports whether the process before ended without [Checkpoint.Close].
func (c *Checkpoint) Unclean() bool { return c.unclean }

// Close notes a clean stop: everything acknowledged is on the disk. Call it last.
func (c *Checkpoint) Close() error {
	if err := os.Remove(filepath.Join(c.dir, runningFile)); err != nil {
		return fmt.Errorf("broker: note the clean stop: %w", err)
	}
	return nil
}

// PrepareRouter creates the router's consumer, or leaves it as it is. After an
// unclean stop (cp may be nil: then there is none) it begins after the
// checkpoint, if the server remembers more than that; the result says how many
// events are looked at again.
func PrepareRouter(ctx context.Context, js jetstream.JetStream, cp *Checkpoint) (again uint64, err error) {
	consumer, err := js.Consumer(ctx, topology.StreamEvents, topology.ConsumerRouter)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		from := uint64(0)
		if cp != nil && cp.unclean {
			from = cp.seq + 1
		}
		return 0, createRouter(ctx, js, from)
	}
	if err != nil {
		return 0, fmt.Errorf("broker: look up the router's consumer: %w", err)
	}
	floor := consumer.CachedInfo().AckFloor.Stream
	if cp == nil || !cp.unclean || floor <= cp.seq {
		return 0, nil
	}
	if err := js.DeleteConsumer(ctx, topology.StreamEvents, topology.ConsumerRouter); err != nil {
		return 0, fmt.Errorf("broker: set the router back: %w", err)
	}
	return floor - cp.seq, createRouter(ctx, js, cp.seq+1)
}

func createRouter(ctx context.Context, js jetstream.JetStream, from uint64) error {
	if _, err := js.CreateOrUpdateConsumer(ctx, topology.StreamEvents, topology.Router(from)); err != nil {
		return fmt.Errorf("broker: create the router's consumer: %w", err)
	}
	return nil
}

// A Committer makes durable what was written before.
type Committer interface {
	Wait(ctx context.Context) error
}

// Keep writes the checkpoint from time to time, until ctx is done, and once more.
func (c *Checkpoint) Keep(ctx context.Context, js jetstream.JetStream, disk Committer, log *slog.Logger) error {
	tick := time.NewTicker(checkpointEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return c.write(context.WithoutCancel(ctx), js, disk)
		case <-tick.C:
		}
		if err := c.write(ctx, js, disk); err != nil && ctx.Err() == nil {
			log.Warn("the router's checkpoint was not written; the one before holds", "err", err)
		}
	}
}

func (c *Checkpoint) write(ctx context.Context, js jetstream.JetStream, disk Committer) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	consumer, err := js.Consumer(ctx, topology.StreamEvents, topology.ConsumerRouter)
	if ctx.Err() != nil || errors.Is(err, nats.ErrConnectionClosed) {
		return nil // on its way down; the checkpoint before holds
	}
	if err != nil {
		return fmt.Errorf("broker: checkpoint: %w", err)
	}
	// What the server counts as acknowledged, the queue had answered before; so
	// after the sync it is on the disk.
	floor := consumer.CachedInfo().AckFloor.Stream
	if floor == c.seq {
		return nil
	}
	if err := disk.Wait(ctx); err != nil {
		return fmt.Errorf("broker: checkpoint: %w", err)
	}
	if err := writeDurably(c.dir, checkpointFile, strconv.FormatUint(floor, 10)+"\n"); err != nil {
		return err
	}
	c.seq = floor
	return nil
}

// writeDurably replaces a file as a whole, and returns when it is on the disk.
func writeDurably(dir, name, content string) error {
	path := filepath.Join(dir, name)
	f, err := os.CreateTemp(dir, name+".*")
	if err != nil {
		return fmt.Errorf("broker: write %s: %w", path, err)
	}
	_, err = f.WriteString(content)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("broker: write %s: %w", path, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
