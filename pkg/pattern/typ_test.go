package pattern_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/pattern"
)

func TestValidType(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		typ     string
		wantErr string // part of it; none if empty
	}{
		{"dotted", "order.created", ""},
		{"one word", "order", ""},
		{"a Certes URI", "community.certes.dev/github/1/push", ""},
		{"a URI without a domain", "shop/1/created", ""},
		{"a wildcard's character in a word of others", "a*.c#/>b", ""},
		{"the form of a URI, whose words may have dots", "a.*/b", ""},
		{"other alphabets", "заказ.создан", ""},
		{"as long as allowed", strings.Repeat("a", 1024), ""},
		{"empty", "", "is empty"},
		{"too long", strings.Repeat("a", 1025), "1025 bytes"},
		{"empty word between dots", "order..created", "word 2 is empty"},
		{"leading dot", ".order", "word 1 is empty"},
		{"trailing dot", "order.", "word 2 is empty"},
		{"leading slash", "/a/b", "word 1 is empty"},
		{"trailing slash", "a/b/", "word 3 is empty"},
		{"URL with its scheme", "https://example.com/a", "word 2 is empty"},
		{"wildcard for one word", "order.*", "* is a wildcard"},
		{"wildcard for any words", "#.created", "# is a wildcard"},
		{"wildcard for the rest", "order.>", "> is a wildcard"},
		{"wildcard among others", "a*.*.b", "* is a wildcard"},
		{"wildcard alone", "#", "# is a wildcard"},
		{"wildcard in a URI", "community.certes.dev/github/*/push", "* is a wildcard"},
		{"blank", "order created", "U+0020"},
		{"no-break space", "order\u00a0created", "U+00A0"},
		{"control character", "order\n", "U+000A"},
		{"not UTF-8", "order.\xff", "not valid UTF-8"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			checkErr(t, pattern.ValidType(tt.typ), tt.wantErr)
		})
	}
}

func TestValidName(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		wantErr string
	}{
		{"orders-erp", ""},
		{"0", ""},
		{"a" + strings.Repeat("-", 62), ""},
		{"", "is required"},
		{"a" + strings.Repeat("-", 63), "64 characters"},
		{"-a", "not a name"},
		{"Orders", "not a name"},
		{"a.b", "not a name"},
		{"a/b", "not a name"},
		{"é", "not a name"},
		{"a\n", "not a name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := pattern.ValidName("destination.name", tt.name)
			checkErr(t, err, tt.wantErr)
			if err != nil && (errs.KindOf(err) != errs.Invalid || errs.ViolationsOf(err)[0].Field != "destination.name") {
				t.Errorf("error %v is not one about field destination.name", err)
			}
		})
	}
}

func TestEncodeType(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, typ, want string }{
		{"dotted stays as it is", "order.created", "order.created"},
		{"a Certes URI", "community.certes.dev/github/1/push", "community%2Ecertes%2Edev.github.1.push"},
		{"a URI without a domain is not the dotted type", "a/b", "a%2F.b"},
		{"a dot in a later word does not mark a URI", "a/b.c", "a%2F.b%2Ec"},
		{"percent signs are escaped, so that escapes can't be forged", "a%2F.b", "a%252F.b"},
		{"wildcards' characters", "a.b*.c>", "a.b%2A.c%3E"},
		{"dollar only where NATS reserves it", "$JS.a$.$b", "%24JS.a$.%24b"},
		{"a URI's dollar", "$SYS/$b", "%24SYS%2F.%24b"},
		{"other alphabets", "заказ.создан", "заказ.создан"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := pattern.EncodeType(tt.typ)
			if got != tt.want {
				t.Errorf("%q is encoded as %q, want %q", tt.typ, got, tt.want)
			}
			back, err := pattern.DecodeType(got)
			if err != nil || back != tt.typ {
				t.Errorf("%q is decoded as %q (error %v), want %q", got, back, err, tt.typ)
			}
		})
	}
}

