package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/posthornhq/posthorn/pkg/client"
)

// outcome is what a run of the program left.
type outcome struct {
	code           int
	stdout, stderr string
}

func runWith(ctx context.Context, t *testing.T, stdin string, env map[string]string, args ...string) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(ctx, args, strings.NewReader(stdin), &stdout, &stderr, func(name string) string { return env[name] })
	return outcome{code, stdout.String(), stderr.String()}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(newFake("secret"))
	t.Cleanup(srv.Close)
	forbidding := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { refuse(w, 403, "not yours") }))
	t.Cleanup(forbidding.Close)
	failing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { refuse(w, 500, "") }))
	t.Cleanup(failing.Close)

	env := map[string]string{"POSTHORN_SERVER": srv.URL, "POSTHORN_API_KEY": "secret"}
	tests := []struct {
		name  string
		args  string
		stdin string
		want  int
	}{
		{"done", "source list", "", exitOK},
		{"help", "publish --help", "", exitOK},
		{"refused", "publish --type bad --data 1", "", exitFailed},
		{"one line of two refused", "publish --type a --lines", "1\nx\n", exitFailed},
		{"one document of two refused", "subscription apply -f -", "name: a\n---\nname: b\ntypes: [a]", exitFailed},
		{"not valid", "schema validate a --data 1", "", exitFailed},
		{"one dead letter of two not retried", "deadletter retry 1 22", "", exitFailed},
		{"a failing server", "source list --server " + failing.URL, "", exitFailed},
		{"an unknown command", "sauce list", "", exitUsage},
		{"an unknown flag", "source list --x", "", exitUsage},
		{"a missing argument", "event get", "", exitUsage},
		{"a file that is not there", "source apply -f /nonexistent/x", "", exitUsage},
		{"a document that is none", "source apply -f -", "{{", exitUsage},
		{"an empty document", "source apply -f -", "---\n", exitUsage},
		{"not found", "source get nosuch", "", exitNotFound},
		{"one of several not found", "source delete nosuch nosuch2", "", exitNotFound},
		{"a wrong key", "source list --key x", "", exitDenied},
		{"a wrong key among lines", "publish --type a --lines --key x", "1\n2\n", exitDenied},
		{"forbidden", "source list --server " + forbidding.URL, "", exitDenied},
		{"unreachable", "source list --server http://127.0.0.1:1", "", exitUnreachable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := runWith(t.Context(), t, tt.stdin, env, strings.Fields(tt.args)...)
			if got.code != tt.want {
				t.Errorf("exit code %d, want %d\nstdout: %s\nstderr: %s", got.code, tt.want, got.stdout, got.stderr)
			}
			// What fails says so on stderr, unless the verdict is the result.
			if got.code != exitOK && got.stderr == "" && tt.name != "not valid" {
				t.Error("nothing on stderr")
			}
		})
	}
}

func TestInterruptedIsSaid(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	got := runWith(ctx, t, "", map[string]string{}, "source", "list")
	if want := (outcome{exitFailed, "", "posthorn: interrupted\n"}); got != want {
		t.Errorf("outcome %+v, want %+v", got, want)
	}
}

// The key that lies in the working directory, or was meant for the server on
// this machine, is not for others.
func TestAKeyFoundByChanceStaysHere(t *testing.T) {
	t.Parallel()
	a := &app{getenv: func(string) string { return "" }, serverFlag: "https://elsewhere.example"}
	key, err := a.key()
	if key != "" || err != nil {
		t.Errorf("key %q, error %v, want none", key, err)
	}
	tests := []struct {
		server string
		want   bool
	}{
		{"http://127.0.0.1:9600", true},
		{"http://localhost", true},
		{"http://[::1]:9600", true},
		{"http://127.0.0.1.example", false},
		{"http://10.0.0.1", false},
		{"http://localhost.example", false},
	}
	for _, tt := range tests {
		if got := isLoopback(tt.server); got != tt.want {
			t.Errorf("isLoopback(%q) = %t, want %t", tt.server, got, tt.want)
		}
	}
}

