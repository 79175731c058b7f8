package pattern_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/posthornhq/posthorn/pkg/pattern"
)

func TestParseURI(t *testing.T) {
	t.Parallel()
	levels := strings.Repeat("a/", pattern.MaxLevels)
	tests := []struct {
		in, typ, long string
		want          pattern.URI
	}{
		{"certes.dev/github/1/push", "certes.dev/github/1/push", "events://certes.dev/github/1/push", pattern.URI{Domain: "certes.dev", Namespace: "github", Version: 1, Event: "push"}},
		{"events://certes.dev/github/1/push", "certes.dev/github/1/push", "events://certes.dev/github/1/push", pattern.URI{Domain: "certes.dev", Namespace: "github", Version: 1, Event: "push"}},
		{"events://certes.dev:9600/a/b/c/12/push", "certes.dev/a/b/c/12/push", "events://certes.dev:9600/a/b/c/12/push", pattern.URI{Domain: "certes.dev", Port: 9600, Namespace: "a/b/c", Version: 12, Event: "push"}},
		{"certes.dev/1/push", "certes.dev/1/push", "events://certes.dev/1/push", pattern.URI{Domain: "certes.dev", Namespace: "_", Version: 1, Event: "push"}},
		{"certes.dev/_/1/push", "certes.dev/1/push", "events://certes.dev/1/push", pattern.URI{Domain: "certes.dev", Namespace: "_", Version: 1, Event: "push"}},
		{"Certes.DEV/GitHub/1/Push", "certes.dev/GitHub/1/Push", "events://certes.dev/GitHub/1/Push", pattern.URI{Domain: "certes.dev", Namespace: "GitHub", Version: 1, Event: "Push"}},
		{"shop/1/2/3", "shop/1/2/3", "events://shop/1/2/3", pattern.URI{Domain: "shop", Namespace: "1", Version: 2, Event: "3"}},
		{"certes.dev/1/*", "certes.dev/1/*", "events://certes.dev/1/*", pattern.URI{Domain: "certes.dev", Namespace: "_", Version: 1, Event: "*"}},
		{"a/" + levels + "1/e", "a/" + levels + "1/e", "events://a/" + levels + "1/e", pattern.URI{Domain: "a", Namespace: strings.TrimSuffix(levels, "/"), Version: 1, Event: "e"}},
	}
	for _, tt := range tests {
		got, err := pattern.ParseURI(tt.in)
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
		{"129 levels", "a/" + strings.Repeat("a/", pattern.MaxLevels+1) + "1/e", "129 levels"},
		{"a very long one", "a/" + strings.Repeat("a", 3_000) + "/1/e", "bytes long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := pattern.ParseURI(tt.in)
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%.100q gives %v, want an error that says %q", tt.in, err, tt.says)
			}
		})
	}
}

func FuzzParseURI(f *testing.F) {
	for _, s := range []string{"certes.dev/github/1/push", "events://certes.dev:9600/a/b/1/*", "a/_/1/b", "a/_/_/1/b", "events://A/1/é", "x//1/y", "events://events://a/1/b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := pattern.ParseURI(s)
		if err != nil {
			return
		}
		again, err := pattern.ParseURI(u.String())
		if err != nil || again != u {
			t.Errorf("%q is %+v, prints as %q and is then %+v (%v), want the same", s, u, u, again, err)
		}
		short, err := pattern.ParseURI(u.Type())
		u.Port = 0
		if err != nil || short != u {
			t.Errorf("%q is %+v, in short %q and is then %+v (%v), want the same without port", s, u, u.Type(), short, err)
		}
	})
}

// An event has one type, however its URI was written.
func TestParseType(t *testing.T) {
	t.Parallel()
	levels := strings.Repeat("a/", pattern.MaxLevels)
	tests := []struct{ in, want, says string }{
		{in: "order.created", want: "order.created"},
		{in: "shop.example/orders/1/placed", want: "shop.example/orders/1/placed"},
		{in: "events://shop.example:9600/orders/1/placed", want: "shop.example/orders/1/placed"},
		{in: "events://shop.example/1/x", want: "shop.example/1/x"},
		{in: "shop.example/_/1/x", want: "shop.example/1/x"},
		{in: "Shop.Example/Orders/1/X", want: "shop.example/Orders/1/X"},
		{in: "events://Shop/_/1/x", want: "shop/1/x"},
		{in: "a.b/" + levels + "1/e", want: "a.b/" + levels + "1/e"},
		{in: "a.b/a/" + levels + "1/e", says: "129 levels"},
		{in: "shop.example/0/x", says: `"0" where the version`},
		{in: "shop.example/01/x", says: `"01" where the version`},
		{in: "shop.example/../1/x", says: `".." for word 2`},
		{in: "shop.example/x", want: "shop.example/x"},
		{in: "com.example/some/thing", want: "com.example/some/thing"},
		{in: "shop.example:9600/1/x", says: "has a port, which needs events://"},
		{in: "events://order.created", says: "domain/namespace"},
		{in: "events://shop.example/1/*", says: "wildcard"},
		// Others have slashes in their types too.
		{in: "orders/create", want: "orders/create"},
		{in: "Shop/_/1/x", want: "Shop/_/1/x"},
		{in: "a/0/b.c", want: "a/0/b.c"},
		{in: "Order.Created", want: "Order.Created"},
	}
	for _, tt := range tests {
		got, err := pattern.ParseType(tt.in)
		switch {
		case tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)):
			t.Errorf("%.60s gives %q and %v, want an error that says %s", tt.in, got, err, tt.says)
		case tt.says == "" && (err != nil || got != tt.want || pattern.Normal(tt.in) != tt.want):
			t.Errorf("%.60s is %q (%v), and as it was stored %q, want %q", tt.in, got, err, pattern.Normal(tt.in), tt.want)
		}
	}
}

