package transform_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/transform"
)

// Whatever a program and its data are, the process goes on, the answer comes soon,
// and is JSON of a bounded size or an error; the same each time.
func FuzzTransform(f *testing.F) {
	for _, seed := range [][2]string{
		{`.`, order}, {`empty`, `{}`}, {`.[]`, `[1,2]`}, {`{id, n: (.total * 2)}`, order}, {`[range(1e9)]`, `null`},
		{`reduce range(100) as $i ("x"; . + .)`, `null`}, {`reduce range(100) as $i (1; [., .])`, `null`}, {`def f: f; f`, `1`},
		{`.lines[].n += 1`, order}, {`sort_by(.n)`, `[{"n":2},{"n":1}]`}, {`"\(.name) \(.tags | @csv)"`, order}, {`.[100] = 1`, `[]`},
		{`join(", ")`, `["a","b"]`}, {`. as [$a, {b: $c}] | $a + $c`, `[1,{"b":2}]`}, {`label $x | 1, break $x`, `0`}, {`try error catch .`, `{"a":1}`},
		{`getpath(["a",0,"b"]) |= 3`, `{}`}, {`.. |= (.+1)?`, `[1,[2]]`}, {`limit(3; repeat(.))`, `1`}, {`test("a+b")`, `"aab"`}, {`$__loc__`, `1`},
		{`fromjson`, `"[1.10]"`}, {`. * .`, `99999999999999999999999`}, {`-. // 1 ?// 2`, `3`}, {`.a."b\("c")"[1:2]`, `{}`}, {`input`, `1`},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, program, data string) {
		p, err := transform.Compile(program)
		if err != nil {
			return
		}
		begun := time.Now()
		out, err := p.Apply(t.Context(), "application/json", []byte(data))
		if took := time.Since(begun); took > 30*time.Second {
			t.Fatalf("took %v", took)
		}
		if err != nil {
			return
		}
		if len(out) > transform.MaxOutput || !json.Valid(out) {
			t.Fatalf("made %d bytes that are JSON: %t", len(out), json.Valid(out))
		}
		if again, err := p.Apply(t.Context(), "application/json", []byte(data)); err == nil && string(again) != string(out) {
			t.Fatalf("made %.200s, and then %.200s", out, again)
		}
	})
}
