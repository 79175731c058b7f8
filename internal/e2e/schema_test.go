package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
}
