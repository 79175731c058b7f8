package api_test

import (
	"strings"
	"testing"
)

func TestAPolicyGoesBackToWhatItWas(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const path = "/api/v1/policies/slow"
	r.do("GET", path+"/versions", "").problem(404, "")
	r.do("PUT", path, `{"description":"first","delivery":{"maxRetries":1}}`).is(200)
	r.do("PUT", path, `{"description":"second","delivery":{"maxRetries":2}}`).is(200)
	versions := r.do("GET", path+"/versions", "").is(200).
		has("items.0.description", "second").has("items.1.description", "first").has("items.2", nil).has("items.1.meta.updatedBy", "admin")
	first := versions.field("items.1.meta.etag").(string)
	back := r.do("POST", path+":revert", `{"version":"`+first+`"}`).is(200).has("description", "first").has("delivery.maxRetries", 1)
	if back.field("meta.etag") == first {
		t.Error("the version that came back has its old etag, want a new one: it is an edit like any other")
	}
	r.do("GET", path, "").has("description", "first")
	r.do("GET", path+"/versions", "").has("items.2.description", "first")
	r.do("POST", path+":revert", `{}`).problem(400, "version")
	r.do("POST", path+":revert", `{"version":"99999"}`).problem(404, "")
	// What was deleted can come back.
	r.do("DELETE", path, "").is(204)
	r.do("POST", path+":revert", `{"version":"`+first+`"}`).is(200).has("description", "first")
}

func TestChangesAreListed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.do("PUT", "/api/v1/sources/github", aSource).is(200)
	r.do("PUT", "/api/v1/subscriptions/erp", strings.Replace(aSubscription, `"X-Env":"prod"`, `"Authorization":"Bearer hush-header"`, 1)).is(200)
	r.do("PUT", "/api/v1/subscriptions/erp", strings.Replace(aSubscription, "order.*", "order.#", 1)).is(200)
	r.do("DELETE", "/api/v1/subscriptions/erp", "").is(204)

	all := r.do("GET", "/api/v1/audit", "").is(200).lacks("hush").
		has("items.0.action", "deleted").has("items.0.after", "").has("items.1.action", "updated").has("items.2.action", "created").
		has("items.3.kind", "sources").has("items.3.name", "github").has("items.3.who", "admin").has("items.3.before", "")
	for _, path := range []string{"items.0.before", "items.1.after"} {
		if doc, _ := all.field(path).(string); !strings.Contains(doc, "order.#") {
			t.Errorf("%s is %q, want the subscription with the new type", path, doc)
		}
	}
	if doc, _ := all.field("items.2.after").(string); !strings.Contains(doc, "***") {
		t.Errorf("a header is recorded as %q, want it masked", doc)
	}
	r.do("GET", "/api/v1/audit?kind=subscriptions&name=erp&limit=2", "").is(200).has("items.1.action", "updated").has("items.2", nil)
	r.do("GET", "/api/v1/audit?who=nobody", "").is(200).has("items", []any{})
	r.do("GET", "/api/v1/audit?limit=0x", "").problem(400, "limit")
}
