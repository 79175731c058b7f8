package identity_test

import (
	"bytes"
	"context"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/identity"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func TestAUserLives(t *testing.T) {
	t.Parallel()
	kv := open(t)
	d := start(t, kv, identity.Config{})
	made := createUser(t, d, user("ann", "events:read"))
	if made.Password != nil {
		t.Error("the answer has the password")
	}
	e, err := kv.Get(t.Context(), "users.ann")
	if err != nil {
		t.Fatal(err)
	}
	if s := string(e.Value()); strings.Contains(s, password) || !strings.Contains(s, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Error("the bucket has the password, or no argon2id hash with the parameters of OWASP")
	}
	_, err = d.CreateUser(t.Context(), user("ann", "events:read"), admin)
	wantKind(t, "create of what is there", err, errs.Conflict)

	rev, err := strconv.ParseUint(made.GetMeta().GetEtag(), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	edit := &posthornv1.User{Name: "ann", Description: "of sales", Roles: []string{"events:read"}}
	put, err := d.PutUser(t.Context(), edit, rev, admin)
	if err != nil || put.GetDescription() != "of sales" || put.GetMeta().GetEtag() == made.GetMeta().GetEtag() {
		t.Errorf("put: got %v and error %v, want the edit and a new etag", put, err)
	}
	_, err = d.PutUser(t.Context(), edit, rev, admin)
	wantKind(t, "put of an old revision", err, errs.Stale)
	signIn(t, d, "ann") // the password is kept
	all, err := d.ListUsers(t.Context())
	if err != nil || len(all) != 1 || all[0].Password != nil || all[0].GetDescription() != "of sales" {
		t.Errorf("list: got %v and error %v, want ann without password", all, err)
	}
	wantKind(t, "delete of an old revision", d.DeleteUser(t.Context(), "ann", rev, admin), errs.Stale)
	if err := d.DeleteUser(t.Context(), "ann", 0, admin); err != nil {
		t.Fatal(err)
	}
	_, err = d.GetUser(t.Context(), "ann")
	wantKind(t, "get of nothing", err, errs.NotFound)
	_, err = d.PutUser(t.Context(), &posthornv1.User{Name: "ann", Roles: []string{"admin"}}, 0, admin)
	wantKind(t, "a new user without password", err, errs.Invalid)
}

func TestWhatIsNoUserIsRefused(t *testing.T) {
	t.Parallel()
	d := start(t, open(t), identity.Config{})
	createUser(t, d, user("root", "admin"))
	few := identity.Identity{Name: "few", Roles: []string{"users:write", "events:read"}}
	with := func(p string) *posthornv1.User {
		return &posthornv1.User{Name: "a", Roles: []string{"admin"}, Password: &p}
	}
	tests := []struct {
		name string
		user *posthornv1.User
		by   identity.Identity
		want errs.Kind
	}{
		{"nothing", nil, admin, errs.Invalid},
		{"no name", user("", "admin"), admin, errs.Invalid},
		{"a name of another prefix", user("a.b", "admin"), admin, errs.Invalid},
		{"no roles", user("a"), admin, errs.Invalid},
		{"an unknown role", user("a", "root"), admin, errs.Invalid},
		{"an empty password", with(""), admin, errs.Invalid},
		{"nine characters", with("ünicodé-9"), admin, errs.Invalid},
		{"257 characters", with(strings.Repeat("a", 257)), admin, errs.Invalid},
		{"a password that is no text", with("\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8\xf7\xf6"), admin, errs.Invalid},
		{"roles that one does not have", user("a", "events:write"), few, errs.Denied},
		{"another's password, with its roles", user("root", "admin"), few, errs.Denied},
		{"another's password, without its roles", user("root", "events:read"), few, errs.Denied},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := d.PutUser(t.Context(), tt.user, 0, tt.by)
			wantKind(t, "put", err, tt.want)
			if err != nil && tt.user.GetPassword() != "" && strings.Contains(err.Error(), tt.user.GetPassword()) {
				t.Error("the error has the password")
			}
		})
	}
	_, err := d.PutUser(t.Context(), user("root", "sources:fly"), 0, admin)
	if err == nil || !strings.Contains(err.Error(), "sources:write") {
		t.Errorf("got error %v, want one with the roles that there are", err)
	}
	wantKind(t, "delete of an administrator", d.DeleteUser(t.Context(), "root", 0, few), errs.Denied)
}

