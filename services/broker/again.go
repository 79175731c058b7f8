package broker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/replay"
	"github.com/posthornhq/posthorn/pkg/stream"
	"github.com/posthornhq/posthorn/pkg/subscription"
)

// A Retried is what became of one dead letter.
type Retried struct {
	Letter event.DeadLetter
	Round  int // the one that was queued
	Err    error
}

// Retry queues the deliveries of dead letters anew, each as a new round by its
// subscription's policy of now, and removes the dead letters. If it dies in
// between, the dead letter stays, and another retry queues the same round.
func (b *Broker) Retry(ctx context.Context, letters *deadletter.Letters, ids []string) []Retried {
	out := make([]Retried, len(ids))
	touches := touches{b: b, of: map[string]*touch{}}
	slots := make(chan struct{}, retryAtOnce)
	var wg sync.WaitGroup
	for i, id := range ids {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			out[i] = b.retry(ctx, letters, id, &touches)
		})
	}
	wg.Wait()
	return out
}

// retryAtOnce is how many dead letters are retried side by side: each waits for
// the disk, and they wait for it together.
const retryAtOnce = 64

func (b *Broker) retry(ctx context.Context, letters *deadletter.Letters, id string, touches *touches) Retried {
	letter, err := letters.Get(ctx, id)
	r := Retried{Letter: letter, Err: err}
	if err != nil {
		r.Letter.ID = id
		return r
	}
	sub, ok := b.Catalog.Subscription(letter.Subscription)
	if !ok || sub.Disabled {
		r.Err = errs.New(errs.Conflict, "subscription %s is deleted or disabled; put it back, then retry", letter.Subscription)
		return r
	}
	if r.Round, r.Err = replay.NextRound(letter.Round); r.Err != nil {
		return r
	}
	// Written anew, so that retention takes the event for young.
	ev, revision, err := touches.touch(ctx, letter.Event)
	if err != nil {
		r.Err = err
		return r
	}
	if r.Err = b.requeue(ctx, ev, sub, revision, r.Round); r.Err != nil {
		return r
	}
	if _, err := letters.Remove(ctx, id); err != nil {
		r.Err = fmt.Errorf("broker: queued again, but: %w", err)
	}
	return r
}

// touches writes each event anew once, however many deliveries of it are retried.
type touches struct {
	b  *Broker
	mu sync.Mutex
	of map[string]*touch
}

type touch struct {
	once     sync.Once
	ev       *event.Event
	revision uint64
	err      error
}

func (t *touches) touch(ctx context.Context, id string) (*event.Event, uint64, error) {
	t.mu.Lock()
	one := t.of[id]
	if one == nil {
		one = &touch{}
		t.of[id] = one
	}
	t.mu.Unlock()
	one.once.Do(func() { one.ev, one.revision, one.err = t.b.touch(ctx, id) })
	return one.ev, one.revision, one.err
}

// touchTries is how often touch tries.
const touchTries = 10

// touch writes an event anew, also if others do at the same moment.
func (b *Broker) touch(ctx context.Context, id string) (*event.Event, uint64, error) {
	for n := 1; ; n++ {
		ev, revision, err := b.Store.Touch(ctx, id)
		if err == nil || n == touchTries || !stream.WrongSequence(err) {
			return ev, revision, err
		}
	}
}

func (b *Broker) requeue(ctx context.Context, ev *event.Event, sub *subscription.Subscription, revision uint64, round int) error {
	d := event.Delivery{
		Event: ev.ID, Subscription: sub.Name, Round: round, Policy: sub.Policy, Priority: sub.Priority, Revision: revision,
	}
	p := b.Queue.Enqueue(&d, ev.TraceParent)
	if _, err := p.Wait(ctx); err != nil {
		return fmt.Errorf("broker: queue %s again: %w", d.Key(), err)
	}
	return b.Store.Commit(ctx)
}

// Replay delivers a stored event again to all subscriptions that match it now,
// and returns how many deliveries it queued.
func (b *Broker) Replay(ctx context.Context, id string) (int, error) {
	ev, revision, err := b.touch(ctx, id)
	if err != nil {
		return 0, err
	}
	attempts, err := b.Ledger.Attempts(ctx, id, ev.Received.Add(-time.Minute))
	if err != nil {
		return 0, err
	}
	rounds := map[string]int{}
	for i := range attempts {
		rounds[attempts[i].Subscription] = max(rounds[attempts[i].Subscription], attempts[i].Round)
	}
	n := 0
	seen := b.view(ev, ev)
	matches, err := b.match(ctx, ev, nil)
	if err != nil {
		return 0, err
	}
	for _, s := range matches {
		if s.Filter != nil {
			ok, note, err := b.passes(ctx, s, seen)
			if err != nil {
				return n, err
			}
			if note != nil {
				if _, err := note.Wait(ctx); err != nil {
					return n, err
				}
			}
			if !ok {
				continue
			}
		}
		// Round 1 may be queued and untried, so a replay is 2 at least.
		round, err := replay.NextRound(max(rounds[s.Name], 1))
		if err != nil {
			return n, err
		}
		if err := b.requeue(ctx, ev, s, revision, round); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
