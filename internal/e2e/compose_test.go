package e2e

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"sigs.k8s.io/yaml"

	"github.com/posthornhq/posthorn/jetstream/embedded"
	"github.com/posthornhq/posthorn/pkg/dedup/redistest"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// Every command of compose.yaml starts as it is written there, but for the
// names of hosts, which are this machine's here, and for one NATS server in
// place of three: the single container, and a process for each role that
// together take an event, keep its claims in Redis, and deliver it.
func TestComposedCommandsStartAndDeliver(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services map[string]struct {
			Profiles []string `json:"profiles"`
			Command  []string `json:"command"`
		} `json:"services"`
	}
	if err := yaml.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	for _, profile := range []string{"single", "scaled"} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			local := map[string]string{} // port in the file → address here
			env := append(os.Environ(), "POSTHORN_ADMIN_KEY=compose-"+strings.Repeat("k", 40), "POSTHORN_ALLOW_NET=127.0.0.0/8")
			var external *embedded.Server
			if profile == "scaled" {
				var err error
				external, err = embedded.Start(t.Context(), embedded.Config{Dir: filepath.Join(t.TempDir(), "nats"), Listen: "127.0.0.1:0"}, slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
				env = append(env, "POSTHORN_NATS_URL="+external.URL(), "POSTHORN_REDIS_URL="+redistest.Start(t).URL(),
					"POSTHORN_STORE_REPLICAS=1", "POSTHORN_SEAL_KEY="+strings.Repeat("ab", 32))
			}
			var started []*platform
			for name, s := range file.Services {
				if len(s.Command) == 0 || s.Command[0] != "serve" || s.Profiles[0] != profile {
					continue
				}
				started = append(started, startComposed(t, name, s.Command, local, env))
			}
			if want := map[string]int{"single": 1, "scaled": 5}[profile]; len(started) != want {
				t.Fatalf("profile %s has %d services of ours, want %d", profile, len(started), want)
			}
			for _, p := range started {
				p.ready()
			}
			deliverThrough(t, started[0], local)
			if external == nil {
				return
			}
			// Without JetStream the processes live, and are not ready.
			if err := external.Stop(); err != nil {
				t.Fatal(err)
			}
			for _, p := range started {
				p.until("readiness is red", 20*time.Second, func() bool { return p.probe("/readyz") == http.StatusServiceUnavailable })
				if got := p.probe("/healthz"); got != http.StatusOK {
					t.Errorf("/healthz is %d without JetStream, want 200", got)
				}
			}
		})
	}
}

// probe returns the status of a path of the metrics port, 0 without an answer.
func (p *platform) probe(path string) int {
	resp, err := httpClient.Get(p.obs + path)
	if err != nil {
		return 0
	}
	_ = resp.Body.Close() // nothing of it is read
	return resp.StatusCode
}

var address = regexp.MustCompile(`[\w.-]+:(\d+)$`)

// startComposed starts a service's command with this machine's addresses.
func startComposed(t *testing.T, name string, command []string, local map[string]string, env []string) *platform {
	t.Helper()
	p := &platform{t: t}
	for _, arg := range command {
		p.args = append(p.args, address.ReplaceAllStringFunc(arg, func(a string) string {
			_, port, err := net.SplitHostPort(a)
			if err != nil {
				t.Fatal(err)
			}
			if local[port] == "" {
				local[port] = addrs(t, 1)[0]
			}
			return local[port]
		}))
	}
	free := addrs(t, 10)
	metrics := free[0]
	env = append(slices.Clip(env), "POSTHORN_DATA="+filepath.Join(t.TempDir(), name))
	if strings.Contains(strings.Join(command, " "), "--metrics") {
		metrics = local["9690"]
	} else {
		env = append(env, "POSTHORN_METRICS="+metrics)
	}
	if name == "posthorn" { // what its command leaves at the default
		for i, v := range []string{"API_HTTP", "API_GRPC", "BROKER", "REGISTRY", "DISPATCHER"} {
			env = append(env, "POSTHORN_"+v+"="+free[i+1])
		}
	}
	p.obs = "http://" + metrics
	p.env = env
	t.Cleanup(p.kill)
	p.start()
	return p
}

