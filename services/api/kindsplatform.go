package api

import (
	"context"

	"github.com/posthornhq/posthorn/pkg/catalog"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/policy"
	"github.com/posthornhq/posthorn/pkg/settings"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func backoffKind(a *API) kind[*posthornv1.BackoffOverride] {
	return kind[*posthornv1.BackoffOverride]{
		plural: catalog.Backoffs, noun: "backoff",
		fresh:    func() *posthornv1.BackoffOverride { return new(posthornv1.BackoffOverride) },
		setMeta:  func(v *posthornv1.BackoffOverride, m *posthornv1.Meta) { v.Meta = m },
		complete: func(v *posthornv1.BackoffOverride) { v.Meta = nil }, // what is left out is to stay out
		validate: a.validateBackoff,
	}
}

func settingsKind() kind[*posthornv1.Settings] {
	return kind[*posthornv1.Settings]{
		plural: catalog.Settings, noun: "settings",
		fresh:    func() *posthornv1.Settings { return new(posthornv1.Settings) },
		setMeta:  func(v *posthornv1.Settings, m *posthornv1.Meta) { v.Meta = m },
		complete: settings.Complete,
		validate: func(_ context.Context, v *posthornv1.Settings, _ int) error { return settings.Validate(v) },
		present:  settings.Present,
		builtin:  settings.Default,
	}
}

// validateBackoff refuses a second override of the same events: which of the two
// holds would hang on their names. The source need not be there: events that our
// own producers send have a name of theirs.
func (a *API) validateBackoff(ctx context.Context, v *posthornv1.BackoffOverride, _ int) error {
	if err := policy.ValidateOverride(v); err != nil {
		return err
	}
	all, err := a.backoffs.all(ctx)
	if err != nil {
		return err
	}
	for _, other := range all {
		if other.value.GetName() != v.GetName() && policy.SameSelector(other.value, v) {
			return errs.Field("type", "backoff %q is about the same source and type; edit that one", other.value.GetName())
		}
	}
	return nil
}
