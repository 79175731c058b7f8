package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// What was answered is on the device, and not only in the kernel's memory: a
// copy of the device under a frozen process is what a loss of power leaves.
func TestPowerLossLosesNothingThatWasAnswered(t *testing.T) {
	missing, answered, delivered := powerLoss(t, "fsync")
	if missing != 0 {
		t.Errorf("%d of %d answered events are not there after the loss of power", missing, answered)
	}
	if delivered != answered {
		t.Errorf("%d of %d answered events were delivered after the restart", delivered, answered)
	}
}

// The same without the barrier, to show that the test above can fail.
func TestPowerLossWithoutTheBarrierLosesEvents(t *testing.T) {
	missing, answered, _ := powerLoss(t, "flush")
	if answered > 0 && missing == 0 {
		t.Errorf("none of %d answered events is missing without the barrier; the power-loss test proves nothing", answered)
	}
	t.Logf("without the barrier %d of %d answered events were lost", missing, answered)
}

// powerLoss fills a platform on a file system of its own, freezes it, and starts
// another on a copy of the device.
func powerLoss(t *testing.T, durability string) (missing, answered, delivered int) {
	if why := cannotMount(); why != "" {
		message := "POWER LOSS IS NOT TESTED HERE: " + why
		if os.Getenv("CI") != "" {
			t.Fatal(message)
		}
		_, _ = fmt.Fprintln(os.Stderr, message)
		t.Log(message)
		return 0, 0, 0
	}
	work := t.TempDir()
	image, copied := filepath.Join(work, "disk.img"), filepath.Join(work, "copy.img")
	command(t, "truncate", "-s", "1G", image)
	command(t, "mkfs.ext4", "-q", "-F", image)
	disk := mount(t, image, filepath.Join(work, "disk"))

	s := newSink(t, nil)
	p := newPlatform(t, filepath.Join(disk, "data"), "--durability", durability, "--store-max-bytes", "256MiB", "--log-level", "error")
	p.start()
	p.ready()
	p.subscribe("power", "order.*", "OUTGOING", s.URL, "")
	// What a person set up long ago is on the device, with and without the barrier.
	if durability == "flush" {
		command(t, "sync", "-f", disk)
	}
	acked := p.closedLoop(t, 64, 10_000)
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	command(t, "cp", "--sparse=always", image, copied)
	p.kill()
	before := s.all()

	after := mount(t, copied, filepath.Join(work, "copy"))
	p2 := newPlatform(t, filepath.Join(after, "data"), "--durability", "flush", "--store-max-bytes", "256MiB", "--log-level", "error")
	p2.start()
	p2.ready()
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, 32)
	for _, id := range acked {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			status, _, err := p2.call("GET", "/api/v1/events/"+id, "")
			if err != nil || status != 200 {
				mu.Lock()
				missing++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if durability != "fsync" {
		return missing, len(acked), 0
	}
	// Delivered before the loss, or after the restart.
	count := func() (n int) {
		for _, id := range acked {
			if s.times(id) > 0 {
				n++
			}
		}
		return n
	}
	poll(60*time.Second, func() bool { return count() == len(acked) })
	t.Logf("%d answered, %d delivered before the loss, %d deliveries in all", len(acked), len(before), s.count())
	return missing, len(acked), count()
}

// closedLoop publishes n events over some connections and returns the IDs that
// were answered.
func (p *platform) closedLoop(t *testing.T, connections, n int) []string {
	t.Helper()
	var mu sync.Mutex
	var ids []string
	var wg sync.WaitGroup
	jobs := make(chan int)
	for range connections {
		wg.Go(func() {
			for i := range jobs {
				status, answer, err := p.call("POST", "/api/v1/events", fmt.Sprintf(`{"type":"order.created","data":{"n":%d}}`, i))
				if err != nil || status != 202 {
					t.Errorf("publish %d: %d %s %v", i, status, answer, err)
					continue
				}
				mu.Lock()
				ids = append(ids, id(t, answer))
				mu.Unlock()
			}
		})
	}
	for i := range n {
		jobs <- i
	}
	close(jobs)
	wg.Wait()
	return ids
}

// cannotMount says why a file system of its own cannot be had.
func cannotMount() string {
	if runtime.GOOS != "linux" {
		return "it needs Linux, and this is " + runtime.GOOS
	}
	if os.Geteuid() != 0 {
		return "it needs root, to mount a file system of its own"
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		return "there are no loop devices"
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		return "mkfs.ext4 is not installed"
	}
	return ""
}

func mount(t *testing.T, image, dir string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	command(t, "mount", "-o", "loop", image, dir)
	t.Cleanup(func() {
		// The process on it has just been killed; its files may close a moment later.
		if !poll(20*time.Second, func() bool { return exec.Command("umount", dir).Run() == nil }) {
			t.Errorf("%s is still mounted", dir)
		}
	})
	return dir
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}
