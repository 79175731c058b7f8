package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/posthornhq/posthorn/pkg/bucket"
	"github.com/posthornhq/posthorn/pkg/errs"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// Prefixes and keys in bucket identity.
const (
	keysPrefix     = "keys."
	usedPrefix     = "used."
	usersPrefix    = "users."
	attemptsPrefix = "failures."
	missesPrefix   = "misses."
	ringKey        = "signing"
)

// A keyRecord is an API key as the bucket holds it. A key is 256 random bits, so
// its plain hash tells nothing about it.
type keyRecord struct {
	SHA256      string     `json:"sha256"` // hex
	Name        string     `json:"name"`
	Description string     `json:"description,omitempty"`
	Roles       []string   `json:"roles"`
	Prefix      string     `json:"prefix,omitempty"`
	CreatedAt   time.Time  `json:"createdAt"`
	CreatedBy   string     `json:"createdBy,omitempty"`
	ExpiresAt   *time.Time `json:"expiresAt,omitempty"`
}

// A usedRecord is apart from the key's, whose revision is what clients edit by.
type usedRecord struct {
	At time.Time `json:"at"` // whole minutes
}

type userRecord struct {
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	Roles       []string `json:"roles"`
	Disabled    bool     `json:"disabled,omitempty"`
	Password    string   `json:"password"` // PHC string of argon2id
	// Generation is random and new whenever tokens that were given out before
	// must stop: other roles, another password, disabled. A number that counts
	// would begin anew for a user that is deleted and made again.
	Generation string    `json:"generation"`
	CreatedAt  time.Time `json:"createdAt"`
	UpdatedAt  time.Time `json:"updatedAt"`
	UpdatedBy  string    `json:"updatedBy,omitempty"`
}

// An attemptRecord counts wrong passwords.
type attemptRecord struct {
	Failures    int       `json:"failures"`
	Since       time.Time `json:"since"`
	LockedUntil time.Time `json:"lockedUntil,omitzero"`
}

func (k keyRecord) proto(revision uint64, used time.Time) *posthornv1.ApiKey {
	out := &posthornv1.ApiKey{
		Name:        k.Name,
		Description: k.Description,
		Roles:       k.Roles,
		Prefix:      k.Prefix,
		Meta: &posthornv1.Meta{
			Etag:      etagOf(revision),
			CreatedAt: timestamppb.New(k.CreatedAt),
			UpdatedAt: timestamppb.New(k.CreatedAt),
			UpdatedBy: k.CreatedBy,
		},
	}
	if k.ExpiresAt != nil {
		out.ExpiresAt = timestamppb.New(*k.ExpiresAt)
	}
	// What is older than the key is of an earlier one of the same name.
	if used.Add(time.Minute).After(k.CreatedAt) {
		out.LastUsedAt = timestamppb.New(used)
	}
	return out
}

func (u userRecord) proto(revision uint64, a attemptRecord) *posthornv1.User {
	out := &posthornv1.User{
		Name:        u.Name,
		Description: u.Description,
		Roles:       u.Roles,
		Disabled:    u.Disabled,
		Meta: &posthornv1.Meta{
			Etag:      etagOf(revision),
			CreatedAt: timestamppb.New(u.CreatedAt),
			UpdatedAt: timestamppb.New(u.UpdatedAt),
			UpdatedBy: u.UpdatedBy,
		},
	}
	if !a.LockedUntil.IsZero() {
		out.LockedUntil = timestamppb.New(a.LockedUntil)
	}
	return out
}

// etagOf is that of the other resources of the Master API.
func etagOf(revision uint64) string { return strconv.FormatUint(revision, 10) }

func hashOf(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// random returns n random bytes in URL-safe base64.
func random(n int) string {
	raw := make([]byte, n)
	rand.Read(raw) // never fails: it ends the process instead
	return base64.RawURLEncoding.EncodeToString(raw)
}

// orNone returns the zero Entry for what is not there.
func orNone[T any](e bucket.Entry[T], err error) (bucket.Entry[T], error) {
	if err != nil && errs.KindOf(err) == errs.NotFound {
		return bucket.Entry[T]{}, nil
	}
	return e, err
}

// maxRaces is how often an edit is begun anew because somebody else was faster.
const maxRaces = 20

// again calls edit until it has not lost a race, unless the revision that it
// edits is given.
func again(ctx context.Context, expected uint64, edit func() error) error {
	for n := 0; ; n++ {
		err := edit()
		if errs.KindOf(err) != errs.Stale || expected > 0 || n == maxRaces || ctx.Err() != nil {
			return err
		}
	}
}

func checkRevision(noun, name string, expected, have uint64) error {
	if expected > 0 && expected != have {
		return errs.New(errs.Stale, "%s %q was changed by somebody else; read it again and repeat the edit", noun, name)
	}
	return nil
}

const maxDescription = 1000

func validDescription(s string) error {
	if len(s) > maxDescription || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' }) {
		return errs.Field("description", "is longer than %d bytes or has control characters", maxDescription)
	}
	return nil
}
