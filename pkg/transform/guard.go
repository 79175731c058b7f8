package transform

import (
	"errors"
	"fmt"
	"math/big"
	"regexp/syntax"
	"strings"

	"github.com/itchyny/gojq"
)

var errWork = errors.New("the program does too much: its values are too large for what it does with them")

// The interpreter looks at its context before each step. But a step may be a whole
// function: writing a value as JSON, or joining two arrays. The values that such
// functions take are made smaller than a limit first, by the functions below,
// which the program is rewritten to call (see confine). Their names begin with an
// underscore, as those of the interpreter's own, which programs may not call.
const (
	guardWhole   = "_posthorn_whole"   // the value, if it is within [whole]
	guardFew     = "_posthorn_few"     // the value, if it is within [few]
	guardPassage = "_posthorn_passage" // the value, if it is within [passage]
	guardPattern = "_posthorn_pattern" // the value, if it is no costly regular expression
	guardNumber  = "_posthorn_number"  // the value, if it is no text of too many digits
	guardIndex   = "_posthorn_index"   // the value, if it is no index that would make a huge array
	guardPath    = "_posthorn_path"    // the value, if it is no path with such an index
	guardJoin    = "_posthorn_join"    // the value, if joining its items with the argument is within [whole]
	guardProduct = "_posthorn_product" // the two arguments, if their product is within [whole]
	fromJSON     = "_posthorn_fromjson"
)

const (
	// maxIndex bounds the array that an assignment to an index makes.
	maxIndex = 500_000
	// maxPattern is how many instructions a regular expression may have.
	maxPattern = 2000
)

// theRun is the variable that holds the [run], for the functions below.
const theRun = "$__posthorn_run"

// A run is what is left of the work that a program may make.
type run struct{ left int }

func (r *run) spend(work int) error {
	if r.left -= work; r.left < 0 {
		return errWork
	}
	return nil
}

// within checks a value's size, and counts it as work.
func (r *run) within(l *limit, v any) error {
	switch v.(type) {
	case nil, bool, int, float64:
		return nil
	}
	work, err := l.measure(v)
	if err != nil {
		return err
	}
	return r.spend(work)
}

// guards returns the functions that programs are rewritten to call.
func guards() []gojq.CompilerOption {
	// The last argument of each is the run.
	of := func(args []any) *run {
		r, ok := args[len(args)-1].(*run)
		if !ok {
			return new(run) // nothing is left in it
		}
		return r
	}
	identity := func(name string, arguments int, check func(r *run, v any, args []any) error) gojq.CompilerOption {
		return gojq.WithFunction(name, arguments+1, arguments+1, func(v any, args []any) any {
			if err := check(of(args), v, args); err != nil {
				return err
			}
			return v
		})
	}
	within := func(l *limit) func(*run, any, []any) error {
		return func(r *run, v any, _ []any) error { return r.within(l, v) }
	}
	alone := func(check func(any) error) func(*run, any, []any) error {
		return func(_ *run, v any, _ []any) error { return check(v) }
	}
	return []gojq.CompilerOption{
		identity(guardWhole, 0, within(&whole)),
		identity(guardFew, 0, within(&few)),
		identity(guardPassage, 0, within(&passage)),
		identity(guardPattern, 0, alone(checkPattern)),
		identity(guardNumber, 0, alone(checkDigits)),
		identity(guardIndex, 0, alone(checkIndex)),
		identity(guardPath, 0, alone(checkPath)),
		identity(guardJoin, 1, func(r *run, v any, args []any) error { return r.join(v, args[0]) }),
		gojq.WithFunction(guardProduct, 3, 3, func(_ any, args []any) any {
			if err := of(args).product(args[0], args[1]); err != nil {
				return err
			}
			return []any{args[0], args[1]}
		}),
		gojq.WithFunction(fromJSON, 0, 0, func(v any, _ []any) any {
			s, ok := v.(string)
			if !ok {
				return errors.New("fromjson cannot be applied to: " + gojq.TypeOf(v))
			}
			out, err := decode([]byte(s))
			if err != nil {
				return fmt.Errorf("fromjson: %w", err)
			}
			return out
		}),
	}
}

func checkPattern(v any) error {
	s, ok := v.(string)
	if !ok {
		_, err := few.measure(v)
		return err
	}
	if _, err := few.measure(s); err != nil {
		return err
	}
	re, err := syntax.Parse(strings.ReplaceAll(s, "(?<", "(?P<"), syntax.Perl)
	if err != nil {
		return fmt.Errorf("regular expression %.100q: %w", s, err)
	}
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return fmt.Errorf("regular expression %.100q: %w", s, err)
	}
	if len(prog.Inst) > maxPattern {
		return errors.New("a regular expression is too costly")
	}
	return nil
}

func checkDigits(v any) error {
	if s, ok := v.(string); ok && len(s) > maxDigits {
		return fmt.Errorf("a number has more than %d digits", maxDigits)
	}
	return nil
}

func checkIndex(v any) error {
	var large bool
	switch v := v.(type) {
	case int:
		large = v > maxIndex
	case float64:
		large = v > maxIndex
	case *big.Int:
		large = v.Sign() > 0
	case []any, map[string]any:
		_, err := few.measure(v)
		return err
	}
	if large {
		return fmt.Errorf("an index is larger than %d", maxIndex)
	}
	return nil
}

func checkPath(v any) error {
	path, ok := v.([]any)
	if !ok {
		_, err := few.measure(v)
		return err
	}
	if len(path) > maxNesting {
		return fmt.Errorf("a path is longer than %d", maxNesting)
	}
	for _, p := range path {
		if err := checkIndex(p); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) join(v, separator any) error {
	if err := r.within(&whole, v); err != nil {
		return err
	}
	items := 0
	switch v := v.(type) {
	case []any:
		items = len(v)
	case map[string]any:
		items = len(v)
	}
	s, ok := separator.(string)
	if !ok {
		return nil
	}
	if items*len(s) > whole.bytes {
		return fmt.Errorf("join would make more than %d bytes", whole.bytes)
	}
	return r.spend(items * len(s))
}

// product is about text times a number, and integers of many digits.
func (r *run) product(a, b any) error {
	for _, v := range [...]any{a, b} {
		if err := r.within(&whole, v); err != nil {
			return err
		}
	}
	s, ok := a.(string)
	n := b
	if !ok {
		if s, ok = b.(string); !ok {
			return nil
		}
		n = a
	}
	var times float64
	switch n := n.(type) {
	case int:
		times = float64(n)
	case float64:
		times = n
	case *big.Int:
		times, _ = new(big.Float).SetInt(n).Float64()
	}
	if times*float64(len(s)) > float64(whole.bytes) {
		return fmt.Errorf("a text times a number would have more than %d bytes", whole.bytes)
	}
	return r.spend(int(max(times, 0) * float64(len(s))))
}
