package commit

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
)

// Who comes while a sync runs wrote after it began, so that sync is not theirs.
func TestAWaiterIsNeverServedByASyncThatBeganBeforeIt(t *testing.T) {
	t.Parallel()
	var begun, written atomic.Int64
	seen := make(chan int64, 10_000)
	b := New(func() error {
		seen <- written.Load() // what this sync makes durable
		begun.Add(1)
		return nil
	}, nil)
	var durable atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := range seen {
			durable.Store(n)
		}
	})
	var writers sync.WaitGroup
	for range 64 {
		writers.Go(func() {
			for range 100 {
				mine := written.Add(1)
				if err := b.Wait(t.Context()); err != nil {
					t.Error(err)
					return
				}
				_ = mine
			}
		})
	}
	writers.Wait()
	close(seen)
	wg.Wait()
	if got := begun.Load(); got >= 6400 {
		t.Errorf("%d syncs for 6400 waits of 64 writers, want them grouped", got)
	}
	if durable.Load() != 6400 {
		t.Errorf("the last sync covered %d of 6400 writes", durable.Load())
	}
}

func TestSecondWaiterWaitsForASyncOfItsOwn(t *testing.T) {
	t.Parallel()
	var syncs atomic.Int64
	entered, leave := make(chan struct{}, 2), make(chan struct{})
	b := New(func() error {
		syncs.Add(1)
		entered <- struct{}{}
		<-leave
		return nil
	}, nil)
	first := make(chan error, 1)
	go func() { first <- b.Wait(t.Context()) }()
	<-entered // the first sync runs
	second := make(chan error, 1)
	go func() { second <- b.Wait(t.Context()) }()
	leave <- struct{}{}
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	<-entered // a second sync, begun after the second waiter came
	select {
	case err := <-second:
		t.Fatalf("the second waiter was answered by the first sync: %v", err)
	default:
	}
	leave <- struct{}{}
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	if syncs.Load() != 2 {
		t.Errorf("%d syncs, want 2", syncs.Load())
	}
}

// After a failed fsync the kernel marks the lost pages clean; a later sync that
// succeeds proves nothing.
func TestABrokenBarrierStaysBroken(t *testing.T) {
	t.Parallel()
	bad := errors.New("input/output error")
	fail := true
	b := New(func() error {
		if fail {
			fail = false
			return bad
		}
		return nil
	}, nil)
	if err := b.Wait(t.Context()); !errors.Is(err, bad) {
		t.Fatalf("first wait: %v, want %v", err, bad)
	}
	if err := b.Wait(t.Context()); !errors.Is(err, bad) {
		t.Errorf("second wait: %v, want %v still", err, bad)
	}
	if b.Err() == nil {
		t.Error("Err is nil for a broken barrier")
	}
}

func TestANilBarrierDoesNotWait(t *testing.T) {
	t.Parallel()
	var b *Barrier
	if err := b.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}
