package api_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/services/api"
)

func identityBucket(t *testing.T) jetstream.KeyValue {
	t.Helper()
	kv, err := jstest.WithTopology(t, topology.Config{}).KeyValue(t.Context(), topology.BucketIdentity)
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

func knows(t *testing.T, a *api.AdminKey, key string) bool {
	t.Helper()
	id, err := a.Authenticate(t.Context(), key)
	if err != nil && errs.KindOf(err) != errs.Unauthenticated {
		t.Fatal(err)
	}
	return err == nil && id.Name == "admin"
}

func TestTheFirstStartMakesAKeyAndTheNextFindsIt(t *testing.T) {
	t.Parallel()
	kv := identityBucket(t)
	path := filepath.Join(t.TempDir(), "admin.key")
	key, created, err := api.EnsureAdminKey(t.Context(), kv, "", path)
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
	again, created, err := api.EnsureAdminKey(t.Context(), kv, "", path)
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
	a := api.NewAdminKey(kv)
	if !knows(t, a, key) || knows(t, a, key+"x") || knows(t, a, "") {
		t.Error("the key alone must be known")
	}
}

func TestTheEnvironmentSetsTheKey(t *testing.T) {
	t.Parallel()
	kv := identityBucket(t)
	path := filepath.Join(t.TempDir(), "admin.key")
	old, _, err := api.EnsureAdminKey(t.Context(), kv, "", path)
	if err != nil {
		t.Fatal(err)
	}
	const chosen = "an-operators-own-key"
	if key, created, err := api.EnsureAdminKey(t.Context(), kv, chosen, path); err != nil || created || key != chosen {
		t.Fatalf("got the chosen key: %t, created %t, %v", key == chosen, created, err)
	}
	a := api.NewAdminKey(kv)
	if !knows(t, a, chosen) || knows(t, a, old) {
		t.Error("the key of the environment must be the only one")
	}
	for _, bad := range []string{"short", "with a blank in the middle", "with-a-line-end-\n-in-it"} {
		if _, _, err := api.EnsureAdminKey(t.Context(), kv, bad, path); err == nil {
			t.Errorf("key %q is taken", bad)
		}
	}
}

func TestAKeyThatIsElsewhereIsAnErrorThatSaysWhatToDo(t *testing.T) {
	t.Parallel()
	kv := identityBucket(t)
	dir := t.TempDir()
	if _, _, err := api.EnsureAdminKey(t.Context(), kv, "", filepath.Join(dir, "admin.key")); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other.key")
	for _, content := range []string{"", "phk_another-key-than-that\n"} {
		if content != "" {
			if err := os.WriteFile(other, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, _, err := api.EnsureAdminKey(t.Context(), kv, "", other)
		if !errors.Is(err, api.ErrKeyElsewhere) || !strings.Contains(err.Error(), other) || !strings.Contains(err.Error(), "POSTHORN_ADMIN_KEY") {
			t.Errorf("file %q: %v, want an error that names it and POSTHORN_ADMIN_KEY", content, err)
		}
	}
}

// The bucket was lost, or the first start died between file and bucket.
func TestAKeyFileWithoutAHashIsTaken(t *testing.T) {
	t.Parallel()
	kv := identityBucket(t)
	path := filepath.Join(t.TempDir(), "admin.key")
	if err := os.WriteFile(path, []byte("phk_from-an-earlier-start\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	key, created, err := api.EnsureAdminKey(t.Context(), kv, "", path)
	if err != nil || created || key != "phk_from-an-earlier-start" {
		t.Fatalf("key %q, created %t, %v; want that of the file", key, created, err)
	}
	if !knows(t, api.NewAdminKey(kv), key) {
		t.Error("the key of the file is not known")
	}
}

func TestARunningAuthenticatorFollowsTheKey(t *testing.T) {
	t.Parallel()
	kv := identityBucket(t)
	path := filepath.Join(t.TempDir(), "admin.key")
	first, _, err := api.EnsureAdminKey(t.Context(), kv, "", path)
	if err != nil {
		t.Fatal(err)
	}
	a := api.NewAdminKey(kv)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := a.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer wg.Wait()
	defer cancel()
	const second = "another-key-of-the-operator"
	if _, _, err := api.EnsureAdminKey(t.Context(), kv, second, path); err != nil {
		t.Fatal(err)
	}
	deadline, tick := time.After(5*time.Second), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !knows(t, a, second) || knows(t, a, first) {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the new key alone should be known within 5s")
		}
	}
}
