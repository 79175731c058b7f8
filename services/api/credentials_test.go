package api_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/catalog"
	"github.com/posthornhq/posthorn/pkg/client"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

const secretive = `{"types":["order.*"],"destination":{"webhook":{"url":"https://erp.example/hooks","headers":{"X-Key":"hush-header"},"auth":{"bearer":{"token":"hush-token"}}}}}`

// inClear looks through the buckets for what nobody may read there.
func (r *rig) inClear(text string) {
	r.t.Helper()
	for name, kv := range r.kv {
		w, err := kv.WatchAll(r.t.Context())
		if err != nil {
			r.t.Fatal(err)
		}
		for e := range w.Updates() {
			if e == nil {
				break
			}
			if strings.Contains(string(e.Value()), text) {
				r.t.Errorf("bucket %s has a credential in clear under %s", name, e.Key())
			}
		}
	}
}

func TestCredentialsOfADestinationAreWriteOnlyAndStay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const path = "/api/v1/subscriptions/erp"
	inForce := func(header, token string) {
		t.Helper()
		s, ok := r.catalog.Subscription("erp")
		if w := s.Spec.GetDestination().GetWebhook(); !ok || w.GetHeaders()["X-Key"] != header || w.GetAuth().GetBearer().GetToken() != token {
			t.Errorf("in force are headers %v and token %q, want %q and %q", w.GetHeaders(), w.GetAuth().GetBearer().GetToken(), header, token)
		}
	}
	r.do("PUT", path, secretive).is(http.StatusOK).lacks("hush").
		has("secretCount", 1).has("credentialCount", 2).has("destination.webhook.headers.X-Key", "***")
	inForce("hush-header", "hush-token")
	answered := r.do("GET", path, "").lacks("hush").body
	r.do("GET", "/api/v1/subscriptions", "").lacks("hush")

	// What was answered can be sent back, edited.
	r.do("PUT", path, strings.Replace(answered, "order.*", "invoice.*", 1)).is(http.StatusOK).has("credentialCount", 2).lacks("hush").lacks("whsec_")
	inForce("hush-header", "hush-token")
	r.do("PUT", path, strings.Replace(secretive, "hush-header", "hush-second", 1)).is(http.StatusOK).lacks("hush")
	inForce("hush-second", "hush-token")

	// Elsewhere they are asked for again, and nothing changes until they are given.
	elsewhere := strings.Replace(answered, "erp.example", "evil.example", 1)
	r.do("PUT", path, elsewhere).problem(http.StatusBadRequest, "destination.webhook.headers.X-Key")
	r.do("PUT", path, strings.Replace(elsewhere, `"***"`, `"hush-third"`, 1)).problem(http.StatusBadRequest, "destination.webhook.auth.bearer.token")
	inForce("hush-second", "hush-token")
	r.do("PUT", "/api/v1/subscriptions/new", `{"types":["#"],"destination":{"webhook":{"url":"https://erp.example","headers":{"X-Key":"***"}}}}`).
		problem(http.StatusBadRequest, "destination.webhook.headers.X-Key")

	// Without them the signing secret stays.
	r.do("PUT", path, `{"types":["#"],"destination":{"webhook":{"url":"https://erp.example/"}}}`).is(http.StatusOK).has("secretCount", 1).has("credentialCount", 0).lacks("whsec_")
	inForce("", "")
	r.do("DELETE", path, "").is(http.StatusNoContent)
	r.do("PUT", path, secretive).is(http.StatusOK)
	r.do("GET", "/api/v1/audit", "").lacks("hush")
	r.inClear("hush")
}

func TestADestinationThatIsNotSignedForGetsNoSecret(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const path = "/api/v1/subscriptions/bus"
	r.do("PUT", path, `{"types":["#"],"destination":{"nats":{"url":"nats://n.example","subject":"a.{type}","token":"hush-token"}}}`).
		is(http.StatusOK).has("secretCount", 0).has("credentialCount", 1).lacks("whsec_").lacks("hush")
	if s, _ := r.catalog.Subscription("bus"); s.Spec.GetDestination().GetNats().GetToken() != "hush-token" {
		t.Errorf("in force is %v, want one with the token", s.Spec.GetDestination())
	}
	r.do("PUT", path, `{"types":["#"],"destination":{"webhook":{"url":"https://erp.example/"}}}`).is(http.StatusOK).has("secretCount", 1)
	r.inClear("hush")
}

