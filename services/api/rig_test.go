package api_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/audit"
	"github.com/posthornhq/posthorn/pkg/catalog"
	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/destination/webhook"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/identity"
	"github.com/posthornhq/posthorn/pkg/interceptor"
	"github.com/posthornhq/posthorn/pkg/netguard"
	"github.com/posthornhq/posthorn/pkg/queue"
	"github.com/posthornhq/posthorn/pkg/recording"
	"github.com/posthornhq/posthorn/pkg/replay"
	"github.com/posthornhq/posthorn/pkg/seal"
	"github.com/posthornhq/posthorn/pkg/stream"
	"github.com/posthornhq/posthorn/pkg/subscription"
	"github.com/posthornhq/posthorn/pkg/wire"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
	"github.com/posthornhq/posthorn/services/api"
)

// A rig is the Master API on a real server, with the parts that are other
// packages' replaced by what records how it was called.
type rig struct {
	asker    *interceptor.Asker
	who      *identity.Directory
	t        testing.TB
	js       jetstream.JetStream
	kv       map[string]jetstream.KeyValue
	catalog  *catalog.Catalog
	api      *api.API
	local    *api.Local
	handler  http.Handler
	key      string
	broker   *fakeBroker
	world    *fakeWorld
	schemas  *fakeRegistry
	commit   func(context.Context) error
	log      bytes.Buffer
	disabled []string // what the API told of subscriptions that the platform disabled
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{
		t: t, js: jstest.WithTopology(t, topology.Config{}), kv: make(map[string]jetstream.KeyValue),
		broker: &fakeBroker{}, world: &fakeWorld{}, schemas: &fakeRegistry{},
		commit: func(context.Context) error { return nil },
	}
	for _, name := range []string{topology.BucketConfig, topology.BucketSecrets, topology.BucketIdentity, topology.BucketJobs} {
		kv, err := r.js.KeyValue(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		r.kv[name] = kv
	}
	sealer, err := seal.New(bytes.Repeat([]byte{7}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	r.startCatalog(sealer)
	r.startIdentities(sealer)
	pub, err := stream.New(r.js.Conn())
	if err != nil {
		t.Fatal(err)
	}
	r.api, err = api.New(api.Deps{
		Config: r.kv[topology.BucketConfig], Secrets: r.kv[topology.BucketSecrets],
		Sealer: sealer, Mirror: r.catalog, Audit: audit.New(pub), Changes: changes{r.js}, Identities: r.who, Asker: r.asker,
		Requests: recording.NewReader(r.js),
		Broker:   r.broker, Tester: tester{newWebhooks(t)}, Events: r.world, Tracer: r.world, Replayer: r.world,
		Lanes:      lanes{},
		Replays:    replays{replay.NewJobs(r.kv[topology.BucketJobs]), r.world},
		Rejections: rejections{r.world}, DeadLetters: deadLetters{r.world},
		Commit: func(ctx context.Context) error { return r.commit(ctx) },
		Disabled: func(_ context.Context, s *posthornv1.Subscription, at time.Time) {
			r.disabled = append(r.disabled, s.GetName()+" "+at.Format(time.RFC3339Nano))
		},
	}, slog.New(slog.NewTextHandler(&r.log, nil)), api.Config{})
	if err != nil {
		t.Fatal(err)
	}
	auth := r.who
	r.local = api.NewLocal(api.UnaryAuth(auth))
	r.api.Register(r.local)
	posthornv1.RegisterSchemaRegistryServer(r.local, r.schemas)
	posthornv1.RegisterDeliveriesServer(r.local, &pullStub{})
	if r.handler, err = api.NewHandler(t.Context(), r.local, auth, slog.New(slog.DiscardHandler), api.RESTConfig{MaxEventBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	return r
}

// tester opens webhooks, which is all that these tests send to.
type tester struct{ client *webhook.Client }

func newWebhooks(t testing.TB) *webhook.Client {
	c := webhook.NewClient(netguard.New([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}), webhook.Config{})
	t.Cleanup(c.Close)
	return c
}

func (o tester) Open(sub *subscription.Subscription) (destination.Destination, error) {
	w := sub.Spec.GetDestination().GetWebhook()
	if w == nil {
		return nil, errs.New(errs.Invalid, "not a webhook")
	}
	return webhook.New(o.client, w, sub.Name, sub.Secrets)
}

func (r *rig) startIdentities(sealer *seal.Sealer) {
	r.t.Helper()
	kv := r.kv[topology.BucketIdentity]
	var err error
	if r.key, _, err = identity.EnsureAdminKey(r.t.Context(), kv, "", filepath.Join(r.t.TempDir(), "admin.key")); err != nil {
		r.t.Fatal(err)
	}
	if r.who, err = identity.New(kv, sealer, nil, slog.New(slog.DiscardHandler), identity.Config{}); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.who.Run(ctx); err != nil {
			r.t.Errorf("identities: %v", err)
		}
	})
	r.t.Cleanup(func() { cancel(); wg.Wait() })
	<-r.who.Ready()
}

func (r *rig) startCatalog(sealer *seal.Sealer) {
	r.t.Helper()
	var err error
	r.catalog, err = catalog.New(r.kv[topology.BucketConfig], r.kv[topology.BucketSecrets], sealer, slog.New(slog.DiscardHandler), catalog.Config{})
	if err != nil {
		r.t.Fatal(err)
	}
	if r.asker, err = interceptor.NewAsker(http.DefaultClient, r.catalog, slog.New(slog.DiscardHandler), interceptor.Config{}); err != nil {
		r.t.Fatal(err)
	}
	r.catalog.UseAsker(r.asker)
	ctx, cancel := context.WithCancel(r.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.catalog.Run(ctx); err != nil {
			r.t.Errorf("catalog: %v", err)
		}
	})
	r.t.Cleanup(func() { cancel(); wg.Wait() })
	select {
	case <-r.catalog.Ready():
	case <-time.After(10 * time.Second):
		r.t.Fatal("the catalog did not become ready")
	}
}

// An answer is what came back over REST.
type answer struct {
	t      testing.TB
	what   string
	status int
	header http.Header
	body   string
}

// do makes a request with the administrator's key. headers are "Name: value".
func (r *rig) do(method, path, body string, headers ...string) answer {
	r.t.Helper()
	return r.send(method, path, body, append([]string{"Authorization: Bearer " + r.key}, headers...)...)
}

func (r *rig) send(method, path, body string, headers ...string) answer {
	r.t.Helper()
	req := httptest.NewRequestWithContext(r.t.Context(), method, path, strings.NewReader(body))
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	rec := httptest.NewRecorder()
	r.handler.ServeHTTP(rec, req)
	return answer{t: r.t, what: method + " " + path, status: rec.Code, header: rec.Header(), body: rec.Body.String()}
}

func (a answer) is(status int) answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("%s answered %d, want %d: %s", a.what, a.status, status, a.body)
	}
	return a
}

