package dispatcher

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/policy"
	"github.com/posthornhq/posthorn/pkg/queue"
)

// errOriginal says that a delivery was moved, and that the message which it was moved
// from is still there. It may go at any moment, as the end of the move; or the move
// was broken off, and that message is handed out again, perhaps right now.
var errOriginal = errors.New("dispatcher: the message that the delivery was moved from is still there")

const (
	// originalWait is how long the end of a move may take, and originalLook how often
	// to look.
	originalWait = time.Second
	originalLook = 20 * time.Millisecond
)

// claimed is claim, held while something of ours fails. It reports false for going
// when the lease is not to be gone on with.
func (d *Dispatcher) claimed(running context.Context, lease *queue.Lease, p *policy.Policy, log note) (mine, going bool) {
	for end := time.Now().Add(originalWait); ; {
		original := false
		if !hold(running, lease, p, log, "its claim", func() (err error) {
			mine, err = d.claim(context.WithoutCancel(running), lease.Delivery(), p)
			if original = errors.Is(err, errOriginal); original {
				return nil
			}
			return err
		}) {
			return false, false
		}
		if !original {
			return mine, true
		}
		if time.Now().After(end) || !pause(running, originalLook) {
			// By then the original was handed out again, and done or moved.
			d.retry(lease, p.AckWait(), log)
			return false, false
		}
	}
}

// claim reports whether this message is the one to be delivered (see ADR 4).
func (d *Dispatcher) claim(ctx context.Context, dl *event.Delivery, p *policy.Policy) (bool, error) {
	key, owner := claimKey(dl), strconv.FormatUint(dl.Sequence, 10)
	ttl := claimTTL(p)
	for {
		claim, err := d.Claims.Claim(ctx, key, owner, ttl)
		switch {
		case err != nil:
			return false, err
		case claim.Unsure && dl.Attempt > 1:
			// The one before may be done, and only the claims that are out of
			// reach know.
			return false, errors.Join(errors.New("dispatcher: the claims are out of reach, and this is no first try"), d.Claims.Release(ctx, key, owner))
		case claim.Done:
			return false, nil
		case claim.Mine(owner):
			return true, nil
		}
		// Undone, and somebody else's. While that message is there, it is the one;
		// a loss of power can keep a claim and lose the message that it names.
		alive, err := d.alive(ctx, claim.Owner, dl)
		switch {
		case err != nil:
			return false, err
		case alive && movedFrom(dl, claim.Owner):
			return false, errOriginal
		case alive:
			return false, nil
		}
		// If somebody was quicker, it may have been for this very message, whose lease
		// ran out: look again who has it.
		taken, err := d.Claims.Takeover(ctx, key, claim, owner, ttl)
		if err != nil || taken {
			return taken, err
		}
	}
}

// movedFrom reports whether a delivery was moved, perhaps several times, from the
// message that owns a claim.
func movedFrom(dl *event.Delivery, owner string) bool {
	return slices.ContainsFunc(dl.From, func(seq uint64) bool { return strconv.FormatUint(seq, 10) == owner })
}

// alive reports whether the message at a sequence is of the same delivery.
func (d *Dispatcher) alive(ctx context.Context, owner string, dl *event.Delivery) (bool, error) {
	// What is no number names no message; 0 neither.
	seq, _ := strconv.ParseUint(owner, 10, 64)
	other, err := d.Queue.Get(ctx, seq)
	if errs.KindOf(err) == errs.NotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return other.Key() == dl.Key(), nil
}

func claimKey(dl *event.Delivery) string {
	return "delivery:" + dl.Event + ":" + dl.Subscription + ":" + strconv.Itoa(dl.Round)
}

// claimTTL is as long as the delivery can come back: it is given up when it is
// older than the policy's limit, or an override's.
func claimTTL(p *policy.Policy) time.Duration { return p.Lifetime() + p.AckWait() }
