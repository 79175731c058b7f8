package broker

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/replay"
	"github.com/posthornhq/posthorn/pkg/subscription"
)

// A Retried is what became of one dead letter.
type Retried struct {
	ID                  string
	Event, Subscription string
	Round               int // the one that was queued
	Err                 error
	// Gone says that the letter is not there any more, because it was retried or
	// deleted by somebody else, or is kept no longer. Err says so, too.
	Gone bool
}

// Retry queues the deliveries of dead letters anew, each as a new round by its
// subscription's policy of now, and removes the dead letters. If it dies in
// between, the dead letter stays, and another retry queues the same round.
//
// What an ordered subscription gets is queued in the order in which the events were
// accepted, whatever the order of the IDs. The answers are in the order of the IDs.
func (b *Broker) Retry(ctx context.Context, letters *deadletter.Letters, ids []string) []Retried {
	r := retrying{b: b, letters: letters, touched: map[string]*touched{}, ordered: map[string][]orderedLetter{}}
	out := make([]Retried, len(ids))
	side(len(ids), func(i int) { out[i] = r.one(ctx, ids[i], i) })
	for _, sub := range slices.Sorted(maps.Keys(r.ordered)) {
		r.inOrder(ctx, r.ordered[sub], out)
	}
	return out
}

// retryAtOnce is how many dead letters are retried side by side: each waits for
// the disk, and they wait for it together.
const retryAtOnce = 64

// side calls f with 0 to n-1, some at a time.
func side(n int, f func(i int)) {
	slots := make(chan struct{}, retryAtOnce)
	var wg sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f(i)
		})
	}
	wg.Wait()
}

// retrying is one call of Retry.
type retrying struct {
	b       *Broker
	letters *deadletter.Letters

	mu      sync.Mutex
	touched map[string]*touched        // by event
	ordered map[string][]orderedLetter // by subscription
}

// An orderedLetter is one of a subscription that wants order: it waits until all of
// them are known.
type orderedLetter struct {
	answer int // which of the answers is its
	event  string
	place  uint64
	round  int // the letter's
}

// one retries a letter, or keeps it for later if its subscription is ordered.
func (r *retrying) one(ctx context.Context, id string, answer int) Retried {
	letter, err := r.letters.Get(ctx, id)
	out := Retried{ID: id, Event: letter.Event, Subscription: letter.Subscription, Err: err, Gone: errs.KindOf(err) == errs.NotFound}
	if err != nil {
		return out
	}
	sub, err := r.subscription(letter.Subscription)
	if err != nil {
		out.Err = err
		return out
	}
	if sub.Ordered {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.ordered[sub.Name] = append(r.ordered[sub.Name], orderedLetter{answer, letter.Event, letter.Place, letter.Round})
		return out
	}
	d, trace, err := r.prepare(ctx, sub, letter.Event, letter.Round)
	if err == nil {
		out.Round = d.Round
		err = r.b.requeue(ctx, d, trace)
	}
	if err != nil {
		out.Err = err
		return out
	}
	r.remove(ctx, &out)
	return out
}

func (r *retrying) subscription(name string) (*subscription.Subscription, error) {
	sub, ok := r.b.Catalog.Subscription(name)
	if !ok || sub.Disabled {
		return nil, errs.New(errs.Conflict, "subscription %s is deleted or disabled; put it back, then retry", name)
	}
	return sub, nil
}

// prepare returns the delivery that follows a letter of some round, with its event
// written anew, so that retention takes it for young.
func (r *retrying) prepare(ctx context.Context, sub *subscription.Subscription, id string, round int) (*event.Delivery, string, error) {
	next, err := replay.NextRound(round)
	if err != nil {
		return nil, "", err
	}
	t := r.touch(ctx, id)
	if t.err != nil {
		return nil, "", t.err
	}
	d := r.b.delivery(sub, id, next, t.revision)
	if sub.Key != nil {
		ev, err := r.b.Store.Get(ctx, id)
		if err != nil {
			return nil, "", fmt.Errorf("broker: read %s for its ordering key: %w", id, err)
		}
		if d.Part, err = r.b.part(ctx, sub, r.b.view(ev, ev)); err != nil {
			return nil, "", err
		}
	}
	return d, t.trace, nil
}

// remove takes a letter away whose delivery is queued. If somebody else was faster,
// he has queued the same round, and it is his: of the two the queue keeps one.
func (r *retrying) remove(ctx context.Context, out *Retried) {
	there, err := r.letters.Remove(ctx, out.ID)
	switch {
	case err != nil:
		out.Err = fmt.Errorf("broker: queued again, but: %w", err)
	case !there:
		out.Gone, out.Err = true, deadletter.Gone(out.ID)
	}
}

