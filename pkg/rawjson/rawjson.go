package rawjson

import (
	"bytes"
	"encoding/json"
	"iter"
	"strings"
	"unicode/utf8"
)

// Valid reports whether b is one JSON document in UTF-8.
func Valid(b []byte) bool { return utf8.Valid(b) && json.Valid(b) }

// Begins reports whether the document, after blanks, begins with c.
func Begins(b []byte, c byte) bool { return at(b, SkipBlank(b, 0), c) }

// Members yields the names and raw values of an object, in order; nothing for what
// is no object. A name may come twice.
func Members(object []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		i := SkipBlank(object, 0)
		if !at(object, i, '{') {
			return
		}
		i = SkipBlank(object, i+1)
		for at(object, i, '"') {
			end := SkipValue(object, i)
			name := Unquote(object[i:end])
			i = SkipBlank(object, end)
			if !at(object, i, ':') {
				return
			}
			i = SkipBlank(object, i+1)
			end = SkipValue(object, i)
			if !yield(name, object[i:end:end]) {
				return
			}
			i = SkipBlank(object, end)
			if !at(object, i, ',') {
				return
			}
			i = SkipBlank(object, i+1)
		}
	}
}

// Elements yields the raw values of an array with their index; nothing for what is
// no array.
func Elements(array []byte) iter.Seq2[int, []byte] {
	return func(yield func(n int, value []byte) bool) {
		i := SkipBlank(array, 0)
		if !at(array, i, '[') {
			return
		}
		i = SkipBlank(array, i+1)
		for n := 0; i < len(array) && array[i] != ']'; n++ {
			end := SkipValue(array, i)
			if end == i || !yield(n, array[i:end:end]) {
				return
			}
			i = SkipBlank(array, end)
			if !at(array, i, ',') {
				return
			}
			i = SkipBlank(array, i+1)
		}
	}
}

// SkipBlank returns the index of the first byte from i on that is not a blank.
func SkipBlank(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// SkipValue returns the index after the value that begins at i; i if none does.
func SkipValue(b []byte, i int) int {
	if i >= len(b) {
		return len(b)
	}
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		return skipNested(b, i)
	}
	for i < len(b) && strings.IndexByte(" \n\r\t,:{}[]\"", b[i]) < 0 {
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

// IsString reports whether a raw value is a string.
func IsString(raw []byte) bool { return at(raw, 0, '"') }

// IsNull reports whether a raw value is null.
func IsNull(raw []byte) bool { return string(raw) == "null" }

// Unquote returns what a JSON string stands for; without escapes, a slice of it.
func Unquote(raw []byte) []byte {
	if len(raw) >= 2 && bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return nil
	}
	return []byte(s)
}
