package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// encoding/json copies and re-reads what it decodes. The functions here only
// find where in a document something stands, so that data stay the bytes that
// came. All but splitValues expect what validJSON has passed; given anything
// else they find something or nothing, and do not panic.

// validJSON says whether b is one JSON document in UTF-8.
func validJSON(b []byte) bool { return utf8.Valid(b) && json.Valid(b) }

// isJSON says whether a content type declares JSON; none at all does.
func isJSON(contentType string) bool {
	t := mediaType(contentType)
	return t == "" || strings.EqualFold(t, "application/json") || strings.EqualFold(t, "text/json") || hasSuffixFold(t, "+json")
}

// mediaType returns a content type without its parameters.
func mediaType(contentType string) string {
	t, _, _ := strings.Cut(contentType, ";")
	return strings.TrimSpace(t)
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

func hasSuffixFold(s, suffix string) bool {
	return len(s) >= len(suffix) && strings.EqualFold(s[len(s)-len(suffix):], suffix)
}

// members yields the names and raw values of an object, in order.
func members(object []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		i := skipBlank(object, 0)
		if !at(object, i, '{') {
			return
		}
		i = skipBlank(object, i+1)
		for at(object, i, '"') {
			end := skipValue(object, i)
			name := unquote(object[i:end])
			i = skipBlank(object, end)
			if !at(object, i, ':') {
				return
			}
			i = skipBlank(object, i+1)
			end = skipValue(object, i)
			if !yield(name, object[i:end:end]) {
				return
			}
			i = skipBlank(object, end)
			if !at(object, i, ',') {
				return
			}
			i = skipBlank(object, i+1)
		}
	}
}

// elements yields the raw values of an array with their index.
func elements(array []byte) iter.Seq2[int, []byte] {
	return func(yield func(n int, value []byte) bool) {
		i := skipBlank(array, 0)
		if !at(array, i, '[') {
			return
		}
		i = skipBlank(array, i+1)
		for n := 0; i < len(array) && array[i] != ']'; n++ {
			end := skipValue(array, i)
			if end == i || !yield(n, array[i:end:end]) {
				return
			}
			i = skipBlank(array, end)
			if !at(array, i, ',') {
				return
			}
			i = skipBlank(array, i+1)
		}
	}
}

// member returns the raw value of an object's member, or nil. Of several with
// one name it is the last, as most parsers have it.
func member(object []byte, name string) []byte {
	var found []byte
	for n, v := range members(object) {
		if string(n) == name {
			found = v
		}
	}
	return found
}

// pick is member for several names at once, in one pass.
func pick(object []byte, names ...string) [][]byte {
	found := make([][]byte, len(names))
	for n, v := range members(object) {
		if i := slices.Index(names, string(n)); i >= 0 {
			found[i] = v
		}
	}
	return found
}

// splitValues yields the JSON values that follow each other in a body: one
// document, or one on each line. The first that is not valid ends it with an error.
func splitValues(body []byte) iter.Seq2[[]byte, error] {
	return func(yield func(value []byte, err error) bool) {
		if !utf8.Valid(body) {
			yield(nil, errors.New("the body is not valid UTF-8"))
			return
		}
		n := 0
		for i := skipBlank(body, 0); i < len(body); i = skipBlank(body, i) {
			n++
			// A character that begins no value is taken for one, and refused as such.
			end := max(skipValue(body, i), i+1)
			v := body[i:end:end]
			if !json.Valid(v) {
				yield(nil, fmt.Errorf("JSON document %d of the body, at byte %d, is not valid", n, i))
				return
			}
			if !yield(v, nil) {
				return
			}
			i = end
		}
	}
}

// skipBlank returns the index of the first byte from i on that is not a blank.
func skipBlank(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// skipValue returns the index after the value that begins at i.
func skipValue(b []byte, i int) int {
	if i >= len(b) {
		return len(b)
	}
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		return skipNested(b, i)
	}
	for i < len(b) && !strings.ContainsRune(" \n\r\t,:{}[]\"", rune(b[i])) {
		i++
	}
	return i
}

// skipString returns the index after the string that begins at i.
func skipString(b []byte, i int) int {
	for i++; i < len(b); i++ {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return len(b)
		}
		i += n
		// The quote ends the string unless the backslashes before it are odd.
		first := i
		for b[first-1] == '\\' {
			first--
		}
		if (i-first)%2 == 0 {
			return i + 1
		}
	}
	return len(b)
}

// skipNested returns the index after the object or array that begins at i.
func skipNested(b []byte, i int) int {
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			i = skipString(b, i)
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		i++
		if depth == 0 {
			return i
		}
	}
	return len(b)
}

func at(b []byte, i int, c byte) bool { return i < len(b) && b[i] == c }

// unquote returns what a JSON string stands for; without escapes, a slice of it.
func unquote(raw []byte) []byte {
	if len(raw) >= 2 && bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return nil
	}
	return []byte(s)
}

// text returns what a raw value stands for if it is a string.
func text(raw []byte) (string, bool) {
	if !at(raw, 0, '"') {
		return "", false
	}
	return string(unquote(raw)), true
}

// scalarText is text that takes whole numbers too, as they are written.
func scalarText(raw []byte) (string, bool) {
	if isInteger(raw) {
		return string(raw), true
	}
	return text(raw)
}

// isInteger says whether a raw value is a number without fraction and exponent.
func isInteger(raw []byte) bool {
	for i, c := range raw {
		if (c < '0' || c > '9') && (c != '-' || i > 0) {
			return false
		}
	}
	return len(raw) > 0
}

func isNull(raw []byte) bool { return string(raw) == "null" }

// parsePointer reads a JSON pointer (RFC 6901). The empty one is taken for none.
func parsePointer(s string) ([]string, error) {
	if s == "" {
		return nil, nil
	}
	if s[0] != '/' {
		return nil, fmt.Errorf("%q is not a JSON pointer, which begins with a slash, as in /data/id", s)
	}
	tokens := strings.Split(s[1:], "/")
	for i, t := range tokens {
		plain := strings.NewReplacer("~0", "", "~1", "").Replace(t)
		if strings.Contains(plain, "~") {
			return nil, fmt.Errorf("%q is not a JSON pointer: ~ is written ~0, and / is ~1", s)
		}
		tokens[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(t)
	}
	return tokens, nil
}

// resolve returns the raw value that a pointer leads to, or nil.
func resolve(doc []byte, pointer []string) []byte {
	doc = doc[skipBlank(doc, 0):]
	for _, token := range pointer {
		switch {
		case at(doc, 0, '{'):
			doc = member(doc, token)
		case at(doc, 0, '['):
			doc = element(doc, token)
		default:
			return nil
		}
	}
	return doc
}

func element(array []byte, token string) []byte {
	want, err := strconv.Atoi(token)
	if err != nil || strconv.Itoa(want) != token {
		return nil
	}
	for n, v := range elements(array) {
		if n == want {
			return v
		}
	}
	return nil
}
