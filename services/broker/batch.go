package broker

import (
	"context"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
)

// AcceptAll accepts a batch and answers for each event, in order. Those that
// are new and valid are stored and queued as one: while something of ours
// fails, none of them is accepted.
func (b *Broker) AcceptAll(ctx context.Context, batch []event.Publish) []event.Result {
	results := make([]event.Result, len(batch))
	evs := make([]*event.Event, 0, len(batch))
	fresh := make([]int, 0, len(batch)) // indexes into batch of evs
	keys := make([]string, len(batch))  // claims of evs
	first := map[string]int{}           // of each claim, the index of its event
	repeats := map[int]int{}            // indexes of events that are there twice, to those of the first
	for i := range batch {
		ev := &batch[i].Event
		end := b.span(ctx, ev)
		defer func() { end(results[i].Err) }() // when all of the batch is answered
		ok, err := b.begin(ctx, ev, batch[i].Key, &keys[i], first, &results[i].Receipt)
		before, again := first[keys[i]]
		switch {
		case err != nil:
			results[i].Err = err
			b.reject(ctx, ev, err)
		case keys[i] != "" && again:
			repeats[i] = before
		case ok:
			evs = append(evs, ev)
			fresh = append(fresh, i)
			if keys[i] != "" {
				first[keys[i]] = i
			}
		default:
			b.Metrics.accepted(ev, results[i].Receipt.Duplicate)
		}
	}
	if len(evs) == 0 {
		return results
	}
	// Whatever becomes of the first is the answer for the others.
	defer func() {
		for i, before := range repeats {
			results[i] = results[before]
			results[i].Receipt.Duplicate = results[i].Err == nil
		}
	}()
	positions, err := b.Store.AppendAll(ctx, evs)
	for n, i := range fresh {
		ev := evs[n]
		if err != nil {
			results[i].Err = err
			b.Metrics.Rejected(errs.ReasonOf(err))
			continue
		}
		results[i].Receipt = event.Receipt{ID: ev.ID, Sequence: positions[n].Sequence}
		b.Metrics.accepted(ev, false)
		if keys[i] != "" {
			b.mark(ctx, keys[i], ev.ID)
		}
	}
	return results
}

// begin does everything before the store for one event of a batch. It reports
// true if the event is to be stored; else r answers it, or the event of the same
// batch that has the claim already.
func (b *Broker) begin(ctx context.Context, ev *event.Event, key string, claimKey *string, claimed map[string]int, r *event.Receipt) (bool, error) {
	if err := b.complete(ev); err != nil {
		return false, err
	}
	if key != "" {
		*claimKey = ingestKey(ev, key)
		if _, again := claimed[*claimKey]; again {
			return false, nil
		}
		claim, err := b.Claims.Claim(ctx, *claimKey, ev.ID, b.cfg.Window)
		if err != nil {
			return false, err
		}
		if !claim.Mine(ev.ID) {
			*r, err = b.repeat(ctx, ev, *claimKey, claim)
			return false, err
		}
	}
	if err := b.validate(ev); err != nil {
		if key != "" {
			if rErr := b.Claims.Release(ctx, *claimKey, ev.ID); rErr != nil {
				b.Log.Warn("a claim was not given up; its key stays taken until it expires", "key", *claimKey, "err", rErr)
			}
		}
		return false, err
	}
	return true, nil
}
