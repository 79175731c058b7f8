package identity

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"github.com/posthornhq/posthorn/pkg/errs"
)

// Parameters of argon2id as the OWASP Password Storage Cheat Sheet has them.
const (
	argonMemory  = 19 * 1024 // KiB
	argonTime    = 2
	argonThreads = 1
	argonSalt    = 16 // bytes
	argonHash    = 32 // bytes

	minPassword = 10 // characters
	maxPassword = 256
	// maxWaiting is how many may wait for their password to be hashed, about two
	// seconds' worth. Signing in needs no token, so anybody can ask for it.
	maxWaiting = 64
)

func validPassword(p string) error {
	if n := utf8.RuneCountInString(p); n < minPassword || n > maxPassword || !utf8.ValidString(p) {
		return errs.Field("password", "must have %d to %d characters of UTF-8", minPassword, maxPassword)
	}
	return nil
}

// A hasher hashes passwords, few at a time: each takes 19 MiB and a core.
type hasher struct {
	slots   chan struct{}
	waiting atomic.Int64
}

func newHasher(parallel int) *hasher { return &hasher{slots: make(chan struct{}, parallel)} }

// run calls f when it is its turn.
func (h *hasher) run(ctx context.Context, f func() error) error {
	if h.waiting.Add(1) > maxWaiting {
		h.waiting.Add(-1)
		return errs.New(errs.Throttled, "too many passwords to check at once; try again in a few seconds")
	}
	defer h.waiting.Add(-1)
	select {
	case h.slots <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("identity: wait to hash a password: %w", context.Cause(ctx))
	}
	defer func() { <-h.slots }()
	return f()
}

// hashPassword returns the PHC string of a password:
// $argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>, both in base64 without padding
// (github.com/P-H-C/phc-string-format).
func hashPassword(password string) string {
	salt := make([]byte, argonSalt)
	rand.Read(salt) // never fails: it ends the process instead
	return encodePHC(salt, argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonThreads, argonHash))
}

func encodePHC(salt, sum []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads,
		b64.EncodeToString(salt), b64.EncodeToString(sum))
}

// dummy is what the password of a user that does not exist is compared with. No
// password gives the hash of all zeros, as far as anybody knows.
var dummy = encodePHC(make([]byte, argonSalt), make([]byte, argonHash))

// verifyPassword reports whether phc is the hash of password.
func verifyPassword(phc, password string) (bool, error) {
	salt, want, memory, passes, threads, err := parsePHC(phc)
	if err != nil {
		return false, err
	}
	got := argon2.IDKey([]byte(password), salt, passes, memory, threads, uint32(len(want)))
	return subtle.ConstantTimeCompare(got, want) == 1, nil
}

// parsePHC accepts other parameters than today's, for hashes of another
// version, but none that could hold up the process. Its error does not show the hash.
func parsePHC(phc string) (salt, sum []byte, memory, passes uint32, threads uint8, err error) {
	bad := errors.New("identity: the stored password is not an argon2id hash; set a new one")
	part := strings.Split(phc, "$")
	if len(part) != 6 || part[0] != "" || part[1] != "argon2id" || part[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return nil, nil, 0, 0, 0, bad
	}
	if _, err := fmt.Sscanf(part[3], "m=%d,t=%d,p=%d", &memory, &passes, &threads); err != nil {
		return nil, nil, 0, 0, 0, bad
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(part[4])
	sum, err2 := base64.RawStdEncoding.DecodeString(part[5])
	if err1 != nil || err2 != nil || len(salt) < 8 || len(sum) < 16 || len(sum) > 64 ||
		memory < 8 || memory > 256*1024 || passes < 1 || passes > 16 || threads < 1 {
		return nil, nil, 0, 0, 0, bad
	}
	return salt, sum, memory, passes, threads, nil
}
