package identity

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/posthornhq/posthorn/pkg/bucket"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/pattern"
)

const (
	// maxFailures wrong passwords within failureWindow lock a user for lockFor.
	maxFailures   = 10
	failureWindow = 15 * time.Minute
	lockFor       = 15 * time.Minute
)

// A Session is what a sign-in gives.
type Session struct {
	// Token is an RS256 JWT. It is a secret.
	Token   string
	Expires time.Time
	Identity
}

// SignIn gives a token for a user's password. The error is of kind
// [errs.Unauthenticated], and the same one, whether there is no such user, the
// password is wrong, or the user is disabled or locked after too many wrong ones.
// It is of kind [errs.Throttled] if too many want to sign in at once.
func (d *Directory) SignIn(ctx context.Context, name, password string) (Session, error) {
	var user bucket.Entry[userRecord]
	var ok bool
	// The attempt is counted and the password hashed in one turn: more at a time
	// would only compete for the counter.
	err := d.hasher.run(ctx, func() (err error) {
		user, ok, err = d.check(ctx, name, password)
		return err
	})
	if err != nil {
		return Session{}, fmt.Errorf("identity: sign in: %w", err)
	}
	if !ok {
		return Session{}, errs.New(errs.Unauthenticated, "the name or the password is wrong, or the user is disabled, or locked for some minutes after too many wrong passwords")
	}
	// This process may not have seen the user yet.
	if err := d.wrote(usersPrefix+name, user.Revision, user.Value); err != nil {
		return Session{}, fmt.Errorf("identity: sign in: %w", err)
	}
	return d.sign(ctx, user.Value)
}

// check reports whether password is the user's, and the user may sign in. It does
// the same work for a user that does not exist.
func (d *Directory) check(ctx context.Context, name, password string) (user bucket.Entry[userRecord], ok bool, err error) {
	nameErr := pattern.ValidName("name", name)
	if nameErr != nil || validPassword(password) != nil {
		password = "" // nobody's; what is hashed stays short
	}
	lookup := name
	if nameErr != nil {
		lookup = "-" // no user's name, but a key
	}
	user, err = orNone(d.users.Get(ctx, lookup))
	if err != nil {
		return user, false, err
	}
	slot, phc := attemptsPrefix+name, user.Value.Password
	if user.Revision == 0 {
		sum := sha256.Sum256([]byte(name))
		slot, phc = fmt.Sprintf("%s%02x", missesPrefix, sum[0]), dummy
	}
	locked, err := d.reserve(ctx, slot)
	if err != nil {
		return user, false, err
	}
	right, err := verifyPassword(phc, password)
	if err != nil {
		return user, false, err
	}
	if !right || locked || user.Revision == 0 || user.Value.Disabled {
		return user, false, nil
	}
	return user, true, d.attempts.Delete(ctx, slot, 0)
}

// reserve counts an attempt as a wrong password before it is known to be one, so
// that those made at the same time in several processes cannot exceed the limit.
// A right password clears the count.
func (d *Directory) reserve(ctx context.Context, slot string) (locked bool, err error) {
	err = again(ctx, 0, func() error {
		have, err := orNone(d.attempts.Get(ctx, slot))
		if err != nil {
			return err
		}
		now := d.cfg.Now().UTC()
		next := have.Value
		if locked = now.Before(next.LockedUntil); locked {
			return nil
		}
		if !next.LockedUntil.IsZero() || now.Sub(next.Since) > failureWindow {
			next = attemptRecord{Since: now}
		}
		next.Failures++
		if next.Failures >= maxFailures {
			next.LockedUntil = now.Add(lockFor)
		}
		if have.Revision > 0 {
			_, err = d.attempts.Update(ctx, slot, next, have.Revision)
			return err
		}
		_, err = d.attempts.Create(ctx, slot, next)
		if errs.KindOf(err) == errs.Conflict {
			return errs.New(errs.Stale, "another attempt was faster")
		}
		return err
	})
	if errs.KindOf(err) == errs.Stale {
		return false, errs.New(errs.Throttled, "too many sign-ins at once; try again in a few seconds")
	}
	return locked, err
}
