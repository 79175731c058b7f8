package pattern_test

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/pattern"
)

func TestParse(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		pattern string
		wantErr string
	}{
		{"literal", "order.created", ""},
		{"all wildcards", "*.#.a.>", ""},
		{"URI", "community.certes.dev/github/1/*", ""},
		{"everything", "#", ""},
		{"empty", "", "pattern is empty"},
		{"empty word", "order..#", "word 2 is empty"},
		{"blank", "order. *", "U+0020"},
		{"too long", strings.Repeat("a", 1025), "1025 bytes"},
		{"greater-than before the end", "a.>.b", "> may only be the last word"},
		{"greater-than inside a URI", ">/b", "> may only be the last word"},
		{"prefix", "order.cre*", `word "cre*" mixes a wildcard`},
		{"two asterisks", "order.**", `word "**" mixes a wildcard`},
		{"wildcard inside a domain", "*.certes.dev/github/#", `word "*.certes.dev" mixes a wildcard`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, err := pattern.Parse(tt.pattern)
			checkErr(t, err, tt.wantErr)
			if err == nil && p.String() != tt.pattern {
				t.Errorf("pattern reads %q, want %q", p, tt.pattern)
			}
		})
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	tests := []struct {
		pattern string
		typ     string
		want    bool
	}{
		{"order.created", "order.created", true},
		{"order.created", "order.creates", false},
		{"order.created", "order", false},
		{"order", "order.created", false},
		{"order.*", "order.created", true},
		{"order.*", "order", false},
		{"order.*", "order.created.v2", false},
		{"order.#", "order", true},
		{"order.#", "order.created.v2", true},
		{"order.#", "orders.created", false},
		{"order.>", "order", false},
		{"order.>", "order.created.v2", true},
		{"#.created", "created", true},
		{"#.created", "a.b.created", true},
		{"#.created", "a.created.b", false},
		{"a.#.b.#.c", "a.b.c", true},
		{"a.#.b.#.c", "a.b.x.b.c.c", true},
		{"a.#.b.#.c", "a.c.b", false},
		{"#.*", "a", true},
		{"#.*.#.*", "a", false},
		{"#.*.#.*", "a.b", true},
		{"*", "order", true},
		{"*", "order.created", false},
		{"#", "order.created", true},
		{"#", "community.certes.dev/github/1/push", true},
		{">", "community.certes.dev/github/1/push", true},
		{"community.certes.dev/github/1/*", "community.certes.dev/github/1/push", true},
		{"community.certes.dev/github/1/*", "community.certes.dev/github/2/push", false},
		{"community.certes.dev/#", "community.certes.dev/github/1/push", true},
		{"community.certes.dev/github/>", "community.certes.dev/github", false},
		{"*/github/#", "community.certes.dev/github/1/push", true},
		{"a.b", "a/b", false},
		{"a/b", "a.b", false},
		{"*.*", "a/b", false},
		{"#/*", "a.b", false},
		{"community.#", "community.certes.dev/github/1/push", false},
	}
	for _, tt := range tests {
		if got := parse(t, tt.pattern).Match(tt.typ); got != tt.want {
			t.Errorf("pattern %q on type %q: match is %t, want %t", tt.pattern, tt.typ, got, tt.want)
		}
	}
	if (pattern.Pattern{}).Match("") {
		t.Error("the zero Pattern matches")
	}
}

// The oracle is a regular expression, which has nothing in common with the
// matcher.
func TestMatchAgreesWithRegularExpressions(t *testing.T) {
	t.Parallel()
	rnd := newRand(t)
	matches := 0
	for range 20_000 {
		text, typ := randomWords(rnd, patternWords), randomWords(rnd, typeWords)
		p, err := pattern.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		want := oracle(text).MatchString(oracleForm(typ))
		if got := p.Match(typ); got != want {
			t.Fatalf("pattern %q on type %q: match is %t, want %t", text, typ, got, want)
		}
		if want {
			matches++
		}
	}
	if matches < 1000 {
		t.Errorf("only %d of 20000 pairs match, want enough to mean something", matches)
	}
}

// oracleForm writes every word of a type with a separator behind it, and the form before.
func oracleForm(typ string) string {
	if strings.Contains(typ, "/") {
		return "/" + strings.ReplaceAll(typ, "/", ",") + ","
	}
	return "." + strings.ReplaceAll(typ, ".", ",") + ","
}

func oracle(p string) *regexp.Regexp {
	if p == "#" || p == ">" {
		return regexp.MustCompile("")
	}
	sep := "."
	if strings.Contains(p, "/") {
		sep = "/"
	}
	var b strings.Builder
	b.WriteString("^" + regexp.QuoteMeta(sep))
	for word := range strings.SplitSeq(p, sep) {
		switch word {
		case "*":
			b.WriteString("[^,]*,")
		case "#":
			b.WriteString("([^,]*,)*")
		case ">":
			b.WriteString("([^,]*,)+")
		default:
			b.WriteString(regexp.QuoteMeta(word) + ",")
		}
	}
	return regexp.MustCompile(b.String() + "$")
}

var (
	typeWords    = []string{"a", "b", "c"}
	patternWords = []string{"a", "b", "c", "*", "#"}
)

// randomWords joins 1 to 5 of words, mostly by dots.
func randomWords(rnd *rand.Rand, words []string) string {
	list := make([]string, 1+rnd.IntN(5))
	for i := range list {
		list[i] = words[rnd.IntN(len(words))]
	}
	if len(words) == len(patternWords) && rnd.IntN(5) == 0 {
		list[len(list)-1] = ">"
	}
	if rnd.IntN(4) == 0 {
		return strings.Join(list, "/")
	}
	return strings.Join(list, ".")
}

// A subscriber must not be able to stop the router by a pattern.
func TestManyHashesTakeNoExponentialTime(t *testing.T) {
	t.Parallel()
	p := parse(t, strings.Repeat("#.a.", 60)+"b")
	typ := strings.Repeat("a.", 120) + "a"
	index := pattern.Index[int]{}.Add(1, p)
	begin := time.Now()
	for range 100 {
		if p.Match(typ) || len(index.Match(typ, nil)) != 0 {
			t.Fatalf("pattern %q matches %q", p, typ)
		}
	}
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("100 matches took %v, want far less than a minute", took)
	}
}

func parse(t testing.TB, s string) pattern.Pattern {
	t.Helper()
	p, err := pattern.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
