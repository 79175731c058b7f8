package api_test

import (
	"net/http"
	"strings"
	"testing"
)

// as makes requests with another token.
func (r *rig) as(token string) *rig {
	other := *r
	other.key = token
	return &other
}

func TestUsersSignInAndDoWhatTheirRolesAllow(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, r *rig) {
		r.do("POST", "/api/v1/users", `{"name":"ann","roles":["sources:write","policies:read"],"password":"correct horse"}`).is(201).
			has("roles.0", "policies:read").has("meta.updatedBy", "admin").lacks("horse").lacks("password")
		r.do("POST", "/api/v1/users", `{"name":"ann","roles":["sources:write"],"password":"correct horse"}`).problem(409, "")
		r.do("POST", "/api/v1/users", `{"name":"bob","roles":["sources:eat"],"password":"correct horse"}`).problem(400, "roles")
		r.do("POST", "/api/v1/users", `{"name":"bob","roles":["sources:read"],"password":"short"}`).problem(400, "password")
		// Signing in needs no token, and tells nobody who is a user.
		in := r.send("POST", "/api/v1/signin", `{"name":"ann","password":"correct horse"}`).is(200).has("roles.1", "sources:write")
		wrong := r.send("POST", "/api/v1/signin", `{"name":"ann","password":"wrong horse!"}`).problem(401, "").field("detail")
		if nobody := r.send("POST", "/api/v1/signin", `{"name":"eve","password":"wrong horse!"}`).problem(401, "").field("detail"); nobody != wrong {
			t.Errorf("a user that does not exist is told %q, one with a wrong password %q; want the same", nobody, wrong)
		}
		token := in.field("token").(string)
		if strings.Count(token, ".") != 2 {
			t.Fatalf("token %q is no JWT", token)
		}
		ann := r.as(token)
		ann.do("GET", "/api/v1/whoami", "").is(200).has("name", "ann")
		ann.do("PUT", "/api/v1/sources/shop", `{"kind":"GENERIC"}`).is(200).has("meta.updatedBy", "ann")
		ann.do("GET", "/api/v1/sources", "").is(200)
		ann.do("GET", "/api/v1/policies", "").is(200)
		ann.do("PUT", "/api/v1/policies/p", `{}`).problem(403, "").contains("policies:write")
		ann.do("GET", "/api/v1/events", "").problem(403, "").contains("events:read")
		ann.do("POST", "/api/v1/events", `{"type":"a","data":1}`).problem(403, "").contains("events:write")
		ann.do("GET", "/api/v1/users", "").problem(403, "")
		ann.do("POST", "/api/v1/jwks:rotate", "").problem(403, "")

		keys := r.send("GET", "/api/v1/jwks.json", "").is(200).has("keys.0.kty", "RSA").has("keys.0.alg", "RS256").has("keys.0.use", "sig")
		r.do("POST", "/api/v1/jwks:rotate", "").is(200).has("keys.1.kid", keys.field("keys.0.kid"))
		ann.do("GET", "/api/v1/whoami", "").is(200) // its token is of the old key

		// Other roles end the token at once.
		r.do("PUT", "/api/v1/users/ann", `{"roles":["events:read"]}`).is(200)
		ann.do("GET", "/api/v1/whoami", "").problem(401, "")
		r.do("DELETE", "/api/v1/users/ann", "").is(204)
		r.send("POST", "/api/v1/signin", `{"name":"ann","password":"correct horse"}`).problem(401, "")
		r.do("GET", "/api/v1/audit?kind=users&name=ann", "").is(200).lacks("horse").has("items.0.action", "deleted").has("items.1.action", "updated").
			has("items.1.fields.0", "roles").has("items.2.action", "created")
		r.do("GET", "/api/v1/audit?kind=signing-keys", "").is(200).has("items.0.action", "rotated")
	})
}

