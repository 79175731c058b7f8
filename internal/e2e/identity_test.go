package e2e

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// A user signs in with the CLI, does what its roles allow over REST and gRPC, and
// is refused the rest; its token outlives a restart.
func TestIdentitiesFromOutside(t *testing.T) {
	t.Parallel()
	p := serve(t)
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cli := func(key, stdin string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), bin, append(args, "--server", p.http, "--key", key)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.Output()
		return string(out), err
	}
	if out, err := cli(p.key, "name: ann\nroles: [events:write, keys:read]\npassword: correct horse\n", "user", "apply", "-f", "-"); err != nil {
		t.Fatalf("user apply: %v\n%s", err, out)
	}
	token, err := cli("", "correct horse\n", "signin", "ann")
	if token = strings.TrimSpace(token); err != nil || strings.Count(token, ".") != 2 {
		t.Fatalf("signin: %v, token %q", err, token)
	}
	if out, err := cli(token, "", "whoami"); err != nil || !strings.Contains(out, "ann") {
		t.Errorf("whoami: %v\n%s", err, out)
	}
	if out, err := cli(token, "", "publish", "--type", "order.created", "--data", "{}"); err != nil {
		t.Errorf("publish: %v\n%s", err, out)
	}
	if out, err := cli(token, "", "source", "list"); err == nil {
		t.Errorf("source list without its role works:\n%s", out)
	}
	if out, err := cli(token, "", "key", "list"); err != nil || !strings.Contains(out, "admin") {
		t.Errorf("key list: %v\n%s", err, out)
	}
	made, err := cli(p.key, "", "key", "create", "ci", "--role", "events:read", "--expires-in", "1h")
	if err != nil || !strings.Contains(made, "phk_") {
		t.Fatalf("key create: %v\n%s", err, made)
	}
	key := made[strings.Index(made, "phk_"):]
	key = strings.TrimSpace(key)

	over := func(token, scheme string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "authorization", scheme+" "+token)
	}
	publish := func(token string) codes.Code {
		conn, err := grpc.NewClient(p.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		_, err = posthornv1.NewEventBrokerClient(conn).SendOutgoingEvent(over(token, "JWT"), &posthornv1.SendOutgoingEventRequest{
			Event: &posthornv1.Event{Type: "order.created", Data: []byte(`{}`)},
		})
		return status.Code(err)
	}
	if got := publish(token); got != codes.OK {
		t.Errorf("the broker answers the user %s, want OK", got)
	}
	if got := publish(key); got != codes.PermissionDenied {
		t.Errorf("the broker answers a key that may only read %s, want PermissionDenied", got)
	}
	if got := publish("phk_nobody"); got != codes.Unauthenticated {
		t.Errorf("the broker answers a key of nobody %s, want Unauthenticated", got)
	}

	p.kill()
	p.start()
	p.ready()
	if out, err := cli(token, "", "whoami"); err != nil {
		t.Errorf("after a restart the token is no good: %v\n%s", err, out)
	}
	if _, err := cli(p.key, "", "key", "delete", "ci"); err != nil {
		t.Error(err)
	}
	if out, err := cli(key, "", "whoami"); err == nil {
		t.Errorf("a deleted key is good:\n%s", out)
	}
	if out, err := cli(p.key, "", "audit", "--kind", "keys"); err != nil || !strings.Contains(out, "deleted") || strings.Contains(out, key) {
		t.Errorf("audit: %v\n%s", err, out)
	}
}