func TestDecodeTypeRefusesWhatEncodeTypeDoesNotWrite(t *testing.T) {
	t.Parallel()
	for _, tokens := range []string{
		"", ".", "a..b", "a.", "a%", "a%2", "a%2e.b", "a%zz", "%61", "a.b%2Ec", "a%2Fb", "a%2F",
		"a%2F%2F.b", "a%2Eb%2F.c", "a.b%2F.c", "a.*", "a.>", "$a", "a b", "a/b", "%FF", "a%20b",
		"a.%2A", "a.%3E", "#.a", "a%2F.%2A", // wildcards
		"community%2Ecertes%2Edev", // a domain alone is a dotted type
	} {
		if typ, err := pattern.DecodeType(tokens); err == nil {
			t.Errorf("%q is decoded as %q, want an error", tokens, typ)
		}
	}
}

func FuzzEncodeTypeIsReversible(f *testing.F) {
	for _, s := range []string{"order.created", "community.certes.dev/github/1/push", "a/b", "a%2F.b", "$a.*.>", "%2E/a"} {
		f.Add(s)
	}
	f.Fuzz(checkReversible)
}

// The fuzzer's corpus is small in an ordinary test run; this adds to it what is likely to go wrong.
func TestEncodeTypeIsReversibleForRandomTypes(t *testing.T) {
	t.Parallel()
	rnd := newRand(t)
	seen := map[string]string{}
	for range 50_000 {
		typ := randomText(rnd, "abE2F%./$*>#é", 10)
		checkReversible(t, typ)
		if pattern.ValidType(typ) != nil {
			continue
		}
		tokens := pattern.EncodeType(typ)
		if other, ok := seen[tokens]; ok && other != typ {
			t.Fatalf("%q and %q are both encoded as %q", typ, other, tokens)
		}
		seen[tokens] = typ
	}
}

func checkReversible(t *testing.T, s string) {
	t.Helper()
	// Whatever it is, decoding must not panic, and agree with encoding.
	if typ, err := pattern.DecodeType(s); err == nil && pattern.EncodeType(typ) != s {
		t.Fatalf("%q is decoded as %q, which is encoded as %q", s, typ, pattern.EncodeType(typ))
	}
	tokens := pattern.EncodeType(s)
	if strings.ContainsAny(tokens, "*> \t\r\n") {
		t.Fatalf("%q is encoded as %q, which has a character that NATS reserves", s, tokens)
	}
	if pattern.ValidType(s) != nil {
		return
	}
	for token := range strings.SplitSeq(tokens, ".") {
		if token == "" || token[0] == '$' {
			t.Fatalf("%q is encoded as %q, which has token %q", s, tokens, token)
		}
	}
	back, err := pattern.DecodeType(tokens)
	if err != nil || back != s {
		t.Fatalf("%q is encoded as %q, which is decoded as %q (error %v)", s, tokens, back, err)
	}
}

func TestAppendTypeAllocatesNothing(t *testing.T) {
	buf := make([]byte, 0, 128)
	allocs := testing.AllocsPerRun(100, func() {
		buf = pattern.AppendType(buf[:0], "community.certes.dev/github/1/push")
	})
	if allocs != 0 {
		t.Errorf("AppendType allocates %v times, want 0", allocs)
	}
}

func checkErr(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("error is %q, want none", err)
	case want != "" && err == nil:
		t.Errorf("no error, want one with %q", want)
	case want != "" && !strings.Contains(err.Error(), want):
		t.Errorf("error is %q, want one with %q", err, want)
	}
}

// newRand returns a source of randomness and logs the seed by which a failure
// can be repeated.
func newRand(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// randomText returns 1 to n characters of alphabet.
func randomText(rnd *rand.Rand, alphabet string, n int) string {
	letters := []rune(alphabet)
	var b strings.Builder
	for range 1 + rnd.IntN(n) {
		b.WriteRune(letters[rnd.IntN(len(letters))])
	}
	return b.String()
}
