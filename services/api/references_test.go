package api_test

import (
	"fmt"
	"sync"
	"testing"
)

// A policy that is deleted in the moment in which somebody begins to use it is either
// there afterwards, or nobody uses it.
func TestAPolicyInUseCannotBeDeletedInARace(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.do("PUT", "/api/v1/policies/other", `{}`).is(200)
	for i := range 20 {
		policy, name := fmt.Sprintf("p%d", i), fmt.Sprintf("u%d", i)
		for _, user := range []struct{ method, path, before, body string }{
			{"POST", "/api/v1/sources", "", fmt.Sprintf(`{"name":%q,"kind":"GENERIC","policy":%q}`, name, policy)},
			{"POST", "/api/v1/subscriptions", "", fmt.Sprintf(`{"name":%q,"types":["a"],"policy":%q,"destination":{"pull":{}}}`, name, policy)},
			{"PUT", "/api/v1/sources/" + name, `{"kind":"GENERIC","policy":"other"}`, fmt.Sprintf(`{"kind":"GENERIC","policy":%q}`, policy)},
		} {
			r.do("PUT", "/api/v1/policies/"+policy, `{}`).is(200)
			path := user.path
			if user.method == "POST" {
				path += "/" + name
			}
			if user.before != "" {
				r.do("PUT", path, user.before).is(200)
			}
			var deleted, used answer
			var wg sync.WaitGroup
			wg.Go(func() { deleted = r.do("DELETE", "/api/v1/policies/"+policy, "") })
			wg.Go(func() { used = r.do(user.method, user.path, user.body) })
			wg.Wait()
			there := r.do("GET", "/api/v1/policies/"+policy, "").status == 200
			if in := r.do("GET", path, ""); in.status == 200 && in.field("policy") == policy && !there {
				t.Errorf("%s (%d) uses a policy that is deleted (%d)", path, used.status, deleted.status)
			}
			if deleted.status == 204 && there || deleted.status != 204 && !there {
				t.Errorf("the deletion was answered %d %s, and the policy is there: %t", deleted.status, deleted.body, there)
			}
			if deleted.status == 204 && used.status/100 == 2 {
				t.Errorf("%s: the policy is deleted and used at once", path)
			}
			if user.before != "" && used.status == 400 {
				r.do("GET", path, "").is(200).has("policy", "other") // it is as it was
			}
			r.do("DELETE", path, "")
			r.do("DELETE", "/api/v1/policies/"+policy, "")
		}
	}
}