// deliverThrough publishes at the gateway and sees the event delivered, and
// the Master API answered over gRPC at the gateway's port.
func deliverThrough(t *testing.T, p *platform, local map[string]string) {
	t.Helper()
	p.http, p.key = "http://"+local["9600"], "compose-"+strings.Repeat("k", 40)
	s := newSink(t, nil)
	// The other processes see an edit within a second, this one when it is answered.
	p.subscribe("all", "#", "OUTGOING", s.URL, "")
	p.must("PUT", "/api/v1/sources/any", `{"kind":"GENERIC","type":"some.thing"}`)
	p.until("the subscription is known everywhere", 10*time.Second, func() bool {
		p.must("POST", "/api/v1/events", `{"type":"order.created","data":{}}`)
		return s.count() > 0
	})
	p.until("the source is known at the gateway", 10*time.Second, func() bool {
		status, _ := p.api("POST", "/events/any", `{}`)
		return status == http.StatusAccepted
	})
	conn, err := grpc.NewClient(local["9601"], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx := p.authorized()
	subs, err := posthornv1.NewSubscriptionServiceClient(conn).ListSubscriptions(ctx, &posthornv1.ListSubscriptionsRequest{})
	if err != nil || len(subs.GetItems()) != 1 {
		t.Errorf("the Master API over gRPC at the gateway: %v %v, want one subscription", subs, err)
	}
	_, err = posthornv1.NewEventBrokerClient(conn).SendOutgoingEvent(ctx, &posthornv1.SendOutgoingEventRequest{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("an internal method at the gateway: %v, want UNIMPLEMENTED", err)
	}
}

// One clear error for each thing that is in the way of a start, and what runs
// is not harmed.
func TestWhatIsInTheWayOfAStartIsSaidInOneError(t *testing.T) {
	t.Parallel()
	p := serve(t)
	taken := strings.TrimPrefix(p.http, "http://")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, dir string
		args      []string
		want      string
	}{
		{"a second process on the same data", p.dir, nil, "another process is running on the data directory"},
		{"a taken port", filepath.Join(t.TempDir(), "d"), []string{"--http", taken}, "cannot listen on " + taken},
		{"a directory that cannot be made", filepath.Join(file, "d"), nil, "make the data directory"},
		{"a file system that is read-only", readOnly(t), nil, "not writable"},
		{"a setting that is wrong", filepath.Join(t.TempDir(), "e"), []string{"--role", "cook"}, `"cook" is none of gateway, broker, registry, api, dispatcher`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			second := newPlatform(t, tt.dir, tt.args...)
			second.start()
			select {
			case err := <-second.exited:
				second.cmd = nil
				if err == nil {
					t.Error("it ended with 0")
				}
			case <-time.After(20 * time.Second):
				t.Fatal("it did not end")
			}
			out := second.stderr.String()
			if !strings.Contains(out, tt.want) || strings.Count(out, "posthorn: ") != 1 || strings.Contains(out, "panic") {
				t.Errorf("it said %q, want one error with %q", out, tt.want)
			}
		})
	}
	p.must("POST", "/api/v1/events", `{"type":"order.created","data":{}}`)
}

// readOnly returns a directory in which nobody can write: of a file system that
// is mounted so, since root may write everywhere else.
func readOnly(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if os.Geteuid() != 0 || runtime.GOOS != "linux" {
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	command(t, "mount", "-t", "tmpfs", "-o", "ro,size=1m", "posthorn-e2e", dir)
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount %s: %v\n%s", dir, err, out)
		}
	})
	return dir
}

// From the start of the process to the first accepted event. How long that takes is
// written down, for the machine does other things too; what the process does
// meanwhile is its own affair, and counted: the best of some starts.
func TestTheFirstEventIsAcceptedSoonAfterTheStart(t *testing.T) {
	took, worked := time.Hour, time.Hour
	for range 5 {
		p := newPlatform(t, filepath.Join(t.TempDir(), "data"))
		begun := time.Now()
		p.start()
		p.until("the first event is accepted", 20*time.Second, func() bool {
			status, _, err := p.call("POST", "/api/v1/events", `{"type":"order.created","data":{}}`)
			return err == nil && status == http.StatusAccepted
		})
		took = min(took, time.Since(begun))
		cmd := p.cmd
		p.kill()
		worked = min(worked, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
	}
	t.Logf("the fastest of 5 starts took %s to the first accepted event; the lightest, %s of CPU time", took, worked)
	if worked > time.Second {
		t.Errorf("the lightest of 5 starts took %s of CPU time to the first accepted event, want under 1s", worked)
	}
}

// A disk that is full turns publishers away; nothing that was answered is lost.
func TestAFullDiskTurnsPublishersAwayAndLosesNothing(t *testing.T) {
	if why := cannotMount(); why != "" {
		if os.Getenv("CI") != "" {
			t.Fatal(why)
		}
		t.Log("A FULL DISK IS NOT TESTED HERE: " + why)
		return
	}
	work := t.TempDir()
	image := filepath.Join(work, "disk.img")
	command(t, "truncate", "-s", "160M", image)
	command(t, "mkfs.ext4", "-q", "-F", image)
	disk := mount(t, image, filepath.Join(work, "disk"))
	p := newPlatform(t, filepath.Join(disk, "data"), "--log-level", "error")
	p.start()
	p.ready()
	acked := p.closedLoop(t, 8, 200)
	filler := filepath.Join(disk, "filler")
	_ = exec.CommandContext(t.Context(), "dd", "if=/dev/zero", "of="+filler, "bs=1M").Run() // until the disk is full
	big := fmt.Sprintf(`{"type":"order.created","data":%q}`, strings.Repeat("x", 100_000))
	p.until("a publisher is turned away", 60*time.Second, func() bool {
		status, out, err := p.call("POST", "/api/v1/events", big)
		if err == nil && status == http.StatusAccepted {
			acked = append(acked, id(t, out))
		}
		return err == nil && status == http.StatusServiceUnavailable
	})
	p.kill()
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	p.start()
	p.ready()
	for _, ev := range acked {
		p.must("GET", "/api/v1/events/"+ev, "")
	}
	p.must("POST", "/api/v1/events", `{"type":"order.created","data":{}}`)
}
