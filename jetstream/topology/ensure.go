package topology

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A Verdict says what Ensure does about a difference.
type Verdict string

const (
	Create Verdict = "create" // the asset is missing; it is made
	Widen  Verdict = "widen"  // it is narrower than configured; it is updated
	Update Verdict = "update" // description, metadata or a setting without loss; it is updated
	Refuse Verdict = "refuse" // the change would lose something; a person must do it
)

// A Difference is one way in which an asset is not as configured.
type Difference struct {
	Asset   string  `json:"asset"`
	Field   string  `json:"field,omitempty"` // empty when the asset is missing
	Have    string  `json:"have,omitempty"`
	Want    string  `json:"want,omitempty"`
	Verdict Verdict `json:"verdict"`
}

// String is one line for people.
func (d Difference) String() string {
	if d.Field == "" {
		return fmt.Sprintf("%-7s %s", d.Verdict, d.Asset)
	}
	return fmt.Sprintf("%-7s %s: %s %s -> %s", d.Verdict, d.Asset, d.Field, d.Have, d.Want)
}

// A RefusedError is what Ensure returns when a stream is wider than configured,
// or different in a way that cannot be changed without loss.
type RefusedError struct{ Differences []Difference }

func (e *RefusedError) Error() string {
	var b strings.Builder
	b.WriteString("topology: these changes would lose something, so nothing of them was done; change the configuration back, or the stream by hand with `nats stream edit`:")
	for _, d := range e.Differences {
		b.WriteString("\n  " + d.String())
	}
	return b.String()
}

// Ensure creates what is missing and widens what is narrower than configured,
// and returns what it did. Where an asset could only be shrunk it changes
// nothing of that asset and returns a [*RefusedError] in the end.
func Ensure(ctx context.Context, js jetstream.JetStream, c Config) ([]Difference, error) {
	var done, refused []Difference
	more, err := grown(ctx, js, c)
	if err != nil {
		return nil, err
	}
	for _, a := range Assets(c) {
		diffs, want, err := compare(ctx, js, a, more)
		if err != nil {
			return done, err
		}
		if no := slices.DeleteFunc(slices.Clone(diffs), func(d Difference) bool { return d.Verdict != Refuse }); len(no) > 0 {
			refused = append(refused, no...)
			continue
		}
		switch {
		case len(diffs) == 0:
			continue
		case diffs[0].Verdict == Create:
			_, err = js.CreateStream(ctx, want)
			// Another process may have been faster; it made the same.
			if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
				err = nil
			}
		default:
			_, err = js.UpdateStream(ctx, want)
		}
		if err != nil {
			return done, fmt.Errorf("topology: %s %s: %w", diffs[0].Verdict, a.Stream.Name, err)
		}
		done = append(done, diffs...)
	}
	if len(refused) > 0 {
		return done, &RefusedError{Differences: refused}
	}
	return done, nil
}

// Diff returns how the server's assets differ from the configured, and changes nothing.
func Diff(ctx context.Context, js jetstream.JetStream, c Config) ([]Difference, error) {
	var all []Difference
	more, err := grown(ctx, js, c)
	if err != nil {
		return nil, err
	}
	for _, a := range Assets(c) {
		diffs, _, err := compare(ctx, js, a, more)
		if err != nil {
			return nil, err
		}
		all = append(all, diffs...)
	}
	return all, nil
}

// grown reports whether a limit for events is configured that is larger than the
// one they have.
func grown(ctx context.Context, js jetstream.JetStream, c Config) (bool, error) {
	if c.EventsBytes == 0 {
		return false, nil
	}
	s, err := js.Stream(ctx, BucketStream(BucketEvents))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("topology: look at %s: %w", BucketStream(BucketEvents), err)
	}
	have := s.CachedInfo().Config.MaxBytes
	return have > 0 && have < c.EventsBytes, nil
}

