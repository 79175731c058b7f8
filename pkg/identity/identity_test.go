package identity_test

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/identity"
	"github.com/posthornhq/posthorn/pkg/seal"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

var admin = identity.Identity{Name: "admin", Roles: []string{"admin"}, Kind: identity.KindAdmin}

func open(t testing.TB) jetstream.KeyValue {
	t.Helper()
	kv, err := jstest.WithTopology(t, topology.Config{}).KeyValue(t.Context(), topology.BucketIdentity)
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

func sealer(t testing.TB) *seal.Sealer {
	t.Helper()
	s, err := seal.New(bytes.Repeat([]byte{7}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// start returns a Directory that runs until the test ends.
func start(t testing.TB, kv jetstream.KeyValue, cfg identity.Config) *identity.Directory {
	t.Helper()
	d, _ := startLogged(t, kv, cfg, slog.DiscardHandler)
	return d
}

// startLogged also returns what stops it and waits.
func startLogged(t testing.TB, kv jetstream.KeyValue, cfg identity.Config, log slog.Handler) (*identity.Directory, func()) {
	t.Helper()
	d, err := identity.New(kv, sealer(t), nil, slog.New(log), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := d.Run(ctx); err != nil {
			t.Errorf("run: got error %v, want nil", err)
		}
	}()
	stop := func() { cancel(); <-done }
	t.Cleanup(stop)
	select {
	case <-d.Ready():
	case <-time.After(10 * time.Second):
		t.Fatal("not ready within 10 s")
	}
	return d, stop
}

func knows(t testing.TB, d *identity.Directory, token string) bool {
	t.Helper()
	_, err := d.Authenticate(t.Context(), token)
	if err != nil && errs.KindOf(err) != errs.Unauthenticated {
		t.Fatal(err)
	}
	return err == nil
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline, tick := time.After(30*time.Second), time.NewTicker(2*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func wantKind(t testing.TB, what string, err error, want errs.Kind) {
	t.Helper()
	if err == nil || errs.KindOf(err) != want {
		t.Errorf("%s: got error %v, want one of kind %v", what, err, want)
	}
}

// A clock is moved by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Now()} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) move(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(by)
}

const password = "correct horse battery"

func user(name string, roles ...string) *posthornv1.User {
	return &posthornv1.User{Name: name, Roles: roles, Password: proto.String(password)}
}

func createUser(t testing.TB, d *identity.Directory, u *posthornv1.User) *posthornv1.User {
	t.Helper()
	out, err := d.CreateUser(t.Context(), u, admin)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func signIn(t testing.TB, d *identity.Directory, name string) identity.Session {
	t.Helper()
	s, err := d.SignIn(t.Context(), name, password)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func createKey(t testing.TB, d *identity.Directory, k *posthornv1.ApiKey) *posthornv1.ApiKey {
	t.Helper()
	out, err := d.CreateKey(t.Context(), k, admin)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
