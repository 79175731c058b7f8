package schema

import (
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Keywords by what a change of them means. What is in none of the lists, and is
// not handled by name, is unknown to both drafts and has no effect.
var (
	// annotations say something to people.
	annotations = []string{"title", "description", "$comment", "default", "examples", "deprecated", "readOnly", "writeOnly"}
	// singles have a schema, lists several in order, maps several by name.
	singles = []string{"not", "if", "then", "else", "contains", "propertyNames", "unevaluatedProperties", "unevaluatedItems", "contentSchema"}
	lists   = []string{"allOf", "anyOf", "oneOf"}
	named   = []string{"patternProperties", "dependentSchemas", "dependencies"}
	// plain have no schema in them.
	plain = []string{"dependentRequired"}
	// dialect are those that not both drafts know, or read alike.
	dialect = []string{
		"dependencies", "dependentRequired", "dependentSchemas", "prefixItems", "additionalItems",
		"minContains", "maxContains", "unevaluatedProperties", "unevaluatedItems", "$anchor",
	}
)

// whole compares the keywords in which any change of meaning is breaking,
// because what it does to the schema as a whole cannot be told.
func (c *comparison) whole(p pair) {
	_, had := p.old["$ref"]
	_, has := p.next["$ref"]
	switch {
	case had && has:
		// Both have more than a reference, see resolve.
		c.targets(p)
	case had != has:
		c.incomparable(p, "$ref")
	}
	for _, k := range singles {
		_, had := p.old[k]
		_, has := p.next[k]
		if had && has {
			c.strictly(p, k, pointer(p.oldAt, k), pointer(p.at, k))
		} else if had != has {
			c.incomparable(p, k)
		}
	}
	for _, k := range lists {
		before, _ := p.old[k].([]any)
		after, _ := p.next[k].([]any)
		if len(before) != len(after) {
			c.incomparable(p, k)
			continue
		}
		for i := range before {
			step := strconv.Itoa(i)
			oldAt, at := pointer(pointer(p.oldAt, k), step), pointer(pointer(p.at, k), step)
			if k == "allOf" {
				// Its members add up, so each is compared like the whole.
				c.schemas(oldAt, at, p.path)
				continue
			}
			c.strictly(p, k, oldAt, at)
		}
	}
	for _, k := range named {
		c.named(p, k)
	}
	for _, k := range plain {
		was, had := p.old[k]
		is, has := p.next[k]
		if had != has || !equal(was, is) {
			c.incomparable(p, k)
		}
	}
}

// targets compares what two references beside other keywords point to.
func (c *comparison) targets(p pair) {
	oldAt, okOld := c.old.target(p.old)
	at, ok := c.next.target(p.next)
	if !okOld || !ok {
		if !equal(p.old["$ref"], p.next["$ref"]) {
			c.incomparable(p, "$ref")
		}
		return
	}
	c.schemas(oldAt, at, p.path)
}

func (c *comparison) named(p pair, k string) {
	before, after := object(p.old[k]), object(p.next[k])
	for _, name := range keys(before, after) {
		was, had := before[name]
		is, has := after[name]
		_, wasList := was.([]any)
		_, isList := is.([]any)
		oldAt, at := pointer(pointer(p.oldAt, k), name), pointer(pointer(p.at, k), name)
		switch {
		case !had || !has || wasList != isList, wasList && !equal(was, is):
			c.incomparable(p, k)
			return
		case wasList:
		case k == "patternProperties":
			c.schemas(oldAt, at, dotted(p.path, "/"+name+"/"))
		default:
			c.strictly(p, k, oldAt, at)
		}
	}
}

// strictly compares two schemas in which nothing may change and reports all
// changes as one.
func (c *comparison) strictly(p pair, keyword, oldAt, at string) {
	before, was := len(c.changes), c.strict
	c.strict = true
	c.schemas(oldAt, at, p.path)
	c.strict = was
	if len(c.changes) > before && !was {
		c.changes = c.changes[:before]
		c.incomparable(p, keyword)
	}
}

func (c *comparison) incomparable(p pair, keyword string) {
	c.breaking(pointer(p.at, keyword), "%s changed in a way that cannot be compared (%s)", p.what, keyword)
}

// notes reports what only people read, and keywords without effect.
func (c *comparison) notes(p pair) {
	if c.strict {
		return
	}
	for _, k := range keys(p.old, p.next) {
		was, had := p.old[k]
		is, has := p.next[k]
		if had == has && equal(was, is) {
			continue
		}
		if slices.Contains(annotations, k) || !c.known(k) {
			c.allowed(pointer(p.at, k), "%s changed its %s", p.what, k)
		}
	}
}

// known reports whether a keyword is handled somewhere else.
func (c *comparison) known(k string) bool {
	switch k {
	case "type", "format", "contentEncoding", "contentMediaType", "const", "enum",
		"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains",
		"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains",
		"pattern", "multipleOf", "uniqueItems", "properties", "required", "additionalProperties",
		"items", "prefixItems", "additionalItems", "$ref", "$defs", "definitions", "$anchor", "$id", "$schema", "$vocabulary":
		return true
	}
	return slices.Contains(singles, k) || slices.Contains(lists, k) || slices.Contains(named, k) || slices.Contains(plain, k)
}

// document is one of the two definitions.
type document struct {
	root  any
	draft int
}

// resolve returns the schema at a place and where it really is, references
// followed as long as there is nothing else in it. A boolean becomes the object
// that means the same.
func (d document) resolve(at string) (map[string]any, string) {
	visited := map[string]bool{}
	for {
		v, _ := lookup(d.root, at)
		m, ok := v.(map[string]any)
		if !ok {
			if v == false {
				return map[string]any{"not": map[string]any{}}, at
			}
			return map[string]any{}, at
		}
		if d.draft == draft7 && m["$ref"] != nil {
			// The draft ignores what stands beside a reference.
			m = map[string]any{"$ref": m["$ref"]}
		}
		to, ok := d.target(m)
		if !ok || !onlyReference(m) || visited[at] {
			return m, at
		}
		visited[at] = true
		at = to
	}
}

// target returns where a schema's reference points to, if that is in the document.
func (d document) target(m map[string]any) (string, bool) {
	ref, ok := m["$ref"].(string)
	if !ok {
		return "", false
	}
	// A reference may name the document by its address.
	if root, isMap := d.root.(map[string]any); isMap {
		if id, _ := root["$id"].(string); id != "" {
			ref = strings.TrimPrefix(ref, strings.TrimSuffix(id, "#"))
		}
	}
	ptr, ok := strings.CutPrefix(ref, "#")
	if !ok {
		return "", false
	}
	ptr, ok = unescapeFragment(ptr)
	if !ok {
		return "", false
	}
	if ptr != "" && ptr[0] != '/' {
		return anchor(d.root, "", ptr)
	}
	_, ok = lookup(d.root, ptr)
	return ptr, ok
}

// anchor finds the schema with an "$anchor", or in draft-07 an "$id", of name.
func anchor(v any, at, name string) (string, bool) {
	switch v := v.(type) {
	case map[string]any:
		if v["$anchor"] == name || v["$id"] == "#"+name {
			return at, true
		}
		for _, k := range keys(v, nil) {
			if found, ok := anchor(v[k], pointer(at, k), name); ok {
				return found, true
			}
		}
	case []any:
		for i, e := range v {
			if found, ok := anchor(e, pointer(at, strconv.Itoa(i)), name); ok {
				return found, true
			}
		}
	}
	return "", false
}

// onlyReference reports whether a schema has nothing of effect but "$ref".
func onlyReference(m map[string]any) bool {
	for k := range m {
		switch k {
		case "$ref", "$defs", "definitions", "$schema", "$id", "$anchor":
		default:
			if !slices.Contains(annotations, k) {
				return false
			}
		}
	}
	return true
}

// hasOwnAddresses reports whether some part below the root has an "$id" that is
// more than an anchor, or a reference that depends on how it was reached.
func (d document) hasOwnAddresses() bool {
	root, _ := d.root.(map[string]any)
	for _, v := range root {
		if hasID(v) {
			return true
		}
	}
	return false
}

func hasID(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		if id, ok := v["$id"].(string); ok && !strings.HasPrefix(id, "#") {
			return true
		}
		if _, ok := v["$dynamicRef"].(string); ok {
			return true
		}
		for _, e := range v {
			if hasID(e) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, hasID)
	}
	return false
}

