package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthornhq/posthorn/pkg/client"
	"github.com/posthornhq/posthorn/pkg/event"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// A reply is what the fake answers to one request; status 0 drops the connection.
type reply struct {
	status int
	body   string
	header map[string]string
}

// A request is what the fake saw.
type request struct {
	Method, Path, Body, Key, IfMatch string
}

// A scripted server answers with its replies, one after the other, the last for ever.
type scripted struct {
	mu      sync.Mutex
	replies []reply
	seen    []request
}

func (s *scripted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.seen = append(s.seen, request{r.Method, r.URL.RequestURI(), string(body), r.Header.Get("Authorization"), r.Header.Get("If-Match")})
	rep := s.replies[0]
	if len(s.replies) > 1 {
		s.replies = s.replies[1:]
	}
	s.mu.Unlock()
	if rep.status == 0 {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	for k, v := range rep.header {
		w.Header().Set(k, v)
	}
	w.WriteHeader(rep.status)
	io.WriteString(w, rep.body)
}

// requests returns what was seen so far.
func (s *scripted) requests() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

func newClient(t *testing.T, cfg client.Config, replies ...reply) (*client.Client, *scripted) {
	t.Helper()
	s := &scripted{replies: replies}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	c, err := client.New(srv.URL, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func TestPublishSendsTheBytesOfTheDataAsTheyAre(t *testing.T) {
	t.Parallel()
	c, s := newClient(t, client.Config{Key: "k"}, reply{202, `{"id":"ev_1","duplicate":false}`, nil})
	data := `{"z":9007199254740993, "a":1.10,"html":"<&>"}`
	got, err := c.Publish(t.Context(), client.Event{Type: "order.created", Tenant: "acme", Data: []byte(data), IdempotencyKey: "o-1"})
	if err != nil {
		t.Fatal(err)
	}
	if want := (client.Receipt{ID: "ev_1"}); got != want {
		t.Errorf("receipt %+v, want %+v", got, want)
	}
	want := []request{{"POST", "/api/v1/events", `{"type":"order.created","tenant":"acme","idempotencyKey":"o-1","data":` + data + `}`, "Bearer k", ""}}
	if diff := cmp.Diff(want, s.requests()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestPublishSendsOtherDataInBase64(t *testing.T) {
	t.Parallel()
	c, s := newClient(t, client.Config{}, reply{202, `{"id":"ev_1"}`, nil})
	ev := client.Event{Type: "t", Data: []byte("hello"), DataContentType: "text/plain", IdempotencyKey: "1"}
	if _, err := c.Publish(t.Context(), ev); err != nil {
		t.Fatal(err)
	}
	if want := `{"type":"t","dataContentType":"text/plain","idempotencyKey":"1","dataBase64":"aGVsbG8="}`; s.requests()[0].Body != want {
		t.Errorf("body %s, want %s", s.requests()[0].Body, want)
	}
}

func TestPublishRefusesDataThatIsNotWhatItSays(t *testing.T) {
	t.Parallel()
	c, s := newClient(t, client.Config{}, reply{202, `{}`, nil})
	if _, err := c.Publish(t.Context(), client.Event{Type: "t", Data: []byte(`{"a":1},"type":"other"`)}); err == nil {
		t.Error("no error for data that is not JSON")
	}
	if len(s.requests()) > 0 {
		t.Errorf("sent %+v, want nothing", s.requests())
	}
}

// The answer of the first try got lost; the second must be known as a repeat by
// the platform, and not be called a duplicate to a caller who published once.
func TestPublishRetriesWithTheKeyItMade(t *testing.T) {
	t.Parallel()
	c, s := newClient(t, client.Config{}, reply{status: 0}, reply{503, `{}`, nil}, reply{202, `{"id":"ev_1","duplicate":true}`, nil})
	got, err := c.Publish(t.Context(), client.Event{Type: "t"})
	if err != nil {
		t.Fatal(err)
	}
	if want := (client.Receipt{ID: "ev_1"}); got != want {
		t.Errorf("receipt %+v, want %+v", got, want)
	}
	keys := make(map[string]bool)
	for _, r := range s.requests() {
		var body struct{ IdempotencyKey string }
		if err := json.Unmarshal([]byte(r.Body), &body); err != nil {
			t.Fatal(err)
		}
		keys[body.IdempotencyKey] = true
	}
	if len(s.requests()) != 3 || len(keys) != 1 || keys[""] {
		t.Errorf("%d requests with keys %v, want 3 with one key", len(s.requests()), keys)
	}
}

func TestWhatIsRepeated(t *testing.T) {
	t.Parallel()
	publish := func(ctx context.Context, c *client.Client) error {
		_, err := c.Publish(ctx, client.Event{Type: "t"})
		return err
	}
	retry := func(ctx context.Context, c *client.Client) error {
		_, err := c.RetryDeadLetters(ctx, &posthornv1.RetryDeadLettersRequest{Ids: []string{"1"}})
		return err
	}
	edit := func(ctx context.Context, c *client.Client) error {
		_, err := c.Policies.Put(ctx, &posthornv1.Policy{Name: "p", Meta: &posthornv1.Meta{Etag: "3"}})
		return err
	}
	tests := []struct {
		name  string
		call  func(context.Context, *client.Client) error
		first reply
		want  int
	}{
		{"a publish after 503", publish, reply{503, `{}`, nil}, 2},
		{"a publish after 429", publish, reply{429, `{}`, map[string]string{"Retry-After": "0"}}, 2},
		{"a publish after a lost connection", publish, reply{status: 0}, 2},
		{"not a publish that was refused", publish, reply{422, `{}`, nil}, 1},
		{"not a publish after 500", publish, reply{500, `{}`, nil}, 1},
		{"not when the server wants a pause of an hour", publish, reply{429, `{}`, map[string]string{"Retry-After": "3600"}}, 1},
		{"not a retry of dead letters", retry, reply{503, `{}`, nil}, 1},
		{"an edit with etag after 503", edit, reply{503, `{}`, nil}, 2},
		{"not an edit with etag after a lost connection", edit, reply{status: 0}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, s := newClient(t, client.Config{}, tt.first, reply{200, `{}`, nil})
			err := tt.call(t.Context(), c)
			if len(s.requests()) != tt.want {
				t.Errorf("%d requests, want %d", len(s.requests()), tt.want)
			}
			if (err == nil) != (tt.want == 2) {
				t.Errorf("error %v after %d requests", err, len(s.requests()))
			}
		})
	}
}

func TestRetryingStopsWithItsContext(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, client.Config{Retries: 1000}, reply{503, `{}`, nil})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := c.Publish(ctx, client.Event{Type: "t"}); err == nil {
		t.Error("no error")
	}
}

func TestErrorsCarryTheProblem(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, client.Config{}, reply{422, `{"type":"about:blank","title":"Invalid event","status":422,
		"detail":"the data does not satisfy order.created version 1","violations":[{"field":"/total","description":"must be a number"}]}`,
		map[string]string{"Content-Type": "application/problem+json"}})
	_, err := c.Publish(t.Context(), client.Event{Type: "order.created"})
	got, ok := errors.AsType[*client.Error](err)
	if !ok {
		t.Fatalf("error %v (%T), want a *client.Error", err, err)
	}
	want := &client.Error{
		Status: 422, Title: "Invalid event", Detail: "the data does not satisfy order.created version 1",
		Violations: []event.Violation{{Field: "/total", Description: "must be a number"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
	text := "422 Invalid event: the data does not satisfy order.created version 1: /total: must be a number"
	if err.Error() != text {
		t.Errorf("text %q, want %q", err.Error(), text)
	}
}

func TestAnErrorOfAProxyHasItsStatus(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, client.Config{}, reply{502, "<html>\x1b[31mno</html>", map[string]string{"Content-Type": "text/html"}})
	_, err := c.GetEvent(t.Context(), "ev_1")
	if err == nil || err.Error() != "502 Bad Gateway" {
		t.Errorf("error %v, want 502 Bad Gateway", err)
	}
}

func TestUnreachableIsSaid(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.NotFoundHandler())
	srv.Close()
	c, err := client.New(srv.URL, client.Config{Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Publish(t.Context(), client.Event{Type: "t"}); !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("error %v, want ErrUnreachable", err)
	}
}

func TestNewRefusesWhatIsNoBaseURL(t *testing.T) {
	t.Parallel()
	for _, u := range []string{"", "127.0.0.1:9600", "ftp://h", "http://", "http://u:p@h", "http://h?x=1"} {
		if _, err := client.New(u, client.Config{}); err == nil {
			t.Errorf("New(%q): no error", u)
		}
	}
}

// One event is refused for good, one has no room yet; the latter goes again,
// alone, with its key.
func TestPublishBatchAnswersForEach(t *testing.T) {
	t.Parallel()
	c, s := newClient(t, client.Config{},
		reply{200, `{"results":[{"id":"ev_1","duplicate":false},{"error":{"code":3,"message":"no","violations":[{"field":"type","description":"is empty"}]}},{"error":{"code":8,"message":"full"}}]}`, nil},
		reply{200, `{"results":[{"id":"ev_3","duplicate":false}]}`, nil})
	got, err := c.PublishBatch(t.Context(), []client.Event{
		{Type: "a", IdempotencyKey: "1"}, {Type: "b", IdempotencyKey: "2"}, {Type: "c", IdempotencyKey: "3"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []client.Result{
		{Receipt: client.Receipt{ID: "ev_1"}},
		{Err: &client.Error{Status: 400, Title: "Bad Request", Detail: "no", Violations: []event.Violation{{Field: "type", Description: "is empty"}}}},
		{Receipt: client.Receipt{ID: "ev_3"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	if want := `{"events":[{"type":"c","idempotencyKey":"3"}]}`; s.requests()[1].Body != want {
		t.Errorf("second request %s, want %s", s.requests()[1].Body, want)
	}
}

func TestPublishBatchRefusesAnAnswerThatMissesSome(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, client.Config{}, reply{200, `{"results":[{"id":"ev_1"}]}`, nil})
	if got, err := c.PublishBatch(t.Context(), []client.Event{{Type: "a"}, {Type: "b"}}); err == nil {
		t.Errorf("results %+v and no error for two events and one answer", got)
	}
}

func TestListFollowsCursors(t *testing.T) {
	t.Parallel()
	c, s := newClient(t, client.Config{},
		reply{200, `{"items":[{"name":"a"},{"name":"b","newField":1}],"nextCursor":"x y"}`, nil},
		reply{200, `{"items":[{"name":"c"}],"nextCursor":""}`, nil})
	var names []string
	for src, err := range c.Sources.List(t.Context(), client.ListOptions{OrderBy: "name asc"}) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, src.GetName())
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if want := "/api/v1/sources?cursor=x+y&limit=200&orderBy=name+asc"; s.requests()[1].Path != want {
		t.Errorf("second page %s, want %s", s.requests()[1].Path, want)
	}
}

// A server that repeats a cursor must not keep us for ever.
func TestListEndsWhenTheCursorDoesNotMove(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, client.Config{}, reply{200, `{"items":[],"nextCursor":"x"}`, nil})
	var last error
	for _, err := range c.ListDeadLetters(t.Context(), &posthornv1.ListDeadLettersRequest{Status: "5xx"}) {
		last = err
	}
	if last == nil {
		t.Error("no error")
	}
}

func TestGetEventKeepsItsData(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, body, want string }{
		{"JSON as it is", `{"id":"ev_1","data":{"n":9007199254740993, "f":1.10}}`, `{"n":9007199254740993, "f":1.10}`},
		{"base64", `{"id":"ev_1","dataContentType":"text/plain","dataBase64":"aGVsbG8="}`, "hello"},
		{"none", `{"id":"ev_1"}`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, _ := newClient(t, client.Config{}, reply{200, tt.body, nil})
			ev, err := c.GetEvent(t.Context(), "ev_1")
			if err != nil {
				t.Fatal(err)
			}
			if string(ev.GetData()) != tt.want {
				t.Errorf("data %s, want %s", ev.GetData(), tt.want)
			}
		})
	}
}

func TestEnsure(t *testing.T) {
	t.Parallel()
	// As the platform shows it: with defaults written out and what it sets itself.
	const stored = `{"name":"orders","types":["order.*"],"direction":"OUTGOING","context":"default","policy":"default","priority":"NORMAL",
		"destination":{"webhook":{"url":"https://a.example/","format":"CLOUDEVENTS_BINARY"}},"secretCount":1,"meta":{"etag":"7","updatedBy":"admin"}}`
	sub := func(edit func(*posthornv1.Subscription)) *posthornv1.Subscription {
		s := &posthornv1.Subscription{
			Name: "orders", Types: []string{"order.*"},
			Destination: &posthornv1.Destination{Kind: &posthornv1.Destination_Webhook{Webhook: &posthornv1.Webhook{Url: "https://a.example/"}}},
		}
		edit(s)
		return s
	}
	get := "GET /api/v1/subscriptions/orders "
	tests := []struct {
		name    string
		want    *posthornv1.Subscription
		replies []reply
		change  client.Change
		calls   []string
	}{
		{
			"creates what is not there", sub(func(*posthornv1.Subscription) {}),
			[]reply{{404, `{}`, nil}, {200, stored, nil}},
			client.Created, []string{get, "POST /api/v1/subscriptions "},
		},
		{
			"writes nothing when only defaults are written out", sub(func(*posthornv1.Subscription) {}),
			[]reply{{200, stored, nil}},
			client.Unchanged, []string{get},
		},
		{
			"writes what differs, over the version that it read", sub(func(s *posthornv1.Subscription) { s.Paused = true }),
			[]reply{{200, stored, nil}, {200, `{"name":"orders","meta":{"etag":"8"}}`, nil}},
			client.Configured, []string{get, `PUT /api/v1/subscriptions/orders "7"`},
		},
		{
			"looks again when somebody else was faster", sub(func(s *posthornv1.Subscription) { s.Paused = true }),
			[]reply{{200, stored, nil}, {412, `{}`, nil}, {200, stored, nil}, {200, `{"name":"orders","meta":{"etag":"9"}}`, nil}},
			client.Configured, []string{get, `PUT /api/v1/subscriptions/orders "7"`, get, `PUT /api/v1/subscriptions/orders "7"`},
		},
		{
			"writes secrets always, and believes the etag", sub(func(s *posthornv1.Subscription) { s.Secrets = []string{"whsec_YQ=="} }),
			[]reply{{200, stored, nil}, {200, stored, nil}},
			client.Unchanged, []string{get, `PUT /api/v1/subscriptions/orders "7"`},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, s := newClient(t, client.Config{}, tt.replies...)
			_, change, err := c.Subscriptions.Ensure(t.Context(), tt.want)
			if err != nil {
				t.Fatal(err)
			}
			if change != tt.change {
				t.Errorf("change %s, want %s", change, tt.change)
			}
			var calls []string
			for _, r := range s.requests() {
				calls = append(calls, fmt.Sprintf("%s %s %s", r.Method, r.Path, r.IfMatch))
			}
			if diff := cmp.Diff(tt.calls, calls); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEnsureSubscriptionsNamesTheOneThatFails(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, client.Config{}, reply{403, `{"detail":"no"}`, nil})
	_, err := c.EnsureSubscriptions(t.Context(), &posthornv1.Subscription{Name: "orders"})
	if err == nil || err.Error() != "client: subscription orders: 403 Forbidden: no" {
		t.Errorf("error %v, want one that names orders", err)
	}
}

func TestSchemasAreJSONAndNotText(t *testing.T) {
	t.Parallel()
	c, s := newClient(t, client.Config{}, reply{200, `{"schema":{"type":"a/b/1/c","version":2,"kind":"JSON_SCHEMA","definition":{"type": "object"}},"created":true,"changes":["x"]}`, nil})
	got, err := c.PutSchema(t.Context(), "a.example/b/1/c", []byte(`{"type": "object"}`))
	if err != nil {
		t.Fatal(err)
	}
	if got.GetSchema().GetDefinition() != `{"type": "object"}` || got.GetSchema().GetVersion() != 2 || !got.GetCreated() {
		t.Errorf("answer %v, want version 2, created, with the definition as it came", got)
	}
	want := []request{{"PUT", "/api/v1/schemas/a.example/b/1/c", `{"schema":{"type": "object"}}`, "", ""}}
	if diff := cmp.Diff(want, s.requests()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestCheckSchemaStoresNothing(t *testing.T) {
	t.Parallel()
	c, s := newClient(t, client.Config{}, reply{200, `{"schema":{"type":"a","version":2,"definition":true},"created":true}`, nil})
	if _, err := c.CheckSchema(t.Context(), "a", []byte(`true`)); err != nil {
		t.Fatal(err)
	}
	if want := "/api/v1/schemas/a?dryRun=true"; s.requests()[0].Path != want {
		t.Errorf("asked %s, want %s", s.requests()[0].Path, want)
	}
}
