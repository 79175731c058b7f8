package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/audit"
)

const (
	aSource         = `{"name":"github","kind":"GITHUB","secrets":["hush-current","hush-old"]}`
	aSubscription   = `{"name":"erp","types":["order.*"],"destination":{"webhook":{"url":"https://erp.example/hooks","headers":{"X-Env":"prod"}}}}`
	anAuthorization = `{"name":"testing","oauth":{"url":"https://auth.example/","mode":"INTROSPECTION","clientId":"me","clientSecret":"hush-client"},"jwt":{"issuer":"https://auth.example"}}`
	aPolicy         = `{"name":"slow","delivery":{"maxRetries":0,"retryOn":["401","5xx"]}}`
)

func TestEveryKindIsCreatedReadReplacedListedAndDeleted(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, path, body, resource string
		edited                     string // the body with another description
		defaults                   map[string]any
	}{
		{
			"source", "/api/v1/sources", aSource, "github",
			`{"kind":"GITHUB","description":"changed"}`,
			map[string]any{"context": "default", "schemaMode": "REJECT", "secretCount": 2, "disabled": false},
		},
		{
			"subscription", "/api/v1/subscriptions", aSubscription, "erp",
			strings.Replace(aSubscription, `{"name"`, `{"description":"changed","name"`, 1),
			map[string]any{
				"context": "default", "policy": "default", "priority": "NORMAL", "direction": "OUTGOING", "paused": false,
				"maxInFlight": 0, "destination.webhook.format": "CLOUDEVENTS_BINARY", "secretCount": 1,
			},
		},
		{
			"policy", "/api/v1/policies", aPolicy, "slow",
			`{"description":"changed"}`,
			map[string]any{
				"delivery.maxRetries": 0, "delivery.timeout": "10s", "delivery.backoff.max": "300s", "delivery.backoff.jitter": 0.2,
				"delivery.backoff.strategy": "EXPONENTIAL",
			},
		},
		{
			"authorization", "/api/v1/authorizations", anAuthorization, "testing",
			strings.Replace(anAuthorization, `{"name"`, `{"description":"changed","name"`, 1),
			map[string]any{
				"oauth.mode": "INTROSPECTION", "oauth.timeout": "3s", "oauth.cache": "60s", "oauth.clientSecret": nil, "secretCount": 1,
				"jwt.algorithms.0": "RS256",
			},
		},
		{
			"backoff", "/api/v1/backoffs", `{"name":"patient","source":"shop","type":"order.#","maxRetries":9,"backoff":{"strategy":"LINEAR"}}`, "patient",
			`{"description":"changed","maxRetries":0}`,
			// What is left out is not filled in: it is for others to decide.
			map[string]any{"maxRetries": 9, "backoff.strategy": "LINEAR", "backoff.initial": nil, "backoff.jitter": nil},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			eachWay(t, func(t *testing.T, r *rig) {
				one := tt.path + "/" + tt.resource
				r.do("GET", one, "").problem(http.StatusNotFound, "")
				r.do("DELETE", one, "").problem(http.StatusNotFound, "")

				created := r.do("POST", tt.path, tt.body).is(http.StatusCreated)
				if got := created.header.Get("Location"); got != one {
					t.Errorf("location %q, want %q", got, one)
				}
				r.do("POST", tt.path, tt.body).problem(http.StatusConflict, "")

				got := r.do("GET", one, "").is(http.StatusOK).has("name", tt.resource).has("meta.updatedBy", "admin")
				for field, want := range tt.defaults {
					got.has(field, want)
				}
				if etag := got.header.Get("ETag"); etag == "" || etag != created.header.Get("ETag") || etag != `"`+got.field("meta.etag").(string)+`"` {
					t.Errorf("ETag %q, at creation %q, in meta %v; want the same", etag, created.header.Get("ETag"), got.field("meta.etag"))
				}
				r.do("GET", tt.path, "").is(http.StatusOK).contains(`"name":"` + tt.resource + `"`)

				put := r.do("PUT", one, tt.edited, "If-Match: "+got.header.Get("ETag")).is(http.StatusOK).has("description", "changed")
				put.has("meta.createdAt", got.field("meta.createdAt"))
				if put.header.Get("ETag") == got.header.Get("ETag") {
					t.Errorf("ETag is still %s after an edit", put.header.Get("ETag"))
				}
				r.do("PUT", one, tt.body, "If-Match: "+got.header.Get("ETag")).problem(http.StatusPreconditionFailed, "")
				r.do("DELETE", one, "", "If-Match: "+got.header.Get("ETag")).problem(http.StatusPreconditionFailed, "")
				r.do("GET", one, "").has("description", "changed")

				if gone := r.do("DELETE", one, "", "If-Match: "+put.header.Get("ETag")).is(http.StatusNoContent); gone.body != "" {
					t.Errorf("a deletion answered with %q, want nothing", gone.body)
				}
				r.do("GET", one, "").problem(http.StatusNotFound, "")
				// A name is free again once it is deleted.
				r.do("PUT", one, tt.body).is(http.StatusOK)
			})
		})
	}
}

