package api

import (
	"context"
	"errors"
	"fmt"

	"github.com/posthornhq/posthorn/pkg/bucket"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/subscription"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// A Resealer is a [Sealer] that knows what is sealed by its current key.
type Resealer interface {
	Sealer
	Current(sealed []byte) bool
}

// Reseal seals everything that an older key has sealed by the current one, and
// returns how many values those were. Without an error no older key is needed
// any more.
func (a *API) Reseal(ctx context.Context, s Resealer) (int, error) {
	n := 0
	all := bucket.New(a.deps.Secrets, "", bucket.Raw())
	entries, err := all.List(ctx)
	if err != nil {
		return 0, err
	}
	var failed []error
	for _, e := range entries {
		if s.Current(e.Value) {
			continue
		}
		plain, err := s.Open(e.Value, e.Key)
		if err != nil {
			failed = append(failed, fmt.Errorf("api: reseal %s: %w", e.Key, err))
			continue
		}
		sealed, err := s.Seal(plain, e.Key)
		if err != nil {
			return n, fmt.Errorf("api: reseal %s: %w", e.Key, err)
		}
		// Somebody who was faster has sealed by the current key.
		if _, err := all.Update(ctx, e.Key, sealed, e.Revision); err != nil && errs.KindOf(err) != errs.Stale {
			return n, err
		}
		n++
	}
	if err := a.deps.Identities.Reseal(ctx, s.Current); err != nil {
		failed = append(failed, err)
	}
	if err := a.deps.Commit(ctx); err != nil {
		failed = append(failed, err)
	}
	return n, errors.Join(failed...)
}

// SealCredentials seals the header values that an earlier version stored in clear,
// and returns of how many subscriptions. What cannot be sealed stays in use as it is.
func (a *API) SealCredentials(ctx context.Context) (int, error) {
	all, err := a.subscriptions.all(ctx)
	if err != nil {
		return 0, err
	}
	n := 0
	var failed []error
	for _, v := range all {
		if len(subscription.TakeSecrets(v.value)) == 0 {
			continue
		}
		// The edit changes nothing: to be stored again is all that is wanted.
		if err := a.subscriptions.modify(ctx, v.value.GetName(), "upgrade", func(*posthornv1.Subscription) bool { return true }); err != nil {
			failed = append(failed, fmt.Errorf("api: seal credentials of subscription %s: %w", v.value.GetName(), err))
			continue
		}
		n++
	}
	return n, errors.Join(failed...)
}
