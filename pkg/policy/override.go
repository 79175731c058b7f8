package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/posthornhq/posthorn/pkg/backoff"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/pattern"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// maxSource is the longest source that an override may name, in bytes.
const maxSource = 256

// An Override is how deliveries of a publisher's events are tried again, compiled.
// It must not be changed.
type Override struct {
	Name string

	source  string
	typ     pattern.Pattern
	typed   bool // typ is one; else any type is meant
	rank    [4]int
	retries *int32
	backoff *posthornv1.Backoff
}

// ValidateOverride returns an error of kind [errs.Invalid] about the first field
// of spec that is wrong.
func ValidateOverride(spec *posthornv1.BackoffOverride) error {
	if err := pattern.ValidName("name", spec.GetName()); err != nil {
		return err
	}
	if n := len(spec.GetSource()); n > maxSource {
		return errs.Field("source", "is %d bytes long, at most %d are allowed", n, maxSource)
	}
	if spec.GetType() != "" {
		if _, err := pattern.Parse(spec.GetType()); err != nil {
			return errs.Field("type", "%v", err)
		}
	}
	if n := spec.GetMaxRetries(); n < 0 || n > MaxRetries {
		return errs.Field("maxRetries", "is %d, must be 0 to %d", n, MaxRetries)
	}
	b := spec.GetBackoff()
	if err := validBackoffFields("backoff", b); err != nil {
		return err
	}
	// What is left out is not known here: the longest wait bounds it, whatever it is.
	if b.GetInitial() != nil && b.GetMax() != nil && b.GetInitial().AsDuration() > b.GetMax().AsDuration() {
		return errs.Field("backoff.initial", "is %v, longer than backoff.max, %v", b.GetInitial().AsDuration(), b.GetMax().AsDuration())
	}
	if spec.MaxRetries == nil && b.GetStrategy() == posthornv1.Backoff_STRATEGY_UNSPECIFIED &&
		b.GetInitial() == nil && b.GetMax() == nil && b.GetMaxElapsed() == nil && (b == nil || b.Jitter == nil) {
		return errs.Field("backoff", "is required, or else maxRetries: the override changes nothing")
	}
	return nil
}

// CompileOverride prepares an override. It refuses what [ValidateOverride] refuses.
func CompileOverride(spec *posthornv1.BackoffOverride) (*Override, error) {
	if err := ValidateOverride(spec); err != nil {
		return nil, fmt.Errorf("policy: compile override %q: %w", spec.GetName(), err)
	}
	o := &Override{Name: spec.GetName(), source: spec.GetSource(), retries: spec.MaxRetries, backoff: spec.GetBackoff()}
	o.typed = !anyType(spec.GetType())
	if o.typed {
		var err error
		if o.typ, err = pattern.Parse(spec.GetType()); err != nil {
			return nil, fmt.Errorf("policy: compile override %q: %w", spec.GetName(), err)
		}
	}
	o.rank = rankOf(o.source, spec.GetType())
	return o, nil
}

func anyType(typ string) bool { return typ == "" || typ == "#" || typ == ">" }

// SameSelector reports whether two overrides are about the same events, so that
// nothing but their names would decide between them.
func SameSelector(a, b *posthornv1.BackoffOverride) bool {
	return a.GetSource() == b.GetSource() && (pattern.Normal(a.GetType()) == pattern.Normal(b.GetType()) || anyType(a.GetType()) && anyType(b.GetType()))
}

// rankOf says how specific a selector is; a larger rank wins: a type before a
// source, then more words that stand for themselves, then "*" before "#".
func rankOf(source, typ string) (rank [4]int) {
	if !anyType(typ) {
		typ = pattern.Normal(typ)
		rank[0] = 2
		for _, word := range strings.FieldsFunc(typ, func(r rune) bool { return r == '.' || r == '/' }) {
			switch word {
			case "*":
				rank[2]++
			case "#", ">":
				rank[3]--
			default:
				rank[1]++
			}
		}
	}
	if source != "" {
		rank[0]++
	}
	return rank
}

// byRank orders the least specific first, so that what is applied last wins. Of
// two that are as specific, the one whose name comes first wins.
func byRank(a, b *Override) int {
	return cmp.Or(slices.Compare(a.rank[:], b.rank[:]), strings.Compare(b.Name, a.Name))
}

// Overrides are all that there are. The zero value, and nil, are none. They must
// not be changed.
type Overrides struct {
	byType  pattern.Index[*Override]
	untyped []*Override // least specific first

	retries int           // the most that one of them gives; -1 if none says
	elapsed time.Duration // the longest that one of them gives
}

// NewOverrides returns the overrides, ready to be asked.
func NewOverrides(all []*Override) *Overrides {
	os := &Overrides{retries: -1}
	for _, o := range all {
		if o.typed {
			os.byType = os.byType.Add(o, o.typ)
		} else {
			os.untyped = append(os.untyped, o)
		}
		if o.retries != nil {
			os.retries = max(os.retries, int(*o.retries))
		}
		os.elapsed = max(os.elapsed, duration(o.backoff.GetMaxElapsed(), 0))
	}
	slices.SortFunc(os.untyped, byRank)
	return os
}

// Apply returns p with what the overrides say of events of a source and type; p
// itself where they say nothing. Only the default policy can be overridden: who
// names another one has decided.
func (os *Overrides) Apply(p *Policy, source, typ string) *Policy {
	if os == nil || p.Name != DefaultName {
		return p
	}
	var room [8]*Override
	matched := room[:0]
	for _, o := range os.untyped {
		if o.source == "" || o.source == source {
			matched = append(matched, o)
		}
	}
	plain := len(matched)
	matched = os.byType.Match(typ, matched)
	matched = append(matched[:plain], slices.DeleteFunc(matched[plain:], func(o *Override) bool { return o.source != "" && o.source != source })...)
	if len(matched) == 0 {
		return p
	}
	slices.SortFunc(matched, byRank)
	out := *p
	for _, o := range matched {
		o.apply(&out)
	}
	return &out
}

func (o *Override) apply(p *Policy) {
	if o.retries != nil {
		p.MaxRetries = int(*o.retries)
	}
	b, s := o.backoff, &p.Schedule
	switch b.GetStrategy() {
	case posthornv1.Backoff_EXPONENTIAL:
		s.Strategy = backoff.Exponential
	case posthornv1.Backoff_LINEAR:
		s.Strategy = backoff.Linear
	case posthornv1.Backoff_LOGARITHMIC:
		s.Strategy = backoff.Logarithmic
	}
	s.Initial = duration(b.GetInitial(), s.Initial)
	s.Max = duration(b.GetMax(), s.Max)
	s.MaxElapsed = duration(b.GetMaxElapsed(), s.MaxElapsed)
	if b != nil && b.Jitter != nil {
		s.Jitter = b.GetJitter()
	}
}

// Widen returns p with room for whatever [Overrides.Apply] may make of it: the
// queue must not end a delivery which an override still wants to be tried.
func (os *Overrides) Widen(p *Policy) *Policy {
	if os == nil || p.Name != DefaultName || os.retries <= p.MaxRetries && os.elapsed <= p.Schedule.MaxElapsed {
		return p
	}
	out := *p
	out.retryMost, out.retryLongest = os.retries, os.elapsed
	return &out
}
