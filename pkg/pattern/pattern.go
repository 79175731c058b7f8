package pattern

import (
	"fmt"
	"slices"
	"strings"
)

// Words of patterns that stand for others.
const (
	one  = "*" // exactly one word
	many = "#" // any number of words, also none
)

// A form is what a pattern's types look like.
type form uint8

const (
	dotted form = iota
	uri
	both
)

// A Pattern says which types are meant. Its words are separated by dots, or by
// slashes if there is one in it: "*" stands for exactly one word, "#" for any
// number of words wherever it stands, and, as in NATS, ">" at the end for one
// or more. All other words stand for themselves.
//
// A pattern with slashes matches URIs only, one without dotted types only;
// "#" and ">" alone match every type. The zero Pattern matches nothing.
type Pattern struct {
	text  string
	form  form
	words []string // in normal form, see normalize
}

// Parse reads a pattern. What goes for types (see [ValidType]) goes for it too,
// and wildcards must be whole words. URIs may be written in any of their forms. That
// it matches no type that there can be is no error, see [Valid].
func Parse(s string) (Pattern, error) {
	text := s
	if strings.HasPrefix(s, scheme) {
		var err error
		if s, err = normal(s); err != nil {
			return Pattern{}, fmt.Errorf("pattern: %w", err)
		}
	}
	s = Normal(s)
	if err := validText("pattern", s); err != nil {
		return Pattern{}, err
	}
	if err := validWords("pattern", s); err != nil {
		return Pattern{}, err
	}
	if s == many || s == ">" {
		return Pattern{text: text, form: both}, nil
	}
	p := Pattern{text: text}
	sep := separator(s)
	if sep == '/' {
		p.form = uri
	}
	words := strings.Split(s, string(sep))
	for i, word := range words {
		switch {
		case word == one || word == many:
		case word == ">" && i == len(words)-1:
			words = append(words[:i], one, many)
		case word == ">":
			return Pattern{}, fmt.Errorf("pattern %q: > may only be the last word; # stands for any number of words anywhere", s)
		case strings.ContainsAny(word, "*#>"):
			return Pattern{}, fmt.Errorf("pattern %q: word %q mixes a wildcard with other characters; *, # and > must be words of their own", s, word)
		}
	}
	p.words = normalize(words)
	return p, nil
}

// normalize brings every run of wildcards into one form, first all "*", then at
// most one "#", so that patterns that mean the same are the same.
func normalize(words []string) []string {
	out := words[:0]
	for i := 0; i < len(words); {
		if words[i] != one && words[i] != many {
			out = append(out, words[i])
			i++
			continue
		}
		hash := false
		for ; i < len(words) && (words[i] == one || words[i] == many); i++ {
			if words[i] == many {
				hash = true
			} else {
				out = append(out, one)
			}
		}
		if hash {
			out = append(out, many)
		}
	}
	return slices.Clip(out)
}

// String returns the pattern as it was given to [Parse].
func (p Pattern) String() string { return p.text }

// Match reports whether p matches typ.
func (p Pattern) Match(typ string) bool {
	if p.form == both {
		return true
	}
	sep := separator(typ)
	if p.words == nil || (sep == '/') != (p.form == uri) {
		return false
	}
	if sep == '/' {
		typ = Normal(typ) // of an event that was stored when it was left as it came
	}

	// As with file globs, only the last "#" need ever be reconsidered: whatever
	// an earlier one could take in addition, the last one can as well.
	pos, i := 0, 0
	retryPos, retryAt := 0, -1
	for pos <= len(typ) || i < len(p.words) {
		if i < len(p.words) && p.words[i] == many {
			i++
			retryPos, retryAt = pos, i
			continue
		}
		if i < len(p.words) && pos <= len(typ) {
			word, next := wordAt(typ, pos, sep)
			if p.words[i] == one || p.words[i] == word {
				pos = next
				i++
				continue
			}
		}
		if retryAt < 0 || retryPos > len(typ) {
			return false
		}
		_, retryPos = wordAt(typ, retryPos, sep)
		pos, i = retryPos, retryAt
	}
	return true
}

// same reports whether p and q match the same types by the same words.
func (p Pattern) same(q Pattern) bool { return p.form == q.form && slices.Equal(p.words, q.words) }
