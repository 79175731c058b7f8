package seal_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/posthornhq/posthorn/pkg/seal"
)

var (
	keyA = bytes.Repeat([]byte{0xa1}, seal.KeySize)
	keyB = bytes.Repeat([]byte{0xb2}, seal.KeySize)
)

func newSealer(t *testing.T, primary []byte, older ...[]byte) *seal.Sealer {
	t.Helper()
	s, err := seal.New(primary, older...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSealedValueOpens(t *testing.T) {
	t.Parallel()
	s := newSealer(t, keyA)
	for _, plain := range []string{"", "whsec_x", strings.Repeat("long ", 10000)} {
		sealed, err := s.Seal([]byte(plain), "secrets/source.github")
		if err != nil {
			t.Fatal(err)
		}
		if plain != "" && bytes.Contains(sealed, []byte(plain)) {
			t.Errorf("sealed value holds %.20q in the clear", plain)
		}
		got, err := s.Open(sealed, "secrets/source.github")
		if err != nil || string(got) != plain {
			t.Errorf("opened as %.20q, %v, want %.20q", got, err, plain)
		}
	}
}

func TestSealingTwiceGivesTwoValues(t *testing.T) {
	t.Parallel()
	s := newSealer(t, keyA)
	one, err := s.Seal([]byte("x"), "p")
	if err != nil {
		t.Fatal(err)
	}
	two, err := s.Seal([]byte("x"), "p")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(one, two) {
		t.Errorf("both are %x: the nonce repeats", one)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	s := newSealer(t, keyA)
	sealed, err := s.Seal([]byte("whsec_x"), "secrets/a")
	if err != nil {
		t.Fatal(err)
	}
	other, err := newSealer(t, keyB).Seal([]byte("whsec_x"), "secrets/a")
	if err != nil {
		t.Fatal(err)
	}
	flip := func(i int) []byte {
		b := bytes.Clone(sealed)
		b[i] ^= 1
		return b
	}
	tests := []struct {
		name   string
		sealed []byte
		aad    string
		want   error // nil means any
	}{
		{"a value moved to another place", sealed, "secrets/b", seal.ErrTampered},
		{"another key's value", other, "secrets/a", seal.ErrUnknownKey},
		{"a changed version", flip(0), "secrets/a", nil},
		{"a changed key ID", flip(1), "secrets/a", seal.ErrUnknownKey},
		{"a changed nonce", flip(5), "secrets/a", seal.ErrTampered},
		{"a changed ciphertext", flip(17), "secrets/a", seal.ErrTampered},
		{"a changed tag", flip(len(sealed) - 1), "secrets/a", seal.ErrTampered},
		{"a cut value", sealed[:len(sealed)-1], "secrets/a", seal.ErrTampered},
		{"a header alone", sealed[:5], "secrets/a", seal.ErrTampered},
		{"nothing", nil, "secrets/a", seal.ErrTampered},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			plain, err := s.Open(tt.sealed, tt.aad)
			if err == nil || plain != nil {
				t.Fatalf("opened as %q, %v, want an error", plain, err)
			}
			if tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("error is %v, want %v", err, tt.want)
			}
		})
	}
}

// The format is kept in buckets for years: what an earlier version wrote must
// open. This value was made by another implementation of AES-GCM (pyca/cryptography).
func TestFormatIsStable(t *testing.T) {
	t.Parallel()
	const golden = "01" + "52fe6094" + "000102030405060708090a0b" + "db437a9284005b3b1d7622cea69c33cbb9f0d27c19240b"
	sealed, err := hex.DecodeString(golden)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := newSealer(t, keyA).Open(sealed, "secrets/a")
	if err != nil || string(plain) != "whsec_x" {
		t.Errorf("opened as %q, %v, want %q", plain, err, "whsec_x")
	}
}

