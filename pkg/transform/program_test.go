package transform_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/transform"
)

const order = `{"id":9007199254740993,"total":101,"price":1.10,"name":"Åse","tags":["b","a"],"customer":{"mail":"a@e.example","vip":true},"lines":[{"sku":"x","n":2},{"sku":"y","n":3}]}`

func TestWhatAProgramMakes(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, program, data, want string }{
		{"the same, with keys in order and floats as floats", `.`, `{"b":1.10,"a":1e3}`, `{"a":1000,"b":1.1}`},
		{"a field", `.name`, order, `"Åse"`},
		{"an integer beyond 2^53", `{id}`, order, `{"id":9007199254740993}`},
		{"an integer beyond 64 bits", `{n: (.n + 1)}`, `{"n":18446744073709551616}`, `{"n":18446744073709551617}`},
		{"null is a value", `.nothing`, order, `null`},
		{"rename and drop", `{email: .customer.mail, vip: .customer.vip}`, order, `{"email":"a@e.example","vip":true}`},
		{"del", `del(.customer, .lines, .tags, .id, .price)`, order, `{"name":"Åse","total":101}`},
		{"update", `.total *= 2 | .tags |= sort | .customer.vip = false | {total, tags, vip: .customer.vip}`, order, `{"tags":["a","b"],"total":202,"vip":false}`},
		{"update of many", `.lines[].n += 1 | [.lines[].n]`, order, `[3,4]`},
		{"update by the input's own", `.total -= .lines[0].n | .total /= 3 | .total %= 5 | .total`, order, `3`},
		{"update by an alternative", `.missing //= "x" | .missing`, order, `"x"`},
		{"map, select, sort_by", `[.lines[] | select(.n > 2)] + (.lines | sort_by(-.n) | map(.sku))`, order, `[{"n":3,"sku":"y"},"y","x"]`},
		{"group_by and unique_by", `[(.lines | group_by(.sku) | length), (.lines | unique_by(.n > 0) | length), (.lines | max_by(.n) | .sku)]`, order, `[2,1,"y"]`},
		{"reduce", `reduce .lines[] as $l (0; . + $l.n)`, order, `5`},
		{"add", `[(.tags | add), add(.lines[].n)]`, order, `["ba",5]`},
		{"functions of one's own", `def twice(f): f | f; def plus($x): . + $x; .total | twice(plus(1))`, order, `103`},
		{"text", `"\(.name): \(.total) of \(.tags | join(", "))"`, order, `"Åse: 101 of b, a"`},
		{"formats", `[(.tags | @csv), (.name | @base64), @json "x\(.tags)", ("a b" | @uri)]`, order, `["\"b\",\"a\"","w4VzZQ==","x[\"b\",\"a\"]","a%20b"]`},
		{"regular expressions", `[(.name | test("^å"; "i")), (.customer.mail | sub("@.*"; "")), (.customer.mail | capture("(?<at>@)").at), ("a1b2" | [scan("[0-9]")])]`, order, `[true,"a","@",["1","2"]]`},
		{"JSON in text", `(.tags | tojson | fromjson), empty`, order, `["b","a"]`},
		{"paths", `[paths(type == "boolean")] | map(map(tostring) | join("."))`, order, `["customer.vip"]`},
		{"assignment to an index", `.tags[.total - 98] = "z" | .tags`, order, `["b","a",null,"z"]`},
		{"setpath and getpath", `setpath(["a", 1]; getpath(["tags", 0])) | .a`, order, `[null,"b"]`},
		{"a text times a number", `"ab" * 3`, order, `"ababab"`},
		{"objects merged", `.customer * {vip: null, age: 3}`, order, `{"age":3,"mail":"a@e.example","vip":null}`},
		{"try and alternatives", `[(try error("x") catch .), (.a.b.c // "d"), (.tags.x? // 1)]`, order, `["x","d",1]`},
		{"walk", `walk(if type == "number" then 0 else . end) | .lines`, order, `[{"n":0,"sku":"x"},{"n":0,"sku":"y"}]`},
		{"limit stops what has no end", `[limit(3; repeat(1))]`, order, `[1,1,1]`},
		{"dates", `[(0 | todate), ("2026-01-02T03:04:05Z" | fromdate), (0 | strftime("%Y"))]`, order, `["1970-01-01T00:00:00Z",1767323045,"1970"]`},
		{"contains, index, subtract", `[(.tags | contains(["a"])), (.name | index("s")), (.tags - ["a"]), (["a"] | inside(["a","b"]))]`, order, `[true,1,["b"],true]`},
		{"indices by a computed one", `.tags[.lines[0].n - 1]`, order, `"a"`},
		{"a field with a computed name", `.["na" + "me"]`, order, `"Åse"`},
		{"data that is no object", `. + 1`, ` 41 `, `42`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := compile(t, tt.program).Apply(t.Context(), "application/json", []byte(tt.data))
			if err != nil || string(got) != tt.want {
				t.Errorf("%s made %s with error %v, want %s", tt.program, got, err, tt.want)
			}
		})
	}
}

