package consumer

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/posthornhq/posthorn/pkg/amqp/rabbittest"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/netguard"
	"github.com/posthornhq/posthorn/pkg/source"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func TestMain(m *testing.M) { os.Exit(rabbittest.Main(m)) }

// fakeCatalog has the sources that a test put there.
type fakeCatalog struct {
	mu      sync.Mutex
	sources map[string]*source.Source
}

func (c *fakeCatalog) Sources() []*source.Source {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*source.Source
	for _, s := range c.sources {
		all = append(all, s)
	}
	return all
}

// fakeAcceptor keeps what it takes, which is all but what refuse has an error for.
type fakeAcceptor struct {
	mu       sync.Mutex
	refuse   func(ev *event.Event) error
	accepted []event.Publish
	calls    int
}

func (a *fakeAcceptor) Accept(ctx context.Context, ev event.Event, key string) (event.Receipt, error) {
	r := a.AcceptAll(ctx, []event.Publish{{Event: ev, Key: key}})[0]
	return r.Receipt, r.Err
}

func (a *fakeAcceptor) AcceptAll(_ context.Context, batch []event.Publish) []event.Result {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls++
	results := make([]event.Result, len(batch))
	for i := range batch {
		if a.refuse != nil {
			if results[i].Err = a.refuse(&batch[i].Event); results[i].Err != nil {
				continue
			}
		}
		a.accepted = append(a.accepted, batch[i])
	}
	return results
}

func (a *fakeAcceptor) refusing(f func(ev *event.Event) error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refuse = f
}

func (a *fakeAcceptor) all() []event.Publish {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]event.Publish(nil), a.accepted...)
}

// fakeRejecter keeps what it is told.
type fakeRejecter struct {
	mu       sync.Mutex
	rejected []event.Rejection
}

func (f *fakeRejecter) Reject(_ context.Context, r *event.Rejection) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rejected = append(f.rejected, *r)
	return nil
}

func (f *fakeRejecter) all() []event.Rejection {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.rejected)
}

// rig is Consumers that run, and what stands around them.
type rig struct {
	t        *testing.T
	catalog  fakeCatalog
	accept   fakeAcceptor
	rejecter fakeRejecter
	log      lines
	metrics  *Metrics
	c        *Consumers
	stop     func()
}

