package source

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/posthornhq/posthorn/pkg/rawjson"
)

// mediaType returns a content type without its parameters.
func mediaType(contentType string) string {
	t, _, _ := strings.Cut(contentType, ";")
	return strings.TrimSpace(t)
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// member returns the raw value of an object's member, or nil. Of several with
// one name it is the last, as most parsers have it.
func member(object []byte, name string) []byte {
	var found []byte
	for n, v := range rawjson.Members(object) {
		if string(n) == name {
			found = v
		}
	}
	return found
}

// pick is member for several names at once, in one pass.
func pick(object []byte, names ...string) [][]byte {
	found := make([][]byte, len(names))
	for n, v := range rawjson.Members(object) {
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
		for i := rawjson.SkipBlank(body, 0); i < len(body); i = rawjson.SkipBlank(body, i) {
			n++
			// A character that begins no value is taken for one, and refused as such.
			end := max(rawjson.SkipValue(body, i), i+1)
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

// text returns what a raw value stands for if it is a string.
func text(raw []byte) (string, bool) {
	if !rawjson.IsString(raw) {
		return "", false
	}
	return string(rawjson.Unquote(raw)), true
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
	doc = doc[rawjson.SkipBlank(doc, 0):]
	for _, token := range pointer {
		switch {
		case rawjson.Begins(doc, '{'):
			doc = member(doc, token)
		case rawjson.Begins(doc, '['):
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
	for n, v := range rawjson.Elements(array) {
		if n == want {
			return v
		}
	}
	return nil
}