func TestOlderKeyOpensAndNewKeySeals(t *testing.T) {
	t.Parallel()
	before := newSealer(t, keyA)
	sealed, err := before.Seal([]byte("x"), "p")
	if err != nil {
		t.Fatal(err)
	}
	after := newSealer(t, keyB, keyA)
	if plain, err := after.Open(sealed, "p"); err != nil || string(plain) != "x" {
		t.Errorf("after rotation it opens as %q, %v, want %q", plain, err, "x")
	}
	if after.Current(sealed) {
		t.Error("a value of the older key counts as current")
	}
	again, err := after.Seal([]byte("x"), "p")
	if err != nil {
		t.Fatal(err)
	}
	if !after.Current(again) {
		t.Error("a value of the primary key does not count as current")
	}
	if _, err := before.Open(again, "p"); !errors.Is(err, seal.ErrUnknownKey) {
		t.Errorf("the older key alone opens it with %v, want %v", err, seal.ErrUnknownKey)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		keys [][]byte
		want string
	}{
		{"no key", [][]byte{nil}, "key 1 has 0 bytes, want 32"},
		{"an AES-128 key", [][]byte{keyA[:16]}, "key 1 has 16 bytes, want 32"},
		{"a short older key", [][]byte{keyA, keyB[:31]}, "key 2 has 31 bytes, want 32"},
		{"the same key twice", [][]byte{keyA, keyA}, "key 2 has the ID of an earlier one"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, err := seal.New(tt.keys[0], tt.keys[1:]...); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestParseKey(t *testing.T) {
	t.Parallel()
	key := make([]byte, seal.KeySize)
	for i := range key {
		key[i] = byte(0xff - i) // its base64 has both of the characters that differ between alphabets
	}
	tests := []struct {
		name, text string
		valid      bool
	}{
		{"base64", base64.StdEncoding.EncodeToString(key), true},
		{"base64 without padding", base64.RawStdEncoding.EncodeToString(key), true},
		{"base64 for URLs", base64.URLEncoding.EncodeToString(key), true},
		{"hex", hex.EncodeToString(key), true},
		{"upper-case hex", strings.ToUpper(hex.EncodeToString(key)), true},
		{"a line end", base64.StdEncoding.EncodeToString(key) + "\n", true},
		{"empty", "", false},
		{"31 bytes", base64.StdEncoding.EncodeToString(key[:31]), false},
		{"33 bytes", hex.EncodeToString(append(key[:32:32], 1)), false},
		{"a password", "correct horse battery staple", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := seal.ParseKey(tt.text)
			if !tt.valid {
				if err == nil {
					t.Errorf("%q is read as %x, want an error", tt.text, got)
				} else if tt.text != "" && strings.Contains(err.Error(), tt.text) {
					t.Errorf("error %q shows the key", err)
				}
				return
			}
			if err != nil || !bytes.Equal(got, key) {
				t.Errorf("%q is read as %x, %v, want %x", tt.text, got, err, key)
			}
		})
	}
}

func TestLoadOrCreateKeyCreatesOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "seal.key")
	first, created, err := seal.LoadOrCreateKey(path)
	if err != nil || !created || len(first) != seal.KeySize {
		t.Fatalf("first call gives %d bytes, created %v, %v, want %d, true, nil", len(first), created, err, seal.KeySize)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %04o, want 0600", info.Mode().Perm())
	}
	again, created, err := seal.LoadOrCreateKey(path)
	if err != nil || created || !bytes.Equal(again, first) {
		t.Errorf("second call gives created %v, %v, the same key %v, want false, nil, true", created, err, bytes.Equal(again, first))
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("directory has %v, %v, want the key file alone", entries, err)
	}
}

// Two processes that start on one empty directory must agree.
func TestLoadOrCreateKeyAtOnceGivesOneKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "seal.key")
	keys := make([][]byte, 20)
	creators := make([]bool, len(keys))
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			var err error
			if keys[i], creators[i], err = seal.LoadOrCreateKey(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	n := 0
	for i := range keys {
		if creators[i] {
			n++
		}
		if !bytes.Equal(keys[i], keys[0]) {
			t.Errorf("caller %d has key %x, want %x", i, keys[i], keys[0])
		}
	}
	if n != 1 {
		t.Errorf("%d callers created the key, want 1", n)
	}
}

func TestLoadOrCreateKeyRefuses(t *testing.T) {
	t.Parallel()
	valid := base64.StdEncoding.EncodeToString(keyA)
	tests := []struct {
		name, text string
		mode       os.FileMode
		want       string
	}{
		{"a file that the group may read", valid, 0o640, "has mode 0640"},
		{"a file that all may read", valid, 0o644, "chmod 600"},
		{"a file that others may write", valid, 0o602, "has mode 0602"},
		{"an empty file", "", 0o600, "neither base64 nor hex"},
		{"a cut file", valid[:20], 0o600, "neither base64 nor hex"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "seal.key")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tt.mode); err != nil { // past the umask
				t.Fatal(err)
			}
			key, created, err := seal.LoadOrCreateKey(path)
			if err == nil || key != nil || created || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("gives %x, %v, %v, want an error with %q", key, created, err, tt.want)
			}
			if text, err := os.ReadFile(path); err != nil || string(text) != tt.text {
				t.Errorf("the file is now %q, %v, want it untouched, %q", text, err, tt.text)
			}
		})
	}
}

func TestLoadOrCreateKeyInNoDirectory(t *testing.T) {
	t.Parallel()
	if _, _, err := seal.LoadOrCreateKey(filepath.Join(t.TempDir(), "absent", "seal.key")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v, want %v", err, os.ErrNotExist)
	}
}

func TestRotateKeepsWhatWasSealed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "seal.key")
	if err := seal.Rotate(path); err == nil {
		t.Error("rotated a key that is not there, want an error")
	}
	var sealed [][]byte
	for range 3 {
		key, _, err := seal.LoadOrCreateKey(path)
		if err != nil {
			t.Fatal(err)
		}
		old, err := seal.OldKeys(path)
		if err != nil {
			t.Fatal(err)
		}
		s, err := seal.New(key, old...)
		if err != nil {
			t.Fatal(err)
		}
		one, err := s.Seal([]byte("hush"), "place")
		if err != nil {
			t.Fatal(err)
		}
		sealed = append(sealed, one)
		for i, v := range sealed {
			if plain, err := s.Open(v, "place"); err != nil || string(plain) != "hush" {
				t.Errorf("with %d old keys value %d opens as %q with error %v", len(old), i, plain, err)
			}
			if got, want := s.Current(v), i == len(sealed)-1; got != want {
				t.Errorf("value %d of %d is current: %t, want %t", i, len(sealed), got, want)
			}
		}
		if err := seal.Rotate(path); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{path, path + ".old"} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o, want 600", name, info.Mode().Perm())
		}
	}
	if err := seal.ForgetOldKeys(path); err != nil {
		t.Fatal(err)
	}
	if old, err := seal.OldKeys(path); err != nil || len(old) != 0 {
		t.Errorf("after forgetting there are %d old keys, error %v", len(old), err)
	}
	if err := seal.ForgetOldKeys(path); err != nil {
		t.Errorf("forgetting again: %v", err)
	}
}
