package identity_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/posthornhq/posthorn/pkg/identity"
)

func TestTheFirstStartMakesAKeyAndTheNextFindsIt(t *testing.T) {
	t.Parallel()
	kv := open(t)
	path := filepath.Join(t.TempDir(), "admin.key")
	key, created, err := identity.EnsureAdminKey(t.Context(), kv, "", path)
	if err != nil || !created || !strings.HasPrefix(key, "phk_") || len(key) < 40 {
		t.Fatalf("first start: key of %d characters, created %t, %v; want a new phk_ key", len(key), created, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %o, want 600", info.Mode().Perm())
	}
	again, created, err := identity.EnsureAdminKey(t.Context(), kv, "", path)
	if err != nil || created || again != key {
		t.Errorf("second start: the same key %t, created %t, %v; want the same", again == key, created, err)
	}
	e, err := kv.Get(t.Context(), "keys.admin")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(e.Value()), key) {
		t.Error("the bucket has the key in clear")
	}
	d := start(t, kv, identity.Config{})
	if !knows(t, d, key) || knows(t, d, key+"x") || knows(t, d, "") {
		t.Error("the key alone must be known")
	}
	if id, err := d.Authenticate(t.Context(), key); err != nil || id.Name != "admin" || id.Kind != identity.KindAdmin || !id.Has("keys:write") {
		t.Errorf("got %+v and error %v, want the administrator", id, err)
	}
}

func TestTheEnvironmentSetsTheKeyAndARunningDirectoryFollows(t *testing.T) {
	t.Parallel()
	kv := open(t)
	path := filepath.Join(t.TempDir(), "admin.key")
	old, _, err := identity.EnsureAdminKey(t.Context(), kv, "", path)
	if err != nil {
		t.Fatal(err)
	}
	d := start(t, kv, identity.Config{})
	const chosen = "an-operators-own-key"
	if key, created, err := identity.EnsureAdminKey(t.Context(), kv, chosen, path); err != nil || created || key != chosen {
		t.Fatalf("got the chosen key: %t, created %t, %v", key == chosen, created, err)
	}
	eventually(t, "the key of the environment is the only one", func() bool { return knows(t, d, chosen) && !knows(t, d, old) })
	for _, bad := range []string{"short", "with a blank in the middle", "with-a-line-end-\n-in-it"} {
		if _, _, err := identity.EnsureAdminKey(t.Context(), kv, bad, path); err == nil {
			t.Errorf("key %q is taken", bad)
		}
	}
}

func TestAKeyThatIsElsewhereIsAnErrorThatSaysWhatToDo(t *testing.T) {
	t.Parallel()
	kv := open(t)
	dir := t.TempDir()
	if _, _, err := identity.EnsureAdminKey(t.Context(), kv, "", filepath.Join(dir, "admin.key")); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other.key")
	for _, content := range []string{"", "phk_another-key-than-that\n"} {
		if content != "" {
			if err := os.WriteFile(other, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, _, err := identity.EnsureAdminKey(t.Context(), kv, "", other)
		if !errors.Is(err, identity.ErrKeyElsewhere) || !strings.Contains(err.Error(), other) || !strings.Contains(err.Error(), "POSTHORN_ADMIN_KEY") {
			t.Errorf("file %q: %v, want an error that names it and POSTHORN_ADMIN_KEY", content, err)
		}
	}
}

// The bucket was lost, or the first start died between file and bucket.
func TestAKeyFileWithoutAHashIsTaken(t *testing.T) {
	t.Parallel()
	kv := open(t)
	path := filepath.Join(t.TempDir(), "admin.key")
	if err := os.WriteFile(path, []byte("phk_from-an-earlier-start\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	key, created, err := identity.EnsureAdminKey(t.Context(), kv, "", path)
	if err != nil || created || key != "phk_from-an-earlier-start" {
		t.Fatalf("key %q, created %t, %v; want that of the file", key, created, err)
	}
	if !knows(t, start(t, kv, identity.Config{}), key) {
		t.Error("the key of the file is not known")
	}
}

// Data directories of before this package have a record with these fields alone.
func TestARecordOfAnEarlierVersionIsKnown(t *testing.T) {
	t.Parallel()
	kv := open(t)
	const record = `{"sha256":"6ca13d52ca70c883e0f0bb101e425a89e8624de51db2d2392593af6a84118090","name":"admin","roles":["admin"],"createdAt":"2026-11-20T10:00:00Z"}`
	if _, err := kv.PutString(t.Context(), "keys.admin", record); err != nil {
		t.Fatal(err)
	}
	if !knows(t, start(t, kv, identity.Config{}), "abc123") {
		t.Error("the key whose hash is stored is not known")
	}
}
