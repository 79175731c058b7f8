package schema

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/rawjson"
)

// What a definition may be. The limits are far above what people write and far
// below what would hurt: compiling takes time by the square of the number of
// schemas in a definition.
const (
	// MaxDefinition is the size of a definition in bytes.
	MaxDefinition = 1 << 20
	// MaxDepth is how deep objects and arrays may nest in a definition.
	MaxDepth = 100

	maxNodes   = 10_000  // objects and arrays in a definition
	maxCost    = 10_000  // schemas that are checked against one and the same value
	maxPattern = 1_000   // bytes of a regular expression
	maxProgram = 200_000 // instructions of all regular expressions together
)

// Drafts are the values of "$schema" that are accepted.
func Drafts() []string {
	return []string{"https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#"}
}

// field is the request's field that a wrong definition is reported for.
const field = "definition"

// base is where a definition without "$id" is said to be. It is an address that
// nothing answers to: no reference is ever followed out of the document.
const base = "posthorn-schema:///"

// A Schema is a compiled version of an event type's schema. It is safe for
// concurrent use.
type Schema struct {
	typ      string
	version  int
	compiled *jsonschema.Schema // nil of a protobuf schema
	proto    *protoSchema       // nil of a JSON Schema
}

// Type returns the event type that the schema is for.
func (s *Schema) Type() string { return s.typ }

// Version returns the version's number.
func (s *Schema) Version() int { return s.version }

// Compile returns the schema that definition is the text of. Its errors are of
// kind [errs.Invalid], or [errs.TooLarge] for a definition above
// [MaxDefinition], and say what is wrong with the definition.
func Compile(typ string, version int, definition []byte) (*Schema, error) {
	doc, err := parse(definition)
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(noLoader{})
	c.UseRegexpEngine((&patterns{compiled: map[string]*regexp.Regexp{}}).compile)
	if err := c.AddResource(base, doc); err != nil {
		return nil, fmt.Errorf("schema: compile schema of %s: %w", typ, err)
	}
	compiled, err := c.Compile(base)
	if err != nil {
		return nil, refused(err)
	}
	w := walk{cost: map[*jsonschema.Schema]int{}}
	if w.visit(compiled) > maxCost {
		return nil, errs.Field(field, "its combinations (allOf, anyOf, oneOf, $ref) multiply to more than %d checks of one value", maxCost)
	}
	return &Schema{typ: typ, version: version, compiled: compiled}, nil
}

// parse reads a definition and refuses what must not get to the compiler.
func parse(definition []byte) (any, error) {
	if len(definition) > MaxDefinition {
		return nil, errs.New(errs.TooLarge, "the schema's definition is %d bytes, at most %d are allowed", len(definition), MaxDefinition)
	}
	if !utf8.Valid(definition) {
		return nil, errs.Field(field, "is not valid UTF-8")
	}
	if depth(definition) > MaxDepth {
		return nil, errs.Field(field, "nests deeper than %d", MaxDepth)
	}
	doc, err := rawjson.Decode(definition)
	if err != nil {
		return nil, errs.Field(field, "is not JSON: %v", err)
	}
	switch doc.(type) {
	case map[string]any, bool:
	default:
		return nil, errs.Field(field, "is neither an object nor true or false, so it is not a JSON Schema")
	}
	if nodes(doc) > maxNodes {
		return nil, errs.Field(field, "has more than %d objects and arrays", maxNodes)
	}
	if _, n := badNumber(doc); n != "" {
		return nil, errs.Field(field, "has a number that is too long to calculate with: %s", cut(n, 40))
	}
	if err := checkDrafts(doc, ""); err != nil {
		return nil, err
	}
	return doc, nil
}

// depth returns how deep objects and arrays nest in JSON text. It is called
// before anything recursive.
func depth(text []byte) int {
	deepest, now := 0, 0
	inString := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			now++
			deepest = max(deepest, now)
		case c == '}' || c == ']':
			now--
		}
	}
	return deepest
}