// field returns a value of the answer by its path, "meta.etag" or "items.0.name".
func (a answer) field(path string) any {
	a.t.Helper()
	var v any
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		a.t.Fatalf("%s answered what is not JSON: %v: %s", a.what, err, a.body)
	}
	for name := range strings.SplitSeq(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[name]
		case []any:
			var i int
			if _, err := fmt.Sscan(name, &i); err != nil || i >= len(at) {
				return nil
			}
			v = at[i]
		default:
			return nil
		}
	}
	return v
}

func (a answer) has(path string, want any) answer {
	a.t.Helper()
	if got := a.field(path); fmt.Sprint(got) != fmt.Sprint(want) {
		a.t.Errorf("%s: %s is %v, want %v: %s", a.what, path, got, want, a.body)
	}
	return a
}

// problem checks the shape of RFC 9457 and the field that is named, "" for none.
func (a answer) problem(status int, field string) answer {
	a.t.Helper()
	a.is(status)
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		a.t.Errorf("%s: content type %q, want application/problem+json", a.what, got)
	}
	a.has("status", status).has("title", http.StatusText(status))
	for _, name := range []string{"type", "detail", "instance"} {
		if s, _ := a.field(name).(string); s == "" {
			a.t.Errorf("%s: problem without %s: %s", a.what, name, a.body)
		}
	}
	if field != "" {
		a.has("violations.0.field", field)
	}
	return a
}

