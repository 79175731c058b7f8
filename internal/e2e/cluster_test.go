package e2e

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/posthornhq/posthorn/pkg/dedup/redistest"
)

// startCluster starts three nats-servers that replicate to each other, and
// returns them with the URL of all.
func startCluster(t *testing.T) ([]*server.Server, string) {
	t.Helper()
	a := addrs(t, 6)
	port := func(addr string) int {
		_, p, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(p)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	var routes []*url.URL
	for _, addr := range a[3:] {
		routes = append(routes, &url.URL{Scheme: "nats", Host: addr})
	}
	var all []*server.Server
	var urls []string
	for i := range 3 {
		ns, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprintf("n%d", i+1), Host: "127.0.0.1", Port: port(a[i]), NoSigs: true, NoLog: true,
			JetStream: true, StoreDir: filepath.Join(t.TempDir(), "nats"), JetStreamMaxStore: 1 << 40, JetStreamMaxMemory: 1 << 30,
			Cluster: server.ClusterOpts{Name: "posthorn", Host: "127.0.0.1", Port: port(a[3+i])}, Routes: routes,
		})
		if err != nil {
			t.Fatal(err)
		}
		ns.Start()
		t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
		all, urls = append(all, ns), append(urls, "nats://"+a[i])
	}
	if !poll(30*time.Second, func() bool {
		for _, ns := range all {
			if !ns.JetStreamIsCurrent() || ns.JetStreamClusterPeers() == nil && ns.JetStreamIsLeader() {
				return false
			}
		}
		return all[0].JetStreamIsLeader() || all[1].JetStreamIsLeader() || all[2].JetStreamIsLeader()
	}) {
		t.Fatal("the cluster has no leader")
	}
	return all, strings.Join(urls, ",")
}

// Three replicas, Redis, a process for each role and two dispatchers. One
// dispatcher dies, and then a NATS server; what was answered is delivered.
func TestAClusterOutlivesADispatcherAndAServer(t *testing.T) {
	servers, natsURL := startCluster(t)
	redis := redistest.Start(t)
	r := rolesOn(t, natsURL)
	run := func(names string) *platform { return r.run(names, "--redis-url", redis.URL(), "--store-replicas", "3") }
	run("broker")
	run("api,registry")
	first := run("dispatcher")
	run("dispatcher")
	gw := run("gateway")

	s := newSink(t, nil)
	gw.subscribe("cluster", "order.*", "OUTGOING", s.URL, "")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan map[string]time.Time)
	go func() { done <- gw.load(ctx, 200, "cluster") }()
	passed := func(n int) {
		t.Helper()
		before := s.count()
		gw.until(fmt.Sprintf("%d more are delivered", n), 60*time.Second, func() bool { return s.count() >= before+n })
	}
	passed(200)
	killed := time.Now()
	first.kill()
	passed(200)
	leader := 0
	for i, ns := range servers {
		if ns.JetStreamIsLeader() {
			leader = i
		}
	}
	stopped := time.Now()
	servers[leader].Shutdown()
	passed(200)
	cancel()
	acked := <-done
	if len(acked) < 500 {
		t.Fatalf("only %d events were answered; that is no test", len(acked))
	}
	missing := func() (n int) {
		for id := range acked {
			if s.times(id) == 0 {
				n++
			}
		}
		return n
	}
	if !poll(90*time.Second, func() bool { return missing() == 0 }) {
		t.Fatalf("%d of %d answered events are not delivered; log:\n%s", missing(), len(acked), tail(gw.stderr.String()))
	}
	seen := map[string]time.Time{}
	twice := 0
	for _, r := range s.all() {
		at, again := seen[r.id]
		if !again {
			seen[r.id] = r.at
			continue
		}
		twice++
		if d := killed.Sub(at).Abs(); d > 10*time.Second && stopped.Sub(at).Abs() > 10*time.Second {
			t.Errorf("%s was delivered twice, first at %s, far from what died", r.id, at)
		}
	}
	// A process has 128 slots, and one dies; what a server's end leaves open is less.
	if twice > 2*128 {
		t.Errorf("%d of %d were delivered twice, want no more than what was in flight", twice, len(acked))
	}
	t.Logf("%d events answered, %d delivered twice", len(acked), twice)
}