// What an earlier version stored has header values in clear and no count of them.
func TestHeadersStoredInClearAreUsedHiddenAndSealedByTheNextEdit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const path = "/api/v1/subscriptions/erp"
	header := r.storeInClear()
	if got := header(); got != "hush-header" {
		t.Errorf("in force is header %q, want the one that is stored", got)
	}
	answered := r.do("GET", path, "").lacks("hush").has("destination.webhook.headers.X-Key", "***").body
	r.do("GET", "/api/v1/subscriptions", "").lacks("hush")
	// The client has seen no more than a mask; the value must survive that.
	r.do("PUT", path, strings.Replace(answered, "order.*", "invoice.*", 1)).is(http.StatusOK).has("credentialCount", 1).lacks("hush")
	if got := header(); got != "hush-header" {
		t.Errorf("after an edit header %q is in force, want the one that was stored", got)
	}
	r.do("GET", "/api/v1/audit", "").lacks("hush")
	r.inClear("hush")
}

func TestHeadersStoredInClearAreSealedAtTheStart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	header := r.storeInClear()
	r.do("PUT", "/api/v1/subscriptions/other", `{"types":["#"],"destination":{"webhook":{"url":"https://erp.example/"}}}`).is(http.StatusOK)
	for _, want := range []int{1, 0} {
		if n, err := r.api.SealCredentials(t.Context()); n != want || err != nil {
			t.Errorf("sealed %d, %v; want %d", n, err, want)
		}
	}
	if got := header(); got != "hush-header" {
		t.Errorf("header %q is in force, want the one that was stored", got)
	}
	r.do("GET", "/api/v1/subscriptions/erp", "").lacks("hush").has("secretCount", 1).has("credentialCount", 1).has("meta.updatedBy", "upgrade")
	r.do("GET", "/api/v1/audit", "").lacks("hush")
	r.inClear("hush")
}

// storeInClear makes subscription erp what an earlier version would have left, and
// returns what says which header is in force.
func (r *rig) storeInClear() (header func() string) {
	t := r.t
	t.Helper()
	const path = "/api/v1/subscriptions/erp"
	r.do("PUT", path, `{"types":["order.*"],"destination":{"webhook":{"url":"https://erp.example/hooks"}}}`).is(http.StatusOK)
	kv, key := r.kv[topology.BucketConfig], catalog.Key(catalog.Subscriptions, "erp")
	e, err := kv.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	old := new(posthornv1.Subscription)
	if err := protojson.Unmarshal(e.Value(), old); err != nil {
		t.Fatal(err)
	}
	old.GetDestination().GetWebhook().Headers = map[string]string{"X-Key": "hush-header"}
	doc, err := protojson.Marshal(old)
	if err != nil {
		t.Fatal(err)
	}
	revision, err := kv.Put(t.Context(), key, doc)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.catalog.WaitFor(t.Context(), revision, 0); err != nil {
		t.Fatal(err)
	}
	return func() string {
		s, _ := r.catalog.Subscription("erp")
		return s.Spec.GetDestination().GetWebhook().GetHeaders()["X-Key"]
	}
}

func TestTheSDKWritesCredentialsAndKnowsWhatItReadBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	server := httptest.NewServer(r.handler)
	t.Cleanup(server.Close)
	c, err := client.New(server.URL, client.Config{Key: r.key, Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	sub := new(posthornv1.Subscription)
	if err := protojson.Unmarshal([]byte(`{"name":"erp",`+secretive[1:]), sub); err != nil {
		t.Fatal(err)
	}
	got, change, err := c.Subscriptions.Ensure(t.Context(), sub)
	if err != nil || change != client.Created {
		t.Fatalf("ensured as %q, %v; want created", change, err)
	}
	got.Secrets = nil // shown once
	if _, change, err = c.Subscriptions.Ensure(t.Context(), client.Settable(got)); err != nil || change != client.Unchanged {
		t.Errorf("what was answered is %q, %v; want unchanged", change, err)
	}
	if _, change, err = c.Subscriptions.Ensure(t.Context(), sub); err != nil || change != client.Unchanged {
		t.Errorf("the same credentials again are %q, %v; want unchanged", change, err)
	}
	token := "hush-other"
	sub.GetDestination().GetWebhook().GetAuth().GetBearer().Token = &token
	if _, change, err = c.Subscriptions.Ensure(t.Context(), sub); err != nil || change != client.Configured {
		t.Errorf("another token is %q, %v; want configured", change, err)
	}
}
