package nats

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	ce "github.com/cloudevents/sdk-go/v2/event"
	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	gonats "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/netguard"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func TestSubjects(t *testing.T) {
	t.Parallel()
	c := newClient(t, Config{})
	tests := []struct{ template, typ, tenant, want string }{
		{"orders", "order.created", "acme", "orders"},
		{"{type}", "order.created", "acme", "order.created"},
		{"a.{type}.{tenant}.{context}", "order.created", "acme", "a.order.created.acme.default"},
		{"a.{type}", "community.certes.dev/github/1/push", "", "a.community%2Ecertes%2Edev.github.1.push"},
		{"{tenant}.x", "t", "", "_.x"},
		{"a.{tenant}", "t", "acme corp.*>%", "a.acme%20corp%2E%2A%3E%25"},
		{"a.{tenant}", "t", "b\u00fcro", "a.b\u00fcro"},
		{"{tenant}", "t", "$JS.API.STREAM.DELETE.EVENTS", "%24JS%2EAPI%2ESTREAM%2EDELETE%2EEVENTS"},
		{"{type}", "$KV.config.x", "", "%24KV.config.x"},
		{"{type}", "_INBOX.x", "", ""},
		{"a.{type}", strings.Repeat("%", 1024) + "." + strings.Repeat("%", 400), "", ""},
	}
	for _, tt := range tests {
		m := newMessage()
		m.Event.Type, m.Event.Tenant = tt.typ, tt.tenant
		got, err := newSubject(t, c, &posthornv1.Nats{Url: "nats://127.0.0.1:1", Subject: tt.template}).subject(m.Event)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s with type %q of %q is %q (%v), want %q", tt.template, tt.typ, tt.tenant, got, err, tt.want)
		}
	}
}

func TestAnEventThatHasNoSubjectIsRefusedForGood(t *testing.T) {
	t.Parallel()
	m := newMessage()
	m.Event.Type = "_INBOX.x"
	r := send(t, newSubject(t, newClient(t, Config{}), &posthornv1.Nats{Url: "nats://127.0.0.1:1", Subject: "{type}"}), m)
	if r.Verdict != destination.Answered || r.Err == nil || !strings.Contains(r.Err.Error(), "_INBOX") {
		t.Errorf("result is %+v, want a no for good", r)
	}
}

// The SDK of the CNCF reads the JSON event format; of the headers, which it reads for
// a client of its own only, the names and values are those of the binding.
func TestMessagesAreCloudEvents(t *testing.T) {
	t.Parallel()
	srv := serve(t, server.Options{})
	seen := listen(t, connect(t, srv), "orders.>")
	c := newClient(t, Config{})
	for _, format := range []posthornv1.Webhook_Format{posthornv1.Webhook_FORMAT_UNSPECIFIED, posthornv1.Webhook_CLOUDEVENTS_STRUCTURED, posthornv1.Webhook_RAW} {
		d := newSubject(t, c, &posthornv1.Nats{Url: srv.ClientURL(), Subject: "orders.{type}", Format: format, Headers: map[string]string{"X-Env": "prod"}})
		m := newMessage()
		if r := send(t, d, m); r.Verdict != destination.Accepted {
			t.Fatalf("%s: result is %+v, want accepted", format, r)
		}
		got := next(t, seen)
		for name, want := range map[string]string{
			"Nats-Msg-Id": "ev_01", "traceparent": m.TraceParent, "tracestate": "a=b", "X-Correlation-Id": "a, b", "X-Env": "prod",
		} {
			if h := got.Header.Get(name); h != want {
				t.Errorf("%s: header %s is %q, want %q", format, name, h, want)
			}
		}
		if got.Subject != "orders.order.created" {
			t.Errorf("%s: subject is %s", format, got.Subject)
		}
		attributes := map[string]string{
			"ce-specversion": "1.0", "ce-id": "ev_01", "ce-source": "shop", "ce-type": "order.created", "ce-subject": "order%201%20%E2%9C%93",
			"ce-time": m.Event.Received.Format(time.RFC3339Nano), "ce-datacontenttype": "application/json", "ce-partitionkey": "p1",
		}
		for name, want := range attributes {
			if format != posthornv1.Webhook_FORMAT_UNSPECIFIED {
				want = ""
			}
			if h := got.Header.Get(name); h != want {
				t.Errorf("%s: header %s is %q, want %q", format, name, h, want)
			}
		}
		if format != posthornv1.Webhook_CLOUDEVENTS_STRUCTURED {
			if string(got.Data) != string(m.Event.Data) || got.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s: data is %s of type %s", format, got.Data, got.Header.Get("Content-Type"))
			}
			continue
		}
		var e ce.Event
		if err := json.Unmarshal(got.Data, &e); err != nil {
			t.Fatalf("the SDK cannot read %s: %v", got.Data, err)
		}
		if e.ID() != "ev_01" || e.Subject() != m.Event.Subject || string(e.Data()) != string(m.Event.Data) || got.Header.Get("Content-Type") != "application/cloudevents+json" {
			t.Errorf("the SDK reads %v of type %s", e, got.Header.Get("Content-Type"))
		}
	}
}

