package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/pkg/bucket"
	"github.com/posthornhq/posthorn/pkg/errs"
)

const (
	// adminName is who the administrator's key belongs to.
	adminName = "admin"
	// adminKeyID is the key's name below keys. in bucket identity.
	adminKeyID = "admin"
	keyPrefix  = "phk_"
	// minKey is the least length of a key that an operator chooses.
	minKey = 16
)

// ErrKeyElsewhere is in the chain of an error of [EnsureAdminKey] which says that
// there is an administrator's key, but that this process does not have it. The
// API works all the same.
var ErrKeyElsewhere = errors.New("the administrator's key is not here")

// A keyRecord is an API key as bucket identity holds it. A key is 256 random
// bits, so its plain hash tells nothing about it.
type keyRecord struct {
	SHA256    string    `json:"sha256"` // hex
	Name      string    `json:"name"`
	Roles     []string  `json:"roles"`
	CreatedAt time.Time `json:"createdAt"`
}

func keysOf(identity jetstream.KeyValue) *bucket.Bucket[keyRecord] {
	return bucket.New(identity, "keys.", bucket.JSON[keyRecord]())
}

func hashOf(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// An AdminKey is an [Authenticator] that knows the administrator by the key
// whose hash is in KV bucket identity, shared by all processes.
type AdminKey struct {
	keys *bucket.Bucket[keyRecord]
	// known is what Run has seen last; while it is nil the bucket is asked.
	known atomic.Pointer[keyRecord]
}

// NewAdminKey returns an AdminKey of bucket identity.
func NewAdminKey(identity jetstream.KeyValue) *AdminKey { return &AdminKey{keys: keysOf(identity)} }

// Run follows changes of the key until ctx is done, so that [AdminKey.Authenticate]
// need not ask the bucket each time.
func (a *AdminKey) Run(ctx context.Context) error {
	defer a.known.Store(nil)
	for {
		err := a.keys.Watch(ctx, func(e bucket.Entry[keyRecord]) {
			if e.Key == adminKeyID {
				a.known.Store(&e.Value) // of a deleted key, a hash that nothing has
			}
		}, func() {}, func(string, error) { a.known.Store(nil) })
		if ctx.Err() != nil {
			return nil
		}
		// Without a watch the bucket is asked again, which also says what is wrong with it.
		a.known.Store(nil)
		if err == nil {
			continue
		}
		timer := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// Authenticate returns the administrator if token is the key.
func (a *AdminKey) Authenticate(ctx context.Context, token string) (Identity, error) {
	rec := a.known.Load()
	if rec == nil {
		e, err := a.keys.Get(ctx, adminKeyID)
		if err != nil && errs.KindOf(err) != errs.NotFound {
			return Identity{}, err
		}
		rec = &e.Value
	}
	if rec.SHA256 == "" || subtle.ConstantTimeCompare([]byte(hashOf(token)), []byte(rec.SHA256)) != 1 {
		return Identity{}, errs.New(errs.Unauthenticated, "the API key is not known: %s", howToAuthenticate)
	}
	return Identity{Name: rec.Name, Roles: rec.Roles}, nil
}

// EnsureAdminKey makes sure that there is an administrator's key and returns it.
// If fromEnv is set it is the key. Else the one in the file at path is, and else, on
// the very first start, a new one, which is written there with mode 0600; created
// says so. If other processes have set a key that is not in the file, the error
// wraps [ErrKeyElsewhere] and says what to do.
func EnsureAdminKey(ctx context.Context, identity jetstream.KeyValue, fromEnv, path string) (key string, created bool, err error) {
	keys := keysOf(identity)
	if fromEnv != "" {
		if len(fromEnv) < minKey || strings.ContainsFunc(fromEnv, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return "", false, fmt.Errorf("api: POSTHORN_ADMIN_KEY must have at least %d printable characters and no blanks", minKey)
		}
		return fromEnv, false, setKey(ctx, keys, fromEnv)
	}
	inFile, err := readKey(path)
	if err != nil {
		return "", false, err
	}
	have, err := keys.Get(ctx, adminKeyID)
	switch {
	case err == nil && inFile != "" && have.Value.SHA256 == hashOf(inFile):
		return inFile, false, nil
	case err == nil && inFile == "":
		return "", false, fmt.Errorf("api: %w: %s does not exist; copy it from the process that made the key, or set a new key with POSTHORN_ADMIN_KEY", ErrKeyElsewhere, path)
	case err == nil:
		return "", false, fmt.Errorf("api: %w: %s holds another one than the platform knows; copy the right file here, or set a new key with POSTHORN_ADMIN_KEY", ErrKeyElsewhere, path)
	case errs.KindOf(err) != errs.NotFound:
		return "", false, fmt.Errorf("api: administrator's key: %w", err)
	}
	// The file comes first: a hash whose key nobody has would lock everybody out.
	if inFile == "" {
		inFile = newKey()
		if err := writeKey(path, inFile); err != nil {
			return "", false, err
		}
		created = true
	}
	_, err = keys.Create(ctx, adminKeyID, record(inFile))
	if errs.KindOf(err) != errs.Conflict || err == nil {
		return inFile, created, err
	}
	if !created {
		return EnsureAdminKey(ctx, identity, "", path)
	}
	// Another process was faster; ours is nobody's key.
	return "", false, errors.Join(
		fmt.Errorf("api: %w: another process has just made it; its data directory has the file admin.key", ErrKeyElsewhere),
		os.Remove(path))
}

func newKey() string {
	var raw [32]byte
	rand.Read(raw[:]) // never fails: it ends the process instead
	return keyPrefix + base64.RawURLEncoding.EncodeToString(raw[:])
}

func record(key string) keyRecord {
	return keyRecord{SHA256: hashOf(key), Name: adminName, Roles: []string{RoleAdmin}, CreatedAt: time.Now().UTC()}
}

func setKey(ctx context.Context, keys *bucket.Bucket[keyRecord], key string) error {
	have, err := keys.Get(ctx, adminKeyID)
	if err == nil && have.Value.SHA256 == hashOf(key) {
		return nil
	}
	if err != nil && errs.KindOf(err) != errs.NotFound {
		return fmt.Errorf("api: administrator's key: %w", err)
	}
	if _, err := keys.Put(ctx, adminKeyID, record(key)); err != nil {
		return fmt.Errorf("api: set administrator's key: %w", err)
	}
	return nil
}

// readKey returns "" if there is no file.
func readKey(path string) (string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("api: administrator's key: %w", err)
	}
	key := strings.TrimSpace(string(text))
	if len(key) < minKey {
		return "", fmt.Errorf("api: administrator's key: %s does not hold a key; delete it to have a new one made", path)
	}
	return key, nil
}

// writeKey makes the file whole or not at all.
func writeKey(path, key string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".admin.key-*") // mode 0600
	if err != nil {
		return fmt.Errorf("api: write administrator's key: %w", err)
	}
	_, err = f.WriteString(key + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("api: write administrator's key: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}