func TestAnAnsweredEditIsInForceInTheSameProcess(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for n := range 20 {
		r.do("PUT", "/api/v1/policies/p", fmt.Sprintf(`{"delivery":{"maxRetries":%d}}`, n%10)).is(http.StatusOK)
		if got := r.catalog.Policy("p").MaxRetries; got != n%10 {
			t.Fatalf("edit %d: the catalog retries %d times, want %d", n, got, n%10)
		}
	}
	secret := r.do("POST", "/api/v1/subscriptions", aSubscription).is(http.StatusCreated).field("secrets.0")
	got, ok := r.catalog.Subscription("erp")
	if !ok || len(got.Secrets) != 1 || got.Secrets[0] != secret {
		t.Errorf("the catalog has the subscription: %t, with %v; want it with the secret that was shown", ok, got)
	}
	r.do("DELETE", "/api/v1/subscriptions/erp", "").is(http.StatusNoContent)
	if _, ok := r.catalog.Subscription("erp"); ok {
		t.Error("the catalog has a subscription whose deletion was answered")
	}
}

func TestIfMatch(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	etag := r.do("PUT", "/api/v1/policies/p", `{}`).is(http.StatusOK).field("meta.etag").(string)
	tests := []struct {
		name, path, header string
		want               int
	}{
		{"none", "p", "", http.StatusOK},
		{"any, of what is there", "p", "*", http.StatusOK},
		{"the tag", "p", `"` + etag + `"`, http.StatusOK},
		{"the tag, weakened by a proxy", "p", `W/"` + etag + `"`, http.StatusOK},
		{"one of several", "p", `"1000", "` + etag + `"`, http.StatusOK},
		{"another tag", "p", `"1000"`, http.StatusPreconditionFailed},
		{"any, of what is not there", "q", "*", http.StatusPreconditionFailed},
		{"a tag of what is not there", "q", `"` + etag + `"`, http.StatusPreconditionFailed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var headers []string
			if tt.header != "" {
				headers = []string{"If-Match: " + tt.header}
			}
			// The same content, so that the tag stays.
			r.do("PUT", "/api/v1/policies/"+tt.path, `{}`, headers...).is(tt.want)
		})
	}
}

func TestAPutThatChangesNothingLeavesTheETag(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for path, body := range map[string]string{
		"/api/v1/policies/slow": aPolicy, "/api/v1/sources/github": aSource, "/api/v1/subscriptions/erp": aSubscription,
	} {
		first := r.do("PUT", path, body).is(http.StatusOK).header.Get("ETag")
		if again := r.do("PUT", path, body).is(http.StatusOK).header.Get("ETag"); again != first {
			t.Errorf("%s: ETag %s after the same PUT, want %s", path, again, first)
		}
	}
}

// Two editors who do not see each other must both be told, or both be kept.
func TestOfConcurrentEditsOfOneVersionOneWins(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	etag := r.do("PUT", "/api/v1/policies/p", `{}`).is(http.StatusOK).header.Get("ETag")
	var mu sync.Mutex
	var wg sync.WaitGroup
	statuses := map[int]int{}
	for n := range 8 {
		wg.Go(func() {
			a := r.do("PUT", "/api/v1/policies/p", fmt.Sprintf(`{"description":"editor %d"}`, n), "If-Match: "+etag)
			mu.Lock()
			defer mu.Unlock()
			statuses[a.status]++
		})
	}
	wg.Wait()
	if diff := cmp.Diff(map[int]int{http.StatusOK: 1, http.StatusPreconditionFailed: 7}, statuses); diff != "" {
		t.Errorf("answers by status differ (-want +got):\n%s", diff)
	}
}

