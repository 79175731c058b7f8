package schema_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/schema"
)

func compile(t testing.TB, definition string) *schema.Schema {
	t.Helper()
	s, err := schema.Compile("order.created", 1, []byte(definition))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCompileRefuses(t *testing.T) {
	t.Parallel()
	var expensive strings.Builder
	expensive.WriteString(`{"$ref":"#/$defs/a0","$defs":{`)
	for i := range 40 {
		fmt.Fprintf(&expensive, `"a%d":{"allOf":[{"$ref":"#/$defs/a%d"},{"$ref":"#/$defs/a%d"}]},`, i, i+1, i+1)
	}
	expensive.WriteString(`"a40":{"type":"object"}}}`)
	var manyPatterns strings.Builder
	manyPatterns.WriteString(`{"properties":{"":{}`)
	for i := range 3_000 {
		fmt.Fprintf(&manyPatterns, `,"p%d":{"pattern":"(%d{100}){9}"}`, i, i)
	}
	manyPatterns.WriteString(`}}`)

	tests := []struct {
		name, definition, says string
		kind                   errs.Kind
	}{
		{"what is not JSON", `{`, "not JSON", errs.Invalid},
		{"something behind the schema", `{} {}`, "not JSON", errs.Invalid},
		{"what is neither object nor boolean", `"string"`, "neither an object", errs.Invalid},
		{"bytes that are no text", "{\"title\":\"\xff\"}", "UTF-8", errs.Invalid},
		{"an unknown type", `{"properties":{"a":{"type":"objekt"}}}`, "/properties/a/type", errs.Invalid},
		{"draft-04", `{"$schema":"http://json-schema.org/draft-04/schema#"}`, "2020-12/schema and http://json-schema.org/draft-07/schema#", errs.Invalid},
		{"draft 2019-09 inside", `{"$defs":{"a":{"$id":"a","$schema":"https://json-schema.org/draft/2019-09/schema"}}}`, "/$defs/a/$schema", errs.Invalid},
		{"a dialect of one's own", `{"$schema":"https://example.com/schema"}`, "accepted are", errs.Invalid},
		{"a reference to nothing", `{"$ref":"#/$defs/nothing"}`, `"#/$defs/nothing" points to nothing`, errs.Invalid},
		{"a reference to another document", `{"$ref":"other.json"}`, `"other.json" points outside`, errs.Invalid},
		{"an expression with lookahead", `{"pattern":"(?=a)b"}`, "regular expression", errs.Invalid},
		{"a very long expression", `{"pattern":"` + strings.Repeat("a", 2_000) + `"}`, "longer than", errs.Invalid},
		{"expressions that are large together", manyPatterns.String(), "too large together", errs.Invalid},
		{"an enormous number", `{"maximum":1e999999999}`, "too long to calculate", errs.Invalid},
		{"references that multiply", expensive.String(), "multiply", errs.Invalid},
		{"deep nesting", strings.Repeat(`{"not":`, 5_000) + `{}` + strings.Repeat(`}`, 5_000), "nests deeper", errs.Invalid},
		{"deep arrays", strings.Repeat(`[`, 500_000), "nests deeper", errs.Invalid},
		{"very many parts", `{"allOf":[` + strings.Repeat(`{},`, 100_000) + `{}]}`, "objects and arrays", errs.Invalid},
		{"a huge text", `{"title":"` + strings.Repeat("a", schema.MaxDefinition) + `"}`, "at most 1048576", errs.TooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			_, err := schema.Compile("order.created", 1, []byte(tt.definition))
			if err == nil || errs.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v (%v), want kind %v saying %q", err, errs.KindOf(err), tt.kind, tt.says)
			}
			if took := time.Since(began); took > 3*time.Minute {
				t.Errorf("refused after %v, want at once", took)
			}
		})
	}
}