func (a answer) contains(s string) answer {
	a.t.Helper()
	if !strings.Contains(a.body, s) {
		a.t.Errorf("%s: no %q in %s", a.what, s, a.body)
	}
	return a
}

func (a answer) lacks(s string) answer {
	a.t.Helper()
	if strings.Contains(a.body, s) {
		a.t.Errorf("%s: %q in %s", a.what, s, a.body)
	}
	return a
}

// fakeBroker keeps what it was sent.
type fakeBroker struct {
	mu   sync.Mutex
	got  []*posthornv1.Event
	keys []string
	err  error
}

func (b *fakeBroker) accept(e *posthornv1.Event, key string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got = append(b.got, e)
	b.keys = append(b.keys, key)
	return fmt.Sprintf("ev_%d", len(b.got))
}

func (b *fakeBroker) SendOutgoingEvent(_ context.Context, req *posthornv1.SendOutgoingEventRequest) (*posthornv1.SendOutgoingEventResponse, error) {
	if b.err != nil {
		return nil, b.err
	}
	if req.GetEvent().GetType() == "" {
		return nil, wire.Status(errs.Field("type", "is required"))
	}
	return &posthornv1.SendOutgoingEventResponse{Receipt: &posthornv1.Receipt{
		Id: b.accept(req.GetEvent(), req.GetIdempotencyKey()), Duplicate: req.GetIdempotencyKey() == "again",
	}}, nil
}

func (b *fakeBroker) PublishBatch(_ context.Context, req *posthornv1.PublishBatchRequest) (*posthornv1.PublishBatchResponse, error) {
	res := new(posthornv1.PublishBatchResponse)
	for _, one := range req.GetEvents() {
		answer := &posthornv1.PublishResponse{}
		if one.GetEvent().GetType() == "" {
			answer.Result = &posthornv1.PublishResponse_Refusal{Refusal: wire.Refusal(errs.Field("type", "is required"))}
		} else {
			answer.Result = &posthornv1.PublishResponse_Receipt{Receipt: &posthornv1.Receipt{Id: b.accept(one.GetEvent(), one.GetIdempotencyKey())}}
		}
		res.Results = append(res.Results, answer)
	}
	return res, nil
}

// fakeWorld answers with what a test put into it and keeps what it was asked.
type fakeWorld struct {
	events      map[string]*event.Event
	summaries   []api.EventSummary
	trace       *api.Trace
	rejections  []event.Rejection
	deadLetters []event.DeadLetter
	mu          sync.Mutex
	removed     []string
	asked       any
}

func (w *fakeWorld) Get(_ context.Context, id string) (*event.Event, error) {
	if e := w.events[id]; e != nil {
		return e, nil
	}
	return nil, errs.New(errs.NotFound, "event %q does not exist", id)
}

func (w *fakeWorld) List(_ context.Context, q api.EventQuery) ([]api.EventSummary, string, error) {
	w.asked = q
	return w.summaries, "next", nil
}

func (w *fakeWorld) Trace(_ context.Context, id string) (*api.Trace, error) {
	if w.trace == nil {
		return nil, errs.New(errs.NotFound, "event %q does not exist", id)
	}
	return w.trace, nil
}

func (w *fakeWorld) Replay(_ context.Context, id string) (int, error) {
	w.asked = id
	return 3, nil
}

type rejections struct{ w *fakeWorld }

func (r rejections) List(_ context.Context, q api.RejectionQuery) ([]event.Rejection, string, error) {
	r.w.asked = q
	return r.w.rejections, "", nil
}

