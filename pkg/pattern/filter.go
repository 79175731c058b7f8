package pattern

import "strings"

// Filters returns NATS filters, over the tokens that [EncodeType] makes, that
// match every type which one of the patterns matches. It also reports whether
// they match no others; if they do, whoever reads by them must look at each type
// once more, with [Pattern.Match]. No two of them overlap, which JetStream would
// refuse of one consumer.
//
//	a.b      a.b
//	a.#      a and a.>
//	a.*.#    a.>
//	*.#      > (which URIs match too)
//	a.#.b    a.> (a "#" that is not last needs a wider filter)
//
// Names are escaped as EncodeType does. No patterns have no filters.
func Filters(patterns ...Pattern) (filters []string, exact bool) {
	exact = true
	var all [][]string
	for _, p := range patterns {
		of, own := p.filters()
		all = append(all, of...)
		exact = exact && own
	}
	all, joined := disjoint(all)
	for _, tokens := range all {
		filters = append(filters, strings.Join(tokens, "."))
	}
	return filters, exact && !joined
}

// filters returns those of one pattern, as tokens.
func (p Pattern) filters() (filters [][]string, exact bool) {
	switch {
	case p.form == both:
		return [][]string{{">"}}, true
	case p.words == nil:
		return nil, true // matches nothing
	}
	// Behind the first "#" words count, and what they are no filter can say.
	hash, behind := len(p.words), 0
	for i, word := range p.words {
		switch {
		case word == many && hash == len(p.words):
			hash = i
		case word != many && i > hash:
			behind++
		}
	}
	tokens := make([]string, 0, len(p.words)+1)
	for i, word := range p.words[:hash] {
		tokens = append(tokens, p.token(i, word))
	}
	// The first token tells URIs and dotted types apart: one that stands for any
	// lets both in. Of a single word there is no URI.
	exact = hash > 0 && p.words[0] != one || hash == 1 && len(p.words) == 1
	switch {
	case hash == len(p.words):
		return [][]string{tokens}, exact
	case hash < len(p.words)-1 && behind > 0:
		for range behind - 1 {
			tokens = append(tokens, one)
		}
		return [][]string{append(tokens, ">")}, false
	case hash == 0:
		return [][]string{{">"}}, false
	case p.words[hash-1] == one: // at least one word: that is ">"
		tokens[hash-1] = ">"
		return [][]string{tokens}, exact
	case p.form == uri && hash == 1: // what has one word only is no URI
		return [][]string{append(tokens, ">")}, exact
	}
	return [][]string{tokens, append(tokens[:hash:hash], ">")}, exact
}

// token returns the i-th word as [EncodeType] writes it.
func (p Pattern) token(i int, word string) string {
	if word == one {
		return one
	}
	b := make([]byte, 0, len(word)+8)
	for j := range len(word) {
		switch c := word[j]; {
		case c == '.', c == '*', c == '>', c == '%', c <= ' ', c == 0x7f, c == '$' && j == 0:
			const hex = "0123456789ABCDEF"
			b = append(b, '%', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	if p.form == uri && i == 0 && !strings.Contains(word, ".") {
		b = append(b, "%2F"...)
	}
	return string(b)
}

// disjoint makes of filters some that do not overlap and match at least the same.
// It reports whether they match more.
func disjoint(filters [][]string) (out [][]string, wider bool) {
	for _, f := range filters {
		// What f overlaps with becomes part of it. It grows with that, and may then
		// overlap with what it did not before.
		for grown := true; grown; {
			grown = false
			rest := out[:0:0]
			for _, g := range out {
				switch {
				case within(f, g):
					f = g
				case within(g, f): // nothing new
				case overlap(f, g):
					f = join(f, g)
					grown, wider = true, true
				default:
					rest = append(rest, g)
				}
			}
			out = rest
		}
		out = append(out, f)
	}
	return out, wider
}

// within reports whether g matches all that f matches.
func within(f, g []string) bool {
	for i, token := range g {
		switch {
		case token == ">":
			return len(f) > i
		case i >= len(f) || f[i] == ">":
			return false
		case token != one && token != f[i]:
			return false
		}
	}
	return len(f) == len(g)
}

// overlap reports whether something matches both.
func overlap(f, g []string) bool {
	for i := range min(len(f), len(g)) {
		if f[i] == ">" || g[i] == ">" {
			return true
		}
		if f[i] != g[i] && f[i] != one && g[i] != one {
			return false
		}
	}
	return len(f) == len(g)
}

// join returns the narrowest filter that matches all that either of two
// overlapping ones does.
func join(f, g []string) []string {
	out := make([]string, 0, max(len(f), len(g)))
	for i := range min(len(f), len(g)) {
		switch {
		case f[i] == ">" || g[i] == ">":
			return append(out, ">")
		case f[i] == g[i]:
			out = append(out, f[i])
		default:
			out = append(out, one)
		}
	}
	return out
}
