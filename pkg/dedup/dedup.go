package dedup

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Claims remembers who took a key first. Errors are of kind
// [errs.Unavailable] where the backend did not answer; the outcome is then
// unknown, and the same call may be made again.
//
// An owner is a short text without blanks. A time to live is at least a second; KV
// rounds it up to whole ones.
type Claims interface {
	// Claim takes key for owner for ttl, unless it is taken, and returns the
	// claim that holds: owner's own, or that of whoever was first.
	Claim(ctx context.Context, key, owner string, ttl time.Duration) (Claim, error)
	// Done marks key as done by owner for ttl, whoever had claimed it, and also if
	// its claim is gone.
	Done(ctx context.Context, key, owner string, ttl time.Duration) error
	// Takeover gives key to owner for ttl if its claim still is old, as returned
	// by Claim. It returns false if that changed or expired meanwhile.
	Takeover(ctx context.Context, key string, old Claim, owner string, ttl time.Duration) (bool, error)
	// Release gives up owner's claim unless it is done, so that the next one may
	// take the key. A claim that is gone or another's is left alone.
	Release(ctx context.Context, key, owner string) error
}

// A Claim is who has a key.
type Claim struct {
	// Owner has it.
	Owner string
	// Done says that the owner's work is done.
	Done bool
	// Fresh says that this call took the key. An owner that claims again finds
	// its own claim, which is as good; whether it is fresh is for statistics.
	Fresh bool
	// Unsure says that only the fallback was asked, and knows of no earlier
	// claim, while the primary, which may, is down. An owner that does not go on
	// with such a claim must Release it: the next answer is not unsure any more.
	Unsure bool

	revision uint64 // in KV; 0 elsewhere
}

// Mine reports whether the claim permits owner to do the work: it is owner's
// and not done.
func (c Claim) Mine(owner string) bool { return c.Owner == owner && !c.Done }

const donePrefix = "done "

// value is how a claim is stored.
func (c Claim) value() string {
	if c.Done {
		return donePrefix + c.Owner
	}
	return c.Owner
}

func parseValue(v string) Claim {
	owner, done := strings.CutPrefix(v, donePrefix)
	return Claim{Owner: owner, Done: done}
}

// maxOwner bounds owners, in bytes: IDs and numbers need less.
const maxOwner = 128

// check refuses what could not be read back, or would never expire.
func check(owner string, ttl time.Duration) error {
	if owner == "" || len(owner) > maxOwner {
		return fmt.Errorf("owner has %d bytes, want 1 to %d", len(owner), maxOwner)
	}
	for i := range len(owner) {
		if c := owner[i]; c <= ' ' || c == 0x7f {
			return fmt.Errorf("owner %q has a blank or control character", owner)
		}
	}
	if ttl < time.Second {
		return fmt.Errorf("time to live %s is under a second", ttl)
	}
	return nil
}
