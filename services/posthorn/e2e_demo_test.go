package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/pkg/client"
	"github.com/posthornhq/posthorn/pkg/signature"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// demoEnds is the last line that a showing writes.
const demoEnds = "stay up until Ctrl-C."

// A demoProcess is the program in a process of its own, serving the demo.
type demoProcess struct {
	t      *testing.T
	cmd    *exec.Cmd
	http   string
	lines  chan string // of stdout and, marked, of stderr; closed at the end
	exited chan error
}

func startDemo(t *testing.T, data string) *demoProcess {
	t.Helper()
	addr := freeAddresses(t, 8)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	p := &demoProcess{t: t, http: addr[0], lines: make(chan string, 1024), exited: make(chan error, 1)}
	// TestMain put the program into PATH.
	p.cmd = exec.CommandContext(ctx, "posthorn", "serve", "--demo", "--data", data, "--http", addr[0], "--grpc", addr[1],
		"--api-http", addr[2], "--api-grpc", addr[3], "--broker", addr[4], "--registry", addr[5], "--metrics", addr[6], "--nats-listen", addr[7])
	p.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=10")
	var readers sync.WaitGroup
	for mark, pipe := range map[string]func() (io.ReadCloser, error){"": p.cmd.StdoutPipe, "stderr: ": p.cmd.StderrPipe} {
		r, err := pipe()
		if err != nil {
			t.Fatal(err)
		}
		readers.Go(func() {
			for s := bufio.NewScanner(r); s.Scan(); {
				p.lines <- mark + s.Text()
			}
		})
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		readers.Wait()
		close(p.lines)
		p.exited <- p.cmd.Wait()
	}()
	return p
}

// freeAddresses returns addresses that nobody listens on.
func freeAddresses(t *testing.T, n int) []string {
	t.Helper()
	var out []string
	for range n {
		out = append(out, jstest.Addr(t))
	}
	return out
}

// until returns what the process wrote up to a line with text.
func (p *demoProcess) until(text string) string {
	p.t.Helper()
	var out strings.Builder
	for line := range p.lines {
		out.WriteString(line + "\n")
		if strings.Contains(line, text) {
			return out.String()
		}
	}
	p.t.Fatalf("the process ended without %q:\n%s", text, out.String())
	return ""
}

// stop ends the process as an operator does.
func (p *demoProcess) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	var rest strings.Builder
	for line := range p.lines {
		rest.WriteString(line + "\n")
	}
	if err := <-p.exited; err != nil {
		p.t.Errorf("after SIGTERM the process ended with %v, want exit code 0; it wrote\n%s", err, rest.String())
	}
}

// demoStep is a line of the demo: time, type, step, detail.
var demoStep = regexp.MustCompile(`(?m)^ +\d+\.\d\d ms  (\S+) +(received|checked|stored|routed|attempt \d|delivered)  +(.*)$`)

// steps returns the steps that were shown, in order, for each type of event.
func steps(shown string) map[string][]string {
	out := map[string][]string{}
	for _, m := range demoStep.FindAllStringSubmatch(shown, -1) {
		out[m[1]] = append(out[m[1]], m[2])
	}
	return out
}

func TestTheDemoShowsEachStepOfFiveEvents(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	once := []string{"received", "checked", "stored", "routed", "attempt 1", "delivered"}
	want := map[string][]string{
		"com.auth0.log.s": once, "com.auth0.log.fp": once, "com.auth0.log.ss": once, "push": once,
		"order.created": {"received", "checked", "stored", "routed", "attempt 1", "attempt 2", "delivered"},
	}
	// The second start finds what the first one made.
	for _, start := range []string{"first", "second"} {
		p := startDemo(t, data)
		shown := p.until(demoEnds)
		if diff := cmp.Diff(want, steps(shown)); diff != "" {
			t.Errorf("%s start: steps (-want +got):\n%s\nof\n%s", start, diff, shown)
		}
		if n := strings.Count(shown, "its signature is right"); n != 5 {
			t.Errorf("%s start: %d right signatures, want 5, in\n%s", start, n, shown)
		}
		if !regexp.MustCompile(`attempt 1  503 Service Unavailable in \S+; again in`).MatchString(shown) {
			t.Errorf("%s start: no retry after a 503 in\n%s", start, shown)
		}
		runShown(t, shown, "event list", "order.created", "push", "com.auth0.log.s")
		runShown(t, shown, "event trace", "delivered")
		p.stop()
	}
}

// runShown runs a command that the demo told to try, word for word.
func runShown(t *testing.T, shown, command string, want ...string) {
	t.Helper()
	line := regexp.MustCompile(`(?m)^  posthorn ` + command + `.*$`).FindString(shown)
	if line == "" {
		t.Errorf("no command %q in\n%s", command, shown)
		return
	}
	args := strings.Fields(line)
	out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", line, err, out)
	}
	for _, w := range want {
		if !strings.Contains(string(out), w) {
			t.Errorf("%s: no %q in\n%s", line, w, out)
		}
	}
}

