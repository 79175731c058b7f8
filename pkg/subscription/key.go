package subscription

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
)

// MaxKey bounds the value of an ordering key, in bytes.
const MaxKey = 1024

// A Key is a compiled expression, over the same as a [Filter], whose value says
// which deliveries wait for each other. It may be used by many goroutines at once.
type Key struct{ expression }

// CompileKey reads an ordering key: an expression whose value is a string, an
// integer or a bool. Its error says in words, and with the place, what is wrong.
func CompileKey(text string) (*Key, error) {
	x, err := compileExpression("orderingKey", text)
	if err != nil {
		return nil, err
	}
	// What is in the data may be of any type; that shows event by event.
	switch t := x.typ; {
	case t.IsExactType(cel.StringType), t.IsExactType(cel.IntType), t.IsExactType(cel.UintType), t.IsExactType(cel.BoolType), t.IsExactType(cel.DynType):
		return &Key{*x}, nil
	default:
		return nil, fmt.Errorf("orderingKey is of type %s, must be a string, an integer or a bool, as in string(data.customer)", t)
	}
}

// Eval returns the key of an event. An error means that it has none: a field is
// not in the data, the value is of another type or too long, the data is not JSON,
// the cost limit was reached, or ctx is done. Unless it is the latter, it will be
// the same next time; callers take the empty key.
func (k *Key) Eval(ctx context.Context, facts *Facts) (string, error) {
	out, err := k.value(ctx, facts)
	if err != nil {
		return "", err
	}
	var key string
	switch v := out.(type) {
	case types.String:
		key = string(v)
	case types.Int:
		key = strconv.FormatInt(int64(v), 10)
	case types.Uint:
		key = strconv.FormatUint(uint64(v), 10)
	case types.Bool:
		key = strconv.FormatBool(bool(v))
	default:
		return "", fmt.Errorf("orderingKey %q: result is %v, not a string, an integer or a bool", k.text, out.Type())
	}
	if len(key) > MaxKey {
		return "", fmt.Errorf("orderingKey %q: %w", k.text, errLongKey)
	}
	return key, nil
}

var errLongKey = errors.New("result is longer than " + strconv.Itoa(MaxKey) + " bytes")

// Parts is how many parts an own lane that is ordered by key has. All deliveries of
// a key are in one part; keys that share one wait for each other.
const Parts = 16

// Part returns the part of the own lane that an event's delivery goes to, from 1, or
// 0 if the lane has only one. An event without a key has the empty one.
func (s *Subscription) Part(ctx context.Context, facts *Facts) int {
	if s.Key == nil {
		return 0
	}
	key, err := s.Key.Eval(ctx, facts)
	if err != nil {
		key = ""
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(key)) // a hash.Hash never fails to write
	return int(h.Sum32()%Parts) + 1
}