func TestYAMLShowsNumbersAndOrderAsTheyAre(t *testing.T) {
	t.Parallel()
	got, err := jsonToYAML([]byte(`{"z":9007199254740993,"a":1.10,"e":1e5,"s":"true","t":"2026-01-31","n":null,"o":{},"l":[{"k":"a\nb"}],"x":"0x1f"}`))
	if err != nil {
		t.Fatal(err)
	}
	want := "z: 9007199254740993\na: 1.10\ne: 1e5\ns: \"true\"\nt: \"2026-01-31\"\nn: null\no: {}\nl:\n  - k: |-\n      a\n      b\nx: \"0x1f\"\n"
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("YAML (-want +got):\n%s", diff)
	}
}

func TestParseDocuments(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text string
		want       []string
	}{
		{"JSON stays as it is", `{"a": 1.10}`, []string{`{"a": 1.10}`}},
		{"several", "a: 1\n---\na: 2\n", []string{`{"a":1}`, `{"a":2}`}},
		{"separators before, after and beside comments", "--- # first\na: 1\n--- # second\n{\"a\": 2}\n---\n", []string{`{"a":1}`, `{"a":2}`}},
		{"a list", "- a: 1\n- a: 2\n", []string{`{"a":1}`, `{"a":2}`}},
		{"items", `{"items":[{"a":1},{"a":2}],"nextCursor":""}`, []string{`{"a":1}`, `{"a":2}`}},
		{"dates and numbers that are text", "a: 2026-01-31\nb: \"5\"\n", []string{`{"a":"2026-01-31","b":"5"}`}},
		{"dashes inside a text", "a: |\n  x\n  ---\n  y\n", []string{`{"a":"x\n---\ny\n"}`}},
		{"anchors", "a: &x {b: 1}\nc: *x\n", []string{`{"a":{"b":1},"c":{"b":1}}`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			docs, err := parseDocuments("f", []byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, d := range docs {
				got = append(got, string(d.json))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("documents (-want +got):\n%s", diff)
			}
		})
	}
	for _, text := range []string{"", "---\n", "a: [", "1: a\n2: b", "a: .nan"} {
		if docs, err := parseDocuments("f", []byte(text)); err == nil {
			t.Errorf("parseDocuments(%q) = %v, want an error", text, docs)
		}
	}
}

// failingBatches answers two batches and is then gone.
type failingBatches struct{ batches chan struct{} }

func (f failingBatches) PublishBatch(_ context.Context, events []client.Event) ([]client.Result, error) {
	select {
	case <-f.batches:
		return make([]client.Result, len(events)), nil
	default:
		return nil, client.ErrUnreachable
	}
}

// Who has to go on after a failure needs the first line without an answer, and
// reading must stop, however long the input is.
func TestLinesStopWhenThePlatformIsGone(t *testing.T) {
	t.Parallel()
	batches := make(chan struct{}, 2)
	batches <- struct{}{}
	batches <- struct{}{}
	p := &linePublisher{client: failingBatches{batches}, flags: &publishFlags{parallel: 1, batch: 10}, stderr: io.Discard}
	err := p.run(t.Context(), endless{})
	if err == nil || p.published != 20 || p.firstUnanswered != 21 {
		t.Errorf("error %v, %d published, first line without an answer %d, want an error, 20 and 21", err, p.published, p.firstUnanswered)
	}
}

// endless is a file of lines that does not end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = "1\n"[i%2]
	}
	return len(p) - len(p)%2, nil
}

func TestALineMayBeLongButNotEndless(t *testing.T) {
	t.Parallel()
	p := &linePublisher{client: failingBatches{}, flags: &publishFlags{parallel: 1, batch: 10}, stderr: io.Discard}
	in := io.MultiReader(strings.NewReader(`"`), io.LimitReader(repeat('x'), maxLine+1<<20))
	if err := p.run(t.Context(), in); err == nil || !strings.Contains(err.Error(), "line 1: longer than 16 MiB") {
		t.Errorf("error %v, want that line 1 is too long", err)
	}
}

type repeat byte

func (r repeat) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r)
	}
	return len(p), nil
}
