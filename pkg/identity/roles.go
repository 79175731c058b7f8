package identity

import (
	"slices"
	"strings"

	"github.com/posthornhq/posthorn/pkg/errs"
)

// RoleAdmin may do everything.
const RoleAdmin = "admin"

const (
	read  = ":read"
	write = ":write"
)

// Roles returns every role that there is (C17), sorted but for [RoleAdmin], which
// is the first.
func Roles() []string {
	all := []string{RoleAdmin}
	for _, what := range []string{
		"audit", "backoffs", "config", "deliveries", "events", "keys",
		"policies", "schemas", "sources", "subscriptions", "users",
	} {
		all = append(all, what+read, what+write)
	}
	return all
}

// A Kind is how a caller proves who it is.
type Kind string

// Kinds of callers.
const (
	KindKey   Kind = "key"   // an API key
	KindUser  Kind = "user"  // a user's token
	KindAdmin Kind = "admin" // the administrator's key
)

// An Identity is a caller, as the platform knows it. Roles are shared; nobody may
// change them.
type Identity struct {
	Name  string
	Roles []string
	Kind  Kind
}

// Has reports whether the caller has role: by itself, as "x:read" in "x:write",
// or by being admin.
func (id Identity) Has(role string) bool {
	what, isRead := strings.CutSuffix(role, read)
	for _, have := range id.Roles {
		if have == role || have == RoleAdmin {
			return true
		}
		if w, ok := strings.CutSuffix(have, write); ok && isRead && w == what {
			return true
		}
	}
	return false
}

// mayTouch returns an error of kind [errs.Denied] unless the caller has all of
// roles. It is asked about the roles that a user or key is to have and about
// those that it has: else who may edit users could set an administrator's
// password.
func (id Identity) mayTouch(noun, name string, roles []string) error {
	for _, r := range roles {
		if !id.Has(r) {
			return errs.New(errs.Denied, "%s %q has role %s, which you do not have yourself", noun, name, r)
		}
	}
	return nil
}

// validRoles returns roles sorted and without repetitions.
func validRoles(roles []string) ([]string, error) {
	if len(roles) == 0 {
		return nil, errs.Field("roles", "is required: any of %s", strings.Join(Roles(), ", "))
	}
	known := Roles()
	for _, r := range roles {
		if !slices.Contains(known, r) {
			return nil, errs.Field("roles", "%q is not a role; these are: %s", r, strings.Join(known, ", "))
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(roles))), nil
}
