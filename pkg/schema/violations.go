package schema

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/rawjson"
)

// MaxViolations is how many violations are reported for one event.
const MaxViolations = 20

// collected is how many are looked at, so that which ones are reported does not
// depend on the order of a map for any but absurd events.
const collected = 1_000

// Validate says what is wrong with JSON data, nothing if it satisfies the schema.
// Field is the JSON pointer into data of what is wrong, "" for data as a whole.
// Descriptions name what was expected and never repeat values of the data,
// which may be confidential. At most [MaxViolations] are returned, sorted by
// field.
func (s *Schema) Validate(data []byte) []event.Violation {
	if s.proto != nil {
		return s.proto.validateJSON(data)
	}
	v, err := rawjson.Decode(data)
	if err != nil {
		return one("", "the data is not JSON: "+syntaxError(err))
	}
	if place, n := badNumber(v); n != "" {
		slices.Reverse(place)
		return one(pointerTo(place), fmt.Sprintf("the number has more than %d digits, or an exponent beyond %d", maxDigits, maxExponent))
	}
	if accepts(s.compiled, v, 0) {
		return nil
	}
	err = s.compiled.Validate(v)
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		return one("", err.Error())
	}
	return violations(e, v)
}

func one(field, description string) []event.Violation {
	return []event.Violation{{Field: field, Description: description}}
}

// syntaxError says where JSON ends to be JSON, without showing the data.
func syntaxError(err error) string {
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Sprintf("%v (byte %d)", e, e.Offset)
	}
	if errors.Is(err, rawjson.ErrTrailing) {
		return err.Error()
	}
	return "it ends too early"
}

// violations turns the library's tree of errors into a list. data is what was
// checked, nil if unknown.
func violations(e *jsonschema.ValidationError, data any) []event.Violation {
	l := list{data: data}
	l.add(e)
	slices.SortFunc(l.found, func(a, b event.Violation) int {
		if c := strings.Compare(a.Field, b.Field); c != 0 {
			return c
		}
		return strings.Compare(a.Description, b.Description)
	})
	// The same may have been found on two ways, as with allOf.
	found := slices.Compact(l.found)
	return slices.Clip(found[:min(len(found), MaxViolations)])
}

type list struct {
	data  any
	found []event.Violation
}

func (l *list) put(field, format string, args ...any) {
	l.found = append(l.found, event.Violation{Field: field, Description: fmt.Sprintf(format, args...)})
}

// add adds what e is about, or what its causes are where e itself says nothing.
func (l *list) add(e *jsonschema.ValidationError) {
	if len(l.found) >= collected {
		return
	}
	at := pointerTo(e.InstanceLocation)
	switch k := e.ErrorKind.(type) {
	case *kind.Schema, *kind.Group, *kind.Reference, *kind.AllOf, *kind.ContentSchema:
		for _, c := range e.Causes {
			l.add(c)
		}
	case *kind.Required:
		for _, p := range k.Missing {
			l.put(at, "missing property %q", p)
		}
	case *kind.AdditionalProperties:
		for _, p := range k.Properties {
			l.put(pointer(at, cut(p, 200)), "property %q is not allowed", cut(p, 200))
		}
	case *kind.PropertyNames:
		l.put(l.holder(len(e.InstanceLocation), k.Property), "property name %q is not allowed%s", cut(k.Property, 200), because(e.Causes))
	case *kind.AnyOf:
		l.put(at, "fits none of the alternatives%s", because(e.Causes))
	case *kind.OneOf:
		if len(k.Subschemas) == 2 {
			l.put(at, "fits alternatives %d and %d, and must fit only one", k.Subschemas[0]+1, k.Subschemas[1]+1)
			return
		}
		l.put(at, "fits none of the alternatives%s", because(e.Causes))
	case *kind.Contains:
		l.put(at, "has no item of the kind that it must have")
	default:
		l.put(at, "%s", describe(e.ErrorKind))
	}
}

// holder returns the place of the object, depth steps down in the data, that has
// a property, "" if it is not the only one. The library reuses the memory of the
// place that it reports for a property's name, so that only its length is sound.
func (l *list) holder(depth int, property string) string {
	if len(l.found) >= MaxViolations {
		return ""
	}
	var places []string
	holders(l.data, "", depth, property, &places)
	if len(places) != 1 {
		return ""
	}
	return places[0]
}

func holders(v any, at string, depth int, property string, places *[]string) {
	switch v := v.(type) {
	case map[string]any:
		if _, has := v[property]; depth == 0 && has {
			*places = append(*places, at)
		}
		for k, e := range v {
			if depth > 0 {
				holders(e, pointer(at, k), depth-1, property, places)
			}
		}
	case []any:
		for i, e := range v {
			if depth > 0 {
				holders(e, pointer(at, strconv.Itoa(i)), depth-1, property, places)
			}
		}
	}
}

