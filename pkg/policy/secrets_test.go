package policy_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/policy"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func flow(t *testing.T, doc string) *posthornv1.Policy {
	t.Helper()
	p := new(posthornv1.Policy)
	if err := protojson.Unmarshal([]byte(`{"security":{"flow":`+doc+`}}`), p); err != nil {
		t.Fatal(err)
	}
	policy.NameInterceptors(p.GetSecurity().GetFlow())
	return p
}

func TestNamesOfInterceptorsAreTheSameEachTime(t *testing.T) {
	t.Parallel()
	doc := `[{"jwt":{}},{"id":"jwt-2","jwt":{}},{"jwt":{}},{"headerValue":{"name":"X"}},{"hmac":{}},{"oauth":{}},
		{"accessToken":{}},{"clientId":{}},{"ipFilter":{}},{"jsonField":{}}]`
	want := []string{"jwt-1", "jwt-2", "jwt-3", "header-value-1", "hmac-1", "oauth-1", "access-token-1", "client-id-1", "ip-filter-1", "json-field-1"}
	for range 2 {
		var got []string
		for _, in := range flow(t, doc).GetSecurity().GetFlow() {
			got = append(got, in.GetId())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("names (-want +got):\n%s", diff)
		}
	}
}

func TestASecretStaysWithItsInterceptor(t *testing.T) {
	t.Parallel()
	first := flow(t, `[{"id":"a","headerValue":{"name":"X-A","value":"va"}},{"jwt":{}},{"id":"b","jsonField":{"path":"p","value":"vb"}},{"id":"c","hmac":{"header":"S","secret":"vc"}}]`)
	given := policy.TakeSecrets(first)
	stored := policy.MergeSecrets(first, given, nil)
	if diff := cmp.Diff(map[string]string{"a": "va", "b": "vb", "c": "vc"}, policy.SecretsByID(stored)); diff != "" {
		t.Fatalf("stored (-want +got):\n%s", diff)
	}
	policy.ClearSecrets(first)
	if left := policy.TakeSecrets(first); len(left) != 0 {
		t.Errorf("after clearing %q are left, want none", left)
	}
	tests := []struct {
		name, edit string
		want       map[string]string
	}{
		{"moved", `[{"id":"c","hmac":{"header":"S"}},{"id":"b","jsonField":{"path":"p"}},{"id":"a","headerValue":{"name":"X-A"}}]`, map[string]string{"a": "va", "b": "vb", "c": "vc"}},
		{"one is new", `[{"id":"a","headerValue":{"name":"X-A","value":"new"}},{"id":"b","jsonField":{"path":"p"}}]`, map[string]string{"a": "new", "b": "vb"}},
		{"one is gone", `[{"id":"b","jsonField":{"path":"p"}}]`, map[string]string{"b": "vb"}},
		{"another header under the ID", `[{"id":"a","headerValue":{"name":"X-B"}}]`, map[string]string{}},
		{"another kind under the ID", `[{"id":"a","jsonField":{"path":"X-A"}}]`, map[string]string{}},
		{"a value with line feeds", `[{"id":"a","headerValue":{"name":"X-A","value":"1\n2 3"}}]`, map[string]string{"a": "1\n2 3"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			edit := flow(t, tt.edit)
			got := policy.SecretsByID(policy.MergeSecrets(edit, policy.TakeSecrets(edit), stored))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("kept (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnInterceptorWithNothingToCompareWithIsRefused(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, flow, field string }{
		{"values", `[{"id":"a","headerValue":{"name":"X","value":"v"}},{"id":"b","jsonField":{"path":"p","value":"v"}}]`, ""},
		{"no value of a header", `[{"oauth":{}},{"headerValue":{"name":"X"}}]`, "security.flow[1].headerValue.value"},
		{"no value of a field", `[{"jsonField":{"path":"p"}}]`, "security.flow[0].jsonField.value"},
		{"none, and it is disabled", `[{"disabled":true,"headerValue":{"name":"X"}}]`, ""},
		{"none, and the source has one", `[{"hmac":{}}]`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := flow(t, tt.flow)
			err := policy.ValidateSecrets(p, policy.MergeSecrets(p, policy.TakeSecrets(p), nil))
			v := errs.ViolationsOf(err)
			if tt.field == "" && err != nil || tt.field != "" && (len(v) != 1 || v[0].Field != tt.field) {
				t.Errorf("got %v, want a violation of %q", err, tt.field)
			}
		})
	}
}
