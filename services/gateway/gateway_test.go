package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/interceptor"
	"github.com/posthornhq/posthorn/pkg/source"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

const (
	githubSecret = "It's a Secret to Everybody"
	// helloSignature is the vector of GitHub's documentation, of "Hello, World!".
	helloSignature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
	auth0Secret    = "Bearer s3cret"
)

// fakeCatalog has sources by "<context>/<name>", and a policy that wants a key.
type fakeCatalog map[string]*source.Source

func (c fakeCatalog) Flow(policy string) (*interceptor.Flow, bool) {
	if policy != "keyed" {
		return nil, false
	}
	f, err := interceptor.Compile(&posthornv1.Security{Flow: []*posthornv1.Interceptor{
		{Kind: &posthornv1.Interceptor_IpFilter_{IpFilter: &posthornv1.Interceptor_IpFilter{Mode: posthornv1.Interceptor_IpFilter_BLOCK, Addresses: []string{"203.0.113.0/24"}}}},
		{Id: "key", Kind: &posthornv1.Interceptor_HeaderValue_{HeaderValue: &posthornv1.Interceptor_HeaderValue{Name: "X-Key"}}},
	}}, map[string]string{"key": "hush"}, nil)
	return f, err == nil
}

func (c fakeCatalog) Source(context, name string) (*source.Source, bool) {
	s, ok := c[context+"/"+name]
	return s, ok
}

func (c fakeCatalog) add(t testing.TB, spec *posthornv1.Source, secrets ...string) {
	t.Helper()
	s, err := source.Compile(spec, secrets)
	if err != nil {
		t.Fatal(err)
	}
	c[s.Context()+"/"+s.Name()] = s
}

// newCatalog has a source of every kind, one in context staging, one disabled.
func newCatalog(t testing.TB) fakeCatalog {
	c := fakeCatalog{}
	c.add(t, &posthornv1.Source{Name: "shop", Kind: posthornv1.Source_GENERIC})
	c.add(t, &posthornv1.Source{Name: "shop", Kind: posthornv1.Source_GENERIC, Context: "staging"})
	c.add(t, &posthornv1.Source{Name: "old", Kind: posthornv1.Source_GENERIC, Disabled: true})
	c.add(t, &posthornv1.Source{Name: "queue", Kind: posthornv1.Source_AMQP, Amqp: &posthornv1.AmqpSource{Url: "amqp://u@h", Queue: "q"}}, "hush")
	c.add(t, &posthornv1.Source{Name: "slow", Kind: posthornv1.Source_GENERIC, RatePerClient: 0.01})
	c.add(t, &posthornv1.Source{Name: "keyed", Kind: posthornv1.Source_GENERIC, Policy: "keyed"})
	c.add(t, &posthornv1.Source{Name: "lost", Kind: posthornv1.Source_GENERIC, Policy: "gone"})
	c.add(t, &posthornv1.Source{Name: "slack", Kind: posthornv1.Source_SLACK}, "hush")
	c.add(t, &posthornv1.Source{Name: "agent", Kind: posthornv1.Source_HEADER, Type: "a.b", Header: &posthornv1.HeaderSettings{Name: "user-agent"}}, "hush")
	c.add(t, &posthornv1.Source{Name: "cloud", Kind: posthornv1.Source_CLOUDEVENTS})
	c.add(t, &posthornv1.Source{Name: "github", Kind: posthornv1.Source_GITHUB}, githubSecret)
	c.add(t, &posthornv1.Source{Name: "auth0", Kind: posthornv1.Source_AUTH0, Auth0: &posthornv1.Auth0Settings{Codes: []string{"s"}}}, auth0Secret)
	c.add(t, &posthornv1.Source{Name: "signed", Kind: posthornv1.Source_HMAC, Type: "configured"}, "hush")
	return c
}

// fakeAcceptor takes everything but what refuse has an error for, and calls
// what duplicate says a duplicate.
type fakeAcceptor struct {
	refuse    func(ctx context.Context, ev *event.Event) error
	duplicate func(ev *event.Event) bool

	mu       sync.Mutex
	accepted []event.Publish
}

