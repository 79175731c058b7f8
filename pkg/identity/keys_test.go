package identity_test

import (
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/identity"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func TestAKeyIsShownOnceAndKnownEverywhereUntilItIsDeleted(t *testing.T) {
	t.Parallel()
	kv := open(t)
	a, b := start(t, kv, identity.Config{}), start(t, kv, identity.Config{})
	made := createKey(t, a, &posthornv1.ApiKey{Name: "shop", Roles: []string{"events:write", "events:write"}})
	token := made.GetKey()
	if !strings.HasPrefix(token, made.GetPrefix()) || len(made.GetPrefix()) != 8 || len(made.GetRoles()) != 1 {
		t.Errorf("got prefix %q and roles %v, want the key's first 8 characters and one role", made.GetPrefix(), made.GetRoles())
	}
	if !knows(t, a, token) {
		t.Error("the process that made the key does not know it")
	}
	eventually(t, "the other process knows the key", func() bool { return knows(t, b, token) })
	id, err := b.Authenticate(t.Context(), token)
	if err != nil || id.Name != "shop" || id.Kind != identity.KindKey || !id.Has("events:read") || id.Has("keys:read") {
		t.Errorf("got %+v and error %v, want shop with events alone", id, err)
	}
	got, err := b.GetKey(t.Context(), "shop")
	if err != nil || got.Key != nil || got.GetMeta().GetUpdatedBy() != "admin" || got.GetMeta().GetEtag() != made.GetMeta().GetEtag() {
		t.Errorf("get: got %v and error %v, want the key without its token", got, err)
	}
	all, err := b.ListKeys(t.Context())
	if err != nil || len(all) != 1 || all[0].Key != nil {
		t.Errorf("list: got %v and error %v, want one without its token", all, err)
	}
	wantKind(t, "delete of another revision", a.DeleteKey(t.Context(), "shop", 1<<40, admin), errs.Stale)
	rev, err := strconv.ParseUint(made.GetMeta().GetEtag(), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.DeleteKey(t.Context(), "shop", rev, admin); err != nil {
		t.Fatal(err)
	}
	if knows(t, a, token) {
		t.Error("the process that deleted the key still knows it")
	}
	eventually(t, "the other process has forgotten the key", func() bool { return !knows(t, b, token) })
	wantKind(t, "delete of nothing", a.DeleteKey(t.Context(), "shop", 0, admin), errs.NotFound)
	_, err = a.GetKey(t.Context(), "shop")
	wantKind(t, "get of nothing", err, errs.NotFound)
}

func TestWhatIsNoKeyIsRefused(t *testing.T) {
	t.Parallel()
	d := start(t, open(t), identity.Config{})
	createKey(t, d, &posthornv1.ApiKey{Name: "taken", Roles: []string{"admin"}})
	few := identity.Identity{Name: "few", Roles: []string{"keys:write", "events:read"}}
	tests := []struct {
		name string
		key  *posthornv1.ApiKey
		by   identity.Identity
		want errs.Kind
	}{
		{"nothing", nil, admin, errs.Invalid},
		{"no name", &posthornv1.ApiKey{Roles: []string{"admin"}}, admin, errs.Invalid},
		{"no roles", &posthornv1.ApiKey{Name: "a"}, admin, errs.Invalid},
		{"an unknown role", &posthornv1.ApiKey{Name: "a", Roles: []string{"events:delete"}}, admin, errs.Invalid},
		{"expired", &posthornv1.ApiKey{Name: "a", Roles: []string{"admin"}, ExpiresAt: timestamppb.New(time.Now().Add(-time.Second))}, admin, errs.Invalid},
		{"a chosen key", &posthornv1.ApiKey{Name: "a", Roles: []string{"admin"}, Key: proto.String("phk_mine")}, admin, errs.Invalid},
		{"the administrator's name", &posthornv1.ApiKey{Name: "admin", Roles: []string{"admin"}}, admin, errs.Conflict},
		{"a name that is taken", &posthornv1.ApiKey{Name: "taken", Roles: []string{"admin"}}, admin, errs.Conflict},
		{"more than one has", &posthornv1.ApiKey{Name: "a", Roles: []string{"events:write"}}, few, errs.Denied},
		{"admin by another", &posthornv1.ApiKey{Name: "a", Roles: []string{"admin"}}, few, errs.Denied},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := d.CreateKey(t.Context(), tt.key, tt.by)
			wantKind(t, "create", err, tt.want)
		})
	}
	if _, err := d.CreateKey(t.Context(), &posthornv1.ApiKey{Name: "own", Roles: []string{"events:read"}}, few); err != nil {
		t.Errorf("a key with a role that one has: %v", err)
	}
	wantKind(t, "delete of an administrator's key", d.DeleteKey(t.Context(), "taken", 0, few), errs.Denied)
}

func TestAKeyExpires(t *testing.T) {
	t.Parallel()
	c := newClock()
	d := start(t, open(t), identity.Config{Now: c.Now})
	k := createKey(t, d, &posthornv1.ApiKey{Name: "short", Roles: []string{"admin"}, ExpiresAt: timestamppb.New(c.Now().Add(time.Hour))})
	if !knows(t, d, k.GetKey()) {
		t.Error("the key is not known before it expires")
	}
	c.move(time.Hour)
	if _, err := d.Authenticate(t.Context(), k.GetKey()); errs.KindOf(err) != errs.Unauthenticated || !strings.Contains(err.Error(), "expired") {
		t.Errorf("got error %v, want one that says that it has expired", err)
	}
}

func TestTheLastUseIsWrittenBehind(t *testing.T) {
	t.Parallel()
	kv := open(t)
	a, stop := startLogged(t, kv, identity.Config{}, slog.DiscardHandler)
	b := start(t, kv, identity.Config{FlushEvery: 5 * time.Millisecond})
	k := createKey(t, a, &posthornv1.ApiKey{Name: "used", Roles: []string{"admin"}})
	got, err := a.GetKey(t.Context(), "used")
	if err != nil || got.LastUsedAt != nil {
		t.Errorf("before any use: got %v and error %v, want no last use", got.GetLastUsedAt(), err)
	}
	if !knows(t, a, k.GetKey()) {
		t.Fatal("the key is not known")
	}
	if _, err := kv.Get(t.Context(), "used.used"); err == nil {
		t.Error("the use was written on the path of the request")
	}
	if got, err = a.GetKey(t.Context(), "used"); err != nil || got.GetLastUsedAt().AsTime().Unix()%60 != 0 || time.Since(got.GetLastUsedAt().AsTime()) > 2*time.Minute {
		t.Errorf("not yet written: got %v and error %v, want this minute", got.GetLastUsedAt(), err)
	}
	stop() // writes it
	got, err = b.GetKey(t.Context(), "used")
	if err != nil || got.LastUsedAt == nil || got.GetMeta().GetEtag() != k.GetMeta().GetEtag() {
		t.Errorf("in another process: got %v and error %v, want a last use and the same etag", got, err)
	}
	other := createKey(t, b, &posthornv1.ApiKey{Name: "other", Roles: []string{"admin"}})
	if !knows(t, b, other.GetKey()) {
		t.Fatal("the key is not known")
	}
	eventually(t, "the use is written while it runs", func() bool {
		_, err := kv.Get(t.Context(), "used.other")
		return err == nil
	})
}
