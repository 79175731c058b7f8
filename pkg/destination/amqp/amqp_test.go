package amqp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"google.golang.org/protobuf/proto"

	"github.com/posthornhq/posthorn/pkg/amqp/rabbittest"
	"github.com/posthornhq/posthorn/pkg/certs/certstest"
	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/netguard"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func TestMain(m *testing.M) { os.Exit(rabbittest.Main(m)) }

// newPool runs a pool that may connect to loopback until the test ends.
func newPool(t *testing.T, cfg Config) *Pool {
	t.Helper()
	p := NewPool(netguard.New([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}), slog.New(slog.DiscardHandler), cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v, want nil", err)
		}
	})
	return p
}

func spec(s *rabbittest.Server, exchange string) *posthornv1.Amqp {
	return &posthornv1.Amqp{Url: s.URL(), Username: rabbittest.User, Password: proto.String(rabbittest.Password), Exchange: exchange}
}

func open(t *testing.T, p *Pool, spec *posthornv1.Amqp) *AMQP {
	t.Helper()
	a, err := New(p, spec, "orders")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// send makes one attempt, with time enough for a slow machine.
func send(t *testing.T, a *AMQP, m *destination.Message) destination.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return a.Send(ctx, m)
}

func message(id, typ string) *destination.Message {
	return &destination.Message{
		Event:    &event.Event{ID: id, Type: typ, Source: "shop", Context: "default", Received: time.Unix(1, 0).UTC(), Data: []byte(`{"n":1.10}`)},
		Delivery: &event.Delivery{Attempt: 1},
	}
}

func TestAMessageIsPersistentAndSaysEverything(t *testing.T) {
	t.Parallel()
	s := rabbittest.Shared(t)
	s.Queue("whole", "whole", "order.#")
	sub := spec(s, "whole")
	sub.Headers = map[string]string{"X-Env": "prod"}
	a := open(t, newPool(t, Config{}), sub)
	m := message("ev_1", "order.created")
	m.Event.Subject, m.Event.Tenant, m.Event.TraceState = "o/1", "acme", "a=b"
	m.Event.CorrelationIDs = []string{"x", "y"}
	m.Event.Extensions = map[string]string{"region": "eu", "no extension": "x"}
	m.Event.Time = time.Unix(1700000000, 5e8).UTC()
	m.TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	if r := send(t, a, m); r.Verdict != destination.Accepted || r.Err != nil {
		t.Fatalf("result is %+v, want it accepted", r)
	}
	got := s.Drain("whole")
	if len(got) != 1 {
		t.Fatalf("the queue has %d messages, want 1", len(got))
	}
	d := got[0]
	delete(d.Headers, headerPublish)
	want := amqp091.Table{
		"X-Env": "prod", "cloudEvents:specversion": "1.0", "cloudEvents:id": "ev_1", "cloudEvents:source": "shop", "cloudEvents:type": "order.created",
		"cloudEvents:time": "2023-11-14T22:13:20.5Z", "cloudEvents:subject": "o/1", "cloudEvents:region": "eu",
		"traceparent": m.TraceParent, "tracestate": "a=b", "x-correlation-id": "x, y", "posthorn-subscription": "orders", "posthorn-attempt": int32(1),
	}
	if diff := cmp.Diff(want, d.Headers); diff != "" {
		t.Errorf("headers (-want +got)\n%s", diff)
	}
	if d.DeliveryMode != amqp091.Persistent || d.MessageId != "ev_1" || d.Type != "order.created" || d.ContentType != "application/json" ||
		d.AppId != "posthorn" || d.Timestamp.Unix() != 1700000000 || d.RoutingKey != "order.created" || string(d.Body) != `{"n":1.10}` {
		t.Errorf("message is %+v", d)
	}
}

func TestRoutingKeys(t *testing.T) {
	t.Parallel()
	s := rabbittest.Shared(t)
	pool := newPool(t, Config{})
	s.Queue("keys", "keys", "#")
	tests := []struct{ template, want string }{
		{"", "order.created"},
		{"{type}", "order.created"},
		{"out.{context}.{tenant}.{subject}.{type}", "out.default.acme.s.order.created"},
		{"fixed", "fixed"},
	}
	for _, tt := range tests {
		sub := spec(s, "keys")
		sub.RoutingKey = tt.template
		m := message("ev_1", "order.created")
		m.Event.Tenant, m.Event.Subject = "acme", "s"
		if r := send(t, open(t, pool, sub), m); r.Verdict != destination.Accepted {
			t.Fatalf("%q: %v", tt.template, r.Err)
		}
		if got := s.Drain("keys"); len(got) != 1 || got[0].RoutingKey != tt.want {
			t.Errorf("%q makes %+v, want the key %q", tt.template, got, tt.want)
		}
	}
	long := message("ev_1", strings.Repeat("a", 256))
	r := send(t, open(t, pool, spec(s, "keys")), long)
	if r.Outcome(func(int) bool { return true }) != event.Refused || r.Err == nil || !strings.Contains(r.Err.Error(), "255") {
		t.Errorf("a routing key of 256 bytes: %+v, want it refused for good", r)
	}
	sub := spec(s, "")
	sub.RoutingKey = "keys"
	if r := send(t, open(t, pool, sub), message("ev_2", "a.b")); r.Verdict != destination.Accepted {
		t.Errorf("the default exchange: %v", r.Err)
	}
}

