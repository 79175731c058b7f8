package identity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/pkg/bucket"
	"github.com/posthornhq/posthorn/pkg/errs"
)

const (
	// adminName is the name of the administrator's key, and who it belongs to.
	adminName = "admin"
	keyPrefix = "phk_"
	// minKey is the least length of a key that an operator chooses.
	minKey = 16
)

// ErrKeyElsewhere is in the chain of an error of [EnsureAdminKey] which says that
// there is an administrator's key, but that this process does not have it. The
// API works all the same.
var ErrKeyElsewhere = errors.New("the administrator's key is not here")

func keysOf(kv jetstream.KeyValue) *bucket.Bucket[keyRecord] {
	return bucket.New(kv, keysPrefix, bucket.JSON[keyRecord]())
}

// EnsureAdminKey makes sure that there is an administrator's key and returns it.
// If fromEnv is set it is the key. Else the one in the file at path is, and else, on
// the very first start, a new one, which is written there with mode 0600; created
// says so. If other processes have set a key that is not in the file, the error
// wraps [ErrKeyElsewhere] and says what to do.
func EnsureAdminKey(ctx context.Context, kv jetstream.KeyValue, fromEnv, path string) (key string, created bool, err error) {
	keys := keysOf(kv)
	if fromEnv != "" {
		if len(fromEnv) < minKey || strings.ContainsFunc(fromEnv, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return "", false, fmt.Errorf("identity: POSTHORN_ADMIN_KEY must have at least %d printable characters and no blanks", minKey)
		}
		return fromEnv, false, setKey(ctx, keys, fromEnv)
	}
	inFile, err := readKey(path)
	if err != nil {
		return "", false, err
	}
	have, err := keys.Get(ctx, adminName)
	switch {
	case err == nil && inFile != "" && have.Value.SHA256 == hashOf(inFile):
		return inFile, false, nil
	case err == nil && inFile == "":
		return "", false, fmt.Errorf("identity: %w: %s does not exist; copy it from the process that made the key, or set a new key with POSTHORN_ADMIN_KEY", ErrKeyElsewhere, path)
	case err == nil:
		return "", false, fmt.Errorf("identity: %w: %s holds another one than the platform knows; copy the right file here, or set a new key with POSTHORN_ADMIN_KEY", ErrKeyElsewhere, path)
	case errs.KindOf(err) != errs.NotFound:
		return "", false, fmt.Errorf("identity: administrator's key: %w", err)
	}
	// The file comes first: a hash whose key nobody has would lock everybody out.
	if inFile == "" {
		inFile = newKey()
		if err := writeKey(path, inFile); err != nil {
			return "", false, err
		}
		created = true
	}
	_, err = keys.Create(ctx, adminName, adminRecord(inFile))
	if err == nil || errs.KindOf(err) != errs.Conflict {
		return inFile, created, err
	}
	if !created {
		return EnsureAdminKey(ctx, kv, "", path)
	}
	// Another process was faster; ours is nobody's key.
	return "", false, errors.Join(
		fmt.Errorf("identity: %w: another process has just made it; its data directory has the file admin.key", ErrKeyElsewhere),
		os.Remove(path))
}

func newKey() string { return keyPrefix + random(32) }

func adminRecord(key string) keyRecord {
	return keyRecord{SHA256: hashOf(key), Name: adminName, Roles: []string{RoleAdmin}, CreatedAt: time.Now().UTC()}
}

func setKey(ctx context.Context, keys *bucket.Bucket[keyRecord], key string) error {
	have, err := orNone(keys.Get(ctx, adminName))
	if err != nil {
		return fmt.Errorf("identity: administrator's key: %w", err)
	}
	if have.Value.SHA256 == hashOf(key) {
		return nil
	}
	if _, err := keys.Put(ctx, adminName, adminRecord(key)); err != nil {
		return fmt.Errorf("identity: set administrator's key: %w", err)
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
		return "", fmt.Errorf("identity: administrator's key: %w", err)
	}
	key := strings.TrimSpace(string(text))
	if len(key) < minKey {
		return "", fmt.Errorf("identity: administrator's key: %s does not hold a key; delete it to have a new one made", path)
	}
	return key, nil
}

// writeKey makes the file whole or not at all.
func writeKey(path, key string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".admin.key-*") // mode 0600
	if err != nil {
		return fmt.Errorf("identity: write administrator's key: %w", err)
	}
	_, err = f.WriteString(key + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("identity: write administrator's key: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}
