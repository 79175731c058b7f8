package seal

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// keyMode is all that a key file may allow: its owner alone.
const keyMode fs.FileMode = 0o600

// ParseKey reads a key as an environment variable has it: 32 bytes in base64
// (standard or URL alphabet, with or without padding) or in hex. Its error
// does not show the text.
func ParseKey(s string) ([]byte, error) {
	s = strings.TrimSpace(s)
	if len(s) == hex.EncodedLen(KeySize) {
		if key, err := hex.DecodeString(s); err == nil {
			return key, nil
		}
	}
	text := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(s, "="))
	if key, err := base64.RawStdEncoding.DecodeString(text); err == nil && len(key) == KeySize {
		return key, nil
	}
	return nil, fmt.Errorf("seal: key is neither base64 nor hex of %d bytes; openssl rand -base64 %d makes one", KeySize, KeySize)
}

// LoadOrCreateKey reads the key file at path, or makes it with a new key if there
// is none. The file holds the key in base64 with a line end, mode 0600; one that
// others may read is refused, because its secret is out already. Of several
// processes that create it at once all get the same key. The directory must exist.
func LoadOrCreateKey(path string) (key []byte, created bool, err error) {
	key, err = loadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, false, err
	}
	key = make([]byte, KeySize)
	rand.Read(key) // never fails: it ends the process instead
	err = createKey(path, key)
	if errors.Is(err, fs.ErrExist) { // another process was faster
		key, err = loadKey(path)
		return key, false, err
	}
	if err != nil {
		return nil, false, fmt.Errorf("seal: create key file: %w", err)
	}
	return key, true, nil
}

func loadKey(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("seal: key file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("seal: key file %s is not a regular file", path)
	}
	if mode := info.Mode().Perm(); mode&^keyMode != 0 {
		return nil, fmt.Errorf("seal: key file %s has mode %04o, which lets others at the key; make sure that nobody has read it, then chmod 600 it", path, mode)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("seal: key file: %w", err)
	}
	key, err := ParseKey(string(text))
	if err != nil {
		return nil, fmt.Errorf("seal: key file %s: %w", path, err)
	}
	return key, nil
}

// createKey writes the file beside its place and links it there: a link, unlike
// a rename, does not replace the key that another process has just made. File and
// directory are synced, since a lost key loses all that it sealed.
func createKey(path string, key []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, os.Remove(f.Name()))
	}()
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(key) + "\n")
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