// because returns the reasons of several errors in one line: for each the first.
func because(causes []*jsonschema.ValidationError) string {
	var reasons []string
	for _, c := range causes {
		inner := list{}
		inner.add(c)
		if len(inner.found) == 0 {
			continue
		}
		v := slices.MinFunc(inner.found, func(a, b event.Violation) int { return strings.Compare(a.Field+a.Description, b.Field+b.Description) })
		reason := v.Description
		if len(c.InstanceLocation) == 0 && v.Field != "" || len(v.Field) > len(pointerTo(c.InstanceLocation)) {
			reason = v.Field + " " + reason
		}
		if !slices.Contains(reasons, reason) {
			reasons = append(reasons, reason)
		}
		if len(reasons) == 3 {
			break
		}
	}
	if len(reasons) == 0 {
		return ""
	}
	return ": " + cut(strings.Join(reasons, "; or "), 500)
}

// describe says in plain words what was expected at one place.
func describe(k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *kind.Type:
		return fmt.Sprintf("got %s, want %s", k.Got, strings.Join(k.Want, " or "))
	case *kind.Enum:
		return "must be one of " + alternatives(k.Want)
	case *kind.Const:
		return "must be " + text(k.Want)
	case *kind.Pattern:
		return fmt.Sprintf("does not match the pattern %q", cut(k.Want, 200))
	case *kind.Format:
		// Met in definitions only: formats are not checked in events.
		if k.Want == "regex" {
			return fmt.Sprintf("is not a regular expression that is understood: %v", k.Err)
		}
		return fmt.Sprintf("is not a valid %s: %v", k.Want, k.Err)
	case *kind.MinLength:
		return fmt.Sprintf("is %d characters long, want at least %d", k.Got, k.Want)
	case *kind.MaxLength:
		return fmt.Sprintf("is %d characters long, want at most %d", k.Got, k.Want)
	case *kind.MinItems:
		return fmt.Sprintf("has %d items, want at least %d", k.Got, k.Want)
	case *kind.MaxItems:
		return fmt.Sprintf("has %d items, want at most %d", k.Got, k.Want)
	case *kind.AdditionalItems:
		return fmt.Sprintf("has %d items more than allowed", k.Count)
	case *kind.UniqueItems:
		return fmt.Sprintf("items %d and %d are the same", k.Duplicates[0], k.Duplicates[1])
	case *kind.MinContains:
		return fmt.Sprintf("has %d items of the kind that it must have, want at least %d", len(k.Got), k.Want)
	case *kind.MaxContains:
		return fmt.Sprintf("has %d items of a kind, want at most %d", len(k.Got), k.Want)
	case *kind.MinProperties:
		return fmt.Sprintf("has %d properties, want at least %d", k.Got, k.Want)
	case *kind.MaxProperties:
		return fmt.Sprintf("has %d properties, want at most %d", k.Got, k.Want)
	case *kind.Dependency:
		return fmt.Sprintf("missing %s, required with %q", quoted(k.Missing), k.Prop)
	case *kind.DependentRequired:
		return fmt.Sprintf("missing %s, required with %q", quoted(k.Missing), k.Prop)
	case *kind.Minimum:
		return "must be at least " + decimal(k.Want)
	case *kind.Maximum:
		return "must be at most " + decimal(k.Want)
	case *kind.ExclusiveMinimum:
		return "must be greater than " + decimal(k.Want)
	case *kind.ExclusiveMaximum:
		return "must be less than " + decimal(k.Want)
	case *kind.MultipleOf:
		return "must be a multiple of " + decimal(k.Want)
	case *kind.FalseSchema:
		return "is not allowed"
	case *kind.Not:
		return "is what the schema rules out"
	case *kind.RefCycle:
		return "the schema refers to itself without end here, so that nothing can satisfy it"
	}
	return "does not satisfy the schema"
}

func alternatives(values []any) string {
	const most = 10
	var out []string
	for _, v := range values[:min(len(values), most)] {
		out = append(out, text(v))
	}
	if len(values) > most {
		out = append(out, fmt.Sprintf("… (%d in all)", len(values)))
	}
	return strings.Join(out, ", ")
}

func quoted(names []string) string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = fmt.Sprintf("%q", n)
	}
	return strings.Join(out, ", ")
}

// decimal returns a number as people write it. A schema's numbers come from
// decimal text, so they have an end.
func decimal(r *big.Rat) string {
	if r.IsInt() {
		return cut(r.Num().String(), 40)
	}
	n, exact := r.FloatPrec()
	if !exact || n > 40 {
		n = 40
	}
	return cut(r.FloatString(n), 60)
}
