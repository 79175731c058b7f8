package schema_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/posthornhq/posthorn/pkg/schema"
)

const draft7 = `"$schema":"http://json-schema.org/draft-07/schema#",`

// Each case is compared in both directions. A change in words that begins with
// "!" is breaking.
func TestCompatible(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		a, b      string
		there     []string // from a to b
		backAgain []string // from b to a
	}{
		{"order and spelling", `{"type":"object","maximum":1}`, `{ "maximum":1.0, "type":"object" }`, nil, nil},
		{"an optional property", `{"properties":{}}`, `{"properties":{"total":{"type":"number"}}}`,
			[]string{`property "total" was added`}, []string{`!property "total" was removed`}},
		{"the first property", `{}`, `{"properties":{"total":true}}`, []string{`property "total" was added`}, []string{`!property "total" was removed`}},
		{"a required property", `{}`, `{"required":["id"],"properties":{"id":{"type":"string"}}}`,
			[]string{`!property "id" is new and required`}, []string{`!property "id" was removed`}},
		{"a requirement", `{"properties":{"id":{}}}`, `{"required":["id"],"properties":{"id":{}}}`,
			[]string{`!property "id" is now required`}, []string{`property "id" is no longer required`}},
		{"the order of requirements", `{"required":["a","b"]}`, `{"required":["b","a"]}`, nil, nil},
		{"a type", `{"properties":{"total":{"type":"number"}}}`, `{"properties":{"total":{"type":"string"}}}`,
			[]string{`!property "total" changed its type from number to string`}, []string{`!property "total" changed its type from string to number`}},
		{"a wider type", `{"properties":{"a":{"type":"string"}}}`, `{"properties":{"a":{"type":["string","null"]}}}`,
			[]string{`!property "a" changed its type from string to null or string`}, []string{`!property "a" changed its type from null or string to string`}},
		{"the order of types", `{"type":["string","null"]}`, `{"type":["null","string"]}`, nil, nil},
		{"one type in a list", `{"type":["string"]}`, `{"type":"string"}`, nil, nil},
		{"a type where there was none", `{}`, `{"type":"object"}`,
			[]string{`!the data changed its type from any to object`}, []string{`!the data changed its type from object to any`}},
		{"an enum member", `{"properties":{"s":{"enum":["a"]}}}`, `{"properties":{"s":{"enum":["b","a"]}}}`,
			[]string{`!property "s" got the new enum member "b"`}, []string{`!property "s" lost the enum member "b"`}},
		{"the order of an enum", `{"enum":["a",1]}`, `{"enum":[1.0,"a"]}`, nil, nil},
		{"an enum at all", `{}`, `{"enum":[1]}`, []string{`!the data became an enum`}, []string{`!the data is no longer an enum`}},
		{"a constant", `{"const":1}`, `{"const":2}`,
			[]string{`!the data changed its only value from 1 to 2`}, []string{`!the data changed its only value from 2 to 1`}},
		{"a constant at all", `{"const":null}`, `{}`,
			[]string{`!the data changed its only value from null to none`}, []string{`!the data changed its only value from none to null`}},
		{"an upper bound", `{"maxLength":5}`, `{"maxLength":4}`,
			[]string{`!the data tightened its maxLength from 5 to 4`}, []string{`the data loosened its maxLength from 4 to 5`}},
		{"a lower bound", `{"minimum":1}`, `{"minimum":2}`,
			[]string{`!the data tightened its minimum from 1 to 2`}, []string{`the data loosened its minimum from 2 to 1`}},
		{"a bound at all", `{}`, `{"minItems":1}`, []string{`!the data got a minItems of 1`}, []string{`the data lost its minItems of 1`}},
		{"a bound beyond what a float can tell", `{"maximum":9007199254740993}`, `{"maximum":9007199254740992}`,
			[]string{`!the data tightened its maximum from 9007199254740993 to 9007199254740992`}, []string{`the data loosened its maximum from 9007199254740992 to 9007199254740993`}},
		{"a pattern", `{"pattern":"a"}`, `{"pattern":"b"}`,
			[]string{`!the data changed its pattern from "a" to "b"`}, []string{`!the data changed its pattern from "b" to "a"`}},
		{"a pattern at all", `{}`, `{"pattern":"b"}`, []string{`!the data changed its pattern from none to "b"`}, []string{`the data lost its pattern`}},
		{"a format", `{"format":"date"}`, `{"format":"date-time"}`,
			[]string{`!the data changed its format from "date" to "date-time"`}, []string{`!the data changed its format from "date-time" to "date"`}},
		{"unique items", `{}`, `{"uniqueItems":true}`, []string{`!the data must now have unique items`}, []string{`the data may now have equal items`}},
		{"closing an object", `{"additionalProperties":true}`, `{"additionalProperties":false}`,
			[]string{`!the data no longer allows more than what is named (additionalProperties)`}, []string{`the data now allows anything beyond what is named (additionalProperties)`}},
		{"saying what is the default", `{}`, `{"additionalProperties":{}}`, nil, nil},
		{"the type of other properties", `{"additionalProperties":{"type":"string"}}`, `{"additionalProperties":{"type":"number"}}`,
			[]string{`!property "*" changed its type from string to number`}, []string{`!property "*" changed its type from number to string`}},
		{"restricting other properties", `{}`, `{"additionalProperties":{"type":"number"}}`,
			[]string{`!the data restricts what is not named (additionalProperties)`}, []string{`the data now allows anything beyond what is named (additionalProperties)`}},
		{"far down", `{"properties":{"a":{"items":{"properties":{"b":{"properties":{}}}}}}}`, `{"properties":{"a":{"items":{"properties":{"b":{"properties":{"c":{}}}}}}}}`,
			[]string{`property "a[].b.c" was added`}, []string{`!property "a[].b.c" was removed`}},
		{"items at all", `{}`, `{"items":{"type":"string"}}`, []string{`!the data now says what its items are`}, []string{`!the data no longer says what its items are`}},
		{"leading items", `{"prefixItems":[{"type":"string"}]}`, `{"prefixItems":[{"type":"number"}]}`,
			[]string{`!property "[0]" changed its type from string to number`}, []string{`!property "[0]" changed its type from number to string`}},
		{"leading items of draft-07", `{` + draft7 + `"items":[{"type":"string"}]}`, `{` + draft7 + `"items":[{"type":"number"}]}`,
			[]string{`!property "[0]" changed its type from string to number`}, []string{`!property "[0]" changed its type from number to string`}},
		{"a definition that is used", `{"properties":{"a":{"$ref":"#/$defs/a"}},"$defs":{"a":{"type":"string"}}}`, `{"properties":{"a":{"$ref":"#/$defs/a"}},"$defs":{"a":{"type":"number"}}}`,
			[]string{`!property "a" changed its type from string to number`}, []string{`!property "a" changed its type from number to string`}},
		{"a definition that nobody uses", `{"$defs":{"a":{"type":"string"}}}`, `{"$defs":{"a":{"type":"number"}}}`, nil, nil},
		{"a definition under another name, or none", `{"properties":{"a":{"$ref":"#/definitions/x"}},"definitions":{"x":{"type":"string"}}}`, `{"properties":{"a":{"type":"string"}}}`, nil, nil},
		{"a definition by anchor", `{"$ref":"#x","$defs":{"a":{"$anchor":"x","type":"string"}}}`, `{"$ref":"#x","$defs":{"a":{"$anchor":"x","type":"number"}}}`,
			[]string{`!the data changed its type from string to number`}, []string{`!the data changed its type from number to string`}},
		{"a schema that refers to itself", `{"properties":{"child":{"$ref":"#"},"a":{}}}`, `{"properties":{"child":{"$ref":"#"}}}`,
			[]string{`!property "a" was removed`}, []string{`property "a" was added`}},
		{"a reference beside other keywords", `{"$ref":"#/$defs/a","required":["x"],"$defs":{"a":{"properties":{"b":{}}}}}`, `{"$ref":"#/$defs/a","required":["x"],"$defs":{"a":{}}}`,
			[]string{`!property "b" was removed`}, []string{`property "b" was added`}},
		{"what stands beside a reference in draft-07", `{` + draft7 + `"properties":{"a":{"$ref":"#/definitions/a","type":"string"}},"definitions":{"a":{}}}`, `{` + draft7 + `"properties":{"a":{"$ref":"#/definitions/a"}},"definitions":{"a":{}}}`, nil, nil},
		{"inside anyOf", `{"anyOf":[{"properties":{"a":{}}}]}`, `{"anyOf":[{"properties":{"a":{},"b":{}}}]}`,
			[]string{`!the data changed in a way that cannot be compared (anyOf)`}, []string{`!the data changed in a way that cannot be compared (anyOf)`}},
		{"a definition used inside oneOf", `{"oneOf":[{"$ref":"#/$defs/a"}],"$defs":{"a":{}}}`, `{"oneOf":[{"$ref":"#/$defs/a"}],"$defs":{"a":{"maxLength":1}}}`,
			[]string{`!the data changed in a way that cannot be compared (oneOf)`}, []string{`!the data changed in a way that cannot be compared (oneOf)`}},
		{"a description inside not", `{"not":{"title":"a"}}`, `{"not":{"title":"b"}}`, nil, nil},
		{"another alternative", `{"anyOf":[{}]}`, `{"anyOf":[{},{}]}`,
			[]string{`!the data changed in a way that cannot be compared (anyOf)`}, []string{`!the data changed in a way that cannot be compared (anyOf)`}},
		{"inside allOf, whose members add up", `{"allOf":[{"properties":{}}]}`, `{"allOf":[{"properties":{"a":{}}}]}`,
			[]string{`property "a" was added`}, []string{`!property "a" was removed`}},
		{"a condition", `{"if":{"required":["a"]},"then":{"required":["b"]}}`, `{"if":{"required":["a"]},"then":{"required":["c"]}}`,
			[]string{`!the data changed in a way that cannot be compared (then)`}, []string{`!the data changed in a way that cannot be compared (then)`}},
		{"a dependency", `{"dependentRequired":{"a":["b"]}}`, `{}`,
			[]string{`!the data changed in a way that cannot be compared (dependentRequired)`}, []string{`!the data changed in a way that cannot be compared (dependentRequired)`}},
		{"a description", `{"properties":{"a":{"description":"x"}}}`, `{"properties":{"a":{"description":"y"}}}`,
			[]string{`property "a" changed its description`}, []string{`property "a" changed its description`}},
		{"a keyword without effect", `{"x-owner":"a"}`, `{}`, []string{`the data changed its x-owner`}, []string{`the data changed its x-owner`}},
		{"a property that is named like a keyword", `{"properties":{"type":{"type":"string"}}}`, `{"properties":{}}`,
			[]string{`!property "type" was removed`}, []string{`property "type" was added`}},
		{"everything and nothing", `true`, `false`,
			[]string{`!the data changed in a way that cannot be compared (not)`}, []string{`!the data changed in a way that cannot be compared (not)`}},
		{"a draft, for a schema that both read alike", `{` + draft7 + `"type":"object"}`, `{"type":"object"}`, nil, nil},
		{"a draft, with keywords that they do not", `{` + draft7 + `"items":[{}]}`, `{"items":{}}`,
			[]string{"!the schema changed its draft and has keywords that the two drafts read differently, so they cannot be compared"},
			[]string{"!the schema changed its draft and has keywords that the two drafts read differently, so they cannot be compared"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			compile(t, tt.a)
			compile(t, tt.b)
			if diff := cmp.Diff(tt.there, inWords(tt.a, tt.b)); diff != "" {
				t.Errorf("changes from %s to %s (-want +got):\n%s", tt.a, tt.b, diff)
			}
			if diff := cmp.Diff(tt.backAgain, inWords(tt.b, tt.a)); diff != "" {
				t.Errorf("changes from %s to %s (-want +got):\n%s", tt.b, tt.a, diff)
			}
		})
	}
}

