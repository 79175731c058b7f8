package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

var shellBlock = regexp.MustCompile("(?s)```sh\n(.*?)```")

// Every command of the README works as it is written there, in its order. It
// uses the default ports, so it runs beside no other test that does.
func TestTheCommandsOfTheREADMEWork(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(),
		"POSTHORN_DATA="+filepath.Join(t.TempDir(), "data"), // in place of ./posthorn-data
		"PATH="+filepath.Join(root, ".bin")+":"+os.Getenv("PATH"))
	var background []func()
	t.Cleanup(func() {
		for _, end := range background {
			end()
		}
	})
	n := 0
	for _, block := range shellBlock.FindAllStringSubmatch(string(text), -1) {
		for line := range strings.SplitSeq(strings.TrimSpace(block[1]), "\n") {
			n++
			switch {
			case strings.HasSuffix(line, "task@v3.53.1 test"):
				continue // this very run; internal/house holds it to .ci/run
			case strings.Contains(line+" ", " serve "):
				ready := "Posthorn is ready"
				if strings.Contains(line, "--demo") {
					ready = "posthorn event trace" // what it says when all five are delivered
				}
				end := inBackground(t, root, env, line, ready)
				if strings.Contains(line, "--demo") {
					end() // the next one takes its ports
					continue
				}
				background = append(background, end)
			default:
				cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
				cmd.Dir, cmd.Env = root, env
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%s: %v\n%s", line, err, out)
				}
			}
		}
	}
	if n < 12 {
		t.Errorf("the README has %d commands; is this test reading it?", n)
	}
}

// inBackground starts a command and waits until it has written ready. The
// result ends it as Ctrl-C does.
func inBackground(t *testing.T, dir string, env []string, line, ready string) func() {
	t.Helper()
	var stdout, stderr output
	cmd := exec.Command("sh", "-c", "exec "+line)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // "go run" has a child
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	end := func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) // it may have ended
		select {
		case <-ended:
		case <-time.After(40 * time.Second):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // the test has failed
			t.Errorf("%s did not end at Ctrl-C", line)
		}
	}
	if !poll(3*time.Minute, func() bool { return strings.Contains(stdout.String(), ready) || len(ended) > 0 }) || len(ended) > 0 {
		end()
		t.Fatalf("%s did not say %q:\n%s\n%s", line, ready, stdout.String(), stderr.String())
	}
	return end
}

// A second signal ends the process at once, whatever it waits for.
func TestASecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}, 10), make(chan struct{})
	s := newSink(t, func(int, *received) int {
		entered <- struct{}{}
		<-leave
		return 200
	})
	t.Cleanup(func() { close(leave) }) // before the sink waits for its requests
	p := serve(t)
	p.subscribe("hangs", "order.*", "OUTGOING", s.URL, "")
	p.must("POST", "/api/v1/events", `{"type":"order.created","data":{}}`)
	<-entered
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.until("the gateway is closed", 20*time.Second, func() bool { _, _, err := p.call("GET", "/", ""); return err != nil })
	begun := time.Now()
	if err := p.stop(25 * time.Second); err == nil {
		t.Error("a process that was ended by a second signal exited with 0")
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("the second signal took %s", took)
	}
}
