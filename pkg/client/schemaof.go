package client

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"reflect"
	"strings"

	"github.com/invopop/jsonschema"
)

// SchemaOf returns the JSON Schema (2020-12) of what T is in JSON, for
// [Client.PutSchema]. A field is required unless its tag says omitempty or
// omitzero; `jsonschema:"…"` tags add constraints, see
// https://github.com/invopop/jsonschema.
//
// The document stands alone: what it refers to is under its $defs. Properties
// that T does not have are allowed, so that a producer may add one before its
// consumers know it. Equal types give equal bytes.
func SchemaOf[T any]() (schema []byte, err error) {
	t := reflect.TypeFor[T]()
	// The reflector panics at what has no form in JSON.
	defer func() {
		if r := recover(); r != nil {
			schema, err = nil, fmt.Errorf("client: schema of %s: %v", t, r)
		}
	}()
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	names := newNames()
	reflector := &jsonschema.Reflector{Anonymous: true, AllowAdditionalProperties: true, Namer: names.of}
	doc := reflector.ReflectFromType(t)
	if err := expandRoot(doc); err != nil {
		return nil, fmt.Errorf("client: schema of %s: %w", t, err)
	}
	raw, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("client: schema of %s: %w", t, err)
	}
	return append(raw, '\n'), nil
}

// expandRoot puts the definition that the root refers to in its place, where
// people and compatibility checks look for the properties. The definition stays
// only if the type refers to itself.
func expandRoot(doc *jsonschema.Schema) error {
	name, ok := strings.CutPrefix(doc.Ref, "#/$defs/")
	def := doc.Definitions[name]
	if !ok || def == nil {
		return nil
	}
	version, definitions := doc.Version, doc.Definitions
	*doc = *def
	doc.Version, doc.Definitions = version, definitions
	raw, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	ref, err := json.Marshal("#/$defs/" + name)
	if err != nil {
		return err
	}
	// The definition itself has the same references as its copy, the root.
	if !bytes.Contains(raw, append([]byte(`"$ref":`), ref...)) {
		delete(definitions, name)
	}
	return nil
}

// names gives each type a name of its own under $defs: its Go name, and where
// another package's type has that already, its package's before it.
type names struct {
	byType map[reflect.Type]string
	taken  map[string]bool
}

func newNames() *names {
	return &names{byType: make(map[reflect.Type]string), taken: make(map[string]bool)}
}

func (n *names) of(t reflect.Type) string {
	if name, ok := n.byType[t]; ok {
		return name
	}
	if t.Name() == "" || t.PkgPath() == "" {
		return "" // built in, or without a name: stands where it is used
	}
	name := inFragment(t.Name())
	if n.taken[name] {
		name = inFragment(path.Base(t.PkgPath())) + "." + name
	}
	for i := 2; n.taken[name]; i++ {
		name = fmt.Sprintf("%s_%d", inFragment(t.Name()), i)
	}
	n.byType[t], n.taken[name] = name, true
	return name
}

// inFragment replaces what would need escaping in a $ref, as the brackets of
// generic types' names do.
func inFragment(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r == '-' || r == '.' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return '_'
	}, name)
}
