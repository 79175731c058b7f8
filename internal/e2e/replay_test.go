package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// posthorn runs a command against the platform and returns what it wrote to stdout.
func (p *platform) posthorn(args ...string) string {
	p.t.Helper()
	bin, err := binary()
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command(bin, args...)
	cmd.Env = append(os.Environ(), "POSTHORN_SERVER="+p.http, "POSTHORN_API_KEY="+p.key)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		p.t.Fatalf("posthorn %s: %v\n%s\nlog:\n%s", strings.Join(args, " "), err, stderr.String(), tail(p.stderr.String()))
	}
	return string(out)
}

// A job that is killed in the middle goes on after the restart, and what it repeats is
// known: a new subscription gets every stored event once, and twice only what was being
// sent when the process died.
func TestAReplayOutlivesKillMinusNine(t *testing.T) {
	t.Parallel()
	s := newSink(t, nil)
	p := newPlatform(t, filepath.Join(t.TempDir(), "data"), "--log-level", "info")
	p.start()
	p.ready()
	const n = 1500
	ids := map[string]bool{}
	for len(ids) < n {
		var batch []string
		for i := range 500 {
			batch = append(batch, fmt.Sprintf(`{"type":"order.created","source":"shop","data":{"n":%d}}`, len(ids)+i))
		}
		var answer struct{ Results []struct{ ID string } }
		if err := json.Unmarshal([]byte(p.must("POST", "/api/v1/events:batch", `{"events":[`+strings.Join(batch, ",")+`]}`)), &answer); err != nil {
			t.Fatal(err)
		}
		for _, r := range answer.Results {
			ids[r.ID] = true
		}
	}
	p.must("POST", "/api/v1/events", `{"type":"invoice.sent","data":{}}`)
	// After an unclean stop the router looks again at what came in the moments before,
	// with the subscriptions of then; a clean one in between leaves it nothing.
	if err := p.stop(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	p.start()
	p.ready()
	p.subscribe("new", "order.*", "OUTGOING", s.URL, "")

	if out := p.posthorn("replay", "start", "--subscription", "new", "--dry-run"); !strings.HasPrefix(out, fmt.Sprintf("%d events would be replayed, as %d deliveries\n", n+1, n)) {
		t.Errorf("the dry run says %q", out)
	}
	job := strings.TrimSpace(p.posthorn("replay", "start", "--subscription", "new", "--rate", "300"))
	p.until("a third is delivered", 60*time.Second, func() bool { return s.count() > n/3 })
	killed := time.Now()
	p.kill()
	if s.count() >= n {
		t.Fatal("all was delivered before the kill; that is no test")
	}
	p.start()
	p.ready()
	out := p.posthorn("replay", "get", job, "--wait", "-o", "json")
	var done struct {
		State                        string
		Total, Seen, Queued, Skipped int
		Round                        int
	}
	if err := json.Unmarshal([]byte(out), &done); err != nil {
		t.Fatal(err)
	}
	if done.State != "DONE" || done.Total != n+1 || done.Seen != n+1 || done.Queued != n || done.Skipped != 1 || done.Round != 1000 {
		t.Errorf("the job is %+v, want %d of %d events queued", done, n, n+1)
	}
	p.until("all are delivered", 60*time.Second, func() bool {
		for id := range ids {
			if s.times(id) == 0 {
				return false
			}
		}
		return true
	})
	first, twice := map[string]time.Time{}, 0
	for _, r := range s.all() {
		at, again := first[r.id]
		if !again {
			first[r.id] = r.at
			continue
		}
		twice++
		if d := killed.Sub(at); d.Abs() > 10*time.Second {
			t.Errorf("%s was delivered twice, first %s before the kill", r.id, d)
		}
	}
	if twice > n/10 {
		t.Errorf("%d of %d events were delivered twice, want only what was on its way", twice, n)
	}
	t.Logf("%d events, %d of them delivered twice", n, twice)
	if out := p.must("GET", "/api/v1/audit?kind=replays", ""); !strings.Contains(out, job) || !strings.Contains(out, `"created"`) {
		t.Errorf("the audit trail has %s, want the start of %s", out, job)
	}
	if out := p.posthorn("replay", "list"); !strings.Contains(out, job) || !strings.Contains(out, "[##########] 100%") {
		t.Errorf("the list is\n%s\nwant %s in it", out, job)
	}
}
