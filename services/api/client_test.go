package api_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/posthornhq/posthorn/pkg/client"
	"github.com/posthornhq/posthorn/pkg/event"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// The SDK and the API are written apart; here they meet.
func TestTheSDKUnderstandsTheAPI(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	server := httptest.NewServer(r.handler)
	t.Cleanup(server.Close)
	c, err := client.New(server.URL, client.Config{Key: r.key, Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("resources", func(t *testing.T) { testSDKResources(t, c) })
	t.Run("events", func(t *testing.T) { testSDKEvents(t, c, r) })
	t.Run("schemas", func(t *testing.T) {
		const schema = `{"type":"object","maximum":1.10}`
		stored, err := c.PutSchema(t.Context(), "shop.example/orders/1/created", []byte(schema))
		if err != nil || stored.GetSchema().GetDefinition() != schema {
			t.Fatalf("stored %v, %v; want definition %s", stored, err, schema)
		}
		got, err := c.GetSchema(t.Context(), "shop.example/orders/1/created", 0)
		if err != nil || got.GetSchema().GetDefinition() != schema {
			t.Errorf("read %v, %v; want definition %s", got, err, schema)
		}
		for s, err := range c.ListSchemas(t.Context(), "shop") {
			if err != nil || s.GetDefinition() != schema {
				t.Errorf("listed %v, %v; want definition %s", s, err, schema)
			}
		}
		verdict, err := c.ValidateData(t.Context(), "t", 1, []byte(`{}`))
		if err != nil || verdict.GetValid() || len(verdict.GetViolations()) != 1 {
			t.Errorf("verdict %v, %v; want one violation", verdict, err)
		}
	})
}

func testSDKResources(t *testing.T, c *client.Client) {
	sub := &posthornv1.Subscription{
		Name: "erp", Types: []string{"order.*"},
		Destination: &posthornv1.Destination{Kind: &posthornv1.Destination_Webhook{Webhook: &posthornv1.Webhook{Url: "https://erp.example/hooks"}}},
	}
	for _, want := range []client.Change{client.Created, client.Unchanged} {
		got, change, err := c.Subscriptions.Ensure(t.Context(), sub)
		if err != nil || change != want {
			t.Fatalf("ensured as %q, %v; want %q", change, err, want)
		}
		if shown := len(got.GetSecrets()) == 1; shown != (want == client.Created) {
			t.Errorf("%s: the secret is shown: %t", want, shown)
		}
	}
	for range 2 {
		if _, _, err := c.Sources.Ensure(t.Context(), &posthornv1.Source{Name: "github", Kind: posthornv1.Source_GITHUB, Secrets: []string{"hush"}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []client.Change{client.Created, client.Unchanged} {
		if _, change, err := c.Policies.Ensure(t.Context(), &posthornv1.Policy{Name: "p"}); err != nil || change != want {
			t.Errorf("the policy is %q, %v; want %q", change, err, want)
		}
	}
	stale := &posthornv1.Policy{Name: "p", Meta: &posthornv1.Meta{Etag: "1000"}}
	_, err := c.Policies.Put(t.Context(), stale)
	if e, ok := errors.AsType[*client.Error](err); !ok || e.Status != http.StatusPreconditionFailed {
		t.Errorf("a put with an old etag: %v, want status 412", err)
	}
	if err := c.Subscriptions.Delete(t.Context(), "erp"); err != nil {
		t.Error(err)
	}
	if _, err := c.Subscriptions.Get(t.Context(), "erp"); !client.IsNotFound(err) {
		t.Errorf("a deleted subscription: %v, want not found", err)
	}
	if who, err := c.WhoAmI(t.Context()); err != nil || who.GetName() != "admin" {
		t.Errorf("who am I: %v, %v; want admin", who, err)
	}
}

func testSDKEvents(t *testing.T, c *client.Client, r *rig) {
	const data = `{"n":9007199254740993,"p":1.10}`
	receipt, err := c.Publish(t.Context(), client.Event{Type: "order.created", Data: []byte(data)})
	if err != nil || receipt.ID != "ev_1" {
		t.Fatalf("receipt %v, %v; want ev_1", receipt, err)
	}
	if got := string(r.broker.got[0].GetData()); got != data {
		t.Errorf("the broker has %s, want %s", got, data)
	}
	results, err := c.PublishBatch(t.Context(), []client.Event{{Type: "a"}, {Data: []byte("1")}})
	if err != nil || results[0].Err != nil || !client.IsRefusal(results[1].Err) {
		t.Errorf("results %v, %v; want the second one refused", results, err)
	}
	r.world.events = map[string]*event.Event{
		"ev_1": {ID: "ev_1", Data: []byte(data)},
		"ev_2": {ID: "ev_2", DataContentType: "text/csv", Data: []byte("a,b")},
	}
	for id, want := range map[string]string{"ev_1": data, "ev_2": "a,b"} {
		if got, err := c.GetEvent(t.Context(), id); err != nil || string(got.GetData()) != want {
			t.Errorf("event %s is %v, %v; want data %s", id, got, err, want)
		}
	}
	if n, err := c.ReplayEvent(t.Context(), "ev_1"); err != nil || n != 3 {
		t.Errorf("replayed to %d, %v; want 3", n, err)
	}
	if res, err := c.RetryDeadLetters(t.Context(), &posthornv1.RetryDeadLettersRequest{Ids: []string{"1", "404"}}); err != nil || res.GetRetried() != 1 {
		t.Errorf("retried %v, %v; want 1", res, err)
	}
}