// inOrderAtOnce is how many letters of an ordered subscription are prepared at once,
// and made durable and removed together.
const inOrderAtOnce = 500

// inOrder retries the letters of one ordered subscription in the order of acceptance.
func (r *retrying) inOrder(ctx context.Context, all []orderedLetter, out []Retried) {
	sortByPlace(all)
	stuck := map[int]error{} // parts of the lane in which one could not be queued
	for some := range slices.Chunk(all, inOrderAtOnce) {
		deliveries, traces := make([]*event.Delivery, len(some)), make([]string, len(some))
		// Looked up anew: this may take a while, and people change their minds.
		sub, err := r.subscription(out[some[0].answer].Subscription)
		side(len(some), func(i int) {
			if out[some[i].answer].Err = err; err == nil {
				deliveries[i], traces[i], out[some[i].answer].Err = r.prepare(ctx, sub, some[i].event, some[i].round)
			}
		})
		for i, l := range some {
			d, answer := deliveries[i], &out[l.answer]
			if d == nil {
				if kind := errs.KindOf(answer.Err); kind != errs.NotFound && kind != errs.Conflict {
					stuck[everyPart] = answer.Err // of which part it is, is not known
				}
				continue
			}
			d.Place, answer.Round = l.place, d.Round
			if before := cmp.Or(stuck[everyPart], stuck[d.Part]); before != nil {
				answer.Err = errs.Wrap(before, errs.Unavailable, "one that comes before it in the order of acceptance could not be queued; retry both")
				continue
			}
			// One after another: of two on their way the first may have to be sent again.
			p := r.b.Queue.Enqueue(d, traces[i])
			if _, err := p.Wait(ctx); err != nil {
				answer.Err = fmt.Errorf("broker: queue %s again: %w", d.Key(), err)
				// Those behind it would pass it.
				stuck[d.Part] = answer.Err
			}
		}
		err = r.b.Store.Commit(ctx)
		side(len(some), func(i int) {
			answer := &out[some[i].answer]
			if answer.Err == nil {
				answer.Err = err
			}
			if answer.Err == nil {
				r.remove(ctx, answer)
			}
		})
	}
}

// everyPart stands for all parts of a lane.
const everyPart = -1

// sortByPlace sorts letters by where their events stand in the order of acceptance,
// and an event's own by round. Where one does not know its place, because its
// subscription was not ordered then, the events' IDs decide, which begin with the time.
func sortByPlace(all []orderedLetter) {
	known := !slices.ContainsFunc(all, func(l orderedLetter) bool { return l.place == 0 })
	slices.SortFunc(all, func(a, b orderedLetter) int {
		byPlace := 0
		if known {
			byPlace = cmp.Compare(a.place, b.place)
		}
		return cmp.Or(byPlace, cmp.Compare(a.event, b.event), cmp.Compare(a.round, b.round))
	})
}

// touched is what a retry needs of an event that it has written anew: once, however
// many deliveries of it are retried.
type touched struct {
	once     sync.Once
	trace    string
	revision uint64
	err      error
}

func (r *retrying) touch(ctx context.Context, id string) *touched {
	r.mu.Lock()
	one := r.touched[id]
	if one == nil {
		one = &touched{}
		r.touched[id] = one
	}
	r.mu.Unlock()
	one.once.Do(func() {
		var ev *event.Event
		if ev, one.revision, one.err = r.b.Store.Touch(ctx, id); one.err == nil {
			one.trace = ev.TraceParent
		}
	})
	return one
}

// delivery describes a new round of a delivery.
func (b *Broker) delivery(sub *subscription.Subscription, id string, round int, revision uint64) *event.Delivery {
	return &event.Delivery{
		Event: id, Subscription: sub.Name, Round: round, Policy: sub.Policy, Priority: sub.Priority, Revision: revision, Own: b.ownLane(sub),
	}
}

func (b *Broker) requeue(ctx context.Context, d *event.Delivery, trace string) error {
	p := b.Queue.Enqueue(d, trace)
	if _, err := p.Wait(ctx); err != nil {
		return fmt.Errorf("broker: queue %s again: %w", d.Key(), err)
	}
	return b.Store.Commit(ctx)
}

// Replay delivers a stored event again to all subscriptions that match it now,
// and returns how many deliveries it queued.
func (b *Broker) Replay(ctx context.Context, id string) (int, error) {
	ev, revision, err := b.Store.Touch(ctx, id)
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
	seen := b.view(ev, nil) // ev lacks data that is in the object store
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
		d := b.delivery(s, ev.ID, round, revision)
		if s.Ordered {
			if d.Part, err = b.part(ctx, s, seen); err != nil {
				return n, err
			}
		}
		if err := b.requeue(ctx, d, ev.TraceParent); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