// Who cannot sign in must not learn why.
func TestEveryRefusedSignInLooksTheSame(t *testing.T) {
	t.Parallel()
	d := start(t, open(t), identity.Config{})
	createUser(t, d, user("ann", "events:read"))
	off := user("off", "events:read")
	off.Disabled = true
	createUser(t, d, off)
	const wrong = "wrong horse battery"
	tests := []struct{ name, user, password string }{
		{"a wrong password", "ann", wrong},
		{"a password that is too long", "ann", strings.Repeat(password, 100)},
		{"no password", "ann", ""},
		{"disabled, right password", "off", password},
		{"disabled, wrong password", "off", wrong},
		{"nobody", "nobody", wrong},
		{"no name at all", "", ""},
		{"what can be no name", "users.ann > *", password},
	}
	_, err := d.SignIn(t.Context(), "ann", wrong)
	want := err.Error()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := d.SignIn(t.Context(), tt.user, tt.password)
			wantKind(t, "sign in", err, errs.Unauthenticated)
			if err != nil && err.Error() != want {
				t.Errorf("got %q, want as for a wrong password %q", err, want)
			}
		})
	}
}

func TestTenWrongPasswordsLockInAllProcesses(t *testing.T) {
	t.Parallel()
	kv := open(t)
	c := newClock()
	both := []*identity.Directory{start(t, kv, identity.Config{Now: c.Now}), start(t, kv, identity.Config{Now: c.Now})}
	createUser(t, both[0], user("ann", "events:read"))
	ctx := t.Context()
	// All at once, so that a count which is read before it is written would be too low.
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			_, err := both[i%2].SignIn(ctx, "ann", "wrong horse battery")
			wantKind(t, "a wrong password", err, errs.Unauthenticated)
		})
	}
	wg.Wait()
	for i, d := range both {
		_, err := d.SignIn(ctx, "ann", password)
		wantKind(t, "the right password in process "+strconv.Itoa(i), err, errs.Unauthenticated)
		u, err := d.GetUser(ctx, "ann")
		if err != nil || !u.GetLockedUntil().AsTime().After(c.Now()) {
			t.Errorf("got %v and error %v, want a user that is locked", u, err)
		}
	}
	c.move(15*time.Minute + time.Second)
	signIn(t, both[1], "ann")
	// Nine more and the right one, twice: the count begins anew with each.
	for range 2 {
		for range 9 {
			_, err := both[0].SignIn(ctx, "ann", "wrong horse battery")
			wantKind(t, "a wrong password", err, errs.Unauthenticated)
		}
		signIn(t, both[1], "ann")
	}
	// Nine, and nine after the window.
	for range 2 {
		for range 9 {
			_, err := both[0].SignIn(ctx, "ann", "wrong horse battery")
			wantKind(t, "a wrong password", err, errs.Unauthenticated)
		}
		c.move(16 * time.Minute)
	}
	signIn(t, both[0], "ann")
}

func TestANewPasswordEndsALock(t *testing.T) {
	t.Parallel()
	d := start(t, open(t), identity.Config{})
	createUser(t, d, user("ann", "events:read"))
	for range 10 {
		_, err := d.SignIn(t.Context(), "ann", "wrong horse battery")
		wantKind(t, "a wrong password", err, errs.Unauthenticated)
	}
	u, err := d.PutUser(t.Context(), user("ann", "events:read"), 0, admin)
	if err != nil || u.LockedUntil != nil {
		t.Errorf("got %v and error %v, want a user without a lock", u, err)
	}
	signIn(t, d, "ann")
}

// Attempts on names that nobody has must not fill the bucket.
func TestNamesThatNobodyHasTakeBoundedRoom(t *testing.T) {
	t.Parallel()
	kv := open(t)
	d := start(t, kv, identity.Config{})
	for _, name := range []string{"x1", "x2", "x3"} {
		_, err := d.SignIn(t.Context(), name, password)
		wantKind(t, "nobody", err, errs.Unauthenticated)
	}
	keys, err := kv.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if !strings.HasPrefix(k, "misses.") || len(k) != len("misses.ff") {
			t.Errorf("the bucket has %s, want misses of two digits alone", k)
		}
	}
}

