package subscription

import (
	"time"

	"github.com/posthornhq/posthorn/pkg/errs"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// How long a delivery that was fetched may stay unanswered.
const (
	DefaultAckWait = 30 * time.Second
	MinAckWait     = time.Second
	MaxAckWait     = 12 * time.Hour
)

// validPull checks a subscription whose deliveries are fetched.
func validPull(spec *posthornv1.Subscription, p *posthornv1.Pull) error {
	if w := p.GetAckWait(); w != nil {
		if d := w.AsDuration(); w.CheckValid() != nil || d < MinAckWait || d > MaxAckWait {
			return errs.Field("destination.pull.ackWait", "is %s, must be %s to %s; leave it out for %s", d, MinAckWait, MaxAckWait, DefaultAckWait)
		}
	}
	switch {
	case spec.GetRatePerSecond() != 0:
		return errs.Field("ratePerSecond", "is for destinations that are sent to; a subscriber that fetches sets its own pace")
	case spec.GetOrderingKey() != "":
		return errs.Field("orderingKey", "is for destinations that are sent to; leave it out, and ordered is kept for all deliveries together")
	}
	return nil
}

// AckWait is how long a delivery that was fetched may stay unanswered before it is
// given to somebody else. It is 0 unless the subscription is Pulled.
func (s *Subscription) AckWait() time.Duration {
	if !s.Pulled {
		return 0
	}
	if w := s.Spec.GetDestination().GetPull().GetAckWait(); w != nil {
		return w.AsDuration()
	}
	return DefaultAckWait
}