func (a *fakeAcceptor) Accept(ctx context.Context, ev event.Event, key string) (event.Receipt, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refuse != nil {
		if err := a.refuse(ctx, &ev); err != nil {
			return event.Receipt{}, err
		}
	}
	a.accepted = append(a.accepted, event.Publish{Event: ev, Key: key})
	return event.Receipt{
		ID: fmt.Sprintf("ev_%d", len(a.accepted)), Duplicate: a.duplicate != nil && a.duplicate(&ev),
	}, nil
}

func (a *fakeAcceptor) AcceptAll(ctx context.Context, batch []event.Publish) []event.Result {
	results := make([]event.Result, len(batch))
	for i := range batch {
		results[i].Receipt, results[i].Err = a.Accept(ctx, batch[i].Event, batch[i].Key)
	}
	return results
}

// fakeRejecter keeps what it is told, and answers with err.
type fakeRejecter struct {
	err      error
	rejected []event.Rejection
	deadline bool // whether the last call had one
}

func (f *fakeRejecter) Reject(ctx context.Context, r *event.Rejection) error {
	f.rejected = append(f.rejected, *r)
	_, f.deadline = ctx.Deadline()
	return f.err
}

// rig is a gateway and what stands around it.
type rig struct {
	accept   fakeAcceptor
	rejecter fakeRejecter
	reg      *prometheus.Registry
	handler  http.Handler
}

func newRig(t testing.TB, cfg Config) *rig {
	t.Helper()
	r := &rig{reg: prometheus.NewRegistry()}
	g, err := New(&r.accept, newCatalog(t), &r.rejecter, slog.New(slog.DiscardHandler), NewMetrics(r.reg), cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.handler = g.Handler()
	return r
}

// post returns a request with headers given as "Name: value".
func post(path, body string, headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	return r
}

func (r *rig) do(req *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r.handler.ServeHTTP(w, req)
	return w
}

// answered fails the test unless w has the status and the body.
func answered(t testing.TB, w *httptest.ResponseRecorder, status int, body string) {
	t.Helper()
	if w.Code != status {
		t.Fatalf("answer is %d %s, want %d", w.Code, w.Body, status)
	}
	if got := strings.TrimSpace(w.Body.String()); got != body {
		t.Errorf("answer is %s, want %s", got, body)
	}
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("content type is %q, want application/json", got)
	}
}

// refusedWith fails the test unless w is a problem with the status and reason,
// and returns it.
func refusedWith(t testing.TB, w *httptest.ResponseRecorder, status int, reason string) problem {
	t.Helper()
	var p problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatalf("answer is %d %q, want a problem: %v", w.Code, w.Body, err)
	}
	if got := w.Header().Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("content type is %q, want application/problem+json", got)
	}
	got := problem{Type: p.Type, Title: p.Title, Status: w.Code}
	want := problem{Type: "urn:posthorn:problem:" + reason, Title: http.StatusText(status), Status: status}
	if d := cmp.Diff(want, got); d != "" || p.Status != w.Code {
		t.Errorf("problem with status %d (-want +got)\n%s", p.Status, d)
	}
	return p
}

