package subscription

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/pattern"
	"github.com/posthornhq/posthorn/pkg/policy"
	"github.com/posthornhq/posthorn/pkg/transform"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// A Subscription is a compiled one: what the path of an event asks of it is
// there without further work. It must not be changed, but replaced.
type Subscription struct {
	Name string
	// Policy is the name of its policy, [policy.DefaultName] if it names none.
	Policy    string
	Priority  event.Priority
	Direction event.Direction
	// Tenant is the only party whose events it gets; those of all if empty.
	Tenant string
	// Context is its environment, [event.DefaultContext] if it names none.
	Context string
	// Paused subscriptions have their deliveries queued, but not attempted.
	Paused bool
	// Disabled subscriptions get nothing.
	Disabled bool
	// Ordered deliveries are tried one at a time, in order of acceptance. Blocking
	// ones are tried until they succeed, with all others behind them.
	Ordered, Blocking bool
	// Key says which of the ordered ones wait for each other. It is nil if all do.
	Key *Key
	// Rate is how many attempts may be made a second; 0 is no limit.
	Rate float64
	// Pulled deliveries are fetched by the subscriber.
	Pulled bool
	// MaxInFlight is how many attempts may be made at once; 0 is the dispatcher's
	// own limit.
	MaxInFlight int
	// Filter must let an event pass. It is nil if there is none, which passes all.
	Filter *Filter
	// Transform makes the data that is sent. It is nil if there is none: then what is
	// stored is sent.
	Transform *transform.Program
	// Secrets sign, the first one first.
	Secrets []string
	// Spec is what it was compiled from, with the destination.
	Spec *posthornv1.Subscription

	types []pattern.Pattern
}

// Compile returns spec, with its secrets, which are stored elsewhere. Spec must
// have passed [Validate] and must not be changed afterwards.
func Compile(spec *posthornv1.Subscription, secrets []string) (*Subscription, error) {
	s := &Subscription{
		Name:        spec.GetName(),
		Policy:      cmp.Or(spec.GetPolicy(), policy.DefaultName),
		Tenant:      spec.GetTenant(),
		Context:     cmp.Or(spec.GetContext(), event.DefaultContext),
		Paused:      spec.GetPaused(),
		Disabled:    spec.GetDisabled(),
		Ordered:     spec.GetOrdered(),
		Blocking:    spec.GetOrdered() && spec.GetOnExhausted() == posthornv1.Subscription_BLOCK,
		Rate:        spec.GetRatePerSecond(),
		Pulled:      spec.GetDestination().GetPull() != nil,
		MaxInFlight: int(spec.GetMaxInFlight()),
		Secrets:     slices.Clone(secrets),
		Spec:        spec,
	}
	switch spec.GetPriority() {
	case posthornv1.Subscription_HIGH:
		s.Priority = event.High
	case posthornv1.Subscription_LOW:
		s.Priority = event.Low
	default:
		s.Priority = event.Normal
	}
	if spec.GetDirection() == posthornv1.Event_INCOMING {
		s.Direction = event.Incoming
	}
	for _, text := range spec.GetTypes() {
		p, err := pattern.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("subscription: compile %q: %w", s.Name, err)
		}
		s.types = append(s.types, p)
	}
	if spec.GetFilter() != "" {
		f, err := CompileFilter(spec.GetFilter())
		if err != nil {
			return nil, fmt.Errorf("subscription: compile %q: %w", s.Name, err)
		}
		s.Filter = f
	}
	if s.Ordered && spec.GetOrderingKey() != "" {
		k, err := CompileKey(spec.GetOrderingKey())
		if err != nil {
			return nil, fmt.Errorf("subscription: compile %q: %w", s.Name, err)
		}
		s.Key = k
	}
	if spec.GetTransform() != "" {
		p, err := transform.Compile(spec.GetTransform())
		if err != nil {
			return nil, fmt.Errorf("subscription: compile %q: transform: %w", s.Name, err)
		}
		s.Transform = p
	}
	return s, nil
}

// OwnLane reports whether its deliveries wait in a lane of its own for good. One that
// is disabled gets none.
func (s *Subscription) OwnLane() bool {
	return !s.Disabled && (s.Ordered || s.Paused || s.Rate > 0 || s.Pulled)
}

// Names reports whether s asks for typ by its first word, and not only by a
// wildcard that stands there.
func (s *Subscription) Names(typ string) bool {
	first, _, _ := strings.Cut(typ, ".")
	for _, p := range s.types {
		if strings.HasPrefix(p.String(), first+".") && p.Match(typ) {
			return true
		}
	}
	return false
}
