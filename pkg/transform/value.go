package transform

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"github.com/posthornhq/posthorn/pkg/rawjson"
)

const (
	// maxDigits is how long an integer may be. Reading, multiplying and writing them
	// takes more than time in proportion.
	maxDigits = 1000
	// maxBits is about that in bits.
	maxBits = 3400
	// maxNesting is how deep a value may be: deeper than data is.
	maxNesting = 600
)

// decode reads one JSON value as the interpreter wants it.
func decode(data []byte) (any, error) {
	v, err := rawjson.Decode(data)
	switch {
	case errors.Is(err, rawjson.ErrTrailing):
		return nil, errors.New("the data is more than one JSON value")
	case err != nil:
		return nil, fmt.Errorf("the data is not JSON: %w", err)
	}
	return rawjson.Numbers(v, number)
}

// number is what the interpreter calculates with.
func number(n json.Number) (any, error) {
	if i, err := n.Int64(); err == nil {
		return int(i), nil
	}
	if strings.ContainsAny(string(n), ".eE") {
		f, err := n.Float64()
		if err != nil {
			return nil, fmt.Errorf("number %.40s is too large", n)
		}
		return f, nil
	}
	if len(n) > maxDigits {
		return nil, fmt.Errorf("a number has more than %d digits", maxDigits)
	}
	i, ok := new(big.Int).SetString(string(n), 10)
	if !ok {
		return nil, fmt.Errorf("%.40q is not a number", n)
	}
	return i, nil
}

// A limit is how large a value may be, written out: a part that is in it twice
// counts twice, because whoever writes, compares or sorts the value meets it twice.
type limit struct{ values, bytes int }

var (
	// whole is for what takes time in proportion to its input.
	whole = limit{values: 500_000, bytes: MaxOutput}
	// few is for one of two things that are compared each with each.
	few = limit{values: 1000, bytes: 4 << 10}
	// passage is a text in which a regular expression is looked for.
	passage = limit{values: 1000, bytes: 32 << 10}
	// output is what is sent.
	output = limit{values: 4_000_000, bytes: MaxOutput}
)

// measure returns about how many bytes v takes, or an error if it is larger.
func (l *limit) measure(v any) (int, error) {
	left := *l
	err := left.take(v, 0)
	if errors.Is(err, errLarge) {
		return 0, fmt.Errorf("a value is too large for what the program does with it: more than %d values in it or %d bytes of text", l.values, l.bytes)
	}
	return 16*(l.values-left.values) + l.bytes - left.bytes, err
}

var errLarge = errors.New("too large")

// take subtracts v from what is left.
func (l *limit) take(v any, depth int) error {
	if depth > maxNesting {
		return fmt.Errorf("a value is nested deeper than %d", maxNesting)
	}
	if l.values--; l.values < 0 {
		return errLarge
	}
	switch v := v.(type) {
	case string:
		if l.bytes -= len(v); l.bytes < 0 {
			return errLarge
		}
	case *big.Int:
		if v.BitLen() > maxBits {
			return fmt.Errorf("a number has more than %d digits", maxDigits)
		}
	case []any:
		if len(v) > l.values {
			return errLarge
		}
		for _, item := range v {
			if err := l.take(item, depth+1); err != nil {
				return err
			}
		}
	case map[string]any:
		if len(v) > l.values {
			return errLarge
		}
		for key, item := range v {
			if l.bytes -= len(key); l.bytes < 0 {
				return errLarge
			}
			if err := l.take(item, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}
