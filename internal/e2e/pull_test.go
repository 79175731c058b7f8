package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/posthornhq/posthorn/pkg/signature"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// A listener is a `posthorn listen` process.
type listener struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *output
	stderr *output
	exited chan error
}

func (p *platform) listen(args ...string) *listener {
	p.t.Helper()
	bin, err := binary()
	if err != nil {
		p.t.Fatal(err)
	}
	l := &listener{t: p.t, stdout: &output{}, stderr: &output{}, exited: make(chan error, 1)}
	l.cmd = exec.Command(bin, append([]string{"listen", "--server", p.http}, args...)...)
	l.cmd.Env = append(os.Environ(), "POSTHORN_API_KEY="+p.key)
	l.cmd.Stdout, l.cmd.Stderr = l.stdout, l.stderr
	if l.stdin, err = l.cmd.StdinPipe(); err != nil {
		p.t.Fatal(err)
	}
	if err := l.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() { l.exited <- l.cmd.Wait() }()
	p.t.Cleanup(l.kill)
	p.until("the listener listens", 30*time.Second, func() bool { return strings.Contains(l.stderr.String(), "listening on") })
	return l
}

func (l *listener) kill() {
	_ = l.cmd.Process.Kill() // it may have ended
	err := <-l.exited
	l.exited <- err
}

// ids are those of the events that it printed.
func (l *listener) ids() map[string]int {
	l.t.Helper()
	times := map[string]int{}
	text := l.stdout.String()
	text = text[:strings.LastIndexByte(text, '\n')+1] // a line may be on its way
	for line := range strings.Lines(text) {
		var d struct {
			WebhookID string `json:"webhookId"`
		}
		if err := json.Unmarshal([]byte(line), &d); err != nil || d.WebhookID == "" {
			l.t.Fatalf("line %q: %v", line, err)
		}
		times[d.WebhookID]++
	}
	return times
}

func (p *platform) pull(name, more string) {
	p.t.Helper()
	p.must("PUT", "/api/v1/subscriptions/"+name, `{"types":["order.*"],"destination":{"pull":{"ackWait":"15s"}}`+more+`}`)
}

// publish publishes n events and returns their IDs.
func (p *platform) publish(n int) []string {
	p.t.Helper()
	var ids []string
	for len(ids) < n {
		var events []string
		for i := range min(100, n-len(ids)) {
			events = append(events, fmt.Sprintf(`{"type":"order.created","data":{"n":%d}}`, len(ids)+i))
		}
		var got struct {
			Results []struct {
				ID string `json:"id"`
			} `json:"results"`
		}
		if err := json.Unmarshal([]byte(p.must("POST", "/api/v1/events:batch", `{"events":[`+strings.Join(events, ",")+`]}`)), &got); err != nil {
			p.t.Fatal(err)
		}
		for _, r := range got.Results {
			ids = append(ids, r.ID)
		}
	}
	return ids
}

// Two clients of one subscription share its deliveries. One is killed in the middle:
// what it had not answered comes to the other, and nothing else comes twice.
func TestTwoListenersShareAndOneIsKilled(t *testing.T) {
	t.Parallel()
	p := serve(t)
	p.pull("inbox", "")
	args := []string{"--subscription", "inbox", "--output", "json", "--parallel", "8"}
	first, second := p.listen(args...), p.listen(args...)
	ids := p.publish(300)
	p.until("both have some", 30*time.Second, func() bool { return len(first.ids()) > 20 && len(second.ids()) > 20 })
	first.kill()
	ids = append(ids, p.publish(700)...)
	had := first.ids()
	p.until("the rest has all", 60*time.Second, func() bool {
		got := second.ids()
		for _, id := range ids {
			if had[id] == 0 && got[id] == 0 {
				return false
			}
		}
		return true
	})
	// What the killed one had printed and not settled comes once more, soon.
	p.until("all are settled", 60*time.Second, func() bool {
		var page struct {
			Items []struct{} `json:"items"`
		}
		if err := json.Unmarshal([]byte(p.must("GET", "/api/v1/events?status=delivered&limit=1000", "")), &page); err != nil {
			t.Fatal(err)
		}
		return len(page.Items) == len(ids)
	})
	twice := 0
	for id, n := range second.ids() {
		if n > 1 || had[id] > 1 {
			t.Errorf("%s came twice to one listener", id)
		}
		if had[id] > 0 {
			twice++
		}
	}
	if twice > 8 {
		t.Errorf("%d deliveries came to both, want no more than the 8 that one can have unanswered", twice)
	}
	if dead := p.deadLetters(); len(dead) > 0 {
		t.Errorf("%d dead letters", len(dead))
	}
}

