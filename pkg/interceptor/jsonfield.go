package interceptor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/posthornhq/posthorn/pkg/signature"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// maxDepth is how many members a path may lead through. Each is a look at the
// rest of the body.
const maxDepth = 16

// A jsonField lets requests pass whose body has one of its values at a path
// (C8): a string, or a number, true or false as it is written.
type jsonField struct {
	text   string // as the user wrote it, for messages
	path   []string
	values [][]byte
}

func newJSONField(spec *posthornv1.Interceptor_JsonField, values [][]byte) (*jsonField, error) {
	path, err := parsePath(spec.GetPath())
	if err != nil {
		return nil, fmt.Errorf("path: %w", err)
	}
	return &jsonField{text: spec.GetPath(), path: path, values: values}, nil
}

func (f *jsonField) check(_ context.Context, r *Request) (string, *refusal) {
	if no := f.present(r); no != nil {
		return "", no
	}
	if !json.Valid(r.Body) {
		return "", unauthenticated("the body is not JSON, and so has no field %s", f.text)
	}
	got, ok := scalar(f.find(r.Body))
	if !ok {
		return "", unauthenticated("the body has no string, number or truth value at %s", f.text)
	}
	if signature.MatchToken(f.values, got) < 0 {
		return "", unauthenticated("the value at %s does not match", f.text)
	}
	return "value at " + f.text, nil
}

// present says nothing of the body, which is not recorded.
func (f *jsonField) present(*Request) *refusal {
	if len(f.values) == 0 {
		return denied("the interceptor has no value to compare with")
	}
	return nil
}

func (f *jsonField) headers() []string { return nil }

// find returns the raw value that the path leads to, or nil. Of several members
// with one name it takes the last, as most parsers do.
func (f *jsonField) find(doc json.RawMessage) json.RawMessage {
	for _, token := range f.path {
		switch doc = bytes.TrimLeft(doc, " \t\r\n"); {
		case bytes.HasPrefix(doc, []byte("{")):
			var object map[string]json.RawMessage
			if json.Unmarshal(doc, &object) != nil {
				return nil
			}
			doc = object[token]
		case bytes.HasPrefix(doc, []byte("[")):
			var array []json.RawMessage
			i, err := strconv.Atoi(token)
			if err != nil || strconv.Itoa(i) != token || json.Unmarshal(doc, &array) != nil || i < 0 || i >= len(array) {
				return nil
			}
			doc = array[i]
		default:
			return nil
		}
	}
	return doc
}

// scalar returns what a raw value stands for unless it is an object, an array,
// null or not there.
func scalar(raw json.RawMessage) (string, bool) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || raw[0] == '{' || raw[0] == '[' || raw[0] == 'n' {
		return "", false
	}
	if raw[0] != '"' {
		return string(raw), true
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return "", false
	}
	return s, true
}

// parsePath reads a JSON pointer (RFC 6901), which begins with a slash, or else
// names and indexes split by dots.
func parsePath(s string) ([]string, error) {
	if s == "" {
		return nil, errors.New("is missing")
	}
	if len(s) > maxName {
		return nil, fmt.Errorf("has %d bytes, at most %d are allowed", len(s), maxName)
	}
	tokens, err := splitPath(s)
	if err == nil && len(tokens) > maxDepth {
		err = fmt.Errorf("leads through %d members, at most %d are allowed", len(tokens), maxDepth)
	}
	return tokens, err
}

func splitPath(s string) ([]string, error) {
	pointer, isPointer := strings.CutPrefix(s, "/")
	if !isPointer {
		tokens := strings.Split(s, ".")
		if slices.Contains(tokens, "") {
			return nil, fmt.Errorf("%q has an empty name between dots; a JSON pointer, as in /data/secret, may", s)
		}
		return tokens, nil
	}
	tokens := strings.Split(pointer, "/")
	for i, t := range tokens {
		if strings.Contains(strings.NewReplacer("~0", "", "~1", "").Replace(t), "~") {
			return nil, fmt.Errorf("%q is not a JSON pointer: ~ is written ~0, and / is ~1", s)
		}
		tokens[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(t)
	}
	return tokens, nil
}