// Who tries the demo on the data of a platform in use must not lose a source's
// secrets, nor have events refused by a schema that nobody knows of.
func TestTheDemoLeavesWhatOthersMadeAlone(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		make func(ctx context.Context, c *client.Client) error
		// version changes when somebody changes it again.
		version func(ctx context.Context, c *client.Client) (string, error)
		want    string
	}{
		{
			"a source",
			func(ctx context.Context, c *client.Client) error {
				_, err := c.Sources.Put(ctx, &posthornv1.Source{
					Name: "github", Description: "Ours", Kind: posthornv1.Source_GITHUB, Secrets: []string{"It's a Secret to Everybody"},
				})
				return err
			},
			func(ctx context.Context, c *client.Client) (string, error) {
				s, err := c.Sources.Get(ctx, "github")
				return s.GetMeta().GetEtag(), err
			},
			"there is a source github that the demo did not make",
		},
		{
			"a schema",
			func(ctx context.Context, c *client.Client) error {
				type order struct {
					demoOrder
					Note string `json:"note,omitempty"`
				}
				schema, err := client.SchemaOf[order]()
				if err != nil {
					return err
				}
				_, err = c.PutSchema(ctx, demoOrderType, schema)
				return err
			},
			func(ctx context.Context, c *client.Client) (string, error) {
				s, err := c.GetSchema(ctx, demoOrderType, 0)
				return strconv.Itoa(int(s.GetSchema().GetVersion())), err
			},
			"there is a schema of order.created that the demo did not make",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			data := filepath.Join(t.TempDir(), "data")
			p := startDemo(t, data)
			p.until(demoEnds)
			if err := tt.make(t.Context(), p.client(data)); err != nil {
				t.Fatal(err)
			}
			mine, err := tt.version(t.Context(), p.client(data))
			if err != nil {
				t.Fatal(err)
			}
			p.stop()

			p = startDemo(t, data)
			p.until(tt.want)
			// The demo ended; the platform did not.
			now, err := tt.version(t.Context(), p.client(data))
			if err != nil {
				t.Fatal(err)
			}
			if now != mine {
				t.Errorf("version %s, want that of its owner, %s", now, mine)
			}
			p.stop()
		})
	}
}

// client returns a client of the process with the key that it keeps in data.
func (p *demoProcess) client(data string) *client.Client {
	p.t.Helper()
	key, err := os.ReadFile(filepath.Join(data, "admin.key"))
	if err != nil {
		p.t.Fatal(err)
	}
	c, err := client.New("http://"+p.http, client.Config{Key: strings.TrimSpace(string(key))})
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

func TestTheEchoTakesOnlyWhatIsSigned(t *testing.T) {
	t.Parallel()
	secret := signature.NewStandardSecret()
	e, err := startEcho(t.Context(), secret)
	if err != nil {
		t.Fatal(err)
	}
	defer e.stop(t.Context())
	// In this order: the first order is refused once.
	tests := []struct {
		name, secret, id, eventType string
		want                        int
	}{
		{"another's signature", signature.NewStandardSecret(), "ev_1", "push", http.StatusUnauthorized},
		{"an order with another's signature", signature.NewStandardSecret(), "ev_2", demoOrderType, http.StatusUnauthorized},
		{"a push", secret, "ev_3", "push", http.StatusOK},
		{"the first order", secret, "ev_4", demoOrderType, http.StatusServiceUnavailable},
		{"the first order again", secret, "ev_4", demoOrderType, http.StatusOK},
		{"the second order", secret, "ev_5", demoOrderType, http.StatusOK},
	}
	for _, tt := range tests {
		key, err := signature.ParseStandardSecret(tt.secret)
		if err != nil {
			t.Fatal(err)
		}
		body := []byte(`{"a":1}`)
		now := time.Now()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, e.url, bytes.NewReader(body))
		r.Header.Set("Ce-Type", tt.eventType)
		r.Header.Set(signature.HeaderID, tt.id)
		r.Header.Set(signature.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
		r.Header.Set(signature.HeaderSignature, string(signature.SignStandard(nil, []signature.StandardKey{key}, tt.id, now, body)))
		w := httptest.NewRecorder()
		e.ServeHTTP(w, r)
		if w.Code != tt.want {
			t.Errorf("%s: status %d, want %d", tt.name, w.Code, tt.want)
		}
		if got, want := e.checked(tt.id), tt.want == http.StatusOK; got != want {
			t.Errorf("%s: noted as right: %t, want %t", tt.name, got, want)
		}
	}
}
