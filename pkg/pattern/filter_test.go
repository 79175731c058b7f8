package pattern_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/posthornhq/posthorn/pkg/pattern"
)

func parseAll(t testing.TB, texts ...string) []pattern.Pattern {
	t.Helper()
	var all []pattern.Pattern
	for _, text := range texts {
		p, err := pattern.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

func TestFilters(t *testing.T) {
	t.Parallel()
	tests := []struct {
		patterns string
		want     string
		exact    bool
	}{
		{"a.b", "a.b", true},
		{"a.*.c", "a.*.c", true},
		{"a.#", "a a.>", true},
		{"a.>", "a.>", true},
		{"a.*.#", "a.>", true},
		{"a.*.*.#", "a.*.>", true},
		{"#", ">", true},
		{">", ">", true},
		{"*", "*", true},
		{"*.#", ">", false},
		{"*.b", "*.b", false},
		{"a.#.b", "a.>", false},
		{"a.#.b.c", "a.*.>", false},
		{"#.b", ">", false},
		{"a.#.b.#.c", "a.*.>", false},
		{"$a.b$.%", "%24a.b$.%25", true},
		{"shop.dev/x/1/*", "shop%2Edev.x.1.*", true},
		{"shop.dev/x/1/#", "shop%2Edev.x.1 shop%2Edev.x.1.>", true},
		{"shop.dev/#", "shop%2Edev.>", true},
		{"shop/1/v1.2", "shop%2F.1.v1%2E2", true},
		{"*/x/1/push", "*.x.1.push", false},

		{"a.b a.b", "a.b", true},
		{"a.* a.b", "a.*", true},
		{"a.b a.#", "a a.>", true},
		{"a.* *.b", "*.*", false},
		{"a.*.c a.b.* x", "a.*.* x", false},
		{"a.*.c a.b.# x", "a.b a.*.> x", false},
		{"a.# x/#", "a a.> x%2F.>", true},
		{"a.b # c", ">", true},
	}
	for _, tt := range tests {
		t.Run(tt.patterns, func(t *testing.T) {
			t.Parallel()
			got, exact := pattern.Filters(parseAll(t, strings.Fields(tt.patterns)...)...)
			slices := strings.Fields(tt.want)
			if d := cmp.Diff(sorted(slices), sorted(got)); d != "" || exact != tt.exact {
				t.Errorf("exact is %v, want %v; filters (-want +got)\n%s", exact, tt.exact, d)
			}
		})
	}
	if got, exact := pattern.Filters(pattern.Pattern{}); len(got) > 0 || !exact {
		t.Errorf("the zero Pattern has %v, %v; want nothing", got, exact)
	}
}

func sorted(list []string) map[string]bool {
	m := map[string]bool{}
	for _, s := range list {
		m[s] = true
	}
	return m
}

// straightforward is a topic exchange's matching as its documentation says it, and
// NATS's ">" beside it.
func straightforward(words, typ []string) bool {
	switch {
	case len(words) == 0:
		return len(typ) == 0
	case words[0] == "#":
		for i := 0; i <= len(typ); i++ {
			if straightforward(words[1:], typ[i:]) {
				return true
			}
		}
		return false
	case words[0] == ">" && len(words) == 1:
		return len(typ) > 0
	case len(typ) == 0:
		return false
	}
	return (words[0] == "*" || words[0] == typ[0]) && straightforward(words[1:], typ[1:])
}

// matches is straightforward for types of both forms.
func matches(p, typ string) bool {
	if p == "#" || p == ">" {
		return true
	}
	if strings.Contains(p, "/") != strings.Contains(typ, "/") {
		return false
	}
	sep := "."
	if strings.Contains(p, "/") {
		sep = "/"
	}
	return straightforward(strings.Split(p, sep), strings.Split(typ, sep))
}

// text returns random words of few, so that matches are frequent; a third of them
// as a URI, whose words may have dots.
func text(r *rand.Rand, wild bool) string {
	words := []string{"a", "b", "c", "a", "b", "$x", "é%"}
	sep := "."
	if r.IntN(3) == 0 {
		sep = "/"
		words = append(words, "a.dev", "1.0")
	}
	if wild {
		words = append(words, "*", "*", "#", "#")
	}
	n := 1 + r.IntN(5)
	list := make([]string, n)
	for i := range list {
		list[i] = words[r.IntN(len(words))]
	}
	if wild && r.IntN(5) == 0 {
		list[n-1] = ">"
	}
	return strings.Join(list, sep)
}

// Every pattern is matched as a straightforward matcher does it, and translated
// into filters that let through what it matches, by the server's own opinion.
func TestPatternsAndTheirFiltersAgreeWithAStraightforwardMatcher(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	hits := 0
	for range 20_000 {
		texts := make([]string, 1+r.IntN(3))
		for i := range texts {
			texts[i] = text(r, true)
		}
		patterns := parseAll(t, texts...)
		filters, exact := pattern.Filters(patterns...)
		for i, f := range filters {
			for _, g := range filters[:i] {
				if server.SubjectsCollide(f, g) {
					t.Fatalf("%q: filters %s and %s overlap", texts, f, g)
				}
			}
		}
		for range 10 {
			typ := text(r, false)
			want := false
			for i, p := range patterns {
				one := matches(texts[i], typ)
				want = want || one
				if got := p.Match(typ); got != one {
					t.Fatalf("%s matches %s: %v, want %v", texts[i], typ, got, one)
				}
			}
			let := false
			for _, f := range filters {
				let = let || server.SubjectMatchesFilter(pattern.EncodeType(typ), f)
			}
			if want {
				hits++
			}
			if want && !let || exact && let && !want {
				t.Fatalf("%q, type %s: the filters %q (exact %v) let it through: %v, want %v", texts, typ, filters, exact, let, want)
			}
		}
	}
	if hits < 1000 {
		t.Errorf("%d matches in all: the types are not like the patterns", hits)
	}
}

// A3: one subscription may mix the notations of RabbitMQ, NATS and Certes, and has
// an event once even if several match.
func TestOneSubscriptionMayMixNotations(t *testing.T) {
	t.Parallel()
	index := pattern.Index[string]{}.Add("s", parseAll(t, "order.#", "order.>", "*.created", "community.certes.dev/github/1/*")...)
	tests := []struct {
		typ  string
		want int
	}{
		{"order", 1}, {"order.created", 1}, {"order.created.eu", 1}, {"user.created", 1}, {"user.deleted", 0},
		{"community.certes.dev/github/1/push", 1}, {"community.certes.dev/github/2/push", 0}, {"community.certes.dev/github/1/a/b", 0},
	}
	for _, tt := range tests {
		if got := index.Match(tt.typ, nil); len(got) != tt.want {
			t.Errorf("%s is for %v, want %d", tt.typ, got, tt.want)
		}
	}
}