func TestAStreamKnowsARepeat(t *testing.T) {
	t.Parallel()
	srv := serve(t, server.Options{JetStream: true})
	js, err := jetstream.New(connect(t, srv), jetstream.WithDefaultTimeout(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	if err != nil {
		t.Fatal(err)
	}
	d := newSubject(t, newClient(t, Config{}), &posthornv1.Nats{Url: srv.ClientURL(), Subject: "orders.{type}", Jetstream: true})
	for _, want := range []string{`{"duplicate":false,"seq":1,"stream":"ORDERS"}`, `{"duplicate":true,"seq":1,"stream":"ORDERS"}`} {
		if r := send(t, d, newMessage()); r.Verdict != destination.Accepted || string(r.Response) != want {
			t.Fatalf("result is %+v with %s, want accepted with %s", r, r.Response, want)
		}
	}
	if info, err := stream.Info(t.Context()); err != nil || info.State.Msgs != 1 {
		t.Errorf("the stream has %v, %v; want one message", info, err)
	}
}

func TestWithoutAStreamTheAttemptFails(t *testing.T) {
	t.Parallel()
	for _, js := range []bool{true, false} {
		d := newSubject(t, newClient(t, Config{}), &posthornv1.Nats{Url: serve(t, server.Options{JetStream: js}).ClientURL(), Subject: "nowhere", Jetstream: true})
		r := send(t, d, newMessage())
		if r.Verdict != destination.NoAnswer || r.Err == nil || !strings.Contains(r.Err.Error(), "no stream takes this subject") {
			t.Errorf("result is %+v, want no answer that says why", r)
		}
	}
}

// The server says beside all else that a message was not let through, and not which.
func TestADeniedPublishIsNotTakenForDelivered(t *testing.T) {
	t.Parallel()
	srv := serve(t, server.Options{JetStream: true, Users: []*server.User{
		{Username: "ann", Password: "hush", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Allow: []string{"orders.>"}}}},
		{Username: "sub", Password: "hush"},
	}})
	seen := listen(t, connect(t, srv, gonats.UserInfo("sub", "hush")), ">")
	c := newClient(t, Config{})
	password := "hush"
	for _, js := range []bool{false, true} {
		d := newSubject(t, c, &posthornv1.Nats{Url: srv.ClientURL(), Subject: "secret.{type}", Jetstream: js, Username: "ann", Password: &password})
		if r := send(t, d, newMessage()); r.Verdict != destination.NoAnswer || r.ErrorClass != destination.ClassAuth || !strings.Contains(fmt.Sprint(r.Err), "secret.order.created") {
			t.Errorf("JetStream %t: result is %+v, want no answer of class auth that names the subject", js, r)
		}
	}
	// Those who may publish are not mixed up with those who may not.
	var wg sync.WaitGroup
	for i := range 64 {
		subject, want := "orders.{type}", destination.Accepted
		if i%2 == 0 {
			subject, want = "secret.{type}", destination.NoAnswer
		}
		d := newSubject(t, c, &posthornv1.Nats{Url: srv.ClientURL(), Subject: subject, Username: "ann", Password: &password})
		wg.Go(func() {
			if r := send(t, d, newMessage()); r.Verdict != want {
				t.Errorf("to %s: result is %+v, want verdict %d", subject, r, want)
			}
		})
	}
	wg.Wait()
	for range 32 {
		if m := next(t, seen); !strings.HasPrefix(m.Subject, "orders.") {
			t.Errorf("a message came on %s", m.Subject)
		}
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	creds, account, operator := newCreds(t)
	resolver := &server.MemAccResolver{}
	if err := resolver.Store(account.subject, account.token); err != nil {
		t.Fatal(err)
	}
	withJWT := serve(t, server.Options{TrustedKeys: []string{operator}, AccountResolver: resolver})
	withToken := serve(t, server.Options{Authorization: "hush"})
	hush, wrong := "hush", "wrong"
	tests := []struct {
		name string
		spec *posthornv1.Nats
		ok   bool
	}{
		{"a .creds file", &posthornv1.Nats{Url: withJWT.ClientURL(), Credentials: &creds}, true},
		{"no .creds file", &posthornv1.Nats{Url: withJWT.ClientURL()}, false},
		{"what is no .creds file", &posthornv1.Nats{Url: withJWT.ClientURL(), Credentials: &hush}, false},
		{"a token", &posthornv1.Nats{Url: withToken.ClientURL(), Token: &hush}, true},
		{"a wrong token", &posthornv1.Nats{Url: withToken.ClientURL(), Token: &wrong}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.spec.Subject = "a"
			r := send(t, newSubject(t, newClient(t, Config{}), tt.spec), newMessage())
			if tt.ok && r.Verdict != destination.Accepted {
				t.Errorf("result is %+v, want accepted", r)
			}
			if !tt.ok && (r.Verdict != destination.NoAnswer || r.ErrorClass != destination.ClassAuth || strings.Contains(fmt.Sprint(r.Err), "hush")) {
				t.Errorf("result is %+v, want no answer of class auth that repeats nothing", r)
			}
		})
	}
}

