package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/posthornhq/posthorn/pkg/dedup/redistest"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// One platform keeps a proto3 schema; another validates by it, and goes on when
// the first is gone.
func TestAForeignSchemaOutlivesItsPlatform(t *testing.T) {
	t.Parallel()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	theirs := serve(t)
	const typ = "partner.example/shop/1/order"
	file := filepath.Join(t.TempDir(), "order.proto")
	if err := os.WriteFile(file, []byte("syntax = \"proto3\";\nmessage Order { string id = 1; int32 total = 2; }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cli := func(args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), bin, append(args, "--server", theirs.http, "--key", theirs.key)...).CombinedOutput()
		return string(out), err
	}
	if out, err := cli("schema", "apply", typ, "-f", file); err != nil || !strings.Contains(out, "version 1") {
		t.Fatalf("schema apply: %v\n%s", err, out)
	}
	if out, err := cli("schema", "get", typ); err != nil || !strings.Contains(out, "message Order") {
		t.Errorf("schema get: %v\n%s", err, out)
	}
	if err := os.WriteFile(file, []byte("syntax = \"proto3\";\nmessage Order { string id = 1; string total = 2; }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := cli("schema", "apply", typ, "-f", file); err == nil || !strings.Contains(out, "total") {
		t.Errorf("a field's type was changed without an error that names it: %v\n%s", err, out)
	}

	ours := newPlatform(t, filepath.Join(t.TempDir(), "data"), "--schemas-foreign", "partner.example="+theirs.http)
	ours.env = append(os.Environ(), "POSTHORN_ADMIN_KEY="+ours.key, "POSTHORN_SCHEMAS_FOREIGN_TOKENS=partner.example="+theirs.key)
	ours.start()
	ours.ready()
	publish := func(data string) (int, string) {
		return ours.api("POST", "/api/v1/events", `{"type":"`+typ+`","data":`+data+`}`)
	}
	check := func(when string) {
		t.Helper()
		if status, out := publish(`{"id":"1","total":7}`); status != 202 {
			t.Errorf("%s a good event is answered %d %s, want 202", when, status, out)
		}
		if status, out := publish(`{"id":"1","total":"many"}`); status != 400 && status != 422 || !strings.Contains(out, "/total") {
			t.Errorf("%s a bad event is answered %d %s, want a refusal that points to /total", when, status, out)
		}
	}
	check("with the other platform")
	if err := theirs.stop(40 * time.Second); err != nil {
		t.Fatalf("the other platform ended with %v", err)
	}
	check("without the other platform")
	if err := ours.stop(40 * time.Second); err != nil {
		t.Fatalf("our platform ended with %v", err)
	}
	ours.start()
	ours.ready()
	check("without the other platform, after a restart")
}

// Whoever takes a type is told when its schema has a new version, once.
func TestSubscribersAreToldOfASchemasNewVersion(t *testing.T) {
	t.Parallel()
	p := serve(t)
	exact, tenant, others := newSink(t, nil), newSink(t, nil), newSink(t, nil)
	p.subscribe("exact", "shop.example/1/order", "INCOMING", exact.URL, "")
	p.subscribe("tenant", "shop.example/1/*", "OUTGOING", tenant.URL, `,"tenant":"acme"`)
	p.subscribe("others", "shop.example/2/order", "OUTGOING", others.URL, "")
	const path = "/api/v1/schemas/shop.example/1/order"
	p.must("PUT", path, `{"type":"object"}`)
	p.must("PUT", path, `{"type":"object"}`) // the same again is no version
	p.until("both are told", 20*time.Second, func() bool { return exact.count() == 1 && tenant.count() == 1 })
	p.must("PUT", path, `{"type":"object","properties":{"total":{"type":"number"}}}`)
	p.until("both are told of the second version", 20*time.Second, func() bool { return exact.count() == 2 && tenant.count() == 2 })
	got := exact.all()[1]
	if typ, data := got.header.Get("ce-type"), string(got.body); typ != "shop.example/1/_version" || !strings.Contains(data, `"version":2`) || !strings.Contains(data, "total") {
		t.Errorf("told %s %s, want version 2 and what changed", typ, data)
	}
	if n := others.count(); n != 0 {
		t.Errorf("the subscriber of another type is told %d times, want never", n)
	}
}

// Ping names what is down and nothing else.
func TestPingNamesWhatIsDown(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	p := serve(t, "--redis-url", redis.URL())
	conn, err := grpc.NewClient(p.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	down := func() (names []string) {
		res, err := posthornv1.NewEventBrokerClient(conn).Ping(p.authorized(), &posthornv1.PingRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range res.GetUnavailable() {
			names = append(names, c.GetName())
		}
		return names
	}
	if got := down(); len(got) != 0 {
		t.Errorf("unavailable are %v, want nothing", got)
	}
	redis.Kill()
	p.until("Redis is named", 20*time.Second, func() bool { got := down(); return len(got) == 1 && got[0] == "redis" })
}

// A namespace has up to 128 levels (C11), and its subscribers may take all events
// of a version.
func TestAnEventURIHasUpTo128Levels(t *testing.T) {
	t.Parallel()
	p := serve(t)
	s := newSink(t, nil)
	base := "shop.example/" + strings.Repeat("level/", 128) + "2/"
	p.subscribe("version", base+"*", "OUTGOING", s.URL, "")
	p.must("PUT", "/api/v1/schemas/"+base+"push", `{"type":"object","required":["id"]}`)
	p.must("POST", "/api/v1/events", `{"type":"`+base+`push","data":{"id":1}}`)
	p.must("POST", "/api/v1/events", `{"type":"`+strings.Replace(base, "/2/", "/1/", 1)+`push","data":{"id":1}}`)
	if status, out := p.api("POST", "/api/v1/events", `{"type":"`+base+`push","data":{}}`); status/100 != 4 {
		t.Errorf("what its schema does not allow is answered %d %s", status, out)
	}
	p.until("it is delivered", 20*time.Second, func() bool {
		for _, r := range s.all() {
			if r.header.Get("ce-type") == base+"push" {
				return true
			}
		}
		return false
	})
	for _, r := range s.all() {
		if typ := r.header.Get("ce-type"); !strings.HasPrefix(typ, base) {
			t.Errorf("delivered %s, want events of version 2 only", typ)
		}
	}
}