func TestEveryKindIsTaken(t *testing.T) {
	t.Parallel()
	auth0 := func(id, code string) string {
		return `{"log_id":"` + id + `","data":{"log_id":"` + id + `","date":"2026-02-28T23:59:59.123Z","type":"` + code + `"}}`
	}
	const one = `{"id":"ev_1","ids":["ev_1"],"duplicate":false}`
	tests := []struct {
		name    string
		request *http.Request
		want    string
		types   []string
		keys    []string
	}{
		{"generic", post("/events/shop/order.created", `{"n":1}`, "Idempotency-Key: k1"), one, []string{"order.created"}, []string{"k1"}},
		{"generic, a Certes URI", post("/events/shop/community.certes.dev/shop/1/order", `{}`), one,
			[]string{"community.certes.dev/shop/1/order"}, []string{""}},
		{"in a named context", post("/events/staging/shop/order.created", `{}`), one, []string{"order.created"}, []string{""}},
		{"in the default context by name", post("/events/default/shop/order.created", `{}`), one, []string{"order.created"}, []string{""}},
		{"GitHub's vector", post("/events/github", "Hello, World!", "Content-Type: text/plain", "X-GitHub-Event: push",
			"X-GitHub-Delivery: d-1", "X-Hub-Signature-256: "+helloSignature), one, []string{"push"}, []string{"d-1"}},
		{"HMAC", post("/events/signed", `{"id":1}`,
			"X-Signature: 5672948d9b0bb8de626568e7e449ed70154217d90c378dcb825cc2135fc649e6"), one, []string{"configured"}, []string{""}},
		{"CloudEvents, binary", post("/events/cloud", `{}`, "Content-Type: application/json", "ce-specversion: 1.0", "ce-id: 7",
			"ce-source: /s", "ce-type: t.x"), one, []string{"t.x"}, []string{"/s\x007"}},
		{"CloudEvents, structured", post("/events/cloud", `{"specversion":"1.0","id":"7","source":"/s","type":"t.x","data":{}}`,
			"Content-Type: application/cloudevents+json"), one, []string{"t.x"}, []string{"/s\x007"}},
		{"CloudEvents, batch", post("/events/cloud",
			`[{"specversion":"1.0","id":"7","source":"/s","type":"t.x"},{"specversion":"1.0","id":"8","source":"/s","type":"t.y"}]`,
			"Content-Type: application/cloudevents-batch+json"), `{"ids":["ev_1","ev_2"],"duplicates":0,"dropped":0}`,
			[]string{"t.x", "t.y"}, []string{"/s\x007", "/s\x008"}},
		{"Auth0, some dropped", post("/events/auth0", "["+auth0("1", "s")+","+auth0("2", "fp")+"]", "Authorization: "+auth0Secret),
			`{"ids":["ev_1"],"duplicates":0,"dropped":1}`, []string{"com.auth0.log.s"}, []string{"1"}},
		{"Auth0, all dropped", post("/events/auth0", auth0("2", "fp"), "Authorization: "+auth0Secret),
			`{"ids":[],"duplicates":0,"dropped":1}`, nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, Config{})
			answered(t, r.do(tt.request), http.StatusAccepted, tt.want)
			var types, keys []string
			for _, p := range r.accept.accepted {
				types, keys = append(types, p.Event.Type), append(keys, p.Key)
			}
			if d := cmp.Diff(tt.types, types) + cmp.Diff(tt.keys, keys); d != "" {
				t.Errorf("accepted types and keys (-want +got)\n%s", d)
			}
			if len(r.rejecter.rejected) != 0 {
				t.Errorf("rejections are %+v, want none", r.rejecter.rejected)
			}
		})
	}
}

// What the broker gets is complete but for the ID, which is the broker's.
func TestEventIsFilled(t *testing.T) {
	t.Parallel()
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	const known = "gw.1-69a42b00-0123456789abcdef01234567"
	r := newRig(t, Config{})
	w := r.do(post("/events/github", "Hello, World!", "Content-Type: text/plain", "X-GitHub-Event: push",
		"X-Hub-Signature-256: "+helloSignature, "Traceparent: "+parent, "Tracestate: a=1",
		"X-Correlation-Id: nonsense, "+known, "X-Correlation-Id: ext."+known))
	if w.Code != http.StatusAccepted || len(r.accept.accepted) != 1 {
		t.Fatalf("answer is %d %s with %d events, want 202 with 1", w.Code, w.Body, len(r.accept.accepted))
	}
	ev := r.accept.accepted[0].Event
	want := event.Event{
		Type: "push", Source: "github", Context: "default", Direction: event.Incoming, TraceParent: parent, TraceState: "a=1",
		DataContentType: "text/plain", Data: []byte("Hello, World!"),
	}
	got := event.Event{
		Type: ev.Type, Source: ev.Source, Context: ev.Context, Direction: ev.Direction, TraceParent: ev.TraceParent, TraceState: ev.TraceState,
		DataContentType: ev.DataContentType, Data: ev.Data,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("event (-want +got)\n%s", d)
	}
	if ev.Received.IsZero() || ev.Received.Location().String() != "UTC" {
		t.Errorf("received at %v, want a time in UTC", ev.Received)
	}
	if n := len(ev.CorrelationIDs); n != 3 || ev.CorrelationIDs[0] != "ext."+known || ev.CorrelationIDs[1] != "ext."+known ||
		!strings.HasPrefix(ev.CorrelationIDs[n-1], "gw.1-") {
		t.Errorf("correlation IDs are %q, want twice ext.%s, then one of gw", ev.CorrelationIDs, known)
	}
	if len(ev.Receipt) != 1 || ev.Receipt[0].Name != "verify" || ev.Receipt[0].Outcome != "ok" {
		t.Errorf("receipt is %+v, want one verify that is ok", ev.Receipt)
	}
}