func nodes(v any) int {
	n := 0
	switch v := v.(type) {
	case map[string]any:
		n = 1
		for _, e := range v {
			n += nodes(e)
		}
	case []any:
		n = 1
		for _, e := range v {
			n += nodes(e)
		}
	}
	return n
}

// checkDrafts refuses "$schema" with a draft that is not one of ours, wherever
// a schema may stand.
func checkDrafts(v any, at string) error {
	switch v := v.(type) {
	case map[string]any:
		if s, ok := v["$schema"].(string); ok && draft(s) == 0 {
			return errs.Field(field, "%s is %q; accepted are %s", orRoot(pointer(at, "$schema")), cut(s, 200), strings.Join(Drafts(), " and "))
		}
		for k, e := range v {
			if k == "const" || k == "enum" || k == "default" || k == "examples" {
				// Data, unless it is a property's name.
				continue
			}
			if err := checkDrafts(e, pointer(at, k)); err != nil {
				return err
			}
		}
	case []any:
		for i, e := range v {
			if err := checkDrafts(e, fmt.Sprintf("%s/%d", at, i)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Drafts by number, as the compiler has them.
const (
	draft7    = 7
	draft2020 = 2020
)

// draft returns the draft that a value of "$schema" stands for, 0 if none of ours.
func draft(s string) int {
	s = strings.TrimSuffix(s, "#")
	s = strings.TrimPrefix(strings.TrimPrefix(s, "http://"), "https://")
	switch s {
	case "json-schema.org/draft/2020-12/schema":
		return draft2020
	case "json-schema.org/draft-07/schema":
		return draft7
	}
	return 0
}

// draftOf returns the draft of a definition.
func draftOf(doc any) int {
	if m, ok := doc.(map[string]any); ok {
		if s, ok := m["$schema"].(string); ok {
			return draft(s)
		}
	}
	return draft2020
}

// noLoader refuses every reference that leaves the document.
type noLoader struct{}

var errOutside = errors.New("outside of the document")

func (noLoader) Load(string) (any, error) { return nil, errOutside }

// refused says in our words what the compiler did not like.
func refused(err error) error {
	if e, ok := errors.AsType[*jsonschema.LoadURLError](err); ok {
		return errs.Field(field, "$ref %q points outside of the schema; only references inside it are followed, so put what it needs under $defs", strings.TrimPrefix(e.URL, base))
	}
	if e, ok := errors.AsType[*jsonschema.JSONPointerNotFoundError](err); ok {
		return errs.Field(field, "$ref %q points to nothing", strings.TrimPrefix(e.URL, base))
	}
	if e, ok := errors.AsType[*jsonschema.AnchorNotFoundError](err); ok {
		return errs.Field(field, "$ref %q points to nothing", strings.TrimPrefix(e.Reference, base))
	}
	if e, ok := errors.AsType[*jsonschema.InvalidRegexError](err); ok {
		return errs.Field(field, "%q is not a regular expression that is understood: %v", cut(e.Regex, 200), e.Err)
	}
	if e, ok := errors.AsType[*jsonschema.SchemaValidationError](err); ok {
		if v, ok := errors.AsType[*jsonschema.ValidationError](e.Err); ok {
			return notASchema(v)
		}
	}
	return errs.Field(field, "is not a usable JSON Schema: %s", cut(strings.ReplaceAll(err.Error(), base, ""), 400))
}

// notASchema reports where a definition breaks the rules of its draft.
func notASchema(e *jsonschema.ValidationError) error {
	found := violations(e, nil)
	if len(found) == 0 {
		return errs.Field(field, "is not a JSON Schema")
	}
	reasons := make([]string, 0, 3)
	for i := range found {
		if len(reasons) < cap(reasons) {
			reasons = append(reasons, orRoot(found[i].Field)+" "+found[i].Description)
		}
		found[i].Field = field + found[i].Field
	}
	return errs.New(errs.Invalid, "the definition is not a JSON Schema: %s", strings.Join(reasons, "; ")).With(found...)
}

func orRoot(ptr string) string {
	if ptr == "" {
		return "/"
	}
	return ptr
}

// patterns compiles the regular expressions of one definition and refuses them
// once they get large together. Go's expressions run in linear time, so size is
// all that there is to bound.
type patterns struct {
	compiled map[string]*regexp.Regexp
	program  int
}

func (p *patterns) compile(s string) (jsonschema.Regexp, error) {
	if re, ok := p.compiled[s]; ok {
		return re, nil
	}
	if len(s) > maxPattern {
		return nil, fmt.Errorf("it is longer than %d bytes", maxPattern)
	}
	tree, err := syntax.Parse(s, syntax.Perl)
	if err != nil {
		return nil, err
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return nil, err
	}
	if p.program += len(prog.Inst); p.program > maxProgram {
		return nil, errors.New("the regular expressions of the schema are too large together")
	}
	re, err := regexp.Compile(s)
	if err != nil {
		return nil, err
	}
	p.compiled[s] = re
	return re, nil
}

// walk visits every schema of a compiled one once. It turns off the check of
// formats, which the compiler does for draft-07 and not for 2020-12, and counts.
type walk struct {
	cost map[*jsonschema.Schema]int
}

// visit returns how many schemas one value is checked against by s. References
// can double that at each step, so a short definition may come to billions.
func (w *walk) visit(s *jsonschema.Schema) int {
	if s == nil {
		return 0
	}
	if n, ok := w.cost[s]; ok {
		return n
	}
	// A schema that comes back to itself on the same value is refused by the
	// library when it happens; on another value it is not counted here.
	w.cost[s] = 1
	s.Format = nil

	n := 1
	for _, in := range samePlace(s) {
		n = min(n+w.visit(in), maxCost+1)
	}
	for _, below := range lowerPlace(s) {
		if w.visit(below) > maxCost {
			n = maxCost + 1
		}
	}
	w.cost[s] = n
	return n
}

// samePlace returns the schemas that s applies to the value that it is applied to.
func samePlace(s *jsonschema.Schema) []*jsonschema.Schema {
	out := []*jsonschema.Schema{s.Ref, s.RecursiveRef, s.Not, s.If, s.Then, s.Else}
	if s.DynamicRef != nil {
		out = append(out, s.DynamicRef.Ref)
	}
	out = append(append(append(out, s.AllOf...), s.AnyOf...), s.OneOf...)
	for _, d := range s.DependentSchemas {
		out = append(out, d)
	}
	for _, d := range s.Dependencies {
		out = appendSchema(out, d)
	}
	return out
}

// lowerPlace returns the schemas that s applies to parts of the value.
func lowerPlace(s *jsonschema.Schema) []*jsonschema.Schema {
	out := []*jsonschema.Schema{s.PropertyNames, s.UnevaluatedProperties, s.Contains, s.Items2020, s.UnevaluatedItems, s.ContentSchema}
	for _, p := range s.Properties {
		out = append(out, p)
	}
	for _, p := range s.PatternProperties {
		out = append(out, p)
	}
	out = append(out, s.PrefixItems...)
	out = appendSchema(out, s.AdditionalProperties)
	out = appendSchema(out, s.AdditionalItems)
	out = appendSchema(out, s.Items)
	return out
}

// appendSchema appends v if it is a schema or several; the library has fields
// that may be something else.
func appendSchema(to []*jsonschema.Schema, v any) []*jsonschema.Schema {
	switch v := v.(type) {
	case *jsonschema.Schema:
		return append(to, v)
	case []*jsonschema.Schema:
		return append(to, v...)
	}
	return to
}

var _ jsonschema.URLLoader = noLoader{}