func TestWrongRequestsNameTheField(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.do("POST", "/api/v1/sources", aSource).is(http.StatusCreated)
	r.do("POST", "/api/v1/sources", `{"name":"other","kind":"GENERIC","context":"testing","contexts":[{"context":"second"}]}`).is(http.StatusCreated)
	r.do("PUT", "/api/v1/subscriptions/staged", strings.NewReplacer(`"erp"`, `"staged"`, `{"name"`, `{"context":"staging","name"`).Replace(aSubscription)).is(http.StatusOK)
	const (
		sources = "/api/v1/sources"
		subs    = "/api/v1/subscriptions"
	)
	tests := []struct {
		name, method, path, body, field string
	}{
		{"an unknown field", "POST", sources, `{"name":"x","kind":"GENERIC","colour":"red"}`, "colour"},
		{"an unknown field further in", "POST", "/api/v1/policies", `{"name":"x","delivery":{"retries":3}}`, "delivery.retries"},
		{"a value that the field cannot have", "POST", sources, `{"name":"x","kind":"NONE_SUCH"}`, "kind"},
		{"a field that is there twice", "POST", sources, `{"name":"x","kind":"GENERIC","kind":"GITHUB"}`, "kind"},
		{"no name", "POST", sources, `{"kind":"GENERIC"}`, "name"},
		{"an empty body", "POST", sources, ``, "name"},
		{"a name that is none", "POST", sources, `{"name":"GitHub","kind":"GENERIC"}`, "name"},
		{"another name than the path's", "PUT", sources + "/x", `{"name":"y","kind":"GENERIC"}`, "name"},
		{"a source without the secret that it needs", "PUT", sources + "/x", `{"kind":"GITHUB"}`, "secrets"},
		{"a source with an unknown policy", "PUT", sources + "/x", `{"kind":"GENERIC","policy":"none-such"}`, "policy"},
		{"a subscription with an unknown policy", "PUT", subs + "/x", `{"types":["#"],"policy":"none-such","destination":{"webhook":{"url":"https://a.example"}}}`, "policy"},
		{"a subscription without types", "PUT", subs + "/x", `{"destination":{"webhook":{"url":"https://a.example"}}}`, "types"},
		{"a policy with too many retries", "PUT", "/api/v1/policies/x", `{"delivery":{"maxRetries":11}}`, "delivery.maxRetries"},
		{"a source in a context of a source's name", "PUT", sources + "/x", `{"kind":"GENERIC","context":"github"}`, "context"},
		{"a source in a context of its own name", "PUT", sources + "/x", `{"kind":"GENERIC","context":"x"}`, "context"},
		{"a source in another context of a source's name", "PUT", sources + "/x", `{"kind":"GENERIC","contexts":[{"context":"github"}]}`, "contexts[0].context"},
		{"a source in another context of its own name", "PUT", sources + "/x", `{"kind":"GENERIC","contexts":[{"context":"a"},{"context":"x"}]}`, "contexts[1].context"},
		{"a source that is twice in a context", "PUT", sources + "/x", `{"kind":"GENERIC","contexts":[{"context":"default"}]}`, "contexts[0].context"},
		{"a source in a context without a name", "PUT", sources + "/x", `{"kind":"GENERIC","contexts":[{}]}`, "contexts[0].context"},
		{"a source with a topic that is none", "PUT", sources + "/x", `{"kind":"GENERIC","contexts":[{"context":"a","topics":["b","c d"]}]}`, "contexts[0].topics[1]"},
		{"a source of the name of another one's second context", "PUT", sources + "/second", `{"kind":"GENERIC"}`, "name"},
		{"a source of a context's name", "PUT", sources + "/testing", `{"kind":"GENERIC"}`, "name"},
		{"a source of the default context's name", "PUT", sources + "/default", `{"kind":"GENERIC"}`, "name"},
		{"a source of the name of a subscription's context", "PUT", sources + "/staging", `{"kind":"GENERIC"}`, "name"},
		{"a subscription in a context of a source's name", "PUT", subs + "/x", `{"types":["#"],"context":"github","destination":{"webhook":{"url":"https://a.example"}}}`, "context"},
		{"a limit of nothing", "GET", sources + "?limit=-1", "", "limit"},
		{"a limit that is too high", "GET", sources + "?limit=1001", "", "limit"},
		{"a limit that is no number", "GET", sources + "?limit=many", "", "limit"},
		{"an unknown order", "GET", sources + "?orderBy=size", "", "orderBy"},
		{"a cursor of nobody's", "GET", sources + "?cursor=abc", "", "cursor"},
		{"a parameter that is misspelt", "GET", sources + "?serach=x", "", "serach"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := *r
			r.t = t
			r.do(tt.method, tt.path, tt.body).problem(http.StatusBadRequest, tt.field)
		})
	}
	for _, body := range []string{`{"name":`, `{"name":"x"} trailing`, `[]`, `"x"`} {
		r.do("POST", sources, body).problem(http.StatusBadRequest, "")
	}
	r.do("POST", sources, `{"name":"x","description":"`+strings.Repeat("x", 1<<20)+`"}`).problem(http.StatusRequestEntityTooLarge, "")
}

func TestSecretsNeverComeBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, a := range []answer{
		r.do("POST", "/api/v1/sources", aSource).is(http.StatusCreated).has("secretCount", 2),
		r.do("GET", "/api/v1/sources/github", ""),
		r.do("GET", "/api/v1/sources", ""),
		r.do("PUT", "/api/v1/sources/github", `{"kind":"GITHUB","secrets":["hush-newest"]}`).has("secretCount", 1),
		r.do("PUT", "/api/v1/sources/github", `{"kind":"GITHUB","colour":"hush-newest"}`),
	} {
		a.lacks("hush").lacks("secrets")
	}
	for name, kv := range r.kv {
		w, err := kv.WatchAll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for e := range w.Updates() {
			if e == nil {
				break
			}
			if strings.Contains(string(e.Value()), "hush") {
				t.Errorf("bucket %s has a secret in clear under %s", name, e.Key())
			}
		}
	}
}

func TestAPutWithoutSecretsKeepsThoseThatAreStored(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	shown := r.do("POST", "/api/v1/subscriptions", aSubscription).is(http.StatusCreated).has("secretCount", 1).field("secrets.0")
	if s, _ := shown.(string); !strings.HasPrefix(s, "whsec_") {
		t.Fatalf("a subscription created without a secret shows %v, want one", shown)
	}
	edited := strings.Replace(aSubscription, "order.*", "invoice.*", 1)
	r.do("PUT", "/api/v1/subscriptions/erp", edited).is(http.StatusOK).has("secretCount", 1).lacks("whsec_")
	if got, _ := r.catalog.Subscription("erp"); !slices.Equal(got.Secrets, []string{shown.(string)}) {
		t.Error("the secret is another one after an edit without secrets")
	}
	const given = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	r.do("PUT", "/api/v1/subscriptions/erp", strings.Replace(edited, `{"name"`, `{"secrets":["`+given+`","`+shown.(string)+`"],"name"`, 1)).
		is(http.StatusOK).has("secretCount", 2).lacks("whsec_")
	if got, _ := r.catalog.Subscription("erp"); !slices.Equal(got.Secrets, []string{given, shown.(string)}) {
		t.Error("the rotated secrets are not in force")
	}
	// Whoever takes a name over must not get the secret of who had it before.
	r.do("DELETE", "/api/v1/subscriptions/erp", "").is(http.StatusNoContent)
	if again := r.do("PUT", "/api/v1/subscriptions/erp", edited).is(http.StatusOK).has("secretCount", 1).field("secrets.0"); again == shown || again == given {
		t.Error("a new subscription has the secret of a deleted one")
	}
}

