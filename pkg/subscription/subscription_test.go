package subscription_test

import (
	"testing"

	"github.com/posthornhq/posthorn/pkg/subscription"
)

func TestWhoHasALaneOfItsOwnForGood(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		s    subscription.Subscription
		want bool
	}{
		{subscription.Subscription{}, false},
		{subscription.Subscription{Ordered: true}, true},
		{subscription.Subscription{Paused: true}, true},
		{subscription.Subscription{Rate: 10}, true},
		{subscription.Subscription{Pulled: true}, true},
		// Else its lane would be opened and closed all the time.
		{subscription.Subscription{Paused: true, Disabled: true}, false},
	} {
		if got := tt.s.OwnLane(); got != tt.want {
			t.Errorf("%+v: got %t, want %t", tt.s, got, tt.want)
		}
	}
}
