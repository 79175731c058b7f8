package source

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/posthornhq/posthorn/pkg/errs"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func TestValidate(t *testing.T) {
	t.Parallel()
	generic := func(change func(*posthornv1.Source)) *posthornv1.Source {
		s := &posthornv1.Source{Name: "shop", Kind: posthornv1.Source_GENERIC}
		change(s)
		return s
	}
	hmac := func(s *posthornv1.HmacSettings) *posthornv1.Source {
		return &posthornv1.Source{Name: "shop", Kind: posthornv1.Source_HMAC, Hmac: s}
	}
	auth0 := func(s *posthornv1.Auth0Settings) *posthornv1.Source {
		return &posthornv1.Source{Name: "shop", Kind: posthornv1.Source_AUTH0, Auth0: s}
	}
	tests := []struct {
		name    string
		spec    *posthornv1.Source
		secrets int
		field   string // "" if it is valid
	}{
		{"generic", generic(func(*posthornv1.Source) {}), 0, ""},
		{"a Certes URI as type", generic(func(s *posthornv1.Source) { s.Type = "community.certes.dev/github/1/push" }), 0, ""},
		{"context and policy", generic(func(s *posthornv1.Source) { s.Context, s.Policy = "testing", "strict" }), 0, ""},
		{"hmac without settings", hmac(nil), 1, ""},
		{"hmac with all", hmac(&posthornv1.HmacSettings{Header: "X-Sig", Prefix: "SHA256 ", TimestampHeader: "X-Time",
			Tolerance: durationpb.New(time.Minute), IdHeader: "X-Id", IdPointer: "/a~0b/~1", TypePointer: "/t"}), 2, ""},
		{"auth0", auth0(&posthornv1.Auth0Settings{Codes: []string{"s", "brand_new"}, Categories: []string{"login_fail", "other"}}), 1, ""},

		{"no name", &posthornv1.Source{Kind: posthornv1.Source_GENERIC}, 0, "name"},
		{"a bad name", generic(func(s *posthornv1.Source) { s.Name = "My Shop" }), 0, "name"},
		{"a bad context", generic(func(s *posthornv1.Source) { s.Context = "a/b" }), 0, "context"},
		{"a bad policy", generic(func(s *posthornv1.Source) { s.Policy = "a b" }), 0, "policy"},
		{"no kind", generic(func(s *posthornv1.Source) { s.Kind = 0 }), 0, "kind"},
		{"an unknown kind", generic(func(s *posthornv1.Source) { s.Kind = 99 }), 0, "kind"},
		{"a bad type", generic(func(s *posthornv1.Source) { s.Type = "a..b" }), 0, "type"},
		{"an unknown schema mode", generic(func(s *posthornv1.Source) { s.SchemaMode = 9 }), 0, "schemaMode"},
		{"schemas required and not looked at", generic(func(s *posthornv1.Source) { s.SchemaRequired, s.SchemaMode = true, posthornv1.Source_OFF }), 0, "schemaRequired"},
		{"a secret that nothing asks for", generic(func(*posthornv1.Source) {}), 1, "secrets"},
		{"github without secret", generic(func(s *posthornv1.Source) { s.Kind = posthornv1.Source_GITHUB }), 0, "secrets"},
		{"auth0 without secret", auth0(nil), 0, "secrets"},
		{"hmac without secret", hmac(nil), 0, "secrets"},
		{"an empty secret", &posthornv1.Source{Name: "a", Kind: posthornv1.Source_GITHUB, Secrets: []string{"x", ""}}, 2, "secrets"},
		{"an Authorization with a blank behind", &posthornv1.Source{Name: "a", Kind: posthornv1.Source_AUTH0, Secrets: []string{"x "}}, 1, "secrets"},

		{"hmac settings of another kind", generic(func(s *posthornv1.Source) { s.Hmac = &posthornv1.HmacSettings{} }), 0, "hmac"},
		{"an unknown algorithm", hmac(&posthornv1.HmacSettings{Algorithm: 9}), 1, "hmac.algorithm"},
		{"an unknown encoding", hmac(&posthornv1.HmacSettings{Encoding: 9}), 1, "hmac.encoding"},
		{"a prefix that no header has", hmac(&posthornv1.HmacSettings{Prefix: " x"}), 1, "hmac.prefix"},
		{"a bad header", hmac(&posthornv1.HmacSettings{Header: "X Sig"}), 1, "hmac.header"},
		{"a bad timestamp header", hmac(&posthornv1.HmacSettings{TimestampHeader: "X:"}), 1, "hmac.timestampHeader"},
		{"a bad id header", hmac(&posthornv1.HmacSettings{IdHeader: "é"}), 1, "hmac.idHeader"},
		{"a bad type header", hmac(&posthornv1.HmacSettings{TypeHeader: "a\n"}), 1, "hmac.typeHeader"},
		{"a bad id pointer", hmac(&posthornv1.HmacSettings{IdPointer: "data.id"}), 1, "hmac.idPointer"},
		{"a bad escape in a pointer", hmac(&posthornv1.HmacSettings{TypePointer: "/a~2"}), 1, "hmac.typePointer"},
		{"a negative tolerance", hmac(&posthornv1.HmacSettings{TimestampHeader: "X", Tolerance: durationpb.New(-1)}), 1, "hmac.tolerance"},
		{"no tolerance at all", hmac(&posthornv1.HmacSettings{TimestampHeader: "X", Tolerance: durationpb.New(0)}), 1, "hmac.tolerance"},
		{"tolerance without timestamp", hmac(&posthornv1.HmacSettings{Tolerance: durationpb.New(time.Minute)}), 1, "hmac.tolerance"},

		{"auth0 settings of another kind", generic(func(s *posthornv1.Source) { s.Auth0 = &posthornv1.Auth0Settings{} }), 0, "auth0"},
		{"an unknown category", auth0(&posthornv1.Auth0Settings{Categories: []string{"login", "logins"}}), 1, "auth0.categories[1]"},
		{"a bad code", auth0(&posthornv1.Auth0Settings{Codes: []string{"s", "a b"}}), 1, "auth0.codes[1]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := Validate(tt.spec, tt.secrets)
			var fields []string
			for _, v := range errs.ViolationsOf(err) {
				fields = append(fields, v.Field)
			}
			if tt.field == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if errs.KindOf(err) != errs.Invalid || !slices.Equal(fields, []string{tt.field}) {
				t.Errorf("error is %v about %q, want an invalid %s", err, fields, tt.field)
			}
		})
	}
}

func TestUnknownCategoryListsTheKnownOnes(t *testing.T) {
	t.Parallel()
	err := Validate(&posthornv1.Source{Name: "a", Kind: posthornv1.Source_AUTH0,
		Auth0: &posthornv1.Auth0Settings{Categories: []string{"logins"}}}, 1)
	for _, want := range []string{"logins", "login_fail", "token_exchange", "other"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want it to name %s", err, want)
		}
	}
}