// lines is a log to look into.
type lines struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func newRig(t *testing.T, cfg Config) *rig {
	t.Helper()
	r := &rig{t: t, catalog: fakeCatalog{sources: map[string]*source.Source{}}, metrics: none()}
	var err error
	if r.c, err = New(Deps{
		Accept: &r.accept, Rejections: &r.rejecter, Catalog: &r.catalog, Metrics: r.metrics,
		Dialer: netguard.New([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}), Log: slog.New(slog.NewTextHandler(&r.log, nil)),
	}, cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.c.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v, want nil", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// put stores a source, as an edit does.
func (r *rig) put(spec *posthornv1.Source) {
	r.t.Helper()
	s, err := source.Compile(spec, []string{rabbittest.Password})
	if err != nil {
		r.t.Fatal(err)
	}
	r.catalog.mu.Lock()
	r.catalog.sources[spec.GetName()] = s
	r.catalog.mu.Unlock()
	r.c.CatalogChanged()
}

func (r *rig) delete(name string) {
	r.catalog.mu.Lock()
	delete(r.catalog.sources, name)
	r.catalog.mu.Unlock()
	r.c.CatalogChanged()
}

// until waits for a condition that shows itself only from outside.
func (r *rig) until(what string, f func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !f(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: not within two minutes; log:\n%s", what, r.log.String())
		}
	}
}

func of(s *rabbittest.Server, name string, settings *posthornv1.AmqpSource) *posthornv1.Source {
	settings.Url, settings.Username = s.URL(), rabbittest.User
	if settings.GetQueue() == "" {
		settings.Queue = name
	}
	return &posthornv1.Source{Name: name, Kind: posthornv1.Source_AMQP, Amqp: settings}
}

// publish sends messages and waits for their confirmation.
func publish(t testing.TB, s *rabbittest.Server, exchange, key string, messages ...amqp091.Publishing) {
	t.Helper()
	ch := s.Channel()
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	var last *amqp091.DeferredConfirmation
	for _, m := range messages {
		m.DeliveryMode = amqp091.Persistent
		var err error
		if last, err = ch.PublishWithDeferredConfirm(exchange, key, true, false, m); err != nil {
			t.Fatal(err)
		}
	}
	if last != nil && !last.Wait() {
		t.Fatal("the last message is not confirmed")
	}
}

// A4: declared and bound on demand; what the publisher and the broker say is kept.
func TestADeclaredQueueIsBoundAndItsMessagesBecomeEvents(t *testing.T) {
	t.Parallel()
	s := rabbittest.Shared(t)
	r := newRig(t, Config{})
	r.put(of(s, "declared", &posthornv1.AmqpSource{Declare: true, Bindings: []*posthornv1.AmqpSource_Binding{
		{Exchange: "declared", ExchangeType: "topic", RoutingKeys: []string{"order.#", "user.*"}},
		{Exchange: "amq.fanout"},
	}}))
	r.until("the queue is consumed", func() bool { return testutil.ToFloat64(r.metrics.connected.WithLabelValues("declared")) == 1 })
	publish(t, s, "declared", "order.created", amqp091.Publishing{
		ContentType: "application/json", MessageId: "m-1", AppId: "shop", CorrelationId: "c-1", Priority: 3, Timestamp: time.Unix(1700000000, 0),
		Headers: amqp091.Table{"X-Tenant": "acme", "n": int64(9007199254740993), "deep": amqp091.Table{"list": []any{true, "é"}},
			"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		Body: []byte(`{"total":1.10}`),
	})
	publish(t, s, "declared", "user.created", amqp091.Publishing{Type: "user.made", ContentType: "text/plain", Body: []byte("hello")})
	publish(t, s, "amq.fanout", "", amqp091.Publishing{Headers: amqp091.Table{
		"cloudEvents:specversion": "1.0", "cloudEvents:id": "ce-1", "cloudEvents:source": "/s", "cloudEvents:type": "a.b", "cloudEvents:region": "eu",
	}, Body: []byte{0xff}})
	r.until("three events", func() bool { return len(r.accept.all()) == 3 })

	var got []event.Publish
	for _, p := range r.accept.all() {
		if len(p.Event.CorrelationIDs) != 1 || p.Event.Received.IsZero() {
			t.Errorf("event %+v has no correlation ID of ours, or no time", p.Event)
		}
		p.Event.CorrelationIDs, p.Event.Received = nil, time.Time{}
		got = append(got, p)
	}
	want := []event.Publish{
		{Key: "m-1", Event: event.Event{
			Type: "order.created", Source: "declared", Context: "default", Direction: event.Incoming, DataContentType: "application/json", ExternalID: "m-1",
			Time: time.Unix(1700000000, 0).UTC(), TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Data: []byte(`{"total":1.10}`),
			Extensions: map[string]string{
				"amqpexchange": "declared", "amqproutingkey": "order.created", "amqpmessageid": "m-1", "amqpappid": "shop", "amqpcorrelationid": "c-1", "amqppriority": "3",
				"amqpheaders": `{"X-Tenant":"acme","deep":{"list":[true,"é"]},"n":9007199254740993}`,
			},
		}},
		{Event: event.Event{
			Type: "user.made", Source: "declared", Context: "default", Direction: event.Incoming, DataContentType: "text/plain", Data: []byte("hello"),
			Extensions: map[string]string{"amqpexchange": "declared", "amqproutingkey": "user.created"},
		}},
		{Key: "/s\x00ce-1", Event: event.Event{
			Type: "a.b", Source: "declared", Context: "default", Direction: event.Incoming, ExternalID: "ce-1", ExternalSource: "/s",
			DataContentType: "application/octet-stream", Data: []byte{0xff}, Extensions: map[string]string{"amqpexchange": "amq.fanout", "region": "eu"},
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got)\n%s", diff)
	}
	r.until("all are acknowledged", func() bool { return testutil.ToFloat64(r.metrics.messages.WithLabelValues("declared", accepted)) == 3 })
	r.stop()
	if n := s.Depth("declared"); n != 0 {
		t.Errorf("%d messages are left, want none", n)
	}
}

// A4, A6: what can never be stored goes to the dead-letter exchange and leaves a
// record; what stands beside it is not touched.
func TestPoisonIsDeadLetteredAndRecorded(t *testing.T) {
	t.Parallel()
	s := rabbittest.Shared(t)
	s.Queue("graves", "graveyard", "#")
	r := newRig(t, Config{MaxBytes: 1000})
	r.accept.refusing(func(ev *event.Event) error {
		if string(ev.Data) == `{"total":"x"}` {
			return errs.New(errs.Invalid, "the data does not satisfy the schema").Because("schema")
		}
		return nil
	})
	r.put(of(s, "poisoned", &posthornv1.AmqpSource{Declare: true, DeadLetterExchange: "graveyard",
		Bindings: []*posthornv1.AmqpSource_Binding{{Exchange: "poisoned", ExchangeType: "topic", RoutingKeys: []string{"#"}}}}))
	r.until("the queue is consumed", func() bool { return testutil.ToFloat64(r.metrics.connected.WithLabelValues("poisoned")) == 1 })
	json := func(id, body string) amqp091.Publishing {
		return amqp091.Publishing{MessageId: id, ContentType: "application/json", Body: []byte(body)}
	}
	publish(t, s, "poisoned", "order.created", json("good-1", `{}`), json("schema", `{"total":"x"}`), json("malformed", `{`),
		json("large", `"`+strings.Repeat("x", 1000)+`"`), json("good-2", `{}`))
	r.until("all are settled", func() bool {
		return testutil.ToFloat64(r.metrics.messages.WithLabelValues("poisoned", accepted)) == 2 && testutil.ToFloat64(r.metrics.messages.WithLabelValues("poisoned", refused)) == 3
	})
	r.until("three dead letters", func() bool { return s.Depth("graves") == 3 })
	dead := map[string]bool{}
	for _, d := range s.Drain("graves") {
		dead[d.MessageId] = true
		death, _ := d.Headers["x-death"].([]any)
		if first, _ := death[0].(amqp091.Table); first["reason"] != "rejected" || first["queue"] != "poisoned" {
			t.Errorf("%s died as %v, want it rejected from queue poisoned", d.MessageId, death)
		}
	}
	if !dead["schema"] || !dead["malformed"] || !dead["large"] {
		t.Errorf("dead letters are %v", dead)
	}
	reasons := map[string]int{}
	for _, rej := range r.rejecter.all() {
		reasons[rej.Reason] = rej.Status
		if rej.Source != "poisoned" || rej.RemoteAddr != s.Addr() {
			t.Errorf("rejection is %+v", rej)
		}
	}
	if diff := cmp.Diff(map[string]int{"malformed": 400, "too-large": 413}, reasons); diff != "" { // the broker records its own
		t.Errorf("rejections (-want +got)\n%s", diff)
	}
	if n := s.Depth("poisoned"); n != 0 {
		t.Errorf("%d messages are left in the queue", n)
	}
}

// What cannot be stored now is neither lost nor sent around in a circle.
func TestAnOutageIsWaitedOutInOrder(t *testing.T) {
	t.Parallel()
	s := rabbittest.Shared(t)
	s.Queue("outage", "")
	r := newRig(t, Config{})
	r.accept.refusing(func(*event.Event) error { return errs.New(errs.Full, "the store is full") })
	r.put(of(s, "outage", &posthornv1.AmqpSource{Prefetch: 10}))
	var messages []amqp091.Publishing
	for i := range 50 {
		messages = append(messages, amqp091.Publishing{MessageId: fmt.Sprint(i), Type: "a.b"})
	}
	publish(t, s, "", "outage", messages...)
	r.until("it was tried several times", func() bool {
		r.accept.mu.Lock()
		defer r.accept.mu.Unlock()
		return r.accept.calls >= 3
	})
	if n := s.Depth("outage"); n != 40 {
		t.Errorf("%d messages are ready, want 40: 10 are in hand, by the prefetch", n)
	}
	if held := testutil.ToFloat64(r.metrics.held.WithLabelValues("outage")); held == 0 {
		r.until("they show as held", func() bool { return testutil.ToFloat64(r.metrics.held.WithLabelValues("outage")) > 0 })
	}
	r.accept.refusing(nil)
	r.until("all are taken", func() bool { return len(r.accept.all()) == 50 })
	for i, p := range r.accept.all() {
		if p.Key != fmt.Sprint(i) || p.Event.Extensions["amqpredelivered"] != "" {
			t.Fatalf("event %d is message %s, redelivered %q: want them in order, each delivered once", i, p.Key, p.Event.Extensions["amqpredelivered"])
		}
	}
}

// Another gateway may be able to store what this one cannot.
func TestWhatIsHeldForTooLongIsGivenBack(t *testing.T) {
	t.Parallel()
	s := rabbittest.Shared(t)
	s.Queue("back", "")
	sick, well := newRig(t, Config{HoldFor: time.Millisecond}), newRig(t, Config{})
	sick.accept.refusing(func(*event.Event) error { return errs.New(errs.Unavailable, "no store") })
	sick.put(of(s, "back", &posthornv1.AmqpSource{}))
	publish(t, s, "", "back", amqp091.Publishing{MessageId: "1", Type: "a.b"})
	sick.until("it is given back", func() bool { return testutil.ToFloat64(sick.metrics.messages.WithLabelValues("back", requeued)) > 0 })
	well.put(of(s, "back", &posthornv1.AmqpSource{}))
	well.until("the other takes it", func() bool { return len(well.accept.all()) == 1 })
	if p := well.accept.all()[0]; p.Event.Extensions["amqpredelivered"] != "true" {
		t.Errorf("extensions are %v, want it marked as redelivered", p.Event.Extensions)
	}
}

func TestEditsTakeEffect(t *testing.T) {
	t.Parallel()
	s := rabbittest.Shared(t)
	for _, q := range []string{"before", "after"} {
		s.Queue(q, "")
	}
	r := newRig(t, Config{})
	r.put(of(s, "edited", &posthornv1.AmqpSource{Queue: "before"}))
	publish(t, s, "", "before", amqp091.Publishing{MessageId: "1", Type: "a.b"})
	r.until("the first queue is consumed", func() bool { return len(r.accept.all()) == 1 })
	r.put(of(s, "edited", &posthornv1.AmqpSource{Queue: "after"}))
	publish(t, s, "", "after", amqp091.Publishing{MessageId: "2", Type: "a.b"})
	r.until("the second queue is consumed", func() bool { return len(r.accept.all()) == 2 })
	r.until("the first one is left", func() bool { return s.Consumers("before") == 0 })
	off := of(s, "edited", &posthornv1.AmqpSource{Queue: "after"})
	off.Disabled = true
	r.put(off)
	r.until("a disabled one is left", func() bool { return s.Consumers("after") == 0 })
	r.put(of(s, "edited", &posthornv1.AmqpSource{Queue: "after"}))
	r.until("an enabled one is taken up", func() bool { return s.Consumers("after") == 1 })
	r.delete("edited")
	r.until("a deleted one is left", func() bool { return s.Consumers("after") == 0 })
	r.until("its metrics are gone", func() bool { return testutil.CollectAndCount(r.metrics.connected) == 0 })
}

func TestWhatTheBrokerRefusesIsNamed(t *testing.T) {
	t.Parallel()
	s := rabbittest.Shared(t)
	s.Queue("other-arguments", "")
	s.Queue("dead", "deadx", "#")
	tests := []struct {
		name     string
		settings *posthornv1.AmqpSource
		stage    string
		want     []string
	}{
		{"other arguments", &posthornv1.AmqpSource{Queue: "other-arguments", Declare: true, DeadLetterExchange: "deadx"}, stageDeclare,
			[]string{`declare queue \"other-arguments\"`, `dead-letter exchange \"deadx\"`, "PRECONDITION_FAILED"}},
		{"no such exchange", &posthornv1.AmqpSource{Queue: "unbound", Declare: true, Bindings: []*posthornv1.AmqpSource_Binding{{Exchange: "none-such", RoutingKeys: []string{"a.#"}}}}, stageDeclare,
			[]string{`bind queue \"unbound\" to exchange \"none-such\" by \"a.#\"`, "NOT_FOUND"}},
		{"another type", &posthornv1.AmqpSource{Queue: "mistyped", Declare: true, Bindings: []*posthornv1.AmqpSource_Binding{{Exchange: "deadx", ExchangeType: "fanout"}}}, stageDeclare,
			[]string{`declare exchange \"deadx\" of type fanout`, "PRECONDITION_FAILED"}},
		{"no dead-letter exchange", &posthornv1.AmqpSource{Queue: "undead", Declare: true, DeadLetterExchange: "no-grave"}, stageDeclare,
			[]string{`dead-letter exchange \"no-grave\" of queue \"undead\"`, "NOT_FOUND"}},
		{"no such queue", &posthornv1.AmqpSource{Queue: "no-such-queue"}, stageConsume, []string{`consume queue \"no-such-queue\"`, "NOT_FOUND"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, Config{})
			r.put(of(s, "refused", tt.settings))
			r.until("it was tried again", func() bool {
				return testutil.ToFloat64(r.metrics.failures.WithLabelValues("refused", tt.stage)) >= 3
			})
			log := r.log.String()
			for _, want := range tt.want {
				if !strings.Contains(log, want) {
					t.Errorf("the log does not say %s:\n%s", want, log)
				}
			}
			if n := strings.Count(log, "an AMQP source is not consumed"); n != 1 {
				t.Errorf("the same is said %d times in a moment, want once:\n%s", n, log)
			}
		})
	}
}

// A queue that is deleted is consumed again when it is back.
func TestADeletedQueueIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := rabbittest.Shared(t)
	s.Queue("phoenix", "")
	r := newRig(t, Config{})
	r.put(of(s, "phoenix", &posthornv1.AmqpSource{}))
	r.until("it is consumed", func() bool { return testutil.ToFloat64(r.metrics.connected.WithLabelValues("phoenix")) == 1 })
	if _, err := s.Channel().QueueDelete("phoenix", false, false, false); err != nil {
		t.Fatal(err)
	}
	r.until("its end is seen", func() bool { return strings.Contains(r.log.String(), `queue \"phoenix\"`) })
	s.Queue("phoenix", "")
	publish(t, s, "", "phoenix", amqp091.Publishing{Type: "a.b"})
	r.until("it is consumed again", func() bool { return len(r.accept.all()) == 1 })
}

// Who comes back finds that the one before has not ended yet: of a source there is one
// at a time, and what it shows is its own.
func TestASourceThatIsPutBackWaitsForTheOneBefore(t *testing.T) {
	t.Parallel()
	s := rabbittest.Shared(t)
	s.Queue("back", "")
	r := newRig(t, Config{})
	r.stop() // the test itself says when the catalog is looked at
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	all := map[string]*running{}
	look := func() { r.c.reconcile(ctx, all, &wg) }

	begun, goOn := make(chan struct{}), make(chan struct{})
	r.accept.refusing(func(ev *event.Event) error {
		if ev.Type == "a.first" {
			close(begun)
			<-goOn
		}
		return nil
	})
	publish(t, s, "", "back", amqp091.Publishing{Type: "a.first"})
	r.put(of(s, "back", &posthornv1.AmqpSource{}))
	look()
	<-begun
	first := all["back"]
	r.delete("back")
	look()
	r.put(of(s, "back", &posthornv1.AmqpSource{}))
	look()
	second := all["back"]
	if second == first {
		t.Fatal("the source that was put back is the one that was deleted")
	}
	publish(t, s, "", "back", amqp091.Publishing{Type: "a.second"})
	select {
	case <-first.done:
		t.Error("the first one ended with a message in hand")
	case <-time.After(100 * time.Millisecond): // time to do it wrong
	}
	if n := s.Consumers("back"); n != 1 {
		t.Errorf("%d consume at once, want one", n)
	}
	close(goOn)
	r.until("the second one consumes", func() bool { return len(r.accept.all()) == 2 })
	if n := testutil.CollectAndCount(r.metrics.connected); n != 1 {
		t.Errorf("%d sources are shown as connected, want the one", n)
	}
	r.delete("back")
	look()
	<-second.done
	if n := testutil.CollectAndCount(r.metrics.connected); n != 0 {
		t.Errorf("%d sources are shown that are gone", n)
	}
	look()
	if len(all) != 0 {
		t.Errorf("%d sources are kept that are gone", len(all))
	}
}

// What is in hand when the platform stops is finished, and acknowledged; what is
// not begun goes back.
func TestAStopFinishesWhatIsInHand(t *testing.T) {
	t.Parallel()
	s := rabbittest.Shared(t)
	s.Queue("stopped", "")
	r := newRig(t, Config{MaxBatch: 5})
	begun, goOn := make(chan struct{}), make(chan struct{})
	first := true
	r.accept.refusing(func(*event.Event) error {
		if first {
			first = false
			close(begun)
			<-goOn
		}
		return nil
	})
	var messages []amqp091.Publishing
	for range 20 {
		messages = append(messages, amqp091.Publishing{Type: "a.b"})
	}
	publish(t, s, "", "stopped", messages...)
	r.put(of(s, "stopped", &posthornv1.AmqpSource{}))
	<-begun
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.stop()
	}()
	select {
	case <-stopped:
		t.Fatal("it stopped with a batch in hand")
	case <-time.After(50 * time.Millisecond): // time to do it wrong
	}
	close(goOn)
	<-stopped
	taken := len(r.accept.all())
	if taken == 0 || taken > 5 {
		t.Errorf("%d events were taken, want those of one batch", taken)
	}
	r.until("the rest is in the queue", func() bool { return s.Depth("stopped") == 20-taken })
}

