package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// roles are the processes of one platform, each with some of its roles, on NATS
// servers of their own.
type roles struct {
	t      *testing.T
	scheme string // of the HTTP ports
	url    string // of the NATS servers
	key    string
	// Where each role listens.
	http, grpc, apiHTTP, apiGRPC, broker, registry string
}

// newRoles starts a NATS server for them.
func newRoles(t *testing.T) *roles {
	t.Helper()
	ns, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, JetStream: true, StoreDir: filepath.Join(t.TempDir(), "nats"),
		JetStreamMaxStore: 1 << 40, JetStreamMaxMemory: 1 << 30,
	})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(20 * time.Second) {
		t.Fatal("the NATS server is not ready")
	}
	return rolesOn(t, ns.ClientURL())
}

// rolesOn is newRoles on servers that are there.
func rolesOn(t *testing.T, url string) *roles {
	t.Helper()
	a := addrs(t, 6)
	return &roles{
		t: t, scheme: "http://", url: url, key: "roles-" + strings.Repeat("k", 40),
		http: a[0], grpc: a[1], apiHTTP: a[2], apiGRPC: a[3], broker: a[4], registry: a[5],
	}
}

// run starts a process with some roles, separated by commas, and waits until it is
// ready. Later arguments count more.
func (r *roles) run(names string, args ...string) *platform {
	r.t.Helper()
	p := r.start(names, args...)
	p.ready()
	return p
}

// start is run without the wait.
func (r *roles) start(names string, args ...string) *platform {
	r.t.Helper()
	own := addrs(r.t, 2)
	p := &platform{
		t: r.t, key: r.key, http: r.scheme + r.http, obs: r.scheme + own[0], nats: r.url,
		env: append(os.Environ(), "POSTHORN_ADMIN_KEY="+r.key, "POSTHORN_SEAL_KEY="+strings.Repeat("ab", 32)),
		args: append([]string{
			"serve", "--role", names, "--data", r.t.TempDir(), "--nats-url", r.url,
			"--store-max-bytes", "256MiB", "--deliveries-max-bytes", "64MiB", "--attempts-max-bytes", "64MiB", "--dead-letters-max-bytes", "64MiB",
			"--rejections-max-bytes", "64MiB",
			"--http", r.http, "--grpc", r.grpc, "--api-http", r.apiHTTP, "--api-grpc", r.apiGRPC, "--broker", r.broker, "--registry", r.registry,
			"--dispatcher", own[1], "--metrics", own[0], "--allow-net", "127.0.0.0/8", "--log-level", "warn", "--dispatch-probe-interval", "2s",
		}, args...),
	}
	r.t.Cleanup(p.kill)
	p.start()
	return p
}