// Patterns of URIs may be written as types may, and match what was stored when types
// were left as they came.
func TestPatternsMatchAURIInAllItsForms(t *testing.T) {
	t.Parallel()
	forms := []string{"shop.example/1/x", "shop.example/_/1/x", "Shop.Example/1/x", "SHOP.example/_/1/x", "events://shop.example:9600/1/x"}
	for _, text := range []string{
		"shop.example/1/x", "shop.example/1/*", "shop.example/_/1/*", "Shop.Example/1/*", "events://Shop.Example:9600/_/1/*", "events://shop.example/1/x",
		"shop.example/*/x", "shop.example/_/*/x", "Shop.Example/#", "events://shop.example:1/>", "*/1/x", "#",
	} {
		p := parseAll(t, text)[0]
		index := pattern.Index[string]{}.Add("s", p)
		if p.String() != text {
			t.Errorf("%s prints as %s, want it as it was written", text, p)
		}
		for _, typ := range forms {
			if !p.Match(typ) || len(index.Match(typ, nil)) != 1 {
				t.Errorf("%s matches %s: %v, in an index %v; want it in both", text, typ, p.Match(typ), index.Match(typ, nil))
			}
		}
	}
	if parseAll(t, "shop/_/1/*")[0].Match("shop/1/x") {
		t.Error("what is no URI is taken for one")
	}
}

func TestPatternsThatMatchNothingAreRefused(t *testing.T) {
	t.Parallel()
	for text, says := range map[string]string{
		"shop.example/0/x":      "where the version",
		"shop.example/01/*":     "where the version",
		"shop.example:9600/1/*": "has a port",
		"shop.example/_/#":      "leave the namespace _ out",
		"events://*/1/x":        "for a domain",
		"events://order.*":      "domain/namespace",
		"a.b/" + strings.Repeat("a/", pattern.MaxLevels+1) + "1/*": "129 levels",
	} {
		if err := pattern.Valid(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.60s gives %v, want an error that says %q", text, err, says)
		}
	}
	for _, text := range []string{"order.*", "#", "*", "shop.example/#", "shop.example/*/1/x", "shop.example/_/1/*", "events://a.b:1/c/1/*", "*/x", "shop/0/x", "a.b/_/*/1/e"} {
		if err := pattern.Valid(text); err != nil {
			t.Errorf("%s is refused: %v", text, err)
		}
	}
}

// Types are looked at for each event and each subscription that may want it.
func TestNormalTypesCostNothing(t *testing.T) {
	for _, typ := range []string{"order.created", "shop.example/orders/1/placed", "orders/create"} {
		if n := testing.AllocsPerRun(100, func() { pattern.Normal(typ) }); n != 0 {
			t.Errorf("%s is normalised with %v allocations, want none", typ, n)
		}
	}
}

func TestNormalPrefix(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"order.": "order.", "": "", "Shop": "Shop", "events://shop": "shop", "shop.example/ord": "shop.example/ord",
		"events://Shop.Example:9600/orders/1/": "shop.example/orders/1/", "shop.example/_/1": "shop.example/1", "shop.example/_/_/1": "shop.example/_/_/1",
	} {
		if got := pattern.NormalPrefix(in); got != want {
			t.Errorf("the prefix %q is %q, want %q", in, got, want)
		}
	}
}

func FuzzNormal(f *testing.F) {
	for _, s := range []string{"events://A.b:1/_/1/x", "a.B/_/*/x", "a.b/_/#", "events://a/#/>", "x/1/y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n := pattern.Normal(s); pattern.Normal(n) != n {
			t.Errorf("%q is %q, and that is %q; want it the same again", s, n, pattern.Normal(n))
		}
		if typ, err := pattern.ParseType(s); err == nil && (typ != pattern.Normal(s) || pattern.Normal(typ) != typ) {
			t.Errorf("%q is type %q, and in its normal form %q; want one", s, typ, pattern.Normal(s))
		}
	})
}