// Two events of a batch must not write into one another's lists.
func TestEventsOfABatchShareNoList(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	r.do(post("/events/cloud",
		`[{"specversion":"1.0","id":"7","source":"/s","type":"t.x"},{"specversion":"1.0","id":"8","source":"/s","type":"t.y"}]`,
		"Content-Type: application/cloudevents-batch+json",
		// With these a list grows to three, and has room for a fourth.
		"X-Correlation-Id: gw.1-69a42b00-0123456789abcdef01234567,gw.1-69a42b00-0123456789abcdef01234568"))
	if len(r.accept.accepted) != 2 {
		t.Fatalf("%d events accepted, want 2", len(r.accept.accepted))
	}
	a, b := r.accept.accepted[0].Event, r.accept.accepted[1].Event
	a.CorrelationIDs = append(a.CorrelationIDs, "of a")
	b.CorrelationIDs = append(b.CorrelationIDs, "of b")
	if got := a.CorrelationIDs[len(a.CorrelationIDs)-1]; got != "of a" {
		t.Errorf("last correlation ID of the first event is %q, want that of a", got)
	}
}

// One name may stand for a source in each of several contexts; without a context
// it is the default one's.
func TestContextOfAPath(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/events/shop/a.b": "default", "/events/default/shop/a.b": "default", "/events/staging/shop/a.b": "staging",
	} {
		r := newRig(t, Config{})
		if w := r.do(post(path, `{}`)); w.Code != http.StatusAccepted {
			t.Errorf("%s is answered with %d %s, want 202", path, w.Code, w.Body)
		} else if got := r.accept.accepted[0].Event.Context; got != want {
			t.Errorf("%s is in context %q, want %q", path, got, want)
		}
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	answered(t, newRig(t, Config{}).do(httptest.NewRequest(http.MethodGet, "/", nil)), http.StatusOK, `{"status":"ok"}`)
}

func TestNewWantsItsParts(t *testing.T) {
	t.Parallel()
	if _, err := New(nil, fakeCatalog{}, &fakeRejecter{}, slog.New(slog.DiscardHandler), nil, Config{}); err == nil {
		t.Error("no error without an acceptor, want one")
	}
}

// BenchmarkIngest is the gateway's own share of an event: everything but the
// connection and the broker.
func BenchmarkIngest(b *testing.B) {
	body := `{"order":"1234","total":99.90,"note":"` + strings.Repeat("x", 470) + `"}`
	g, err := New(instant{}, newCatalog(b), &fakeRejecter{}, slog.New(slog.DiscardHandler), nil, Config{})
	if err != nil {
		b.Fatal(err)
	}
	h := g.Handler()
	req := post("/events/shop/order.created", "", "Content-Type: application/json", "Idempotency-Key: k1")
	reader := strings.NewReader(body)
	req.Body, req.ContentLength = io.NopCloser(reader), int64(len(body))
	w := &discard{header: http.Header{}}
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		reader.Reset(body)
		h.ServeHTTP(w, req)
		if w.status != http.StatusAccepted {
			b.Fatalf("status %d, want 202", w.status)
		}
	}
}

// instant accepts at once.
type instant struct{}

func (instant) Accept(context.Context, event.Event, string) (event.Receipt, error) {
	return event.Receipt{ID: "ev_01J00000000000000000000000"}, nil
}

func (instant) AcceptAll(_ context.Context, batch []event.Publish) []event.Result {
	return make([]event.Result, len(batch))
}

// discard is a client that reads nothing.
type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(status int)      { d.status = status }

// errFull is what the broker says when there is no room.
var errFull = errs.New(errs.Full, "the event store is full of undelivered events").Because("full")
