package dispatcher

import (
	"sync"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/subscription"
)

// The first deliveries of a subscription come side by side. Two targets would have
// slots of their own, and send more at once than the subscription allows.
func TestASubscriptionHasOneTarget(t *testing.T) {
	t.Parallel()
	targets := targets{open: func(*subscription.Subscription) (destination.Destination, error) {
		<-time.After(10 * time.Millisecond) // long enough for all to be here
		return nil, nil
	}}
	sub := &subscription.Subscription{Name: "one", MaxInFlight: 1}
	got := make([]*target, 8)
	all := func() {
		t.Helper()
		var wg sync.WaitGroup
		for i := range got {
			wg.Go(func() {
				var err error
				if got[i], err = targets.get(sub); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, other := range got {
			if other != got[0] {
				t.Fatal("a subscription has two targets at once")
			}
		}
	}
	all()
	before := got[0]
	before.slots <- struct{}{}

	sub = &subscription.Subscription{Name: "one", MaxInFlight: 1, Policy: "another"}
	all()
	if got[0] == before {
		t.Error("an edit was not taken up")
	}
	if got[0].enter(time.Millisecond) {
		t.Error("an attempt that began before an edit does not count after it")
	}
	before.leave()
	if !got[0].enter(time.Millisecond) {
		t.Error("the slot of an attempt that began before an edit does not come free")
	}
	got[0].leave()

	sub = &subscription.Subscription{Name: "one", MaxInFlight: 3}
	all()
	if n := cap(got[0].slots); n != 3 {
		t.Errorf("%d slots after an edit, want 3", n)
	}
}
