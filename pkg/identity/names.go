package identity

import (
	"context"
	"fmt"
	"slices"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/pattern"
)

// PlatformName is the name of the platform itself where it edits something, or calls
// another of its processes by its certificate.
const PlatformName = "platform"

// reserved are the names by which records of changes mean the administrator's key, or
// a part of the platform that edits by itself.
var reserved = []string{adminName, PlatformName, "dispatcher"}

// taken is the reason of a Conflict that no other try helps against.
const taken = "taken"

// newName returns an error unless a user or key may be made by that name. Records of
// changes have the name alone, so it must say who it was.
func newName(name string) error {
	if err := pattern.ValidName("name", name); err != nil {
		return err
	}
	if slices.Contains(reserved, name) {
		return errs.New(errs.Conflict, "the name %q is the platform's own; take another one", name).Because(taken)
	}
	return nil
}

// A namespace is who may have a name: users or keys.
type namespace int

const (
	ofUsers namespace = iota
	ofKeys
)

// free returns an error of kind [errs.Conflict] if name is one of the others'.
func (d *Directory) free(ctx context.Context, others namespace, name string) error {
	var err error
	noun := "user"
	if others == ofUsers {
		_, err = d.users.Get(ctx, name)
	} else {
		noun = "key"
		_, err = d.keys.Get(ctx, name)
	}
	switch {
	case err == nil:
		return errs.New(errs.Conflict, "%q is the name of a %s; users and keys share their names, so that a record of a change says who it was: take another one", name, noun).Because(taken)
	case errs.KindOf(err) != errs.NotFound:
		return fmt.Errorf("identity: look for %s %s: %w", noun, name, err)
	}
	return nil
}

// claim writes a new user or key if the others do not have its name, and returns its
// revision. A bucket cannot hold two keys apart, so it looks before and after: of two
// that come at once at least one finds the other, and goes.
func (d *Directory) claim(ctx context.Context, others namespace, name string, create func() (uint64, error), remove func(revision uint64) error) (uint64, error) {
	if err := newName(name); err != nil {
		return 0, err
	}
	if err := d.free(ctx, others, name); err != nil {
		return 0, err
	}
	revision, err := create()
	if err != nil {
		return 0, err
	}
	if err := d.free(ctx, others, name); err != nil {
		if undo := remove(revision); undo != nil {
			return 0, fmt.Errorf("identity: take back %s: %w", name, undo)
		}
		return 0, err
	}
	return revision, nil
}
