package schema

import (
	"encoding/json"
	"fmt"
	"math/big"
	"strconv"
	"strings"
)

// What a number may look like. The arithmetic is exact, so that 1e999999 would
// be a number of a million digits, and a few thousand of them a busy hour.
const (
	maxDigits   = 1_000 // characters of a number
	maxExponent = 1_000 // of ten, either sign
)

// badNumber returns the place and text of a number that is too long or too
// large to calculate with, if v has one. The place is in reverse order.
func badNumber(v any) (place []string, number string) {
	switch v := v.(type) {
	case json.Number:
		if !goodNumber(string(v)) {
			return nil, string(v)
		}
	case map[string]any:
		for k, e := range v {
			if at, n := badNumber(e); n != "" {
				return append(at, k), n
			}
		}
	case []any:
		for i, e := range v {
			if at, n := badNumber(e); n != "" {
				return append(at, strconv.Itoa(i)), n
			}
		}
	}
	return nil, ""
}

func goodNumber(s string) bool {
	if len(s) > maxDigits {
		return false
	}
	i := strings.IndexAny(s, "eE")
	if i < 0 {
		return true
	}
	n, err := strconv.Atoi(s[i+1:])
	return err == nil && n >= -maxExponent && n <= maxExponent
}

// rat returns a number's value. The number must be a good one.
func rat(n json.Number) *big.Rat {
	r, ok := new(big.Rat).SetString(string(n))
	if !ok {
		return new(big.Rat)
	}
	return r
}

// equal reports whether two decoded values are the same JSON value: the order
// of properties and the spelling of numbers make no difference.
func equal(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for k, v := range a {
			w, ok := b[k]
			if !ok || !equal(v, w) {
				return false
			}
		}
		return true
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !equal(a[i], b[i]) {
				return false
			}
		}
		return true
	case json.Number:
		b, ok := b.(json.Number)
		return ok && (a == b || rat(a).Cmp(rat(b)) == 0)
	}
	return a == b // nil, bool, string
}

// text returns a decoded value as JSON, cut where it gets long.
func text(v any) string {
	const most = 80
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return cut(string(b), most)
}

// cut shortens s to about n bytes, never inside a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// pointer appends a step to a JSON pointer (RFC 6901).
func pointer(base, step string) string {
	if strings.ContainsAny(step, "~/") {
		step = strings.ReplaceAll(strings.ReplaceAll(step, "~", "~0"), "/", "~1")
	}
	return base + "/" + step
}

// pointerTo returns the JSON pointer with the given steps.
func pointerTo(steps []string) string {
	p := ""
	for _, s := range steps {
		p = pointer(p, s)
	}
	return p
}

// lookup returns what a JSON pointer points to in v.
func lookup(v any, ptr string) (any, bool) {
	if ptr == "" {
		return v, true
	}
	if ptr[0] != '/' {
		return nil, false
	}
	for step := range strings.SplitSeq(ptr[1:], "/") {
		step = strings.ReplaceAll(strings.ReplaceAll(step, "~1", "/"), "~0", "~")
		switch at := v.(type) {
		case map[string]any:
			next, ok := at[step]
			if !ok {
				return nil, false
			}
			v = next
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(at) {
				return nil, false
			}
			v = at[i]
		default:
			return nil, false
		}
	}
	return v, true
}
