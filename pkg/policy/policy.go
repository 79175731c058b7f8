package policy

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/posthornhq/posthorn/pkg/backoff"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// DefaultName is the name of the policy of those who name none.
const DefaultName = "default"

// Defaults of what a policy leaves out.
const (
	DefaultMaxRetries = 5
	DefaultTimeout    = 10 * time.Second
	DefaultInitial    = time.Second
	DefaultMax        = 300 * time.Second
	DefaultJitter     = 0.2
	DefaultMaxElapsed = 24 * time.Hour
)

// NoStatus is the only entry of a retryOn that names no status. Without an answer it
// is retried all the same.
const NoStatus = "none"

// DefaultRetryOn returns the statuses that are retried if a policy names none.
func DefaultRetryOn() []string { return []string{"408", "429", "5xx"} }

// ackMargin is what a dispatcher may take around an attempt, to fetch the event
// before it and to record it afterwards, before the queue takes it for dead.
const ackMargin = 10 * time.Second

// A Policy is compiled delivery settings. It must not be changed.
type Policy struct {
	Name string
	// MaxRetries is how many tries follow the first.
	MaxRetries int
	// Timeout bounds each attempt, connection included.
	Timeout time.Duration
	// Schedule has the waits between them.
	Schedule backoff.Schedule

	// What overrides may give its deliveries beyond its own; see [Overrides.Widen].
	retryMost    int
	retryLongest time.Duration

	retryOn   []string // as written, for people
	retryable statusSet
}

// Default returns the policy of those who name none, with all settings written out.
func Default() *posthornv1.Policy {
	retries, jitter := int32(DefaultMaxRetries), DefaultJitter
	return &posthornv1.Policy{
		Name:        DefaultName,
		Description: "What subscriptions that name no policy go by.",
		Delivery: &posthornv1.Delivery{
			MaxRetries: &retries,
			Timeout:    durationpb.New(DefaultTimeout),
			RetryOn:    DefaultRetryOn(),
			Backoff: &posthornv1.Backoff{
				Strategy:   posthornv1.Backoff_EXPONENTIAL,
				Initial:    durationpb.New(DefaultInitial),
				Max:        durationpb.New(DefaultMax),
				Jitter:     &jitter,
				MaxElapsed: durationpb.New(DefaultMaxElapsed),
			},
		},
	}
}

// Compile returns the settings of spec with the defaults for all that it leaves
// out. It refuses what [Validate] refuses.
func Compile(spec *posthornv1.Policy) (*Policy, error) {
	if err := Validate(spec); err != nil {
		return nil, fmt.Errorf("policy: compile %q: %w", spec.GetName(), err)
	}
	d := spec.GetDelivery()
	p := &Policy{
		Name:       spec.GetName(),
		MaxRetries: maxRetries(d),
		Timeout:    duration(d.GetTimeout(), DefaultTimeout),
		Schedule:   schedule(d.GetBackoff()),
		retryOn:    retryOn(d),
	}
	for _, s := range p.retryOn {
		p.retryable.addAll(s)
	}
	return p, nil
}

// Retryable reports whether an attempt that was answered with this HTTP status
// is made again.
func (p *Policy) Retryable(status int) bool { return p.retryable.has(status) }

// MaxDeliver returns how often the queue hands out a delivery: for the first try
// and for each retry, also of those that an override gives.
func (p *Policy) MaxDeliver() int { return max(p.MaxRetries, p.retryMost) + 1 }

// Lifetime returns how long after the beginning a delivery can still be tried,
// also if an override gives it longer than the policy.
func (p *Policy) Lifetime() time.Duration {
	if p.Schedule.MaxElapsed <= 0 {
		return MaxMaxElapsed
	}
	return max(p.Schedule.MaxElapsed, p.retryLongest)
}

// AckWait returns how long the queue waits for word of a delivery before it
// hands it out again: the timeout, and 10 seconds for what surrounds the attempt.
func (p *Policy) AckWait() time.Duration { return p.Timeout + ackMargin }

// Horizon returns how long a delivery can stay undone by its schedule, also if
// each of its dispatchers dies; see [backoff.Schedule.Horizon].
func (p *Policy) Horizon() time.Duration { return p.Schedule.Horizon(p.MaxRetries, p.AckWait()) }

// Describe returns the settings for people who look at the queue's consumers:
// the schedule that they live by can't be read from their configuration.
func (p *Policy) Describe() map[string]string {
	delays := make([]string, p.MaxRetries)
	for i, d := range p.Schedule.Preview(p.MaxRetries) {
		delays[i] = d.Round(time.Millisecond).String()
	}
	if len(delays) == 0 {
		delays = []string{"none"}
	}
	about := map[string]string{
		"posthorn.policy":      p.Name,
		"posthorn.retries":     strconv.Itoa(p.MaxRetries),
		"posthorn.timeout":     p.Timeout.String(),
		"posthorn.retry_on":    strings.Join(p.retryOn, " "),
		"posthorn.schedule":    strings.Join(delays, " "),
		"posthorn.strategy":    p.Schedule.Strategy.String(),
		"posthorn.jitter":      strconv.FormatFloat(p.Schedule.Jitter, 'g', -1, 64),
		"posthorn.max_elapsed": p.Schedule.MaxElapsed.String(),
	}
	if p.retryMost > p.MaxRetries || p.retryLongest > p.Schedule.MaxElapsed {
		about["posthorn.overrides"] = fmt.Sprintf("up to %d retries within %s", p.MaxDeliver()-1, p.Lifetime())
	}
	return about
}

func maxRetries(d *posthornv1.Delivery) int {
	if d == nil || d.MaxRetries == nil {
		return DefaultMaxRetries
	}
	return int(d.GetMaxRetries())
}

func retryOn(d *posthornv1.Delivery) []string {
	if list := d.GetRetryOn(); len(list) > 0 {
		return list
	}
	return DefaultRetryOn()
}

func jitter(b *posthornv1.Backoff) float64 {
	if b == nil || b.Jitter == nil {
		return DefaultJitter
	}
	return b.GetJitter()
}

func schedule(b *posthornv1.Backoff) backoff.Schedule {
	s := backoff.Schedule{
		Initial:    duration(b.GetInitial(), DefaultInitial),
		Max:        duration(b.GetMax(), DefaultMax),
		Jitter:     jitter(b),
		MaxElapsed: duration(b.GetMaxElapsed(), DefaultMaxElapsed),
	}
	switch b.GetStrategy() {
	case posthornv1.Backoff_LINEAR:
		s.Strategy = backoff.Linear
	case posthornv1.Backoff_LOGARITHMIC:
		s.Strategy = backoff.Logarithmic
	}
	return s
}

func duration(d *durationpb.Duration, otherwise time.Duration) time.Duration {
	if d == nil {
		return otherwise
	}
	return d.AsDuration()
}

// A statusSet is a set of the statuses 400 to 599.
type statusSet [4]uint64

func (s *statusSet) has(status int) bool {
	i := status - 400
	return i >= 0 && i < 200 && s[i/64]&(1<<(i%64)) != 0
}

func (s *statusSet) add(status int) { s[(status-400)/64] |= 1 << ((status - 400) % 64) }

// addAll adds what a valid entry of retryOn stands for.
func (s *statusSet) addAll(entry string) {
	if entry == NoStatus {
		return
	}
	if status, err := strconv.Atoi(entry); err == nil {
		s.add(status)
		return
	}
	first := int(entry[0]-'0') * 100
	for status := first; status < first+100; status++ {
		s.add(status)
	}
}
