package identity

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/posthornhq/posthorn/pkg/bucket"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/pattern"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// prefixLength is how much of a key is stored in clear, to tell keys apart: 24
// of its 256 random bits.
const prefixLength = len(keyPrefix) + 4

// CreateKey makes an API key. The answer has the key itself, as nothing does
// later. The error is of kind [errs.Conflict] if the name is taken, by a key or a
// user, and [errs.Denied] if by lacks one of the roles.
func (d *Directory) CreateKey(ctx context.Context, in *posthornv1.ApiKey, by Identity) (*posthornv1.ApiKey, error) {
	rec, err := d.newKeyRecord(in, by)
	if err != nil {
		return nil, err
	}
	token := newKey()
	rec.SHA256, rec.Prefix = hashOf(token), token[:prefixLength]
	rev, err := d.claim(ctx, ofUsers, rec.Name, func() (uint64, error) { return d.keys.Create(ctx, rec.Name, rec) },
		func(revision uint64) error { return d.keys.Delete(ctx, rec.Name, revision) })
	if errs.KindOf(err) == errs.Conflict && errs.ReasonOf(err) != taken {
		return nil, errs.New(errs.Conflict, "key %q exists already; delete it first, or take another name", rec.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("identity: create key %s: %w", rec.Name, err)
	}
	if err := d.wrote(keysPrefix+rec.Name, rev, rec); err != nil {
		return nil, fmt.Errorf("identity: create key %s: %w", rec.Name, err)
	}
	if err := d.commit(ctx); err != nil {
		return nil, fmt.Errorf("identity: create key %s: %w", rec.Name, err)
	}
	out := rec.proto(rev, time.Time{})
	out.Key = proto.String(token)
	return out, nil
}

func (d *Directory) newKeyRecord(in *posthornv1.ApiKey, by Identity) (keyRecord, error) {
	if in == nil {
		return keyRecord{}, errs.Field("key", "is required")
	}
	if err := newName(in.GetName()); err != nil {
		return keyRecord{}, err
	}
	if in.GetKey() != "" {
		return keyRecord{}, errs.Field("key", "cannot be chosen; leave it out")
	}
	if err := validDescription(in.GetDescription()); err != nil {
		return keyRecord{}, err
	}
	roles, err := validRoles(in.GetRoles())
	if err != nil {
		return keyRecord{}, err
	}
	if err := by.mayTouch("key", in.GetName(), roles); err != nil {
		return keyRecord{}, err
	}
	now := d.cfg.Now().UTC()
	rec := keyRecord{Name: in.GetName(), Description: in.GetDescription(), Roles: roles, CreatedAt: now, CreatedBy: by.Name}
	if at := in.GetExpiresAt(); at != nil {
		expires := at.AsTime()
		if at.CheckValid() != nil || !expires.After(now) {
			return keyRecord{}, errs.Field("expiresAt", "must be in the future")
		}
		rec.ExpiresAt = &expires
	}
	return rec, nil
}

// GetKey returns a key, without the key itself.
func (d *Directory) GetKey(ctx context.Context, name string) (*posthornv1.ApiKey, error) {
	e, err := d.keyEntry(ctx, name)
	if err != nil {
		return nil, err
	}
	used, err := orNone(d.used.Get(ctx, name))
	if err != nil {
		return nil, fmt.Errorf("identity: get key %s: %w", name, err)
	}
	return e.Value.proto(e.Revision, d.lastUse(name, used.Value.At)), nil
}

func (d *Directory) keyEntry(ctx context.Context, name string) (e bucket.Entry[keyRecord], err error) {
	if err = pattern.ValidName("name", name); err != nil {
		return e, err
	}
	e, err = d.keys.Get(ctx, name)
	if errs.KindOf(err) == errs.NotFound {
		return e, errs.New(errs.NotFound, "key %q does not exist", name)
	}
	if err != nil {
		return e, fmt.Errorf("identity: get key %s: %w", name, err)
	}
	return e, nil
}

// lastUse returns the later of what the bucket has and what is not written yet.
func (d *Directory) lastUse(name string, stored time.Time) time.Time {
	d.mu.RLock()
	k := d.byName[name]
	d.mu.RUnlock()
	if k == nil {
		return stored
	}
	if minute := k.use.minute.Load(); minute*60 > stored.Unix() && minute > 0 {
		return time.Unix(minute*60, 0).UTC()
	}
	return stored
}

// ListKeys returns all keys, without the keys themselves, in no particular
// order. The administrator's is one of them.
func (d *Directory) ListKeys(ctx context.Context) ([]*posthornv1.ApiKey, error) {
	entries, err := d.keys.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("identity: list keys: %w", err)
	}
	uses, err := d.used.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("identity: list keys: %w", err)
	}
	used := make(map[string]time.Time, len(uses))
	for _, u := range uses {
		used[u.Key] = u.Value.At
	}
	out := make([]*posthornv1.ApiKey, 0, len(entries))
	for _, e := range entries {
		out = append(out, e.Value.proto(e.Revision, d.lastUse(e.Key, used[e.Key])))
	}
	return out, nil
}

// DeleteKey deletes a key, which ends its use at once. expected is the revision
// that must be there, 0 for any; the error is of kind [errs.Stale] if another is.
// The administrator's key cannot be deleted.
func (d *Directory) DeleteKey(ctx context.Context, name string, expected uint64, by Identity) error {
	return again(ctx, expected, func() error {
		e, err := d.keyEntry(ctx, name)
		if err != nil {
			return err
		}
		if name == adminName {
			return errs.New(errs.Denied, "the administrator's key cannot be deleted; POSTHORN_ADMIN_KEY sets another one")
		}
		if err := by.mayTouch("key", name, e.Value.Roles); err != nil {
			return err
		}
		if err := checkRevision("key", name, expected, e.Revision); err != nil {
			return err
		}
		if err := d.keys.Delete(ctx, name, e.Revision); err != nil {
			return err
		}
		d.deleted(keysPrefix+name, e.Revision)
		if err := d.used.Delete(ctx, name, 0); err != nil {
			return fmt.Errorf("identity: delete last use of key %s: %w", name, err)
		}
		return d.commit(ctx)
	})
}