// A schema comes from outside. It must not make us connect anywhere or read files.
func TestCompileFollowsNoReferenceOutOfTheDocument(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var connections atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			_ = c.Close()
		}
	}()
	file := filepath.Join(t.TempDir(), "a.json")
	if err := os.WriteFile(file, []byte(`{"type":"string"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	remote := "http://" + l.Addr().String() + "/a.json"
	for _, definition := range []string{
		`{"$ref":"` + remote + `"}`,
		`{"properties":{"a":{"$ref":"` + remote + `#/x"}}}`,
		`{"$id":"` + remote + `","properties":{"a":{"$ref":"b.json"}}}`,
		`{"$dynamicRef":"` + remote + `#x"}`,
		`{"$schema":"` + remote + `"}`,
		`{"x":{"$ref":"` + remote + `"},"$ref":"#/x"}`,
		`{"$schema":"http://json-schema.org/draft-07/schema#","items":{"$ref":"` + remote + `"}}`,
		`{"const":{"$id":"x","$schema":"` + remote + `"},"$ref":"#/const"}`,
		`{"$ref":"file://` + file + `"}`,
		`{"$ref":"` + file + `"}`,
		`{"$id":"file://` + filepath.Dir(file) + `/b.json","$ref":"a.json"}`,
	} {
		if _, err := schema.Compile("order.created", 1, []byte(definition)); errs.KindOf(err) != errs.Invalid || err == nil {
			t.Errorf("%s: got %v, want it refused as invalid", definition, err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	<-ended
	if n := connections.Load(); n != 0 {
		t.Errorf("%d connections were made, want none", n)
	}
}

func TestTheLargestDefinitionsCompileInBoundedTime(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(`{"properties":{"":{}`)
	for i := range 9_900 {
		fmt.Fprintf(&b, `,"p%d":{"type":"string"}`, i)
	}
	b.WriteString(`}}`)
	began := time.Now()
	compile(t, b.String())
	took := time.Since(began)
	t.Logf("%d bytes took %v", b.Len(), took)
	if took > 3*time.Minute {
		t.Errorf("%d bytes took %v, want a few seconds at most", b.Len(), took)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	const order = `{"type":"object","required":["id","items"],"additionalProperties":false,"properties":{
		"id":{"type":"string","minLength":3,"maxLength":5},
		"items":{"type":"array","minItems":1,"maxItems":3,"uniqueItems":true,"items":{"type":"object","properties":{"price":{"type":"number","minimum":0,"exclusiveMaximum":1.5},"a/b~c":{"type":"null"}}}},
		"status":{"enum":["new","paid",3]},"kind":{"const":"order"},"code":{"pattern":"^[A-Z]+$"},
		"when":{"type":"string","format":"date-time"},"count":{"type":["integer","null"],"multipleOf":2},
		"either":{"anyOf":[{"type":"string"},{"type":"object","required":["x"]}]},
		"one":{"oneOf":[{"type":"number"},{"type":"integer"}]},"never":false,
		"names":{"propertyNames":{"maxLength":2}},"not":{"not":{"type":"string"}},
		"dep":{"dependentRequired":{"a":["b"]}},"has":{"contains":{"const":1}},
		"big":{"const":9007199254740993}}}`
	v := func(pairs ...string) (out []event.Violation) {
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, event.Violation{Field: pairs[i], Description: pairs[i+1]})
		}
		return out
	}
	tests := []struct {
		name, data string
		want       []event.Violation
	}{
		{"what fits", `{"id":"abc","items":[{"price":1}],"status":3.0,"kind":"order","count":4,"big":9007199254740993}`, nil},
		{"an integer written with a fraction", `{"id":"abc","items":[1e0],"count":4.0}`, v("/items/0", "got number, want object")},
		{"a missing property", `{"items":[{}]}`, v("", `missing property "id"`)},
		{"two missing properties", `{}`, v("", `missing property "id"`, "", `missing property "items"`)},
		{"a wrong type far down", `{"id":"abc","items":[{"price":"1"}]}`, v("/items/0/price", "got string, want number")},
		{"a name that needs escaping", `{"id":"abc","items":[{"a/b~c":1}]}`, v("/items/0/a~1b~0c", "got number, want null")},
		{"several types", `{"id":"abc","items":[{}],"count":"x"}`, v("/count", "got string, want null or integer")},
		{"a property too many", `{"id":"abc","items":[{}],"x":1}`, v("/x", `property "x" is not allowed`)},
		{"lengths", `{"id":"ab","items":[]}`, v("/id", "is 2 characters long, want at least 3", "/items", "has 0 items, want at least 1")},
		{"bounds", `{"id":"abc","items":[{"price":-1},{"price":1.5}]}`, v("/items/0/price", "must be at least 0", "/items/1/price", "must be less than 1.5")},
		{"equal items", `{"id":"abc","items":[{},{}]}`, v("/items", "items 0 and 1 are the same")},
		{"an enum", `{"id":"abc","items":[{}],"status":"x"}`, v("/status", `must be one of "new", "paid", 3`)},
		{"a constant", `{"id":"abc","items":[{}],"kind":"x"}`, v("/kind", `must be "order"`)},
		{"a pattern", `{"id":"abc","items":[{}],"code":"x"}`, v("/code", `does not match the pattern "^[A-Z]+$"`)},
		{"a format is not checked", `{"id":"abc","items":[{}],"when":"tomorrow"}`, nil},
		{"a multiple", `{"id":"abc","items":[{}],"count":3}`, v("/count", "must be a multiple of 2")},
		{"no alternative", `{"id":"abc","items":[{}],"either":{}}`, v("/either", `fits none of the alternatives: got object, want string; or missing property "x"`)},
		{"two alternatives", `{"id":"abc","items":[{}],"one":1}`, v("/one", "fits alternatives 1 and 2, and must fit only one")},
		{"what is never allowed", `{"id":"abc","items":[{}],"never":1}`, v("/never", "is not allowed")},
		{"a property's name", `{"id":"abc","items":[{}],"names":{"abc":1}}`, v("/names", `property name "abc" is not allowed: is 3 characters long, want at most 2`)},
		{"what is ruled out", `{"id":"abc","items":[{}],"not":"x"}`, v("/not", "is what the schema rules out")},
		{"a dependency", `{"id":"abc","items":[{}],"dep":{"a":1}}`, v("/dep", `missing "b", required with "a"`)},
		{"an item that must be there", `{"id":"abc","items":[{}],"has":[2]}`, v("/has", "has no item of the kind that it must have")},
		{"a number beyond what a float can tell", `{"id":"abc","items":[{}],"big":9007199254740992}`, v("/big", "must be 9007199254740993")},
		{"a number that would take an hour", `{"id":"abc","items":[{"price":1e999999}]}`, v("/items/0/price", "the number has more than 1000 digits, or an exponent beyond 1000")},
		{"another type altogether", `[]`, v("", "got array, want object")},
		{"what is not JSON", `{"id":x}`, v("", "the data is not JSON: invalid character 'x' looking for beginning of value (byte 7)")},
		{"what ends too early", `{"id":`, v("", "the data is not JSON: it ends too early")},
		{"nothing", ``, v("", "the data is not JSON: it ends too early")},
		{"something behind the data", `{} {}`, v("", "the data is not JSON: there is more than one JSON value")},
	}
	s := compile(t, order)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, s.Validate([]byte(tt.data))); diff != "" {
				t.Errorf("violations (-want +got):\n%s", diff)
			}
		})
	}
}

func TestViolationsAreBounded(t *testing.T) {
	t.Parallel()
	s := compile(t, `{"items":{"type":"string"}}`)
	got := s.Validate([]byte("[" + strings.Repeat("1,", 100_000) + "1]"))
	if len(got) != schema.MaxViolations {
		t.Errorf("got %d violations, want %d", len(got), schema.MaxViolations)
	}
}

func TestDraftsAreReadEachByItsRules(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, definition, good, bad string
	}{
		{"2020-12 by default", `{"prefixItems":[{"type":"string"}]}`, `["a"]`, `[1]`},
		{"draft-07 with a list of items", `{"$schema":"http://json-schema.org/draft-07/schema#","items":[{"type":"string"}]}`, `["a",1]`, `[1]`},
		{"draft-07 without the hash", `{"$schema":"https://json-schema.org/draft-07/schema","dependencies":{"a":["b"]}}`, `{"b":1}`, `{"a":1}`},
		{"draft-07 does not check formats either", `{"$schema":"http://json-schema.org/draft-07/schema#","properties":{"a":{"type":"string","format":"email"}}}`, `{"a":"x"}`, `{"a":1}`},
		{"a schema that refers to itself", `{"type":"object","properties":{"child":{"$ref":"#"}},"required":["name"]}`, `{"name":1,"child":{"name":1}}`, `{"name":1,"child":{}}`},
		{"references by address and anchor", `{"$id":"https://acme.example/o","properties":{"a":{"$ref":"#x"},"b":{"$ref":"https://acme.example/o#/$defs/x"}},"$defs":{"x":{"$anchor":"x","type":"string"}}}`, `{"a":"","b":""}`, `{"b":1}`},
		{"keywords that nobody knows", `{"x-owner":"shop","type":"object"}`, `{}`, `1`},
		{"a schema that nothing satisfies but by chance", `{"$ref":"#/$defs/a","$defs":{"a":{"type":"number"}}}`, `1`, `"1"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := compile(t, tt.definition)
			if got := s.Validate([]byte(tt.good)); got != nil {
				t.Errorf("%s is %v, want valid", tt.good, got)
			}
			if got := s.Validate([]byte(tt.bad)); len(got) == 0 {
				t.Errorf("%s is valid, want a violation", tt.bad)
			}
		})
	}
}