// A5: acked is not delivered, where no queue is bound.
func TestUnroutableIsAFailedAttempt(t *testing.T) {
	t.Parallel()
	s := rabbittest.Shared(t)
	s.Queue("routed", "partly", "order.*")
	a := open(t, newPool(t, Config{}), spec(s, "partly"))
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			typ := "order.created"
			if i%3 == 0 {
				typ = "user.created"
			}
			r := send(t, a, message(fmt.Sprint(i), typ))
			if typ == "order.created" {
				if r.Verdict != destination.Accepted {
					t.Errorf("%d: %v", i, r.Err)
				}
				return
			}
			if r.Outcome(nil) != event.Retry || r.Err == nil || !strings.Contains(r.Err.Error(), `exchange "partly", routing key "user.created": unroutable`) {
				t.Errorf("%d: %+v, want it to be tried again and to name exchange and key", i, r)
			}
		})
	}
	wg.Wait()
	if n := s.Depth("routed"); n != 133 {
		t.Errorf("the queue has %d messages, want 133", n)
	}
}

func TestNackedIsAFailedAttempt(t *testing.T) {
	t.Parallel()
	s := rabbittest.Shared(t)
	ch := s.Channel()
	if _, err := ch.QueueDelete("full", false, false, false); err != nil { // of another run
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare("full", true, false, false, false, amqp091.Table{"x-max-length": 1, "x-overflow": "reject-publish"}); err != nil {
		t.Fatal(err)
	}
	sub := spec(s, "")
	sub.RoutingKey = "full"
	a := open(t, newPool(t, Config{}), sub)
	if r := send(t, a, message("1", "a.b")); r.Verdict != destination.Accepted {
		t.Fatal(r.Err)
	}
	r := send(t, a, message("2", "a.b"))
	if r.Outcome(nil) != event.Retry || r.Err == nil || !strings.Contains(r.Err.Error(), "nack") {
		t.Errorf("result is %+v, want a nack that is tried again", r)
	}
}

// What is wrong with one exchange is no trouble for another on the same connection.
func TestAMissingExchangeIsNamedAndDisturbsNobody(t *testing.T) {
	t.Parallel()
	s := rabbittest.Shared(t)
	s.Queue("fine", "fine", "#")
	if err := s.Channel().ExchangeDelete("nowhere", false, false); err != nil { // of another run
		t.Fatal(err)
	}
	pool := newPool(t, Config{})
	good, bad := open(t, pool, spec(s, "fine")), open(t, pool, spec(s, "nowhere"))
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if r := send(t, good, message(fmt.Sprint(i), "a.b")); r.Verdict != destination.Accepted {
				t.Errorf("the good exchange: %v", r.Err)
			}
		})
		wg.Go(func() {
			r := send(t, bad, message(fmt.Sprint(i), "a.b"))
			if r.Outcome(nil) != event.Retry || r.Err == nil || !strings.Contains(r.Err.Error(), `exchange "nowhere"`) {
				t.Errorf("the missing exchange: %+v, want an error that names it", r)
			}
		})
	}
	wg.Wait()
	if r := send(t, bad, message("last", "a.b")); r.Err == nil || !strings.Contains(r.Err.Error(), "no exchange 'nowhere'") {
		t.Errorf("the error is %v, want what the broker said", r.Err)
	}
	// It is there later.
	s.Queue("late", "nowhere", "#")
	if r := send(t, bad, message("last", "a.b")); r.Verdict != destination.Accepted {
		t.Errorf("when it is there: %v", r.Err)
	}
}

