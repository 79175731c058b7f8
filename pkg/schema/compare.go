package schema

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/posthornhq/posthorn/pkg/rawjson"
)

// A Change is one difference between two versions of a schema.
type Change struct {
	// Breaking says that publishers or subscribers of the old version may not
	// cope with the new one.
	Breaking bool
	// Pointer is the JSON pointer of what changed: into the old definition if it
	// was removed, else into the new one. In a protobuf schema it is the full name
	// of what changed: shop.Order.total.
	Pointer string
	// Text is the change in words: `property "total" was removed`.
	Text string
}

// Compatible compares two versions of a schema and returns what changed, in the
// order of the definition's keys. The new version is compatible if nothing is
// Breaking.
//
// The rules: a new optional property is compatible, and so is what only loosens
// (a bound, a pattern, a requirement). A removed or retyped property, a new
// requirement, a changed enum or const, and what tightens is breaking. What is
// inside anyOf, oneOf, not, if, contains and the like must not change at all,
// since what that does to the whole cannot be told; descriptions may.
//
// Both must be definitions that [Compile] takes.
func Compatible(old, next []byte) []Change {
	a, errA := rawjson.Decode(old)
	b, errB := rawjson.Decode(next)
	if errA != nil || errB != nil {
		return []Change{{Breaking: true, Text: "one of the two is not JSON, so they cannot be compared"}}
	}
	return compatible(a, b)
}

func compatible(old, next any) []Change {
	c := comparison{
		old: document{root: old, draft: draftOf(old)}, next: document{root: next, draft: draftOf(next)},
		seen: map[[2]string]bool{}, seenStrict: map[[2]string]bool{},
	}
	if equal(old, next) {
		return nil
	}
	switch {
	case c.old.hasOwnAddresses() || c.next.hasOwnAddresses():
		// Where references lead is then more than a walk side by side can tell.
		c.breaking("", "the schema has parts with an \"$id\" of their own, or a \"$dynamicRef\", and changed in a way that cannot be compared")
		return c.changes
	case c.old.draft != c.next.draft && (hasKey(old, dialect) || hasKey(next, dialect)):
		c.breaking("/$schema", "the schema changed its draft and has keywords that the two drafts read differently, so they cannot be compared")
		return c.changes
	}
	c.schemas("", "", "")
	return c.changes
}

// comparison walks two definitions side by side.
type comparison struct {
	old, next document
	changes   []Change
	// strict is set where no change of meaning is allowed.
	strict bool
	// Pairs of places that were compared already, or are about to be: recursive
	// schemas end here. Apart for strict places, whose rules are others.
	seen, seenStrict map[[2]string]bool
}

func (c *comparison) breaking(ptr, format string, args ...any) {
	c.changes = append(c.changes, Change{Breaking: true, Pointer: ptr, Text: fmt.Sprintf(format, args...)})
}

// allowed reports a change that is compatible, unless nothing may change here.
func (c *comparison) allowed(ptr, format string, args ...any) {
	c.changes = append(c.changes, Change{Breaking: c.strict, Pointer: ptr, Text: fmt.Sprintf(format, args...)})
}

// pair is two schemas that stand for each other.
type pair struct {
	old, next map[string]any
	oldAt, at string // where they are
	what      string // in words: `property "a.b"`, or "the data"
	path      string // of properties to here: "a.b"
}

// schemas compares the schemas at two places; path is that of the data.
func (c *comparison) schemas(oldAt, at, path string) {
	p := pair{path: path, what: "the data"}
	if path != "" {
		p.what = fmt.Sprintf("property %q", path)
	}
	p.old, p.oldAt = c.old.resolve(oldAt)
	p.next, p.at = c.next.resolve(at)

	seen := c.seen
	if c.strict {
		seen = c.seenStrict
	}
	key := [2]string{p.oldAt, p.at}
	if seen[key] {
		return
	}
	seen[key] = true

	c.types(p)
	c.values(p)
	c.bounds(p)
	c.properties(p)
	c.required(p)
	c.others(p, "additionalProperties", path+".*")
	c.items(p)
	c.whole(p)
	c.notes(p)
}

// types compares the keywords that say what kind of value is meant.
func (c *comparison) types(p pair) {
	if was, is := typeNames(p.old), typeNames(p.next); !slices.Equal(was, is) {
		c.breaking(pointer(p.at, "type"), "%s changed its type from %s to %s", p.what, orAny(was), orAny(is))
	}
	for _, k := range []string{"format", "contentEncoding", "contentMediaType"} {
		was, had := p.old[k]
		is, has := p.next[k]
		if had != has || !equal(was, is) {
			c.breaking(pointer(p.at, k), "%s changed its %s from %s to %s", p.what, k, orNone(was, had), orNone(is, has))
		}
	}
}

// values compares the keywords that list values.
func (c *comparison) values(p pair) {
	was, had := p.old["const"]
	is, has := p.next["const"]
	if had != has || !equal(was, is) {
		c.breaking(pointer(p.at, "const"), "%s changed its only value from %s to %s", p.what, orNone(was, had), orNone(is, has))
	}
	before, had := p.old["enum"].([]any)
	after, has := p.next["enum"].([]any)
	switch {
	case had && !has:
		c.breaking(pointer(p.oldAt, "enum"), "%s is no longer an enum", p.what)
	case has && !had:
		c.breaking(pointer(p.at, "enum"), "%s became an enum", p.what)
	default:
		for _, v := range missingFrom(after, before) {
			c.breaking(pointer(p.oldAt, "enum"), "%s lost the enum member %s", p.what, text(v))
		}
		for _, v := range missingFrom(before, after) {
			c.breaking(pointer(p.at, "enum"), "%s got the new enum member %s", p.what, text(v))
		}
	}
}

