package pattern_test

import (
	"strings"
	"testing"

	"github.com/posthornhq/posthorn/pkg/pattern"
)

// A pattern that parses is what it prints, and matches a type if and only if the
// plain matcher says so.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"order.*", "#", "a.#.b", "a.*.#", "community.certes.dev/github/1/*", "*/b", "a..b", "a b", "", ">", "a.>"} {
		f.Add(s, "order.created")
		f.Add(s, "community.certes.dev/github/1/push")
	}
	f.Fuzz(func(t *testing.T, s, typ string) {
		p, err := pattern.Parse(s)
		if err != nil {
			return
		}
		again, err := pattern.Parse(p.String())
		if err != nil || again.String() != p.String() {
			t.Fatalf("%q prints as %q, which parses as %q with error %v", s, p, again, err)
		}
		if pattern.ValidType(typ) != nil || len(typ) > 60 || strings.Contains(s, "/") != strings.Contains(typ, "/") {
			return
		}
		var x pattern.Index[string]
		x = x.Add("it", p)
		indexed := len(x.Match(typ, nil)) == 1
		if got := p.Match(typ); got != indexed {
			t.Errorf("%q matches %q: %t by itself, %t in an index", s, typ, got, indexed)
		}
	})
}
