package identity

import (
	"context"
	"fmt"
	"slices"

	"github.com/posthornhq/posthorn/pkg/bucket"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/pattern"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// CreateUser makes a user, who needs a password. The error is of kind
// [errs.Conflict] if the name is taken, by a user or a key, and [errs.Denied] if by
// lacks one of the roles.
func (d *Directory) CreateUser(ctx context.Context, in *posthornv1.User, by Identity) (*posthornv1.User, error) {
	roles, err := validUser(in)
	if err != nil {
		return nil, err
	}
	have, err := orNone(d.users.Get(ctx, in.GetName()))
	if err != nil {
		return nil, fmt.Errorf("identity: create user %s: %w", in.GetName(), err)
	}
	if have.Revision > 0 {
		return nil, errs.New(errs.Conflict, "user %q exists already; PUT replaces it", in.GetName())
	}
	return d.writeUser(ctx, have, in, roles, by)
}

// PutUser creates or replaces a user. Without a password it keeps the one there
// is. A new password ends a lock, and as other roles and disabling do, all tokens
// of the user. expected is the revision that must be there, 0 for any; the error
// is of kind [errs.Stale] if another is, and [errs.Denied] if by lacks one of the
// roles that the user has or is to have.
func (d *Directory) PutUser(ctx context.Context, in *posthornv1.User, expected uint64, by Identity) (out *posthornv1.User, err error) {
	roles, err := validUser(in)
	if err != nil {
		return nil, err
	}
	err = again(ctx, expected, func() error {
		have, err := orNone(d.users.Get(ctx, in.GetName()))
		if err != nil {
			return fmt.Errorf("identity: put user %s: %w", in.GetName(), err)
		}
		if err := checkRevision("user", in.GetName(), expected, have.Revision); err != nil {
			return err
		}
		out, err = d.writeUser(ctx, have, in, roles, by)
		if errs.KindOf(err) == errs.Conflict && have.Revision == 0 && errs.ReasonOf(err) != taken { // made meanwhile
			return errs.New(errs.Stale, "user %q was made by somebody else", in.GetName())
		}
		return err
	})
	return out, err
}

func validUser(in *posthornv1.User) (roles []string, err error) {
	if in == nil {
		return nil, errs.Field("user", "is required")
	}
	if err := pattern.ValidName("name", in.GetName()); err != nil {
		return nil, err
	}
	if err := validDescription(in.GetDescription()); err != nil {
		return nil, err
	}
	if in.Password != nil {
		if err := validPassword(in.GetPassword()); err != nil {
			return nil, err
		}
	}
	return validRoles(in.GetRoles())
}

// writeUser replaces have, which has no revision where there is none.
func (d *Directory) writeUser(ctx context.Context, have bucket.Entry[userRecord], in *posthornv1.User, roles []string, by Identity) (*posthornv1.User, error) {
	name := in.GetName()
	if err := by.mayTouch("user", name, slices.Concat(have.Value.Roles, roles)); err != nil {
		return nil, err
	}
	if have.Revision == 0 && in.Password == nil {
		return nil, errs.Field("password", "is required for a new user")
	}
	rec, err := d.nextUser(ctx, have.Value, in, roles)
	if err != nil {
		return nil, err
	}
	rec.UpdatedBy = by.Name
	var rev uint64
	if have.Revision == 0 {
		rev, err = d.claim(ctx, ofKeys, name, func() (uint64, error) { return d.users.Create(ctx, name, rec) },
			func(revision uint64) error { return d.users.Delete(ctx, name, revision) })
	} else {
		rev, err = d.users.Update(ctx, name, rec, have.Revision)
	}
	if err != nil {
		return nil, err // of bucket, which says which user it is
	}
	if err := d.wrote(usersPrefix+name, rev, rec); err != nil {
		return nil, fmt.Errorf("identity: put user %s: %w", name, err)
	}
	if in.Password != nil {
		if err := d.attempts.Delete(ctx, attemptsPrefix+name, 0); err != nil {
			return nil, fmt.Errorf("identity: unlock user %s: %w", name, err)
		}
	}
	if err := d.commit(ctx); err != nil {
		return nil, fmt.Errorf("identity: put user %s: %w", name, err)
	}
	return d.showUser(ctx, rec, rev)
}

func (d *Directory) nextUser(ctx context.Context, have userRecord, in *posthornv1.User, roles []string) (userRecord, error) {
	now := d.cfg.Now().UTC()
	next := userRecord{
		Name:        in.GetName(),
		Description: in.GetDescription(),
		Roles:       roles,
		Disabled:    in.GetDisabled(),
		Password:    have.Password,
		Generation:  have.Generation,
		CreatedAt:   have.CreatedAt,
		UpdatedAt:   now,
	}
	if have.Generation == "" {
		next.CreatedAt = now
	}
	if in.Password != nil {
		err := d.hasher.run(ctx, func() error {
			next.Password = hashPassword(in.GetPassword())
			return nil
		})
		if err != nil {
			return userRecord{}, err
		}
	}
	if next.Password != have.Password || next.Disabled != have.Disabled || !slices.Equal(next.Roles, have.Roles) {
		next.Generation = random(12)
	}
	return next, nil
}

// GetUser returns a user.
func (d *Directory) GetUser(ctx context.Context, name string) (*posthornv1.User, error) {
	e, err := d.userEntry(ctx, name)
	if err != nil {
		return nil, err
	}
	return d.showUser(ctx, e.Value, e.Revision)
}

func (d *Directory) showUser(ctx context.Context, rec userRecord, revision uint64) (*posthornv1.User, error) {
	a, err := orNone(d.attempts.Get(ctx, attemptsPrefix+rec.Name))
	if err != nil {
		return nil, fmt.Errorf("identity: get user %s: %w", rec.Name, err)
	}
	return rec.proto(revision, a.Value), nil
}

func (d *Directory) userEntry(ctx context.Context, name string) (e bucket.Entry[userRecord], err error) {
	if err = pattern.ValidName("name", name); err != nil {
		return e, err
	}
	e, err = d.users.Get(ctx, name)
	if errs.KindOf(err) == errs.NotFound {
		return e, errs.New(errs.NotFound, "user %q does not exist", name)
	}
	if err != nil {
		return e, fmt.Errorf("identity: get user %s: %w", name, err)
	}
	return e, nil
}

// ListUsers returns all users, in no particular order.
func (d *Directory) ListUsers(ctx context.Context) ([]*posthornv1.User, error) {
	entries, err := d.users.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("identity: list users: %w", err)
	}
	out := make([]*posthornv1.User, 0, len(entries))
	for _, e := range entries {
		u, err := d.showUser(ctx, e.Value, e.Revision)
		if err != nil {
			return nil, err
		}
		out = append(out, u)
	}
	return out, nil
}

// DeleteUser deletes a user, which ends its tokens at once. expected is the
// revision that must be there, 0 for any; the error is of kind [errs.Stale] if
// another is.
func (d *Directory) DeleteUser(ctx context.Context, name string, expected uint64, by Identity) error {
	return again(ctx, expected, func() error {
		e, err := d.userEntry(ctx, name)
		if err != nil {
			return err
		}
		if err := by.mayTouch("user", name, e.Value.Roles); err != nil {
			return err
		}
		if err := checkRevision("user", name, expected, e.Revision); err != nil {
			return err
		}
		if err := d.users.Delete(ctx, name, e.Revision); err != nil {
			return err
		}
		d.deleted(usersPrefix+name, e.Revision)
		if err := d.attempts.Delete(ctx, attemptsPrefix+name, 0); err != nil {
			return fmt.Errorf("identity: delete attempts of user %s: %w", name, err)
		}
		return d.commit(ctx)
	})
}