type signed struct{ subject, token string }

// newCreds makes an operator, an account and a user of it, and the user's file.
func newCreds(t *testing.T) (creds string, account signed, operator string) {
	t.Helper()
	pair := func(create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		kp, err := create()
		if err != nil {
			t.Fatal(err)
		}
		public, err := kp.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		return kp, public
	}
	op, operator := pair(nkeys.CreateOperator)
	acc, accPublic := pair(nkeys.CreateAccount)
	user, userPublic := pair(nkeys.CreateUser)
	accToken, err := jwt.NewAccountClaims(accPublic).Encode(op)
	if err != nil {
		t.Fatal(err)
	}
	userToken, err := jwt.NewUserClaims(userPublic).Encode(acc)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	file, err := jwt.FormatUserConfig(userToken, seed)
	if err != nil {
		t.Fatal(err)
	}
	return string(file), signed{accPublic, accToken}, operator
}

func TestDestinationsWithTheSameSettingsShareAConnection(t *testing.T) {
	t.Parallel()
	srv := serve(t, server.Options{})
	c := newClient(t, Config{})
	token := "other"
	var wg sync.WaitGroup
	for i := range 20 {
		d := newSubject(t, c, &posthornv1.Nats{Url: srv.ClientURL(), Subject: fmt.Sprintf("a.%d", i)})
		wg.Go(func() {
			if r := send(t, d, newMessage()); r.Verdict != destination.Accepted {
				t.Errorf("result is %+v, want accepted", r)
			}
		})
	}
	wg.Wait()
	if n := connections(t, srv); n != 1 {
		t.Errorf("%d connections were made, want one for all with the same settings", n)
	}
	send(t, newSubject(t, c, &posthornv1.Nats{Url: srv.ClientURL(), Subject: "a", Token: &token}), newMessage())
	if n := connections(t, srv); n != 2 {
		t.Errorf("%d connections were made, want another one with other credentials", n)
	}
}