// benchOrder is an event of about 512 bytes.
func benchOrder() []byte {
	var b bytes.Buffer
	b.WriteString(`{"id":"ord_01J9Z6W2M3","customer":{"id":"cus_881","name":"Ada Lovelace","email":"ada@example.com"},"currency":"EUR","total":149.97,"paid":true,"items":[`)
	for i := range 4 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"sku":"sku-%04d","title":"A thing of value","quantity":%d,"price":49.99}`, i, i+1)
	}
	b.WriteString(`],"note":"please ring twice","createdAt":"2026-01-02T03:04:05Z"}`)
	return b.Bytes()
}

const benchSchema = `{"type":"object","required":["id","customer","total","items"],"properties":{
	"id":{"type":"string"},"currency":{"type":"string","minLength":3,"maxLength":3},"total":{"type":"number","minimum":0},"paid":{"type":"boolean"},
	"customer":{"type":"object","required":["id"],"properties":{"id":{"type":"string"},"name":{"type":"string"},"email":{"type":"string"}}},
	"items":{"type":"array","items":{"$ref":"#/$defs/item"}},"note":{"type":"string"},"createdAt":{"type":"string","format":"date-time"}},
	"$defs":{"item":{"type":"object","required":["sku","price"],"properties":{"sku":{"type":"string"},"title":{"type":"string"},"quantity":{"type":"integer"},"price":{"type":"number"}}}}}`

func BenchmarkValidate512(b *testing.B) {
	s := compile(b, benchSchema)
	data := benchOrder()
	if got := s.Validate(data); got != nil {
		b.Fatal(got)
	}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		s.Validate(data)
	}
}

func BenchmarkCompile(b *testing.B) {
	for b.Loop() {
		compile(b, benchSchema)
	}
}
