package e2e

import (
	"context"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

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

// A gateway that passes the Master API on passes on who asks, and never lends
// somebody its own key.
func TestAGatewayAloneLendsNobodyItsKey(t *testing.T) {
	t.Parallel()
	r := newRoles(t)
	r.run("broker,api,registry,dispatcher")
	gw := r.run("gateway")

	get := func(path, authorization string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, gw.http+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	for _, path := range []string{"/api/v1/whoami", "/api/v1/keys", "/api/v1/events", "/api/v1/sources", "/api/v1/audit"} {
		if got := get(path, ""); got != http.StatusUnauthorized {
			t.Errorf("GET %s without a key answers %d, want 401", path, got)
		}
		if got := get(path, "Bearer "+r.key); got != http.StatusOK {
			t.Errorf("GET %s with the key answers %d, want 200", path, got)
		}
	}
	conn, err := grpc.NewClient(r.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := posthornv1.NewSchemaRegistryClient(conn).GetSchemaList(t.Context(), &posthornv1.GetSchemaListRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("over gRPC without a key: error %v, want that it is missing", err)
	}
	// What it asks the broker for in its own name, it may.
	gw.must("PUT", "/api/v1/sources/open", `{"kind":"GENERIC","type":"some.thing"}`)
	gw.until("the gateway takes events", 30*time.Second, func() bool {
		res, err := http.Post(gw.http+"/events/open", "application/json", strings.NewReader(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusAccepted
	})

	// A gateway that the broker would not know says so at its start.
	r.key = ""
	lost := r.start("gateway", "--http", addrs(t, 1)[0])
	err = <-lost.exited
	lost.exited <- err
	if err == nil || !strings.Contains(lost.stderr.String(), "POSTHORN_ADMIN_KEY") {
		t.Errorf("a gateway without a key ends with %v and says\n%s", err, lost.stderr)
	}
}
