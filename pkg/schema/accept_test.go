package schema

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/posthornhq/posthorn/pkg/rawjson"
)

// The short cut for good events may leave a decision to the library, but must
// never decide otherwise. Random schemas and values, from few words so that
// they meet.
func TestTheShortCutNeverAcceptsWhatTheLibraryRefuses(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	accepted, both := 0, 0
	for i := range 20_000 {
		definition := randomSchema(rnd, 3)
		if i%3 == 0 {
			definition = `{"$schema":"http://json-schema.org/draft-07/schema#","allOf":[` + definition + `]}`
		}
		s, err := Compile("t", 1, []byte(definition))
		if err != nil {
			t.Fatalf("%s: %v", definition, err)
		}
		for range 5 {
			data := randomValue(rnd, 3)
			v, err := rawjson.Decode([]byte(data))
			if err != nil {
				t.Fatal(err)
			}
			good := s.compiled.Validate(v) == nil
			if good {
				both++
			}
			if accepts(s.compiled, v, 0) {
				accepted++
				if !good {
					t.Fatalf("%s is accepted by %s, want it refused: %v", data, definition, s.compiled.Validate(v))
				}
			}
		}
	}
	if accepted*4 < both {
		t.Errorf("%d of %d good values were accepted at once, want more, or this test says little", accepted, both)
	}
}

func TestTheShortCutEndsOnReferencesInACircle(t *testing.T) {
	t.Parallel()
	s, err := Compile("t", 1, []byte(`{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Validate([]byte(`1`)); len(got) != 1 {
		t.Errorf("violations %v, want one that names the circle", got)
	}
}

func pick(rnd *rand.Rand, words ...string) string { return words[rnd.IntN(len(words))] }

func randomValue(rnd *rand.Rand, depth int) string {
	n := 7
	if depth == 0 {
		n = 5
	}
	switch rnd.IntN(n) {
	case 0:
		return pick(rnd, "0", "1", "1.0", "1.5", "-2", "10e-1", "3")
	case 1, 2:
		return pick(rnd, `""`, `"a"`, `"ab"`, `"äöü"`)
	case 3:
		return pick(rnd, "true", "false")
	case 4:
		return "null"
	case 5:
		return "[" + randomValue(rnd, depth-1) + "," + randomValue(rnd, depth-1) + "]"
	}
	return fmt.Sprintf(`{%q:%s,%q:%s}`, pick(rnd, "a", "b"), randomValue(rnd, depth-1), pick(rnd, "c", "d"), randomValue(rnd, depth-1))
}

func randomSchema(rnd *rand.Rand, depth int) string {
	if depth == 0 {
		return pick(rnd, `true`, `{}`, `{"type":"string"}`, `{"type":["integer","null"]}`, `{"type":"number"}`, `false`)
	}
	below := func() string { return randomSchema(rnd, depth-1) }
	part := func() string {
		switch rnd.IntN(12) {
		case 0:
			return `"properties":{"a":` + below() + `,"c":` + below() + `}`
		case 1:
			return `"required":["` + pick(rnd, "a", "b", "c") + `"]`
		case 2:
			return `"additionalProperties":` + below()
		case 3:
			return `"items":` + below()
		case 4:
			return `"minLength":` + pick(rnd, "0", "1", "3")
		case 5:
			return `"maximum":` + pick(rnd, "1", "1.5")
		case 6:
			return `"exclusiveMinimum":` + pick(rnd, "0", "-2")
		case 7:
			return `"enum":[` + randomValue(rnd, 1) + `,"zz",7]`
		case 8:
			return `"allOf":[` + below() + `]`
		case 9:
			return `"anyOf":[` + below() + `,` + below() + `]`
		case 10:
			return `"maxItems":` + pick(rnd, "1", "2")
		}
		return `"pattern":"` + pick(rnd, "a", "^$") + `"`
	}
	if rnd.IntN(2) == 0 {
		return "{" + part() + "}"
	}
	// Of two equal keys the last one counts, which is as good as any.
	return "{" + part() + "," + part() + "}"
}
