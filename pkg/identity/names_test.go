package identity_test

import (
	"strconv"
	"sync"
	"testing"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/identity"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// A record of a change has the name alone: it must not be possible to choose one by
// which it seems to be somebody else's.
func TestANameSaysWhoItIs(t *testing.T) {
	t.Parallel()
	d := start(t, open(t), identity.Config{})
	for _, name := range []string{"admin", identity.PlatformName, "dispatcher"} {
		_, err := d.CreateUser(t.Context(), user(name, "events:read"), admin)
		wantKind(t, "a user by the name of "+name, err, errs.Conflict)
		_, err = d.PutUser(t.Context(), user(name, "events:read"), 0, admin)
		wantKind(t, "a user put by the name of "+name, err, errs.Conflict)
		_, err = d.CreateKey(t.Context(), &posthornv1.ApiKey{Name: name, Roles: []string{"events:read"}}, admin)
		wantKind(t, "a key by the name of "+name, err, errs.Conflict)
	}
	createUser(t, d, user("bob", "events:read"))
	_, err := d.CreateKey(t.Context(), &posthornv1.ApiKey{Name: "bob", Roles: []string{"events:read"}}, admin)
	wantKind(t, "a key beside the user", err, errs.Conflict)
	createKey(t, d, &posthornv1.ApiKey{Name: "shop", Roles: []string{"events:read"}})
	_, err = d.CreateUser(t.Context(), user("shop", "events:read"), admin)
	wantKind(t, "a user beside the key", err, errs.Conflict)
	_, err = d.PutUser(t.Context(), user("shop", "events:read"), 0, admin)
	wantKind(t, "a user put beside the key", err, errs.Conflict)
	// The name is free when the user is gone.
	if err := d.DeleteUser(t.Context(), "bob", 0, admin); err != nil {
		t.Fatal(err)
	}
	createKey(t, d, &posthornv1.ApiKey{Name: "bob", Roles: []string{"events:read"}})
}

func TestAUserAndAKeyThatAreMadeAtOnceDoNotGetOneName(t *testing.T) {
	t.Parallel()
	d := start(t, open(t), identity.Config{})
	for i := range 10 {
		name := "n" + strconv.Itoa(i)
		var wg sync.WaitGroup
		var userErr, keyErr error
		wg.Go(func() { _, userErr = d.CreateUser(t.Context(), user(name, "events:read"), admin) })
		wg.Go(func() {
			for range 200 { // until the user's password is hashed
				_, keyErr = d.CreateKey(t.Context(), &posthornv1.ApiKey{Name: name, Roles: []string{"events:read"}}, admin)
				if keyErr != nil {
					return
				}
				if err := d.DeleteKey(t.Context(), name, 0, admin); err != nil {
					t.Error(err)
					return
				}
			}
			_, keyErr = d.CreateKey(t.Context(), &posthornv1.ApiKey{Name: name, Roles: []string{"events:read"}}, admin)
		})
		wg.Wait()
		for _, err := range []error{userErr, keyErr} {
			if err != nil {
				wantKind(t, "the one that came too late", err, errs.Conflict)
			}
		}
		_, noUser := d.GetUser(t.Context(), name)
		_, noKey := d.GetKey(t.Context(), name)
		if noUser == nil && noKey == nil {
			t.Errorf("there are a user and a key by the name of %s", name)
		}
		if (userErr == nil) != (noUser == nil) || (keyErr == nil) != (noKey == nil) {
			t.Errorf("%s: made a user (%v) and a key (%v), but there they are: %v, %v", name, userErr, keyErr, noUser, noKey)
		}
	}
}
