package commit

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// A Barrier groups the waits of many into few syncs.
type Barrier struct {
	sync    func() error
	metrics *metrics

	mu      sync.Mutex
	next    *round // the one that who comes now will join
	running *round // the one whose sync goes on, or the last
	broken  error
}

// A round is one sync and all who wait for it.
type round struct {
	waiters int
	done    chan struct{}
	err     error
}

func newRound() *round { return &round{done: make(chan struct{})} }

// New returns a Barrier over sync, which must make everything written so far
// durable; see [FileSystem].
func New(sync func() error, m *Metrics) *Barrier {
	return &Barrier{sync: sync, metrics: m.orNone(), next: newRound()}
}

// Wait returns when everything that was written before the call is durable. A
// nil Barrier returns at once. After a sync failed, every Wait fails: the kernel
// may have dropped the pages that it could not write, and the next sync would
// not say so.
func (b *Barrier) Wait(ctx context.Context) error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	if b.broken != nil {
		b.mu.Unlock()
		return b.broken
	}
	r := b.next
	r.waiters++
	leader := r.waiters == 1
	before := b.running
	b.mu.Unlock()

	if leader {
		// Whoever is first begins the sync for all, as soon as the one before is done.
		// It goes on by itself: a disk that hangs holds nobody beyond its context.
		go b.lead(r, before)
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return fmt.Errorf("commit: wait for the disk: %w", context.Cause(ctx))
	}
}

func (b *Barrier) lead(r, before *round) {
	if before != nil {
		<-before.done
	}
	b.mu.Lock()
	b.running, b.next = r, newRound()
	waiters := r.waiters
	b.mu.Unlock()

	begun := time.Now()
	if err := b.sync(); err != nil {
		r.err = fmt.Errorf("commit: sync the data directory: %w", err)
		b.mu.Lock()
		b.broken = r.err
		b.mu.Unlock()
	}
	b.metrics.observe(time.Since(begun), waiters)
	close(r.done)
}

// Err returns why the barrier does not work any more, nil while it does.
func (b *Barrier) Err() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.broken
}
