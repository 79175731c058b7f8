package identity

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/posthornhq/posthorn/pkg/bucket"
)

// What was deleted while the watch was down is not told by the next one, if its
// marker is gone from the bucket too.
func TestAWatchThatBeginsAnewForgetsWhatIsGone(t *testing.T) {
	t.Parallel()
	d, err := New(nil, nil, nil, slog.New(slog.DiscardHandler), Config{})
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, revision uint64) {
		data := fmt.Appendf(nil, `{"sha256":%q,"name":%q,"roles":["admin"]}`, hashOf("the-key-of-"+name), name)
		d.changed(bucket.Entry[[]byte]{Key: keysPrefix + name, Revision: revision, Value: data})
	}
	has := func(name string) bool {
		_, err := d.Authenticate(t.Context(), "the-key-of-"+name)
		return err == nil
	}
	d.seen = map[string]struct{}{} // as follow begins
	put("kept", 1)
	put("gone", 2)
	d.caughtUp()
	d.seen = map[string]struct{}{} // as follow begins
	put("kept", 1)
	// An edit of this process whose echo comes after the watch has caught up.
	if err := d.wrote(keysPrefix+"own", 9, keyRecord{SHA256: hashOf("the-key-of-own"), Name: "own", Roles: []string{RoleAdmin}}); err != nil {
		t.Fatal(err)
	}
	d.caughtUp()
	for name, want := range map[string]bool{"kept": true, "gone": false, "own": true} {
		if has(name) != want {
			t.Errorf("%s is known %t, want %t", name, !want, want)
		}
	}
	// The echo of a put that this process has deleted since.
	d.deleted(keysPrefix+"own", 9)
	put("own", 9)
	if has("own") {
		t.Error("a key that was deleted came back with a late echo")
	}
}
