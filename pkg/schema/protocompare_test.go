package schema_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/posthornhq/posthorn/pkg/schema"
)

// Each case is compared in both directions. A change in words that begins with
// "!" is breaking. M is the message of the data.
func TestCompatibleProto(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		a, b      string
		there     []string // from a to b
		backAgain []string // from b to a
	}{
		{"a field", `message M { string a = 1; }`, `message M { string a = 1; int32 b = 2; }`,
			[]string{`field "b" of M was added`}, []string{`!field "b" of M was removed`}},
		{"a field of a oneof", `message M { oneof o { string a = 1; } }`, `message M { oneof o { string a = 1; string b = 2; } }`,
			[]string{`field "b" of M was added`}, []string{`!field "b" of M was removed`}},
		{"a message", `message M {}`, `message M {} message N {}`, []string{`message N was added`}, []string{`!message N was removed`}},
		{"a message in a message", `message M {}`, `message M { message N { string a = 1; } }`, []string{`message M.N was added`}, []string{`!message M.N was removed`}},
		{"an enum", `message M {}`, `message M {} enum E { A = 0; }`, []string{`enum E was added`}, []string{`!enum E was removed`}},
		{"a member of an enum", `message M { E e = 1; } enum E { A = 0; }`, `message M { E e = 1; } enum E { A = 0; B = 1; }`,
			[]string{`!enum E got the new member B`}, []string{`!enum E lost the member B`}},
		{"a member's number", `message M {} enum E { A = 0; B = 1; }`, `message M {} enum E { A = 0; B = 2; }`,
			[]string{`!member B of enum E changed its number from 1 to 2`}, []string{`!member B of enum E changed its number from 2 to 1`}},
		{"a type", `message M { string a = 1; }`, `message M { bytes a = 1; }`,
			[]string{`!field "a" of M changed its type from string to bytes`}, []string{`!field "a" of M changed its type from bytes to string`}},
		{"a type of the same form", `message M { int32 a = 1; }`, `message M { int64 a = 1; }`,
			[]string{`!field "a" of M changed its type from int32 to int64`}, []string{`!field "a" of M changed its type from int64 to int32`}},
		{"another message", `message M { A a = 1; } message A {} message B {}`, `message M { B a = 1; } message A {} message B {}`,
			[]string{`!field "a" of M changed its type from A to B`}, []string{`!field "a" of M changed its type from B to A`}},
		{"a number", `message M { string a = 1; }`, `message M { string a = 2; }`,
			[]string{`!field "a" of M changed its number from 1 to 2`}, []string{`!field "a" of M changed its number from 2 to 1`}},
		{"a list", `message M { string a = 1; }`, `message M { repeated string a = 1; }`,
			[]string{`!field "a" of M changed its cardinality from singular to repeated`}, []string{`!field "a" of M changed its cardinality from repeated to singular`}},
		{"a map", `message M { repeated string a = 1; }`, `message M { map<string, string> a = 1; }`,
			[]string{`!field "a" of M changed its cardinality from repeated to map`}, []string{`!field "a" of M changed its cardinality from map to repeated`}},
		{"a map's value", `message M { map<string, string> a = 1; }`, `message M { map<string, bytes> a = 1; }`,
			[]string{`!field "a" of M changed its type from map<string, string> to map<string, bytes>`}, []string{`!field "a" of M changed its type from map<string, bytes> to map<string, string>`}},
		{"a JSON name", `message M { string a_b = 1; }`, `message M { string a_b = 1 [json_name = "x"]; }`,
			[]string{`!field "a_b" of M changed its JSON name from "aB" to "x"`}, []string{`!field "a_b" of M changed its JSON name from "x" to "aB"`}},
		{"a oneof", `message M { string a = 1; }`, `message M { oneof o { string a = 1; } }`,
			[]string{`!field "a" of M changed its oneof from none to o`}, []string{`!field "a" of M changed its oneof from o to none`}},
		{"a name", `message M { string a = 1; }`, `message M { string b = 1; }`,
			[]string{`!field "a" of M was renamed to "b"`}, []string{`!field "b" of M was renamed to "a"`}},
		{"presence", `message M { string a = 1; }`, `message M { optional string a = 1; }`,
			[]string{`field "a" of M changed whether it tells absent from zero`}, []string{`field "a" of M changed whether it tells absent from zero`}},
		{"order", `message M { string a = 1; string b = 2; }`, `message M { string b = 2; string a = 1; }`,
			[]string{`no more changed than names of files, order, options or services`}, []string{`no more changed than names of files, order, options or services`}},
		{"a package", `message M {}`, `package p; message M {}`,
			[]string{`!message M was removed`, `message p.M was added`, `!the message of the data changed from M to p.M`},
			[]string{`message M was added`, `!the message of the data changed from p.M to M`, `!message p.M was removed`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			compileM := func(text string) *schema.Schema {
				s, err := schema.CompileProtoText(t.Context(), "t", 1, []byte(`syntax = "proto3"; `+text), "")
				if err != nil {
					s = compileProto(t, `syntax = "proto3"; `+text, "M")
				}
				return s
			}
			a, b := compileM(tt.a), compileM(tt.b)
			if diff := cmp.Diff(tt.there, protoWords(a, b)); diff != "" {
				t.Errorf("changes from %s to %s (-want +got):\n%s", tt.a, tt.b, diff)
			}
			if diff := cmp.Diff(tt.backAgain, protoWords(b, a)); diff != "" {
				t.Errorf("changes from %s to %s (-want +got):\n%s", tt.b, tt.a, diff)
			}
		})
	}
}

func protoWords(old, next *schema.Schema) []string {
	var out []string
	for _, c := range schema.CompatibleProto(old, next) {
		if c.Breaking {
			c.Text = "!" + c.Text
		}
		out = append(out, c.Text)
	}
	return out
}