// bounds compares the keywords whose values are larger or smaller.
func (c *comparison) bounds(p pair) {
	for _, k := range []string{"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains"} {
		c.bound(p, k, 1)
	}
	for _, k := range []string{"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains"} {
		c.bound(p, k, -1)
	}
	for _, k := range []string{"pattern", "multipleOf"} {
		was, had := p.old[k]
		is, has := p.next[k]
		switch {
		case had == has && equal(was, is):
		case had && !has:
			c.allowed(pointer(p.oldAt, k), "%s lost its %s", p.what, k)
		default:
			c.breaking(pointer(p.at, k), "%s changed its %s from %s to %s", p.what, k, orNone(was, had), orNone(is, has))
		}
	}
	was, is := p.old["uniqueItems"] == true, p.next["uniqueItems"] == true
	if !was && is {
		c.breaking(pointer(p.at, "uniqueItems"), "%s must now have unique items", p.what)
	} else if was && !is {
		c.allowed(pointer(p.oldAt, "uniqueItems"), "%s may now have equal items", p.what)
	}
}

// bound compares one bound; sign is 1 for an upper one, -1 for a lower one.
func (c *comparison) bound(p pair, k string, sign int) {
	was, had := p.old[k].(json.Number)
	is, has := p.next[k].(json.Number)
	switch {
	case !had && !has:
	case had && !has:
		c.allowed(pointer(p.oldAt, k), "%s lost its %s of %s", p.what, k, was)
	case !had:
		c.breaking(pointer(p.at, k), "%s got a %s of %s", p.what, k, is)
	default:
		switch rat(is).Cmp(rat(was)) * sign {
		case -1:
			c.breaking(pointer(p.at, k), "%s tightened its %s from %s to %s", p.what, k, was, is)
		case 1:
			c.allowed(pointer(p.at, k), "%s loosened its %s from %s to %s", p.what, k, was, is)
		}
	}
}

func (c *comparison) properties(p pair) {
	before, after := object(p.old["properties"]), object(p.next["properties"])
	for _, name := range keys(before, after) {
		below := name
		if p.path != "" {
			below = p.path + "." + name
		}
		_, had := before[name]
		_, has := after[name]
		oldAt, at := pointer(p.oldAt+"/properties", name), pointer(p.at+"/properties", name)
		switch {
		case had && has:
			c.schemas(oldAt, at, below)
		case had:
			c.breaking(oldAt, "property %q was removed", below)
		case slices.Contains(names(p.next["required"]), name):
			// Said with the requirement.
		default:
			c.allowed(at, "property %q was added", below)
		}
	}
}

func (c *comparison) required(p pair) {
	before, after := names(p.old["required"]), names(p.next["required"])
	for _, name := range after {
		if slices.Contains(before, name) {
			continue
		}
		at := pointer(p.at, "required")
		if _, known := object(p.old["properties"])[name]; known {
			c.breaking(at, "property %q is now required", dotted(p.path, name))
		} else {
			c.breaking(at, "property %q is new and required", dotted(p.path, name))
		}
	}
	for _, name := range before {
		_, has := object(p.next["properties"])[name]
		_, had := object(p.old["properties"])[name]
		if !slices.Contains(after, name) && (has || !had) {
			c.allowed(pointer(p.oldAt, "required"), "property %q is no longer required", dotted(p.path, name))
		}
	}
}

// others compares a schema for all that is not named, which defaults to true.
func (c *comparison) others(p pair, k, below string) {
	was, had := p.old[k]
	is, has := p.next[k]
	anyBefore := !had || was == true || isEmptySchema(was)
	anyAfter := !has || is == true || isEmptySchema(is)
	below = strings.TrimPrefix(below, ".")
	switch {
	case anyBefore && anyAfter, was == false && is == false && had && has:
	case has && is == false:
		c.breaking(pointer(p.at, k), "%s no longer allows more than what is named (%s)", p.what, k)
	case anyAfter:
		c.allowed(pointer(p.oldAt, k), "%s now allows anything beyond what is named (%s)", p.what, k)
	case had && was == false:
		c.allowed(pointer(p.at, k), "%s now allows more than what is named (%s)", p.what, k)
	case anyBefore:
		c.breaking(pointer(p.at, k), "%s restricts what is not named (%s)", p.what, k)
	default:
		c.schemas(pointer(p.oldAt, k), pointer(p.at, k), below)
	}
}

// items compares arrays: their leading items, and all others.
func (c *comparison) items(p pair) {
	oldLead, oldRest := c.old.itemKeywords(p.old)
	lead, rest := c.next.itemKeywords(p.next)
	before, _ := p.old[oldLead].([]any)
	after, _ := p.next[lead].([]any)
	if len(before) != len(after) {
		c.breaking(pointer(p.at, lead), "%s changed the number of its leading items from %d to %d", p.what, len(before), len(after))
	}
	for i := range min(len(before), len(after)) {
		step := fmt.Sprint(i)
		c.schemas(pointer(pointer(p.oldAt, oldLead), step), pointer(pointer(p.at, lead), step), p.path+"["+step+"]")
	}
	_, had := p.old[oldRest]
	_, has := p.next[rest]
	switch {
	case had && has:
		c.schemas(pointer(p.oldAt, oldRest), pointer(p.at, rest), p.path+"[]")
	case had:
		c.breaking(pointer(p.oldAt, oldRest), "%s no longer says what its items are", p.what)
	case has:
		c.breaking(pointer(p.at, rest), "%s now says what its items are", p.what)
	}
}

func dotted(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