// compare returns how a stream differs from the asset, and the configuration
// that would mend it: the server's own with our settings put in, so that what
// an operator set beyond ours (placement, mirrors of theirs) stays. Grown says that
// there shall be more room for events than there is.
func compare(ctx context.Context, js jetstream.JetStream, a Asset, grown bool) ([]Difference, jetstream.StreamConfig, error) {
	name := a.Stream.Name
	s, err := js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return []Difference{{Asset: name, Verdict: Create}}, a.Stream, nil
	}
	if err != nil {
		return nil, a.Stream, fmt.Errorf("topology: look at %s: %w", name, err)
	}
	have, want := s.CachedInfo().Config, a.Stream
	keep := a.auto || a.follows && (!grown || have.MaxBytes > want.MaxBytes)
	if keep && have.MaxBytes > 0 {
		want.MaxBytes = have.MaxBytes
	}
	var diffs []Difference
	add := func(field string, verdict Verdict, h, w any) {
		diffs = append(diffs, Difference{Asset: name, Field: field, Have: fmt.Sprint(h), Want: fmt.Sprint(w), Verdict: verdict})
	}
	limit := func(field string, h, w int64, show func(int64) string) {
		if h == w || h <= 0 && w <= 0 {
			return
		}
		v := Widen
		if h <= 0 || w > 0 && w < h { // 0 and -1 are no limit
			v = Refuse
		}
		add(field, v, show(h), show(w))
	}
	limit("max_bytes", have.MaxBytes, want.MaxBytes, showBytes)
	limit("max_age", int64(have.MaxAge), int64(want.MaxAge), showAge)
	limit("max_msgs", have.MaxMsgs, want.MaxMsgs, showCount)
	limit("max_msgs_per_subject", have.MaxMsgsPerSubject, want.MaxMsgsPerSubject, showCount)
	limit("max_consumers", int64(have.MaxConsumers), int64(want.MaxConsumers), showCount)
	compareFixed(have, want, add)
	if have.Description != want.Description {
		add("description", Update, have.Description, want.Description)
	}
	for k, v := range want.Metadata {
		if have.Metadata[k] != v {
			add("metadata."+k, Update, have.Metadata[k], v)
		}
	}
	return diffs, merge(have, want), nil
}

// compareFixed compares what is no limit.
func compareFixed(have, want jetstream.StreamConfig, add func(field string, v Verdict, h, w any)) {
	if have.Retention != want.Retention {
		add("retention", Refuse, have.Retention, want.Retention)
	}
	if have.Storage != want.Storage {
		add("storage", Refuse, have.Storage, want.Storage)
	}
	if have.Discard != want.Discard {
		add("discard", Update, have.Discard, want.Discard)
	}
	if have.Replicas != want.Replicas {
		v := Widen
		if want.Replicas < have.Replicas {
			v = Refuse
		}
		add("num_replicas", v, have.Replicas, want.Replicas)
	}
	if missing := without(want.Subjects, have.Subjects); len(missing) > 0 {
		add("subjects", Widen, have.Subjects, want.Subjects)
	} else if extra := without(have.Subjects, want.Subjects); len(extra) > 0 {
		add("subjects", Refuse, have.Subjects, want.Subjects)
	}
	if have.Duplicates != want.Duplicates {
		v := Widen
		if want.Duplicates < have.Duplicates {
			v = Refuse
		}
		add("duplicate_window", v, have.Duplicates, want.Duplicates)
	}
	for _, f := range []struct {
		name       string
		have, want bool
	}{
		{"allow_direct", have.AllowDirect, want.AllowDirect},
		{"allow_rollup_hdrs", have.AllowRollup, want.AllowRollup},
		{"allow_msg_ttl", have.AllowMsgTTL, want.AllowMsgTTL},
		{"allow_atomic", have.AllowAtomicPublish, want.AllowAtomicPublish},
	} {
		if f.want && !f.have {
			add(f.name, Widen, f.have, f.want)
		}
	}
}

func merge(have, want jetstream.StreamConfig) jetstream.StreamConfig {
	m := have
	m.Description, m.Subjects, m.Discard = want.Description, want.Subjects, want.Discard
	m.MaxBytes, m.MaxAge, m.MaxMsgs = want.MaxBytes, want.MaxAge, want.MaxMsgs
	m.MaxMsgsPerSubject, m.MaxConsumers = want.MaxMsgsPerSubject, want.MaxConsumers
	m.Replicas, m.Duplicates = want.Replicas, want.Duplicates
	m.AllowDirect = have.AllowDirect || want.AllowDirect
	m.AllowRollup = have.AllowRollup || want.AllowRollup
	m.AllowMsgTTL = have.AllowMsgTTL || want.AllowMsgTTL
	m.AllowAtomicPublish = have.AllowAtomicPublish || want.AllowAtomicPublish
	m.Metadata = map[string]string{}
	maps.Copy(m.Metadata, have.Metadata)
	maps.Copy(m.Metadata, want.Metadata)
	return m
}

func without(all, known []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(known, s) })
}

func showBytes(n int64) string {
	if n <= 0 {
		return "unlimited"
	}
	return fmt.Sprintf("%d B", n)
}

func showAge(n int64) string {
	if n <= 0 {
		return "unlimited"
	}
	return time.Duration(n).String()
}

func showCount(n int64) string {
	if n <= 0 {
		return "unlimited"
	}
	return fmt.Sprint(n)
}