// itemKeywords returns the draft's keywords for the leading items of an array
// and for the rest.
func (d document) itemKeywords(m map[string]any) (lead, rest string) {
	if d.draft == draft2020 {
		return "prefixItems", "items"
	}
	if _, several := m["items"].([]any); several {
		return "items", "additionalItems"
	}
	return "", "items" // there are no leading ones
}

// hasKey reports whether one of names is a key anywhere in v, be it a keyword
// or a property's name; an array of items counts too.
func hasKey(v any, names []string) bool {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			_, several := e.([]any)
			if slices.Contains(names, k) || k == "items" && several || hasKey(e, names) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, func(e any) bool { return hasKey(e, names) })
	}
	return false
}

func object(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// keys returns the keys of both, sorted.
func keys(a, b map[string]any) []string {
	all := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(all)
	return slices.Compact(all)
}

func names(v any) []string {
	list, _ := v.([]any)
	var out []string
	for _, e := range list {
		if s, ok := e.(string); ok {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return out
}

func typeNames(m map[string]any) []string {
	if s, ok := m["type"].(string); ok {
		return []string{s}
	}
	return slices.Compact(names(m["type"]))
}

func missingFrom(have, want []any) []any {
	var out []any
	for _, w := range want {
		if !slices.ContainsFunc(have, func(h any) bool { return equal(h, w) }) {
			out = append(out, w)
		}
	}
	return out
}

func isEmptySchema(v any) bool {
	m, ok := v.(map[string]any)
	return ok && len(m) == 0
}

func orAny(types []string) string {
	if len(types) == 0 {
		return "any"
	}
	return strings.Join(types, " or ")
}

func orNone(v any, has bool) string {
	if !has {
		return "none"
	}
	return text(v)
}

func unescapeFragment(s string) (string, bool) {
	out, err := url.PathUnescape(s)
	return out, err == nil
}