func TestTokensStopWithWhatTheyWereGivenFor(t *testing.T) {
	t.Parallel()
	change := func(edit func(*posthornv1.User)) func(*testing.T, *identity.Directory) {
		return func(t *testing.T, d *identity.Directory) {
			t.Helper()
			u := &posthornv1.User{Name: "ann", Roles: []string{"events:write"}}
			edit(u)
			if _, err := d.PutUser(t.Context(), u, 0, admin); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name  string
		do    func(*testing.T, *identity.Directory)
		stops bool
	}{
		{"other roles", change(func(u *posthornv1.User) { u.Roles = []string{"events:read"} }), true},
		{"more roles", change(func(u *posthornv1.User) { u.Roles = []string{"events:write", "keys:read"} }), true},
		{"disabled", change(func(u *posthornv1.User) { u.Disabled = true }), true},
		{"another password", change(func(u *posthornv1.User) { u.Password = proto.String("another horse") }), true},
		{"deleted and made again", func(t *testing.T, d *identity.Directory) {
			t.Helper()
			if err := d.DeleteUser(t.Context(), "ann", 0, admin); err != nil {
				t.Fatal(err)
			}
			createUser(t, d, user("ann", "events:write"))
		}, true},
		{"another description", change(func(u *posthornv1.User) { u.Description = "of sales" }), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			kv := open(t)
			a, b := start(t, kv, identity.Config{}), start(t, kv, identity.Config{})
			createUser(t, a, user("ann", "events:write"))
			token := signIn(t, a, "ann").Token
			eventually(t, "the other process knows the token", func() bool { return knows(t, b, token) })
			if !knows(t, a, token) {
				t.Fatal("the token is not known where it was given")
			}
			tt.do(t, a)
			if knows(t, a, token) == tt.stops {
				t.Errorf("where it was changed: the token stopped %t, want %t", !tt.stops, tt.stops)
			}
			// A key made after the change: when it is seen, so is the change.
			marker := createKey(t, a, &posthornv1.ApiKey{Name: "marker", Roles: []string{"admin"}})
			eventually(t, "the other process has seen the change", func() bool { return knows(t, b, marker.GetKey()) })
			if knows(t, b, token) == tt.stops {
				t.Errorf("in the other process: the token stopped %t, want %t", !tt.stops, tt.stops)
			}
		})
	}
}

func TestNoSecretGetsIntoLogsOrErrors(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var logs bytes.Buffer
	kv := open(t)
	d, stop := startLogged(t, kv, identity.Config{}, slog.NewTextHandler(writer(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return logs.Write(p)
	}), &slog.HandlerOptions{Level: slog.LevelDebug}))
	createUser(t, d, user("ann", "events:read"))
	s := signIn(t, d, "ann")
	const broken = `{"name":"bad","password":"$argon2id$broken-hash"`
	if _, err := kv.PutString(t.Context(), "users.bad", broken); err != nil {
		t.Fatal(err)
	}
	const unhashed = `{"name":"odd","password":"$argon2id$broken-hash","generation":"x"}`
	if _, err := kv.PutString(t.Context(), "users.odd", unhashed); err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, name := range []string{"ann", "bad", "odd"} {
		_, err := d.SignIn(t.Context(), name, "a-very-secret-password")
		if err == nil {
			t.Fatalf("%s signed in", name)
		}
		said = append(said, err.Error())
	}
	if _, err := d.Authenticate(t.Context(), s.Token+"x"); err != nil {
		said = append(said, err.Error())
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.SignIn(canceled, "ann", "a-very-secret-password"); err != nil {
		said = append(said, err.Error())
	}
	eventually(t, "the bad record is logged", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Contains(logs.String(), "users.bad")
	})
	stop()
	said = append(said, logs.String())
	for _, secret := range []string{password, "a-very-secret-password", "broken-hash", s.Token} {
		if strings.Contains(strings.Join(said, "\n"), secret) {
			t.Errorf("%q is in a log or an error", secret)
		}
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