type lanes struct{}

func (lanes) List(context.Context) ([]api.LaneState, error) {
	return []api.LaneState{
		{Subscription: "b", Queued: 3, OwnState: queue.OwnState{Reasons: []queue.Reason{queue.Slow, queue.Failing}, Until: time.Unix(2, 0), Error: "refused", Failures: 5, Probes: 2}},
		{Subscription: "a", OwnState: queue.OwnState{Closing: true, Since: time.Unix(1, 0)}},
	}, nil
}

type changes struct{ js jetstream.JetStream }

func (c changes) List(ctx context.Context, q audit.Query) ([]audit.Change, string, error) {
	return audit.List(ctx, c.js, q)
}

type deadLetters struct{ w *fakeWorld }

func (d deadLetters) List(_ context.Context, q api.DeadLetterQuery) ([]event.DeadLetter, string, error) {
	d.w.asked = q
	return d.w.deadLetters, "", nil
}

func (d deadLetters) Retry(_ context.Context, ids []string) ([]api.Retried, error) {
	d.w.asked = ids
	out := make([]api.Retried, len(ids))
	for i, id := range ids {
		out[i] = api.Retried{ID: id, Event: "ev_1", Subscription: "erp", Round: 2}
		if id == "404" {
			out[i] = api.Retried{ID: id, Err: errs.New(errs.NotFound, "dead letter 404 does not exist")}
		}
	}
	return out, nil
}

func (d deadLetters) Remove(_ context.Context, id string) (bool, error) {
	d.w.mu.Lock() // many are removed side by side
	defer d.w.mu.Unlock()
	d.w.removed = append(d.w.removed, id)
	return id != "404", nil
}

// fakeRegistry keeps what it was asked and answers with the same.
type fakeRegistry struct {
	posthornv1.UnimplementedSchemaRegistryServer
	stored    *posthornv1.StoreSchemaRequest
	got       *posthornv1.GetSchemaRequest
	listed    *posthornv1.GetSchemaListRequest
	validated *posthornv1.ValidateEventForSchemaRequest
	schema    *posthornv1.Schema
}

func (f *fakeRegistry) StoreSchema(_ context.Context, req *posthornv1.StoreSchemaRequest) (*posthornv1.StoreSchemaResponse, error) {
	f.stored = req
	f.schema = &posthornv1.Schema{Type: req.GetType(), Version: 1, Kind: max(req.GetKind(), posthornv1.Schema_JSON_SCHEMA), Definition: req.GetDefinition(), Message: req.GetMessage()}
	return &posthornv1.StoreSchemaResponse{Schema: f.schema, Created: true}, nil
}

func (f *fakeRegistry) GetSchema(_ context.Context, req *posthornv1.GetSchemaRequest) (*posthornv1.GetSchemaResponse, error) {
	f.got = req
	if f.schema == nil {
		return nil, wire.Status(errs.New(errs.NotFound, "type %q has no schema", req.GetType()))
	}
	return &posthornv1.GetSchemaResponse{Schema: f.schema, Versions: []int32{1}}, nil
}

func (f *fakeRegistry) GetSchemaList(_ context.Context, req *posthornv1.GetSchemaListRequest) (*posthornv1.GetSchemaListResponse, error) {
	f.listed = req
	if f.schema == nil {
		return &posthornv1.GetSchemaListResponse{}, nil
	}
	return &posthornv1.GetSchemaListResponse{Items: []*posthornv1.Schema{f.schema}}, nil
}

func (f *fakeRegistry) ValidateEventForSchema(_ context.Context, req *posthornv1.ValidateEventForSchemaRequest) (*posthornv1.ValidateEventForSchemaResponse, error) {
	f.validated = req
	return &posthornv1.ValidateEventForSchemaResponse{Version: 1, Violations: []*posthornv1.Violation{{Field: "/total", Description: "is missing"}}}, nil
}

// signed is an HMAC-SHA256 in hex.
func signed(secret, text string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil))
}
