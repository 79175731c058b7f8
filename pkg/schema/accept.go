package schema

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// accepts reports whether v certainly satisfies s. False means that it does not,
// or that s has something that is not handled here: the library decides then.
// Most events are good and most schemas plain, and for those this takes a
// quarter of the library's time, which gets ready to explain at every step.
//
// What is handled is what the switch in plainly and the methods below it name.
// hops counts the schemas on this value, so that references in a circle end.
func accepts(s *jsonschema.Schema, v any, hops int) bool {
	const most = 50
	if s.Bool != nil {
		return *s.Bool
	}
	if hops > most || !plainly(s) {
		return false
	}
	if s.Types != nil && !s.Types.IsEmpty() && !isOf(*s.Types, v) {
		return false
	}
	if s.Enum != nil && len(missingFrom(s.Enum.Values, []any{v})) > 0 {
		return false
	}
	if s.Const != nil && !equal(*s.Const, v) {
		return false
	}
	if s.Ref != nil && !accepts(s.Ref, v, hops+1) {
		return false
	}
	for _, all := range s.AllOf {
		if !accepts(all, v, hops+1) {
			return false
		}
	}
	switch v := v.(type) {
	case map[string]any:
		return acceptsObject(s, v)
	case []any:
		return acceptsArray(s, v)
	case string:
		return acceptsString(s, v)
	case json.Number:
		return acceptsNumber(s, v)
	}
	return true
}

// plainly reports whether a schema has only keywords that are handled here.
func plainly(s *jsonschema.Schema) bool {
	switch {
	case s.RecursiveRef != nil, s.DynamicRef != nil, s.Not != nil, len(s.AnyOf) > 0, len(s.OneOf) > 0,
		s.If != nil, s.Format != nil, s.MaxProperties != nil, s.MinProperties != nil, s.PropertyNames != nil,
		s.PatternProperties != nil, s.Dependencies != nil, s.DependentRequired != nil, s.DependentSchemas != nil,
		s.UnevaluatedProperties != nil, s.UniqueItems, s.Contains != nil, s.MinContains != nil, s.MaxContains != nil,
		s.AdditionalItems != nil, len(s.PrefixItems) > 0, s.UnevaluatedItems != nil, s.ContentEncoding != nil,
		s.ContentMediaType != nil, s.ContentSchema != nil, s.MultipleOf != nil, len(s.Extensions) > 0:
		return false
	}
	return true
}

func acceptsObject(s *jsonschema.Schema, v map[string]any) bool {
	for _, name := range s.Required {
		if _, has := v[name]; !has {
			return false
		}
	}
	if s.AdditionalProperties == nil && len(s.Properties) == 0 {
		return true
	}
	for name, e := range v {
		if p, known := s.Properties[name]; known {
			if !accepts(p, e, 0) {
				return false
			}
			continue
		}
		switch more := s.AdditionalProperties.(type) {
		case bool:
			if !more {
				return false
			}
		case *jsonschema.Schema:
			if !accepts(more, e, 0) {
				return false
			}
		}
	}
	return true
}

func acceptsArray(s *jsonschema.Schema, v []any) bool {
	if s.MinItems != nil && len(v) < *s.MinItems || s.MaxItems != nil && len(v) > *s.MaxItems {
		return false
	}
	each := s.Items2020
	if s.Items != nil {
		all, ok := s.Items.(*jsonschema.Schema)
		if !ok || each != nil {
			return false
		}
		each = all
	}
	if each == nil {
		return true
	}
	for _, e := range v {
		if !accepts(each, e, 0) {
			return false
		}
	}
	return true
}

func acceptsString(s *jsonschema.Schema, v string) bool {
	if s.MinLength != nil || s.MaxLength != nil {
		n := utf8.RuneCountInString(v)
		if s.MinLength != nil && n < *s.MinLength || s.MaxLength != nil && n > *s.MaxLength {
			return false
		}
	}
	return s.Pattern == nil || s.Pattern.MatchString(v)
}

func acceptsNumber(s *jsonschema.Schema, v json.Number) bool {
	if s.Minimum == nil && s.Maximum == nil && s.ExclusiveMinimum == nil && s.ExclusiveMaximum == nil {
		return true
	}
	n := rat(v)
	return (s.Minimum == nil || n.Cmp(s.Minimum) >= 0) && (s.Maximum == nil || n.Cmp(s.Maximum) <= 0) &&
		(s.ExclusiveMinimum == nil || n.Cmp(s.ExclusiveMinimum) > 0) && (s.ExclusiveMaximum == nil || n.Cmp(s.ExclusiveMaximum) < 0)
}

// The library's types, which it has no names for.
var (
	nullType, boolType      = typeNamed("null"), typeNamed("boolean")
	numberType, integerType = typeNamed("number"), typeNamed("integer")
	stringType              = typeNamed("string")
	arrayType, objectType   = typeNamed("array"), typeNamed("object")
)

func typeNamed(name string) (t jsonschema.Types) {
	t.Add(name)
	return t
}

// isOf reports whether a decoded value is of one of several types.
func isOf(types jsonschema.Types, v any) bool {
	switch v := v.(type) {
	case map[string]any:
		return types&objectType != 0
	case []any:
		return types&arrayType != 0
	case string:
		return types&stringType != 0
	case bool:
		return types&boolType != 0
	case json.Number:
		// 1.0 and 1e3 are integers too.
		return types&numberType != 0 || types&integerType != 0 && (!strings.ContainsAny(string(v), ".eE") || rat(v).IsInt())
	}
	return types&nullType != 0
}