func TestABrokerThatIsOutOfReachIsNamed(t *testing.T) {
	t.Parallel()
	s := rabbittest.Shared(t)
	tests := []struct{ name, url, username, want string }{
		{"a private address", "amqp://10.0.0.1", "u", "netguard: 10.0.0.1 is not a public address"},
		{"nobody there", "amqp://127.0.0.1:1", "u", "connection refused"},
		{"a wrong user", s.URL(), "nobody", "ACCESS_REFUSED"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, Config{})
			r.put(&posthornv1.Source{Name: "far", Kind: posthornv1.Source_AMQP, Amqp: &posthornv1.AmqpSource{Url: tt.url, Username: tt.username, Queue: "q"}})
			r.until("it was tried again", func() bool { return testutil.ToFloat64(r.metrics.failures.WithLabelValues("far", stageConnect)) >= 2 })
			if log := r.log.String(); !strings.Contains(log, tt.want) || strings.Count(log, "an AMQP source is not consumed") != 1 {
				t.Errorf("the log does not say %q once:\n%s", tt.want, log)
			}
		})
	}
}

// A4: what is not stored is still the queue's.
func TestNothingIsAcknowledgedBeforeItIsStored(t *testing.T) {
	t.Parallel()
	s := rabbittest.Shared(t)
	s.Queue("unstored", "")
	r := newRig(t, Config{})
	r.accept.refusing(func(ev *event.Event) error {
		if ev.ExternalID == "0" { // the first: those behind one that waits wait too
			return nil
		}
		return errs.New(errs.Unavailable, "no store")
	})
	for i := range 5 {
		publish(t, s, "", "unstored", amqp091.Publishing{Type: "a.b", MessageId: fmt.Sprint(i)})
	}
	r.put(of(s, "unstored", &posthornv1.AmqpSource{}))
	r.until("one is stored and the others wait", func() bool {
		return len(r.accept.all()) == 1 && testutil.ToFloat64(r.metrics.held.WithLabelValues("unstored")) > 0
	})
	r.stop()
	r.until("the others are in the queue", func() bool { return s.Depth("unstored") == 4 })
	for _, d := range s.Drain("unstored") {
		if d.MessageId == "0" {
			t.Error("the message that was stored is in the queue again")
		}
	}
}
