package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// C17: the global configuration and the backoffs, from the command line; and a flag
// that is off switches its feature off.
func TestSettingsAndBackoffsFromTheCommandLine(t *testing.T) {
	t.Parallel()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	p := serve(t)
	dir := t.TempDir()
	cli := func(input string, args ...string) (string, error) {
		file := filepath.Join(dir, "in.yaml")
		if err := os.WriteFile(file, []byte(input), 0o600); err != nil {
			t.Fatal(err)
		}
		for i, a := range args {
			if a == "FILE" {
				args[i] = file
			}
		}
		out, err := exec.CommandContext(t.Context(), bin, append(args, "--server", p.http, "--key", p.key)...).CombinedOutput()
		return string(out), err
	}
	expect := func(out string, err error, want ...string) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("it says %s, want %q in it", out, w)
			}
		}
	}
	out, err := cli("", "settings", "get")
	expect(out, err, "requestRecording", "versionUpdates", "true")
	out, err = cli("flags: {requestRecording: false, versionUpdates: false}", "settings", "apply", "-f", "FILE")
	expect(out, err, "false")
	if out, err := cli("flags: {fly: true}", "settings", "apply", "-f", "FILE"); err == nil || !strings.Contains(out, "flags.fly") || !strings.Contains(out, "versionUpdates") {
		t.Errorf("an unknown flag: %v %s, want an error that names it and those that there are", err, out)
	}

	s := newSink(t, nil)
	p.subscribe("all", "#", "OUTGOING", s.URL, "")
	p.must("PUT", "/api/v1/policies/open", `{}`)
	p.must("PUT", "/api/v1/sources/any", `{"kind":"GENERIC","type":"some.thing","policy":"open"}`)
	if status, out := p.api("POST", "/events/any", `{}`); status != 202 {
		t.Fatalf("answered %d %s", status, out)
	}
	p.must("PUT", "/api/v1/schemas/shop.example/1/order", `{"type":"object"}`)
	p.must("POST", "/api/v1/events", `{"type":"order.created","data":{}}`)
	// Behind what would have come before it.
	p.until("the event that was published last is delivered", 20*time.Second, func() bool { return s.count() >= 1 })
	if typ := s.all()[0].header.Get("ce-type"); s.count() != 1 || typ != "order.created" {
		t.Errorf("%d deliveries, the first of %s; want none of a new version", s.count(), typ)
	}
	out, err = cli("", "policy", "simulate", "open", "--source", "any", "--last", "5")
	expect(out, err, "there are no requests", "requestRecording")

	out, err = cli("{name: payments, type: 'payment.#', maxRetries: 10, backoff: {strategy: LINEAR, initial: 60s, maxElapsed: 604800s}}", "backoff", "apply", "-f", "FILE")
	expect(out, err, "backoff payments created")
	out, err = cli("{name: payments, type: 'payment.#', maxRetries: 10, backoff: {strategy: LINEAR, initial: 60s, maxElapsed: 604800s}}", "backoff", "apply", "-f", "FILE")
	expect(out, err, "backoff payments unchanged")
	out, err = cli("", "backoff", "list")
	expect(out, err, "payments", "(any)", "payment.#", "linear from 1m0s within 168h0m0s")
	out, err = cli("", "backoff", "get", "payments", "-o", "yaml")
	expect(out, err, "maxRetries: 10")
	if out, err := cli("{name: more, maxRetries: 11}", "backoff", "apply", "-f", "FILE"); err == nil || !strings.Contains(out, "maxRetries") {
		t.Errorf("too many retries: %v %s, want an error that names the field", err, out)
	}
	out, err = cli("", "backoff", "delete", "payments")
	expect(out, err, "backoff payments deleted")

	// Who may read settings may not write them.
	key := field(t, p.must("POST", "/api/v1/keys", `{"name":"reader","roles":["config:read","backoffs:read"]}`), "key")
	admin := p.key
	p.key = key
	defer func() { p.key = admin }()
	for _, path := range []string{"/api/v1/settings", "/api/v1/backoffs"} {
		if status, out := p.api("GET", path, ""); status != 200 {
			t.Errorf("GET %s is answered %d %s", path, status, out)
		}
	}
	for _, path := range []string{"/api/v1/settings", "/api/v1/backoffs/x"} {
		if status, out := p.api("PUT", path, `{}`); status != 403 || !strings.Contains(out, ":write") {
			t.Errorf("PUT %s is answered %d %s, want 403 that names the role", path, status, out)
		}
	}
}