func TestWhatAProgramFailsBy(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, program, data, want string }{
		{"no value", `empty`, order, "made no value"},
		{"two values", `.tags[]`, order, "more than one value"},
		{"an error after the first", `1, error("late")`, order, "late"},
		{"its own error", `error("no customer")`, order, "no customer"},
		{"a type", `.name.first`, order, "expected an object"},
		{"no JSON", `.`, `{"a":`, "not JSON"},
		{"no data", `.`, ``, "not JSON"},
		{"two documents", `.`, `{} {}`, "more than one JSON value"},
		{"a number beyond all", `.`, `1e999`, "too large"},
		{"a number of too many digits", `.`, strings.Repeat("9", 1001), "more than 1000 digits"},
		{"an endless array", `[range(1e9)]`, order, "steps"},
		{"an endless loop", `def f: f; f`, order, "steps"},
		{"endless recursion", `def f: 1 + f; f`, order, "steps"},
		{"an endless stream", `last(repeat(1))`, order, "steps"},
		{"a text that doubles", `reduce range(100) as $i ("x"; . + .)`, order, "too large"},
		{"a text that doubles by assignment", `reduce range(100) as $i ({a: "x"}; .a += .a)`, order, "too large"},
		{"a text that doubles by interpolation", `reduce range(100) as $i ("x"; "\(.)\(.)")`, order, "too large"},
		{"a text times a number", `"abc" * 100000000`, order, "would have more than"},
		{"a number times a text", `1e8 * "abc"`, order, "would have more than"},
		{"an array that doubles", `reduce range(100) as $i ([1]; . + .)`, order, "too large"},
		{"a tree whose parts are shared", `reduce range(100) as $i (1; [., .])`, order, "too large"},
		{"a tree whose parts are shared, as text", `reduce range(100) as $i (1; [., .]) | tojson | length`, order, "too large"},
		{"a tree whose parts are shared, compared", `reduce range(100) as $i (1; [., .]) | . == .`, order, "too large"},
		{"a tree whose parts are shared, sorted by", `. as $o | [range(3)] | sort_by(reduce range(100) as $i (1; [., .])) | length`, order, "too large"},
		{"a tree whose parts are shared, in an error", `error(reduce range(100) as $i (1; [., .]))`, order, "too large"},
		{"a deep value", `reduce range(2000) as $i (1; [.])`, order, "nested deeper"},
		{"a deep value, as text", `reduce range(2000) as $i (1; [.]) | tojson`, order, "nested deeper"},
		{"a huge array by index", `.tags[.total * 1000000] = 1`, order, "index is larger"},
		{"a huge array by update", `.tags[.total * 1000000] |= 1`, order, "index is larger"},
		{"a huge array by path", `setpath(["tags", 100000000]; 1)`, order, "index is larger"},
		{"a huge array by getpath", `getpath(["tags", 100000000]) = 1`, order, "index is larger"},
		{"a huge array by nth", `.tags | nth(100000000) = 1`, order, "index is larger"},
		{"an integer that squares itself", `reduce range(100) as $i (9007199254740993; . * .)`, order, "digits"},
		{"join with a long separator", `[range(1000)] | join("x" * 100000)`, order, "join would make more"},
		{"many large arrays", `[range(1000000) as $i | [range(10)] + [range(1000)]] | length`, order, "steps"},
		{"many large texts", `("x" * 4000000) as $x | [range(1000) | $x + "y"] | length`, order, "too much"},
		{"many large copies", `([range(10000)]) as $x | [range(10000) as $i | $x | .[0] = $i] | length`, order, "too much"},
		{"a costly regular expression", `"x" | test("(((a{30}){30}){30})")`, order, "regular expression"},
		{"a long text for a regular expression", `("x" * 100000) | test("a")`, order, "too large"},
		{"more data than is allowed", `("x" * 8000000) as $x | [$x, $x]`, order, "too large"},
		{"its own run", `[$__loc__]`, order, "$__loc__"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, err := transform.Compile(tt.program)
			if err == nil {
				_, err = p.Quick().Apply(t.Context(), "application/json", []byte(tt.data))
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: error is %v, want one with %q", tt.program, err, tt.want)
			}
			if err != nil && len(err.Error()) > 2048 {
				t.Errorf("%s: the error has %d bytes", tt.program, len(err.Error()))
			}
		})
	}
}

