package authorization_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/posthornhq/posthorn/pkg/authorization"
	"github.com/posthornhq/posthorn/pkg/errs"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func TestValidate(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, spec, field, says string }{
		{"a callout", `{"oauth":{"url":"https://auth.example/check"}}`, "", ""},
		{"introspection", `{"oauth":{"url":"https://auth.example/introspect","mode":"INTROSPECTION","clientId":"posthorn","clientSecret":"s","timeout":"1s","cache":"0s"}}`, "", ""},
		{"keys", `{"jwt":{"jwksUrl":"https://auth.example/jwks.json","audiences":["a"],"algorithms":["ES256"]}}`, "", ""},
		{"an issuer", `{"jwt":{"issuer":"https://auth.example/"}}`, "", ""},
		{"an issuer that is a name, with keys elsewhere", `{"jwt":{"issuer":"auth","jwksUrl":"https://auth.example/jwks"}}`, "", ""},
		{"nobody to ask", `{}`, "oauth", "is missing"},
		{"no URL", `{"oauth":{}}`, "oauth.url", "is missing"},
		{"a relative URL", `{"oauth":{"url":"/check"}}`, "oauth.url", "http or https"},
		{"another scheme", `{"oauth":{"url":"file:///etc/passwd"}}`, "oauth.url", "http or https"},
		{"credentials in the URL", `{"oauth":{"url":"https://u:p@auth.example/"}}`, "oauth.url", "credentials"},
		{"a fragment", `{"oauth":{"url":"https://auth.example/#a"}}`, "oauth.url", "fragment"},
		{"a secret of nobody", `{"oauth":{"url":"https://auth.example/","clientSecret":"s"}}`, "oauth.clientId", "is missing"},
		{"too long a wait", `{"oauth":{"url":"https://auth.example/","timeout":"11s"}}`, "oauth.timeout", "10s"},
		{"too long a memory", `{"oauth":{"url":"https://auth.example/","cache":"3601s"}}`, "oauth.cache", "1h"},
		{"no keys", `{"jwt":{}}`, "jwt.jwksUrl", "is missing"},
		{"an issuer that can't be asked", `{"jwt":{"issuer":"auth"}}`, "jwt.issuer", "http or https"},
		{"an empty audience", `{"jwt":{"issuer":"https://a.example","audiences":[""]}}`, "jwt.audiences", "empty"},
		{"a shared key", `{"jwt":{"issuer":"https://a.example","algorithms":["RS256","HS256"]}}`, "jwt.algorithms", "HS256"},
		{"no signature", `{"jwt":{"issuer":"https://a.example","algorithms":["none"]}}`, "jwt.algorithms", "none"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			spec := new(posthornv1.Authorization)
			if err := protojson.Unmarshal([]byte(tt.spec), spec); err != nil {
				t.Fatal(err)
			}
			secrets := 0
			if spec.GetOauth().GetClientSecret() != "" {
				secrets = 1
			}
			err := authorization.Validate(spec, secrets)
			if tt.field == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			v := errs.ViolationsOf(err)
			if len(v) != 1 || v[0].Field != tt.field || !strings.Contains(v[0].Description, tt.says) {
				t.Errorf("got %v (%v), want a violation of %s that says %q", err, v, tt.field, tt.says)
			}
		})
	}
}
