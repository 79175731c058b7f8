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

// oldSuffix is appended to a key file's name for the keys that it held before.
const oldSuffix = ".old"

// OldKeys returns the keys that the key file at path held before, newest first;
// none if it was never rotated, or all that they sealed has been sealed anew.
func OldKeys(path string) ([][]byte, error) {
	text, err := os.ReadFile(path + oldSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("seal: old keys: %w", err)
	}
	keys, err := ParseKeys(string(text))
	if err != nil {
		return nil, fmt.Errorf("seal: old keys in %s: %w", path+oldSuffix, err)
	}
	return keys, nil
}

// ParseKeys reads keys that are separated by commas or line ends.
func ParseKeys(s string) ([][]byte, error) {
	var keys [][]byte
	for _, f := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == '\n' || r == '\r' }) {
		if strings.TrimSpace(f) == "" {
			continue
		}
		key, err := ParseKey(f)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// Rotate puts a new key into the key file at path and the one that was there into
// the file of old keys. If it is interrupted, no key is lost: the current one is
// first written down as an old one.
func Rotate(path string) error {
	current, err := loadKey(path)
	if err != nil {
		return err
	}
	old, err := OldKeys(path)
	if err != nil {
		return err
	}
	lines := base64.StdEncoding.EncodeToString(current) + "\n"
	for _, key := range old {
		if line := base64.StdEncoding.EncodeToString(key) + "\n"; line != lines {
			lines += line
		}
	}
	if err := replaceFile(path+oldSuffix, lines); err != nil {
		return fmt.Errorf("seal: write old keys: %w", err)
	}
	key := make([]byte, KeySize)
	rand.Read(key) // never fails: it ends the process instead
	if err := replaceFile(path, base64.StdEncoding.EncodeToString(key)+"\n"); err != nil {
		return fmt.Errorf("seal: write new key: %w", err)
	}
	return nil
}

// ForgetOldKeys removes the file of old keys. Whatever they sealed, and is not
// sealed anew, is lost.
func ForgetOldKeys(path string) error {
	if err := os.Remove(path + oldSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("seal: forget old keys: %w", err)
	}
	return nil
}

// replaceFile writes a file of mode 0600 whole or not at all.
func replaceFile(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
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