func TestProgramsThatAreRefused(t *testing.T) {
	t.Parallel()
	tests := []struct{ program, want string }{
		{``, "missing query"},
		{`.a |`, "unexpected EOF"},
		{".a |\n  .b } c", `line 2, column 6: unexpected token "}"`},
		{`.a | nosuch`, "nosuch/0 is not available"},
		{`$x`, "variable not defined"},
		{`input`, "one event only"},
		{`[inputs]`, "one event only"},
		{`env`, "environment"},
		{`$ENV.HOME`, "environment"},
		{`{$ENV}`, "environment"},
		{`now`, "retry"},
		{`localtime`, "machine"},
		{`halt`, "not available"}, {`builtins`, "not available"}, {`modulemeta`, "not available"}, {`transpose`, "not available"},
		{`combinations`, "not available"}, {`tostream`, "not available"}, {`fromstream(1)`, "not available"}, {`JOIN({}; .a)`, "not available"},
		{`debug`, "nowhere"},
		{`halt_error`, "not available"},
		{`import "a" as a; .`, "import"},
		{`include "a"; .`, "import"},
		{`_plus`, "not available"},
		{`def halt: 1; .`, "cannot be defined anew"},
		{`def f(add): add; f(1)`, "cannot be defined anew"},
		{`def f($now): $now; f(1)`, "cannot be defined anew"},
		{`def _plus: 1; .`, "cannot be defined anew"},
		{`$__posthorn_run`, "must not begin with"},
		{`{$__posthorn_run}`, "must not begin with"},
		{`1 as $x | .[0] += $__posthorn`, "must not begin with"},
		{`.[100000000] = 1`, "index 100000000 is larger"},
		{`"` + strings.Repeat(`\(.)`, 65) + `"`, "at most 64"},
		{strings.Repeat(" ", transform.MaxProgram) + ".", "at most 16384"},
		{"\xff", "UTF-8"},
	}
	for _, tt := range tests {
		if _, err := transform.Compile(tt.program); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.60q: error is %v, want one with %q", tt.program, err, tt.want)
		}
	}
}

func TestOnlyJSONIsTransformed(t *testing.T) {
	t.Parallel()
	p := compile(t, `.`)
	for contentType, want := range map[string]bool{
		"application/json": true, "application/json; charset=utf-8": true, "application/vnd.github+json": true,
		"text/plain": false, "application/protobuf": false, "": true,
	} {
		if _, err := p.Apply(t.Context(), contentType, []byte(`{}`)); (err == nil) != want {
			t.Errorf("content type %q: error is %v, want none: %t", contentType, err, want)
		}
	}
}

func TestAProgramStopsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := compile(t, `.`).Apply(ctx, "application/json", []byte(`{}`)); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want %v", err, context.Canceled)
	}
	ctx, cancel = context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	if _, err := compile(t, `last(range(1e9))`).Apply(ctx, "application/json", []byte(`{}`)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v, want %v", err, context.DeadlineExceeded)
	}
}

// On a machine that is too busy the time is up first.
func TestTimeIsBounded(t *testing.T) {
	t.Parallel()
	p, err := transform.Compile(`last(range(1e9))`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Hasty().Apply(t.Context(), "application/json", []byte(`{}`)); !errors.Is(err, transform.ErrTime) {
		t.Errorf("error is %v, want %v", err, transform.ErrTime)
	}
}

func compile(t testing.TB, text string) *transform.Program {
	t.Helper()
	p, err := transform.Compile(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return p.Quick()
}