func TestAConnectionThatNobodyUsesIsClosed(t *testing.T) {
	t.Parallel()
	srv := serve(t, server.Options{})
	d := newSubject(t, newClient(t, Config{IdleTimeout: 20 * time.Millisecond}), &posthornv1.Nats{Url: srv.ClientURL(), Subject: "a"})
	for range 2 {
		if r := send(t, d, newMessage()); r.Verdict != destination.Accepted {
			t.Fatalf("result is %+v, want accepted", r)
		}
		until(t, "the connection is closed", func() bool { return srv.NumClients() == 0 })
	}
	if n := connections(t, srv); n != 2 {
		t.Errorf("%d connections were made, want one for each time that one was needed", n)
	}
}

// connections returns how many were made so far.
func connections(t *testing.T, s *server.Server) uint64 {
	t.Helper()
	v, err := s.Varz(nil)
	if err != nil {
		t.Fatal(err)
	}
	return v.TotalConnections
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("it did not come to pass that %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestAServerThatComesBackIsConnectedToAgain(t *testing.T) {
	t.Parallel()
	addr := netip.MustParseAddrPort(jstest.Addr(t)) // one that it gets again
	srv := serve(t, server.Options{Port: int(addr.Port())})
	url := srv.ClientURL()
	log := &logs{}
	c := NewClient(netguard.New(loopback), slog.New(slog.NewTextHandler(log, nil)), Config{ReconnectWait: 20 * time.Millisecond, ConnectTimeout: 30 * time.Second})
	t.Cleanup(c.Close)
	d := newSubject(t, c, &posthornv1.Nats{Url: url, Subject: "a"})
	if r := send(t, d, newMessage()); r.Verdict != destination.Accepted {
		t.Fatalf("result is %+v, want accepted", r)
	}
	srv.Shutdown()
	srv.WaitForShutdown()
	// Each attempt learns that nobody is there, and none waits for its whole time.
	until(t, "the loss is known", func() bool {
		r := send(t, d, newMessage())
		if r.Verdict != destination.NoAnswer {
			t.Errorf("without a server: %+v, want no answer", r)
		}
		return r.ErrorClass == destination.ClassConnect
	})
	again := serve(t, server.Options{Port: int(addr.Port())})
	seen := listen(t, connect(t, again), "a")
	until(t, "it is delivered again", func() bool { return send(t, d, newMessage()).Verdict == destination.Accepted })
	// What failed in between does not come out of some buffer now.
	next(t, seen)
	select {
	case m := <-seen:
		t.Errorf("one more message came: %v", m)
	default:
	}
	if !strings.Contains(log.String(), "is lost") {
		t.Errorf("the log says %q, want that the connection was lost", log)
	}
}

func TestNothingIsSentAfterClose(t *testing.T) {
	t.Parallel()
	srv := serve(t, server.Options{})
	c := newClient(t, Config{})
	d := newSubject(t, c, &posthornv1.Nats{Url: srv.ClientURL(), Subject: "a"})
	send(t, d, newMessage())
	c.Close()
	until(t, "the connection is closed", func() bool { return srv.NumClients() == 0 })
	if r := send(t, d, newMessage()); r.Verdict != destination.NoAnswer {
		t.Errorf("after Close: %+v, want no answer", r)
	}
}

// Only there: everywhere else events.> is anybody's.
func TestThePlatformsOwnStreamsAreOutOfReach(t *testing.T) {
	t.Parallel()
	cluster := func(name string, port int) server.Options {
		return server.Options{Cluster: server.ClusterOpts{Name: name, Host: "127.0.0.1", Port: port}}
	}
	first := serve(t, cluster("nats", server.RANDOM_PORT))
	opts := cluster("nats", server.RANDOM_PORT)
	opts.Routes = server.RoutesFromStr("nats-route://" + first.ClusterAddr().String())
	second := serve(t, opts)
	namesake := serve(t, cluster("nats", server.RANDOM_PORT))
	own, other := serve(t, server.Options{}), serve(t, server.Options{})
	until(t, "the cluster is one", func() bool { return first.NumRoutes() > 0 && second.NumRoutes() > 0 })
	subjects := []string{"events", "deliveries"}
	alone := newClient(t, Config{Platform: connect(t, own), OwnSubjects: subjects})
	member := newClient(t, Config{Platform: connect(t, first), OwnSubjects: subjects})
	for _, tt := range []struct {
		c       *Client
		srv     *server.Server
		subject string
		want    destination.Verdict
	}{
		{alone, own, "events.in.default.{type}", destination.Answered}, {alone, own, "deliveries", destination.Answered},
		{alone, own, "eventsof.{type}", destination.Accepted}, {alone, own, "a.events", destination.Accepted},
		{alone, other, "events.{type}", destination.Accepted}, {alone, first, "events.{type}", destination.Accepted},
		{member, first, "events.{type}", destination.Answered}, {member, second, "events.{type}", destination.Answered},
		{member, second, "a.events", destination.Accepted}, {member, own, "events.{type}", destination.Accepted},
		{member, namesake, "events.{type}", destination.Accepted},
	} {
		r := send(t, newSubject(t, tt.c, &posthornv1.Nats{Url: tt.srv.ClientURL(), Subject: tt.subject}), newMessage())
		if r.Verdict != tt.want {
			t.Errorf("%s: result is %+v, want verdict %d", tt.subject, r, tt.want)
		}
	}
}

// Its server may have come back under another ID, and the destination may have found
// it before the platform did.
func TestWhatIsThePlatformsOwnIsNotGuessed(t *testing.T) {
	t.Parallel()
	own, other := serve(t, server.Options{}), serve(t, server.Options{})
	platform := connect(t, own, gonats.MaxReconnects(-1))
	c := newClient(t, Config{Platform: platform, OwnSubjects: []string{"events"}})
	own.Shutdown()
	until(t, "the platform knows that its server is gone", func() bool { return !platform.IsConnected() })
	r := send(t, newSubject(t, c, &posthornv1.Nats{Url: other.ClientURL(), Subject: "events.a"}), newMessage())
	if r.Verdict != destination.NoAnswer {
		t.Errorf("a subject of the platform's: result is %+v, want no answer", r)
	}
	if r := send(t, newSubject(t, c, &posthornv1.Nats{Url: other.ClientURL(), Subject: "a"}), newMessage()); r.Verdict != destination.Accepted {
		t.Errorf("another subject: result is %+v, want that it is taken", r)
	}
}

// Who gave up on a server that is slow to greet leaves no connection behind.
func TestAConnectionThatCameTooLateIsNotKept(t *testing.T) {
	t.Parallel()
	lis, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lis.Close() })
	c := newClient(t, Config{IdleTimeout: time.Millisecond, ConnectTimeout: 30 * time.Second})
	d := newSubject(t, c, &posthornv1.Nats{Url: "nats://" + lis.Addr().String(), Subject: "a"})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if r := d.Send(ctx, newMessage()); r.ErrorClass != destination.ClassTimeout {
		t.Fatalf("result is %+v, want a timeout", r)
	}
	until(t, "nobody uses the connection", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.conns) == 0
	})
	conn, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		greet(conn, func(string, net.Conn) bool { return true })
	}()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("the connection was kept")
	}
	conn.Close()
}

func TestAnAttemptThatIsOverDoesNotEndTheConnectingOfOthers(t *testing.T) {
	t.Parallel()
	srv := serve(t, server.Options{})
	c := newClient(t, Config{})
	d := newSubject(t, c, &posthornv1.Nats{Url: srv.ClientURL(), Subject: "a"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d.Send(ctx, newMessage())
	if r := send(t, d, newMessage()); r.Verdict != destination.Accepted {
		t.Errorf("result is %+v, want accepted", r)
	}
}
