package schema_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/schema"
)

func TestParseURI(t *testing.T) {
	t.Parallel()
	levels := strings.Repeat("a/", schema.MaxLevels)
	tests := []struct {
		in, typ, long string
		want          schema.URI
	}{
		{"certes.dev/github/1/push", "certes.dev/github/1/push", "events://certes.dev/github/1/push", schema.URI{Domain: "certes.dev", Namespace: "github", Version: 1, Event: "push"}},
		{"events://certes.dev/github/1/push", "certes.dev/github/1/push", "events://certes.dev/github/1/push", schema.URI{Domain: "certes.dev", Namespace: "github", Version: 1, Event: "push"}},
		{"events://certes.dev:9600/a/b/c/12/push", "certes.dev/a/b/c/12/push", "events://certes.dev:9600/a/b/c/12/push", schema.URI{Domain: "certes.dev", Port: 9600, Namespace: "a/b/c", Version: 12, Event: "push"}},
		{"certes.dev/1/push", "certes.dev/1/push", "events://certes.dev/1/push", schema.URI{Domain: "certes.dev", Namespace: "_", Version: 1, Event: "push"}},
		{"certes.dev/_/1/push", "certes.dev/1/push", "events://certes.dev/1/push", schema.URI{Domain: "certes.dev", Namespace: "_", Version: 1, Event: "push"}},
		{"Certes.DEV/GitHub/1/Push", "certes.dev/GitHub/1/Push", "events://certes.dev/GitHub/1/Push", schema.URI{Domain: "certes.dev", Namespace: "GitHub", Version: 1, Event: "Push"}},
		{"shop/1/2/3", "shop/1/2/3", "events://shop/1/2/3", schema.URI{Domain: "shop", Namespace: "1", Version: 2, Event: "3"}},
		{"certes.dev/1/*", "certes.dev/1/*", "events://certes.dev/1/*", schema.URI{Domain: "certes.dev", Namespace: "_", Version: 1, Event: "*"}},
		{"a/" + levels + "1/e", "a/" + levels + "1/e", "events://a/" + levels + "1/e", schema.URI{Domain: "a", Namespace: strings.TrimSuffix(levels, "/"), Version: 1, Event: "e"}},
	}
	for _, tt := range tests {
		got, err := schema.ParseURI(tt.in)
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.in, diff)
		}
		if got.Type() != tt.typ || got.String() != tt.long {
			t.Errorf("%s prints as %s and %s, want %s and %s", tt.in, got.Type(), got, tt.typ, tt.long)
		}
	}
}

func TestParseURIRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, in, says string }{
		{"nothing", "", "is not domain/"},
		{"a dotted type", "order.created", "is not domain/"},
		{"no version", "certes.dev/push", "is not domain/"},
		{"a version that is no number", "certes.dev/github/v1/push", `"v1" where the version`},
		{"version 0", "certes.dev/0/push", `"0" where`},
		{"a version with zeros", "certes.dev/01/push", `"01" where`},
		{"a version with a sign", "certes.dev/+1/push", `"+1" where`},
		{"a version beyond numbers", "certes.dev/99999999999/push", "where the version"},
		{"an empty word", "certes.dev//1/push", `"" for word 2`},
		{"no event", "certes.dev/1/", `"" for word 3`},
		{"a step up", "certes.dev/../1/push", `".." for word 2`},
		{"a wildcard for a namespace", "certes.dev/*/1/push", `"*" for word 2`},
		{"a blank", "certes.dev/a b/1/push", "for word 2"},
		{"another scheme", "https://certes.dev/1/push", "for word"},
		{"a port in the short form", "certes.dev:9600/1/push", "has a port"},
		{"a port that is none", "events://certes.dev:0/1/push", `"0" for a port`},
		{"a port too high", "events://certes.dev:65536/1/push", "for a port"},
		{"a user", "events://u:p@certes.dev/1/push", "for a port"},
		{"no domain", "events:///1/push/x", `"" for word 1`},
		{"a domain that is none", "certes..dev/1/push", "for a domain"},
		{"129 levels", "a/" + strings.Repeat("a/", schema.MaxLevels+1) + "1/e", "129 levels"},
		{"a very long one", "a/" + strings.Repeat("a", 3_000) + "/1/e", "bytes long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := schema.ParseURI(tt.in)
			if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%.100q gives %v, want it invalid, saying %q", tt.in, err, tt.says)
			}
		})
	}
}

func FuzzParseURI(f *testing.F) {
	for _, s := range []string{"certes.dev/github/1/push", "events://certes.dev:9600/a/b/1/*", "a/_/1/b", "a/_/_/1/b", "events://A/1/é", "x//1/y", "events://events://a/1/b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := schema.ParseURI(s)
		if err != nil {
			return
		}
		again, err := schema.ParseURI(u.String())
		if err != nil || again != u {
			t.Errorf("%q is %+v, prints as %q and is then %+v (%v), want the same", s, u, u, again, err)
		}
		short, err := schema.ParseURI(u.Type())
		u.Port = 0
		if err != nil || short != u {
			t.Errorf("%q is %+v, in short %q and is then %+v (%v), want the same without port", s, u, u.Type(), short, err)
		}
	})
}