func TestConnectionsAreSharedAndClosedWhenIdle(t *testing.T) {
	t.Parallel()
	s := rabbittest.Shared(t)
	s.Queue("idle", "idle", "#")
	pool := newPool(t, Config{IdleTimeout: 2 * time.Second})
	a, b := open(t, pool, spec(s, "idle")), open(t, pool, spec(s, "idle"))
	for _, d := range []*AMQP{a, b} {
		if r := send(t, d, message("1", "a.b")); r.Verdict != destination.Accepted {
			t.Fatal(r.Err)
		}
	}
	if n := pool.Connections(); n > 1 {
		t.Errorf("%d connections for one broker and user, want 1", n)
	}
	for deadline := time.Now().Add(20 * time.Second); pool.Connections() > 0; <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("an idle connection is still there")
		}
	}
	if r := send(t, a, message("2", "a.b")); r.Verdict != destination.Accepted {
		t.Errorf("after it was closed: %v", r.Err)
	}
}

func TestErrorClasses(t *testing.T) {
	t.Parallel()
	s := rabbittest.Shared(t)
	pool := newPool(t, Config{})
	tests := []struct {
		name  string
		spec  *posthornv1.Amqp
		class string
	}{
		{"nobody listens", &posthornv1.Amqp{Url: "amqp://127.0.0.1:1", Username: "u", Exchange: "x"}, destination.ClassConnect},
		{"a wrong password", &posthornv1.Amqp{Url: s.URL(), Username: "guest", Password: proto.String("hush-hush"), Exchange: "x"}, destination.ClassAuth},
		{"a private address", &posthornv1.Amqp{Url: "amqp://10.0.0.1", Username: "u", Exchange: "x"}, destination.ClassBlocked},
		{"no TLS there", &posthornv1.Amqp{Url: strings.Replace(s.URL(), "amqp:", "amqps:", 1), Username: "u", Exchange: "x"}, destination.ClassTLS},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := send(t, open(t, pool, tt.spec), message("1", "a.b"))
			if r.ErrorClass != tt.class || r.Outcome(nil) != event.Retry || r.Err == nil {
				t.Errorf("result is %+v, want class %s", r, tt.class)
			}
			if r.Err != nil && strings.Contains(r.Err.Error(), "hush") {
				t.Errorf("the error shows the password: %v", r.Err)
			}
			// In its own words: it keeps silent for seconds towards who did not ask for them.
			if tt.class == destination.ClassAuth && (r.Err == nil || !strings.Contains(r.Err.Error(), "ACCESS_REFUSED")) {
				t.Errorf("error is %v, want what the broker said", r.Err)
			}
		})
	}
}

// A try that is slow does not hide what the one before came to.
func TestWhyThereIsNoConnectionIsSaidAlsoWhenTheTimeIsUp(t *testing.T) {
	t.Parallel()
	p := NewPool(netguard.New(nil), slog.New(slog.DiscardHandler), Config{})
	a := open(t, p, &posthornv1.Amqp{Url: "amqp://192.0.2.1", Username: "u"})
	p.link(a.endpoint).err = &amqp091.Error{Code: amqp091.AccessRefused, Reason: "ACCESS_REFUSED - not you"}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if r := a.Send(ctx, message("1", "a.b")); r.ErrorClass != destination.ClassAuth || !strings.Contains(r.Err.Error(), "not you") {
		t.Errorf("result is %+v, want what the broker said", r)
	}
}

// What is shown of a message is what is sent, but for what is secret in it.
func TestWhatIsPreparedIsWhatIsSent(t *testing.T) {
	t.Parallel()
	s := rabbittest.Shared(t)
	s.Queue("shown", "shown", "#")
	sub := spec(s, "shown")
	sub.Headers, sub.RoutingKey = map[string]string{"X-Key": "hush"}, "k.{type}.{tenant}.{context}"
	a := open(t, newPool(t, Config{}), sub)
	m := message("ev_1", "order.created")
	m.Event.Tenant = "acme"
	shown := a.Prepare(t.Context(), m)
	if r := send(t, a, m); r.Verdict != destination.Accepted {
		t.Fatal(r.Err)
	}
	d := s.Drain("shown")[0]
	delete(d.Headers, headerPublish)
	want := map[string]string{
		"content_type": d.ContentType, "delivery_mode": "2", "message_id": d.MessageId, "timestamp": d.Timestamp.UTC().Format(time.RFC3339),
		"type": d.Type, "app_id": d.AppId,
	}
	for name, value := range d.Headers {
		want[name] = fmt.Sprint(value)
	}
	want["X-Key"] = destination.MaskedValue
	got := map[string]string{}
	for _, h := range shown.Header {
		got[h.Name] = h.Value
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("headers (-sent +shown)\n%s", diff)
	}
	if string(shown.Body) != string(d.Body) || d.RoutingKey != "k.order.created.acme.default" ||
		!strings.HasSuffix(shown.Target, `exchange "shown" routing key "k.order.created.acme.default"`) {
		t.Errorf("shown %+v, sent to %q: %s", shown, d.RoutingKey, d.Body)
	}
	if strings.Contains(fmt.Sprint(shown), "hush") {
		t.Errorf("a credential is shown: %v", shown)
	}
}