func TestALongPollIsAnsweredByNackRetryAndAck(t *testing.T) {
	t.Parallel()
	p := serve(t)
	p.must("PUT", "/api/v1/policies/brief", `{"delivery":{"maxRetries":1,"backoff":{"initial":"0.1s","max":"0.1s","jitter":0}}}`)
	p.pull("inbox", `,"policy":"brief"`)
	type delivery struct {
		Event struct {
			ID   string          `json:"id"`
			Data json.RawMessage `json:"data"`
		} `json:"event"`
		Round   int    `json:"round"`
		Attempt int    `json:"attempt"`
		Token   string `json:"token"`
	}
	ask := func() (d delivery, err error) {
		var got struct {
			Deliveries []delivery `json:"deliveries"`
		}
		status, out, err := p.call("POST", "/api/v1/subscriptions/inbox:fetch", `{"max":10,"wait":"20s"}`)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("%d %s", status, out)
		}
		if err == nil {
			err = json.Unmarshal([]byte(out), &got)
		}
		if err == nil && len(got.Deliveries) != 1 {
			err = fmt.Errorf("fetched %+v, want one delivery", got.Deliveries)
		}
		if err != nil {
			return delivery{}, err
		}
		return got.Deliveries[0], nil
	}
	fetch := func() delivery {
		t.Helper()
		d, err := ask()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	type answer struct {
		delivery
		err error
	}
	answered := make(chan answer, 1)
	go func() {
		d, err := ask()
		answered <- answer{d, err}
	}()
	want := id(t, p.must("POST", "/api/v1/events", `{"type":"order.created","data":{"n":9007199254740993,"total":1.10}}`))
	first := <-answered
	if first.err != nil {
		t.Fatal(first.err)
	}
	d := first.delivery
	if d.Event.ID != want || string(d.Event.Data) != `{"n":9007199254740993,"total":1.10}` || d.Attempt != 1 {
		t.Errorf("fetched %+v", d)
	}
	p.must("POST", "/api/v1/subscriptions/inbox:nack", fmt.Sprintf(`{"token":%q,"reason":"no disk"}`, d.Token))
	d = fetch()
	if d.Attempt != 2 {
		t.Errorf("fetched attempt %d, want the second", d.Attempt)
	}
	p.must("POST", "/api/v1/subscriptions/inbox:nack", fmt.Sprintf(`{"token":%q,"reason":"no disk"}`, d.Token))
	p.until("a dead letter", 30*time.Second, func() bool { return p.deadLetters()[want] })
	if list := p.must("GET", "/api/v1/deadletters", ""); !strings.Contains(list, `"exhausted"`) || !strings.Contains(list, "no disk") {
		t.Errorf("dead letters: %s", list)
	}
	p.must("POST", "/api/v1/deadletters:retry", `{"subscription":"inbox"}`)
	d = fetch()
	if d.Event.ID != want || d.Round != 2 || d.Attempt != 1 {
		t.Errorf("fetched %+v, want the first attempt of round 2", d)
	}
	p.must("POST", "/api/v1/subscriptions/inbox:ack", fmt.Sprintf(`{"tokens":[%q]}`, d.Token))
	trace := p.must("GET", "/api/v1/events/"+want+"/trace", "")
	if !strings.Contains(trace, `"status":"DELIVERED"`) && !strings.Contains(trace, `"status":"delivered"`) {
		t.Errorf("trace: %s", trace)
	}
}