func TestKeysAreShownOnce(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, r *rig) {
		made := r.do("POST", "/api/v1/keys", `{"name":"ci","description":"builds","roles":["events:write"]}`).is(201).has("name", "ci")
		key, _ := made.field("key").(string)
		if !strings.HasPrefix(key, "phk_") || !strings.HasPrefix(key, made.field("prefix").(string)) {
			t.Fatalf("the key is %q, its prefix %v", key, made.field("prefix"))
		}
		ci := r.as(key)
		ci.do("POST", "/api/v1/events", `{"type":"a","data":1}`).is(202)
		ci.do("GET", "/api/v1/events", "").is(200) // who writes may read
		ci.do("GET", "/api/v1/keys", "").problem(403, "").contains("keys:read")
		r.do("GET", "/api/v1/keys/ci", "").is(200).lacks(key).has("description", "builds").has("key", nil)
		r.do("GET", "/api/v1/keys?orderBy=name%20asc&limit=1", "").is(200).has("items.0.name", "admin").has("items.1", nil)
		r.do("GET", "/api/v1/keys?search=CI", "").is(200).has("items.0.name", "ci").has("items.1", nil).lacks(key)
		r.do("POST", "/api/v1/keys", `{"name":"ci","roles":["events:write"]}`).problem(409, "")
		r.do("POST", "/api/v1/keys", `{"name":"x","roles":[]}`).problem(400, "roles")
		r.do("POST", "/api/v1/keys", `{"name":"x","roles":["events:read"],"expiresAt":"2020-01-01T00:00:00Z"}`).problem(400, "expiresAt")
		r.do("DELETE", "/api/v1/keys/ci", "", "If-Match: \"99999\"").problem(http.StatusPreconditionFailed, "")
		r.do("DELETE", "/api/v1/keys/ci", "").is(204)
		ci.do("GET", "/api/v1/whoami", "").problem(401, "")
		r.do("DELETE", "/api/v1/keys/admin", "").problem(403, "")
		r.do("GET", "/api/v1/audit?kind=keys", "").is(200).lacks(key).has("items.1.name", "ci").has("items.1.who", "admin")
	})
}

// Who may make keys may not make stronger ones than itself.
func TestNobodyGivesRolesThatItLacks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	key := r.do("POST", "/api/v1/keys", `{"name":"clerk","roles":["keys:write","users:write","events:read"]}`).is(201).field("key").(string)
	clerk := r.as(key)
	clerk.do("POST", "/api/v1/keys", `{"name":"a","roles":["events:read"]}`).is(201)
	clerk.do("POST", "/api/v1/keys", `{"name":"b","roles":["events:write"]}`).problem(403, "")
	clerk.do("POST", "/api/v1/keys", `{"name":"c","roles":["admin"]}`).problem(403, "")
	r.do("POST", "/api/v1/users", `{"name":"root","roles":["admin"],"password":"correct horse"}`).is(201)
	clerk.do("PUT", "/api/v1/users/root", `{"roles":["admin"],"password":"another horse"}`).problem(403, "")
	clerk.do("PUT", "/api/v1/users/root", `{"roles":["events:read"],"password":"another horse"}`).problem(403, "")
	clerk.do("DELETE", "/api/v1/users/root", "").problem(403, "")
}

// The record of a deletion says what there was, as that of an edit does.
func TestTheRecordOfAnAccountHasWhatItWas(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	key := r.do("POST", "/api/v1/keys", `{"name":"shop","description":"of the shop","roles":["events:write"]}`).is(201).field("key").(string)
	r.do("POST", "/api/v1/users", `{"name":"ann","description":"of sales","roles":["sources:read"],"password":"correct horse"}`).is(201)
	r.do("DELETE", "/api/v1/keys/shop", "").is(204)
	r.do("DELETE", "/api/v1/users/ann", "").is(204)
	for kind, name := range map[string]string{"keys": "shop", "users": "ann"} {
		list := r.do("GET", "/api/v1/audit?kind="+kind+"&name="+name, "").is(200).lacks(key).lacks("horse").
			has("items.0.action", "deleted").has("items.0.after", "").has("items.1.action", "created").has("items.1.before", "")
		for _, path := range []string{"items.0.before", "items.1.after"} {
			if doc, _ := list.field(path).(string); !strings.Contains(doc, name) || !strings.Contains(doc, "roles") || !strings.Contains(doc, "description") {
				t.Errorf("%s: %s is %q, want what it was", kind, path, doc)
			}
		}
		if fields, _ := list.field("items.1.fields").([]any); len(fields) == 0 {
			t.Errorf("%s: the record of the creation names no fields", kind)
		}
	}
}
