package dispatcher

import (
	"testing"

	"github.com/posthornhq/posthorn/pkg/event"
)

// The share of each priority, where all wait: of each 13 slots that become free.
func TestTheGateSharesItsSlotsByPriority(t *testing.T) {
	t.Parallel()
	const rounds = 20
	g := newGate(1)
	if g.join(event.Low) != nil {
		t.Fatal("a slot that is free is not there at once")
	}
	waiting := map[event.Priority][]chan struct{}{}
	for range rounds * 13 {
		for _, p := range event.Priorities() {
			waiting[p] = append(waiting[p], g.join(p))
		}
	}
	let := map[event.Priority]int{}
	for round := range rounds {
		for range 13 {
			g.leave()
		}
		for p, all := range waiting {
			for i := let[p]; i < len(all); i++ {
				select {
				case <-all[i]:
					if i != let[p] {
						t.Errorf("%s: the one at %d goes before the one at %d", p, i, let[p])
					}
					let[p]++
				default:
				}
			}
		}
		for p, share := range map[event.Priority]int{event.High: 8, event.Normal: 4, event.Low: 1} {
			if want := (round + 1) * share; let[p] != want {
				t.Fatalf("of %d slots %d go to %s, want %d", (round+1)*13, let[p], p, want)
			}
		}
	}
}

// Who waits alone has all, until another one comes.
func TestTheGateKeepsNoSlotForWhoDoesNotWait(t *testing.T) {
	t.Parallel()
	g := newGate(1)
	if g.join(event.Low) != nil {
		t.Fatal("a slot that is free is not there at once")
	}
	var low []chan struct{}
	for range 30 {
		low = append(low, g.join(event.Low))
	}
	for i := range 15 {
		if g.leave(); !closed(low[i]) {
			t.Fatalf("the slot at %d goes to nobody", i)
		}
	}
	high := g.join(event.High)
	if g.leave(); !closed(high) {
		t.Error("the first of high priority waits for those that were there before it")
	}
}

func closed(ch chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