func inWords(old, next string) []string {
	var out []string
	for _, c := range schema.Compatible([]byte(old), []byte(next)) {
		if c.Breaking {
			out = append(out, "!"+c.Text)
			continue
		}
		out = append(out, c.Text)
	}
	return out
}

func TestChangesPointIntoTheDefinition(t *testing.T) {
	t.Parallel()
	got := schema.Compatible(
		[]byte(`{"properties":{"a/b":{"$ref":"#/$defs/x"},"c":{}},"$defs":{"x":{"type":"string"}}}`),
		[]byte(`{"properties":{"a/b":{"$ref":"#/$defs/x"}},"$defs":{"x":{"type":"null"}}}`))
	want := []schema.Change{
		{Breaking: true, Pointer: "/$defs/x/type", Text: `property "a/b" changed its type from string to null`},
		{Breaking: true, Pointer: "/properties/c", Text: `property "c" was removed`},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

// Two schemas that refer to each other in circles must not keep us busy.
func TestComparingRecursiveSchemasEnds(t *testing.T) {
	t.Parallel()
	a := `{"$ref":"#/$defs/a","$defs":{"a":{"properties":{"x":{"$ref":"#/$defs/b"},"y":{"$ref":"#/$defs/a"}}},"b":{"anyOf":[{"$ref":"#/$defs/a"},{"$ref":"#/$defs/b"}]}}}`
	b := strings.Replace(a, `"y":`, `"z":{},"y":`, 1)
	got := schema.Compatible([]byte(a), []byte(b))
	if len(got) == 0 || !got[0].Breaking {
		t.Errorf("changes %v, want those below anyOf to be breaking", got)
	}
}