func TestListenForwardsAndDeletesItsSubscription(t *testing.T) {
	t.Parallel()
	p := serve(t)
	here := newSink(t, func(n int, _ *received) int {
		if n == 1 {
			return 500
		}
		return 204
	})
	l := p.listen("--types", "order.*", "--forward", here.URL+"/hooks")
	want := id(t, p.must("POST", "/api/v1/events", `{"type":"order.created","data":{"n":1}}`))
	p.must("POST", "/api/v1/events", `{"type":"invoice.created","data":{"n":1}}`)
	p.until("the second try succeeds", 30*time.Second, func() bool { return here.times(want) == 2 && strings.Contains(l.stdout.String(), "204") })
	secret := regexp.MustCompile(`whsec_\S+`).FindString(l.stderr.String())
	key, err := signature.ParseStandardSecret(secret)
	if err != nil {
		t.Fatalf("no secret was shown: %s", l.stderr)
	}
	for _, got := range here.all() {
		if err := signature.VerifyStandardHeader([]signature.StandardKey{key}, got.header, got.body, time.Now(), 0); err != nil {
			t.Errorf("a forwarded delivery is not signed: %v", err)
		}
	}
	if _, err := io.WriteString(l.stdin, "r\n"); err != nil {
		t.Fatal(err)
	}
	p.until("the last is sent again", 30*time.Second, func() bool { return here.times(want) == 3 && strings.Contains(l.stdout.String(), "again") })
	name := regexp.MustCompile(`listen-[a-z0-9]+`).FindString(l.stderr.String())
	p.must("GET", "/api/v1/subscriptions/"+name, "")
	if err := l.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := <-l.exited; err != nil {
		t.Errorf("the listener ended with %v: %s", err, l.stderr)
	}
	l.exited <- nil
	if code, _ := p.api("GET", "/api/v1/subscriptions/"+name, ""); code != 404 {
		t.Errorf("subscription %s answers %d, want that it was deleted", name, code)
	}
	if dead := p.deadLetters(); len(dead) > 0 {
		t.Errorf("%d dead letters", len(dead))
	}
	if n := here.count(); n != 3 {
		t.Errorf("%d requests were made, want 3", n)
	}
}

// Over gRPC at a gateway that forwards to the API, and at a dispatcher that is alone.
func TestStreamsAtAGatewayAndAtADispatcherShare(t *testing.T) {
	t.Parallel()
	r, dispatcher := newRoles(t), addrs(t, 1)[0]
	r.run("broker,api")
	r.run("dispatcher", "--dispatcher", dispatcher)
	gw := r.run("gateway")
	gw.pull("inbox", "")

	type got struct {
		by string
		d  *posthornv1.PulledDelivery
	}
	came := make(chan got, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for by, addr := range map[string]string{"gateway": r.grpc, "dispatcher": dispatcher} {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		service := posthornv1.NewDeliveriesClient(conn)
		if _, err := service.Fetch(ctx, &posthornv1.FetchRequest{Subscription: "inbox"}); status.Code(err) != codes.Unauthenticated {
			t.Errorf("at the %s without a key: error %v, want it refused", by, err)
		}
		known := metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+r.key)
		gw.until("the "+by+" knows the subscription", 30*time.Second, func() bool {
			_, err := service.Fetch(known, &posthornv1.FetchRequest{Subscription: "inbox"})
			return err == nil
		})
		st, err := service.Receive(known)
		if err != nil {
			t.Fatal(err)
		}
		start := &posthornv1.ReceiveRequest_Start{Subscription: "inbox", MaxInFlight: 4}
		if err := st.Send(&posthornv1.ReceiveRequest{Kind: &posthornv1.ReceiveRequest_Start_{Start: start}}); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for {
				m, err := st.Recv()
				if err != nil {
					if ctx.Err() == nil {
						t.Errorf("the stream at the %s ended: %v", by, err)
					}
					return
				}
				if m.GetDelivery() == nil {
					continue
				}
				came <- got{by, m.GetDelivery()}
				ack := &posthornv1.AckRequest{Tokens: []string{m.GetDelivery().GetToken()}}
				if err := st.Send(&posthornv1.ReceiveRequest{Kind: &posthornv1.ReceiveRequest_Ack{Ack: ack}}); err != nil && ctx.Err() == nil {
					t.Errorf("the stream at the %s takes no ack: %v", by, err)
					return
				}
			}
		})
	}
	var want []string
	times, by := map[string]int{}, map[string]int{}
	// One may be late, and the other fast: until both have some.
	for end := time.Now().Add(2 * time.Minute); len(by) < 2 && time.Now().Before(end); {
		more := gw.publish(200)
		want = append(want, more...)
		for range more {
			select {
			case g := <-came:
				times[g.d.GetEvent().GetId()]++
				by[g.by]++
			case <-time.After(60 * time.Second):
				t.Fatalf("%d of %d deliveries came", len(times), len(want))
			}
		}
	}
	for _, id := range want {
		if times[id] != 1 {
			t.Errorf("%s came %d times, want once", id, times[id])
		}
	}
	if by["gateway"] == 0 || by["dispatcher"] == 0 {
		t.Errorf("they came as %v, want some at each", by)
	}
}