func TestASourceOfAnotherKindDropsItsSecrets(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.do("POST", "/api/v1/sources", aSource).is(http.StatusCreated)
	for range 2 {
		r.do("PUT", "/api/v1/sources/github", `{"kind":"GENERIC"}`).is(http.StatusOK).has("secretCount", 0)
	}
	r.do("PUT", "/api/v1/sources/github", `{"kind":"GITHUB"}`).problem(http.StatusBadRequest, "secrets")
}

// A password is not sent to a broker that it was not given for.
func TestAPasswordStaysWithItsBroker(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	source := func(url, user, queue, more string) string {
		return `{"kind":"AMQP","amqp":{"url":"` + url + `","username":"` + user + `","queue":"` + queue + `"}` + more + `}`
	}
	const path = "/api/v1/sources/rabbit"
	r.do("PUT", path, source("amqps://rabbit.example", "u", "q", `,"secrets":["hush-hush"]`)).is(http.StatusOK).has("secretCount", 1).has("amqp.prefetch", 200).lacks("hush")
	r.do("PUT", path, source("amqps://rabbit.example", "u", "another", "")).is(http.StatusOK).has("secretCount", 1)
	r.do("PUT", path, source("amqps://elsewhere.example", "u", "another", "")).problem(http.StatusBadRequest, "secrets")
	r.do("PUT", path, source("amqps://rabbit.example", "another", "another", "")).problem(http.StatusBadRequest, "secrets")
}

