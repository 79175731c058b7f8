package pattern

import (
	"slices"

	"github.com/posthornhq/posthorn/pkg/pattern/pmap"
)

// An Index finds the values whose patterns match a type, without trying each
// pattern: it is a trie of words. The zero Index is empty.
//
// An Index never changes. [Index.Add] and [Index.Remove] return another one that
// shares all nodes but those on the way to the patterns concerned; for 10,000
// values that takes microseconds. So whoever publishes an Index through an
// atomic pointer has readers that take no lock and see each edit whole, which
// neither a lock around a trie that changes (readers of the hot path would
// share its cache line) nor a plain copy for each edit (too slow to load
// 10,000 one by one) can give.
type Index[T comparable] struct {
	dotted, uri *node[T]
	// all are the values of patterns that match both forms.
	all pmap.Map[T, []Pattern]
}

// A node stands for the words on the way to it.
type node[T comparable] struct {
	literal pmap.Map[string, *node[T]]
	one     *node[T] // behind "*"
	many    *node[T] // behind "#"
	// loops is set behind "#": any word leads back here.
	loops bool
	// values are those whose pattern ends here. Each comes with the patterns that
	// it stands under elsewhere and that go first: if one of them matches too, the
	// value is found there.
	values pmap.Map[T, []Pattern]
}

// Add returns an index that has v under all of patterns as well. A value is
// added once, with all of its patterns; to change them, remove it first.
func (x Index[T]) Add(v T, patterns ...Pattern) Index[T] {
	distinct := distinctOf(patterns)
	for i, p := range distinct {
		before := distinct[:i:i]
		x = x.edit(p, func(values pmap.Map[T, []Pattern]) pmap.Map[T, []Pattern] { return values.Set(v, before) })
	}
	return x
}

// Remove returns an index without v, which was added with the same patterns.
func (x Index[T]) Remove(v T, patterns ...Pattern) Index[T] {
	for _, p := range distinctOf(patterns) {
		x = x.edit(p, func(values pmap.Map[T, []Pattern]) pmap.Map[T, []Pattern] { return values.Delete(v) })
	}
	return x
}

// distinctOf returns patterns without those that mean the same as an earlier one.
func distinctOf(patterns []Pattern) []Pattern {
	distinct := make([]Pattern, 0, len(patterns))
	for _, p := range patterns {
		if !slices.ContainsFunc(distinct, p.same) {
			distinct = append(distinct, p)
		}
	}
	return distinct
}

func (x Index[T]) edit(p Pattern, values func(pmap.Map[T, []Pattern]) pmap.Map[T, []Pattern]) Index[T] {
	switch {
	case p.form == both:
		x.all = values(x.all)
	case p.words == nil: // the zero Pattern
	case p.form == uri:
		x.uri = x.uri.edit(p.words, values)
	default:
		x.dotted = x.dotted.edit(p.words, values)
	}
	return x
}

// edit returns n with values applied to the node at the end of words, or nil if
// nothing is left.
func (n *node[T]) edit(words []string, values func(pmap.Map[T, []Pattern]) pmap.Map[T, []Pattern]) *node[T] {
	var changed node[T]
	if n != nil {
		changed = *n
	}
	if len(words) == 0 {
		changed.values = values(changed.values)
	} else {
		switch word := words[0]; word {
		case one:
			changed.one = changed.one.edit(words[1:], values)
		case many:
			if changed.many = changed.many.edit(words[1:], values); changed.many != nil {
				changed.many.loops = true // it is a fresh copy, nobody else has it yet
			}
		default:
			child, _ := changed.literal.Get(word)
			if child = child.edit(words[1:], values); child != nil {
				changed.literal = changed.literal.Set(word, child)
			} else {
				changed.literal = changed.literal.Delete(word)
			}
		}
	}
	if changed == (node[T]{loops: changed.loops}) {
		return nil
	}
	return &changed
}

// Match appends to dst the values of which a pattern matches typ, each once and
// in no particular order, and returns the longer slice. It allocates nothing
// but what dst must grow by.
func (x Index[T]) Match(typ string, dst []T) []T {
	dst = appendValues(dst, x.all, typ)
	sep, root := byte('.'), x.dotted
	if separator(typ) == '/' {
		sep, root = '/', x.uri
		typ = Normal(typ) // of an event that was stored when it was left as it came
	}
	if root == nil {
		return dst
	}

	// current are the nodes that the words so far can lead to. All are followed at
	// once: following one after the other would take exponential time for some
	// patterns with many "#". On the stack, there is room for more than any
	// reasonable set of patterns needs.
	var room [2][32]*node[T]
	current, next := reach(room[0][:0], root), room[1][:0]
	for pos := 0; pos <= len(typ) && len(current) > 0; {
		var word string
		word, pos = wordAt(typ, pos, sep)
		next = next[:0]
		for _, n := range current {
			next = n.step(word, next)
		}
		current, next = next, current
	}
	for _, n := range current {
		dst = appendValues(dst, n.values, typ)
	}
	return dst
}

// step appends the nodes that word leads to from n. A node behind "#" leads to
// itself; it may be there already, reached anew from the node that it is behind,
// which, being nearer to the root, always has its turn first. All others can
// only be reached from their one parent.
func (n *node[T]) step(word string, reached []*node[T]) []*node[T] {
	if n.loops && !slices.Contains(reached, n) {
		reached = append(reached, n)
	}
	if n.one != nil {
		reached = reach(reached, n.one)
	}
	if n.literal.Len() > 0 {
		if child, ok := n.literal.Get(word); ok {
			reached = reach(reached, child)
		}
	}
	return reached
}

// reach appends n, and with it the node behind a "#" that takes no word.
func reach[T comparable](reached []*node[T], n *node[T]) []*node[T] {
	reached = append(reached, n)
	if n.many != nil {
		reached = append(reached, n.many)
	}
	return reached
}

// appendValues appends those of values that no earlier pattern of theirs finds.
func appendValues[T comparable](dst []T, values pmap.Map[T, []Pattern], typ string) []T {
	if values.Len() == 0 {
		return dst
	}
next:
	for v, before := range values.All() {
		for _, p := range before {
			if p.Match(typ) {
				continue next
			}
		}
		dst = append(dst, v)
	}
	return dst
}