func TestSendEndsWithItsContext(t *testing.T) {
	t.Parallel()
	// Nobody runs this pool, so nothing is ever connected.
	p := NewPool(netguard.New(nil), slog.New(slog.DiscardHandler), Config{})
	a := open(t, p, &posthornv1.Amqp{Url: "amqp://192.0.2.1", Username: "u"})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	r := a.Send(ctx, message("1", "a.b"))
	if r.ErrorClass != destination.ClassTimeout || r.Verdict != destination.NoAnswer {
		t.Errorf("result is %+v, want a timeout", r)
	}
}

func TestWrongSettingsAreNamed(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		spec *posthornv1.Amqp
		want string
	}{
		{"no URL", &posthornv1.Amqp{}, "destination.amqp.url"},
		{"another scheme", &posthornv1.Amqp{Url: "http://h", Username: "u"}, "destination.amqp.url"},
		{"a password in it", &posthornv1.Amqp{Url: "amqp://u:hush@h"}, "destination.amqp.url"},
		{"a file in it", &posthornv1.Amqp{Url: "amqps://u@h?cacertfile=/etc/passwd"}, "destination.amqp.url"},
		{"nobody", &posthornv1.Amqp{Url: "amqp://h"}, "destination.amqp.username"},
		{"a long exchange", &posthornv1.Amqp{Url: "amqp://u@h", Exchange: strings.Repeat("x", 256)}, "destination.amqp.exchange"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := New(nil, tt.spec, "s")
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hush") {
				t.Errorf("error is %v, want it to name %s", err, tt.want)
			}
		})
	}
}

// A broker that has no room left stops reading; attempts must not hang on that.
func TestABrokerThatTakesNothingIsAFailedAttempt(t *testing.T) {
	t.Parallel()
	s := rabbittest.Start(t)
	s.Queue("blocked", "blocked", "#")
	a := open(t, newPool(t, Config{}), spec(s, "blocked"))
	if r := send(t, a, message("1", "a.b")); r.Verdict != destination.Accepted {
		t.Fatal(r.Err)
	}
	s.Control("set_disk_free_limit", "1000000GB")
	var last destination.Result
	for deadline := time.Now().Add(time.Minute); last.Err == nil || !strings.Contains(last.Err.Error(), "takes no messages"); {
		if time.Now().After(deadline) {
			t.Fatalf("result is %+v, want it to say that the broker takes no messages", last)
		}
		// The broker says so to who publishes, and not before.
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		last = a.Send(ctx, message("2", "a.b"))
		cancel()
	}
	if last.Outcome(nil) != event.Retry {
		t.Errorf("result is %+v, want it tried again", last)
	}
	s.Control("set_disk_free_limit", "1MB")
	for deadline := time.Now().Add(time.Minute); last.Verdict != destination.Accepted; <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("result is %+v, want it accepted when there is room again", last)
		}
		last = send(t, a, message("3", "a.b"))
	}
}

// tlsFront returns the address of a listener that ends TLS in front of a broker.
func tlsFront(t *testing.T, ca *certstest.Authority, broker string) string {
	t.Helper()
	files := ca.Files(t, "rabbit")
	cert, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			front, err := l.Accept()
			if err != nil {
				return
			}
			back, err := net.Dial("tcp", broker)
			if err != nil {
				front.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{front, back}, {back, front}} {
				go func() {
					_, _ = io.Copy(way[0], way[1])
					way[0].Close()
				}()
			}
		}
	}()
	return l.Addr().String()
}

func TestTLS(t *testing.T) {
	t.Parallel()
	s := rabbittest.Shared(t)
	s.Queue("tls", "tls", "#")
	ca := certstest.New(t)
	sub := spec(s, "tls")
	sub.Url = "amqps://" + tlsFront(t, ca, s.Addr())
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.PEM)
	if r := send(t, open(t, newPool(t, Config{RootCAs: roots}), sub), message("1", "a.b")); r.Verdict != destination.Accepted {
		t.Errorf("with an authority that is trusted: %+v", r)
	}
	if r := send(t, open(t, newPool(t, Config{}), sub), message("2", "a.b")); r.ErrorClass != destination.ClassTLS {
		t.Errorf("with one that nobody knows: %+v, want class tls", r)
	}
}