func TestListsAreInOrderAndComeInPages(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	created := []string{"bravo", "alpha", "delta", "charlie", "erp-a", "erp-b", "erp-c"}
	for _, name := range created {
		r.do("PUT", "/api/v1/sources/"+name, `{"kind":"GENERIC"}`).is(http.StatusOK)
	}
	newest := slices.Clone(created)
	slices.Reverse(newest)
	byName := slices.Sorted(slices.Values(created))
	byNameDown := slices.Clone(byName)
	slices.Reverse(byNameDown)
	tests := []struct {
		name, query string
		want        []string
	}{
		{"newest first by default", "", newest},
		{"newest first", "orderBy=created+desc", newest},
		{"oldest first", "orderBy=created+asc", created},
		{"by name", "orderBy=name+asc", byName},
		{"by name, backwards", "orderBy=name+desc", byNameDown},
		{"searched in any case", "orderBy=name+asc&search=ERP", []string{"erp-a", "erp-b", "erp-c"}},
		{"searched for what is not there", "search=zulu", nil},
	}
	for _, tt := range tests {
		for _, limit := range []int{1, 2, 3, 7, 50} {
			t.Run(fmt.Sprintf("%s, %d a page", tt.name, limit), func(t *testing.T) {
				var got []string
				cursor := ""
				for range 20 {
					page := r.do("GET", fmt.Sprintf("/api/v1/sources?limit=%d&cursor=%s&%s", limit, cursor, tt.query), "").is(http.StatusOK)
					items, ok := page.field("items").([]any)
					if !ok || len(items) > limit {
						t.Fatalf("items are %v, want a list of at most %d", page.field("items"), limit)
					}
					for _, item := range items {
						got = append(got, item.(map[string]any)["name"].(string))
					}
					if cursor = page.field("nextCursor").(string); cursor == "" {
						break
					}
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("names differ (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// What is created or deleted between two pages neither repeats nor hides what
// was there all the time.
func TestACursorStaysGoodWhileTheListChanges(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	put := func(name string) { r.do("PUT", "/api/v1/sources/"+name, `{"kind":"GENERIC"}`).is(http.StatusOK) }
	for _, name := range []string{"b", "d", "f", "h"} {
		put(name)
	}
	first := r.do("GET", "/api/v1/sources?orderBy=name+asc&limit=2", "").has("items.1.name", "d")
	r.do("DELETE", "/api/v1/sources/d", "").is(http.StatusNoContent)
	put("a")
	second := r.do("GET", "/api/v1/sources?orderBy=name+asc&limit=2&cursor="+first.field("nextCursor").(string), "")
	second.has("items.0.name", "f").has("items.1.name", "h").has("nextCursor", "")
	r.do("GET", "/api/v1/sources?orderBy=name+desc&cursor="+first.field("nextCursor").(string), "").problem(http.StatusBadRequest, "cursor")
}

func TestAPolicyInUseCannotBeDeleted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.do("POST", "/api/v1/policies", aPolicy).is(http.StatusCreated)
	r.do("POST", "/api/v1/subscriptions", strings.Replace(aSubscription, `{"name"`, `{"policy":"slow","name"`, 1)).is(http.StatusCreated)
	r.do("PUT", "/api/v1/sources/shop", `{"kind":"GENERIC","policy":"slow"}`).is(http.StatusOK)
	r.do("DELETE", "/api/v1/policies/slow", "").problem(http.StatusConflict, "").contains("subscription erp").contains("source shop")
	r.do("DELETE", "/api/v1/subscriptions/erp", "").is(http.StatusNoContent)
	r.do("DELETE", "/api/v1/policies/slow", "").problem(http.StatusConflict, "").lacks("subscription erp")
	r.do("DELETE", "/api/v1/sources/shop", "").is(http.StatusNoContent)
	r.do("DELETE", "/api/v1/policies/slow", "").is(http.StatusNoContent)
}

func TestTheDefaultPolicyIsThereUntilItIsReplaced(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.do("GET", "/api/v1/policies/default", "").is(http.StatusOK).has("delivery.maxRetries", 5)
	r.do("GET", "/api/v1/policies", "").has("items.0.name", "default").has("items.1", nil)
	r.do("DELETE", "/api/v1/policies/default", "").problem(http.StatusConflict, "")
	r.do("PUT", "/api/v1/policies/default", `{"delivery":{"maxRetries":1}}`).is(http.StatusOK)
	r.do("GET", "/api/v1/policies", "").has("items.0.delivery.maxRetries", 1).has("items.1", nil)
	r.do("DELETE", "/api/v1/policies/default", "").is(http.StatusNoContent)
	r.do("GET", "/api/v1/policies/default", "").has("delivery.maxRetries", 5)
}

func TestPolicyAnswersCarryWarnings(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, a := range []answer{
		r.do("POST", "/api/v1/policies", `{"name":"slow","delivery":{"retryOn":["401"]}}`).is(http.StatusCreated),
		r.do("GET", "/api/v1/policies/slow", ""),
	} {
		if w, _ := a.field("warnings").([]any); len(w) == 0 || !strings.Contains(fmt.Sprint(w), "401") {
			t.Errorf("%s: warnings %v, want one about 401", a.what, w)
		}
	}
	e, err := r.kv[topology.BucketConfig].Get(t.Context(), "policies.slow")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(e.Value()), "warnings") {
		t.Errorf("warnings are stored: %s", e.Value())
	}
}

func TestEditsAreRecordedWithoutValues(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.do("POST", "/api/v1/sources", aSource).is(http.StatusCreated)
	r.do("PUT", "/api/v1/sources/github", `{"kind":"GITHUB","description":"d","secrets":["hush-newest"]}`).is(http.StatusOK)
	r.do("PUT", "/api/v1/sources/github", `{"kind":"GITHUB","description":"d"}`).is(http.StatusOK) // changes nothing
	r.do("DELETE", "/api/v1/sources/github", "").is(http.StatusNoContent)
	s, err := r.js.Stream(t.Context(), topology.StreamAudit)
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
		msg, err := s.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(msg.Data), "hush") {
			t.Errorf("the record has a secret: %s", msg.Data)
		}
		var c audit.Change
		if err := json.Unmarshal(msg.Data, &c); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %s %s by %s: %s", msg.Subject, c.Action, c.Name, c.Who, strings.Join(c.Fields, " ")))
	}
	want := []string{
		"audit.sources.github created github by admin: context kind name schemaMode secrets",
		"audit.sources.github updated github by admin: description secrets",
		"audit.sources.github deleted github by admin: ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("record differs (-want +got):\n%s", diff)
	}
}

func TestThePlatformDisablesASubscription(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.do("POST", "/api/v1/subscriptions", aSubscription).is(http.StatusCreated)
	for range 2 { // two dispatchers may see the same 410
		if err := r.api.DisableSubscription(t.Context(), "erp", "dispatcher"); err != nil {
			t.Fatal(err)
		}
	}
	r.do("GET", "/api/v1/subscriptions/erp", "").has("disabled", true).has("secretCount", 1).has("meta.updatedBy", "dispatcher")
	// Each who asked tells, in case the other died before it did; it is the same.
	if len(r.disabled) != 2 || r.disabled[0] != r.disabled[1] || !strings.HasPrefix(r.disabled[0], "erp ") {
		t.Errorf("told of %v, want twice the same about erp", r.disabled)
	}
	if got, _ := r.catalog.Subscription("erp"); !got.Disabled || len(got.Secrets) != 1 {
		t.Errorf("in force it is disabled: %t, with %d secrets; want disabled with one", got.Disabled, len(got.Secrets))
	}
	r.do("PUT", "/api/v1/subscriptions/erp", aSubscription).is(http.StatusOK).has("disabled", false)
	if err := r.api.DisableSubscription(t.Context(), "none-such", "dispatcher"); err != nil {
		t.Errorf("disabling what is gone: %v, want nil", err)
	}
	if len(r.disabled) != 2 {
		t.Errorf("told of %v, want nothing about what is gone", r.disabled)
	}
}

// What is answered must be stored for good, and what went wrong must stand in
// the log, since the client is not told.
func TestAnEditIsAnsweredOnlyWhenItIsCommitted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	committed := 0
	r.commit = func(context.Context) error { committed++; return nil }
	r.do("PUT", "/api/v1/policies/p", `{}`).is(http.StatusOK)
	r.do("DELETE", "/api/v1/policies/p", "").is(http.StatusNoContent)
	if committed != 2 {
		t.Errorf("committed %d times for two edits, want twice", committed)
	}
	r.do("GET", "/api/v1/policies", "").is(http.StatusOK)
	if committed != 2 {
		t.Errorf("a read waited for the commit")
	}
	r.commit = func(context.Context) error { return errors.New("the disk is gone") }
	r.do("PUT", "/api/v1/policies/p", `{}`).problem(http.StatusInternalServerError, "").lacks("disk")
	if got := r.log.String(); !strings.Contains(got, "the disk is gone") || !strings.Contains(got, "PutPolicy") {
		t.Errorf("the log says %q, want the cause and the method", got)
	}
}

// A secret that was given for one server is not sent to another.
func TestAnAuthorizationKeepsItsSecretForTheServerItWasGivenFor(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const path = "/api/v1/authorizations/testing"
	r.do("PUT", path, anAuthorization).is(http.StatusOK).has("secretCount", 1).lacks("hush")
	again := strings.Replace(anAuthorization, `,"clientSecret":"hush-client"`, "", 1)
	r.do("PUT", path, again).is(http.StatusOK).has("secretCount", 1).lacks("hush")
	if a, ok := r.catalog.Authorization("testing"); !ok || a.ClientSecret != "hush-client" {
		t.Errorf("in force is %+v, want one with the secret", a)
	}
	r.do("PUT", path, strings.Replace(again, "auth.example/", "elsewhere.example/", 1)).is(http.StatusOK).has("secretCount", 0)
	if a, _ := r.catalog.Authorization("testing"); a.ClientSecret != "" {
		t.Errorf("a server at another URL gets secret %q, want none", a.ClientSecret)
	}
	r.do("PUT", path, `{"oauth":{"url":"nowhere"}}`).problem(400, "oauth.url")
	if _, ok := r.catalog.Authorization(""); ok {
		t.Error("the default context has an authorization, want none")
	}
}

func TestAnEmptyListOfStatusesIsNotTakenForTheDefault(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, r *rig) {
		const empty = `{"name":"p","delivery":{"retryOn":[]}}`
		r.do("PUT", "/api/v1/policies/p", empty).problem(400, "delivery.retryOn").contains("none")
		r.do("POST", "/api/v1/policies", empty).problem(400, "delivery.retryOn")
		r.do("POST", "/api/v1/policies/p:simulate", `{"draft":`+empty+`}`).problem(400, "draft.delivery.retryOn")
		r.do("PUT", "/api/v1/policies/p", `{"delivery":{"retryOn":["none"]}}`).is(200).has("delivery.retryOn", "[none]").has("warnings", "[]")
		r.do("PUT", "/api/v1/policies/p", `{}`).is(200).has("delivery.retryOn", "[408 429 5xx]")
	})
}
