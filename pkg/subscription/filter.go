package subscription

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/rawjson"
)

const (
	// maxFilter is how many characters a filter may have.
	maxFilter = 4096
	// maxFilterCost bounds one evaluation, in CEL's units: about one for each
	// operation, and for strings one for each ten characters looked at. That is
	// some milliseconds.
	maxFilterCost = 100_000
	// interruptEvery is after how many steps of a loop the context is looked at.
	interruptEvery = 100
)

// A Filter is a compiled condition in the Common Expression Language (cel.dev)
// over type, source, tenant, subject and context, which are strings, extensions, a
// map of strings, and data, the event's JSON.
//
// Numbers in data are integers where they are written as such and fit into 64
// bits, otherwise floating point. Comparing does not care: data.total > 100.0 and
// data.total > 100 hold for 101 and 101.0 alike. Calculating does, as always in
// CEL: write double(data.total) * 1.2 > 100.0.
//
// A Filter may be used by many goroutines at once.
type Filter struct{ expression }

// An expression is a compiled one of any type.
type expression struct {
	what, text string // "filter"
	program    cel.Program
	typ        *cel.Type
	// data says that it looks into the event's data, event that it asks for
	// something that only the stored event has.
	data, event bool
}

// environment is what filters can refer to. Making it takes long enough to do
// it once and not for every filter; it depends on nothing.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		cel.CrossTypeNumericComparisons(true),
		cel.ParserExpressionSizeLimit(maxFilter),
		cel.Variable("type", cel.StringType),
		cel.Variable("source", cel.StringType),
		cel.Variable("tenant", cel.StringType),
		cel.Variable("subject", cel.StringType),
		cel.Variable("context", cel.StringType),
		cel.Variable("extensions", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("data", cel.DynType),
	)
})

// CompileFilter reads a filter. Its error says in words, and with the place,
// what is wrong.
func CompileFilter(text string) (*Filter, error) {
	x, err := compileExpression("filter", text)
	if err != nil {
		return nil, err
	}
	// A dyn could be a condition, but whether it is one would only show event by
	// event, when nobody looks.
	if !x.typ.IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("filter is of type %s, must be a condition (bool); compare it with something, as in data.active == true", x.typ)
	}
	return &Filter{*x}, nil
}

func compileExpression(what, text string) (*expression, error) {
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("subscription: environment of expressions: %w", err)
	}
	ast, issues := env.Compile(text)
	if err := issues.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	program, err := env.Program(ast,
		cel.EvalOptions(cel.OptOptimize),
		cel.CostLimit(maxFilterCost),
		cel.InterruptCheckFrequency(interruptEvery),
	)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	x := &expression{what: what, text: text, program: program, typ: ast.OutputType()}
	for _, r := range ast.NativeRep().ReferenceMap() {
		switch r.Name {
		case "data":
			x.data, x.event = true, true
		case "subject", "extensions":
			x.event = true
		}
	}
	return x, nil
}

// String returns the expression as it was written.
func (x *expression) String() string { return x.text }

// NeedsData reports whether the expression looks into the event's data.
func (x *expression) NeedsData() bool { return x.data }

// NeedsEvent reports whether the expression asks for something that the headers
// on stream EVENTS don't have: data, subject or extensions. If not, the event need
// not be fetched for it.
func (x *expression) NeedsEvent() bool { return x.event }

// value evaluates the expression.
func (x *expression) value(ctx context.Context, facts *Facts) (ref.Val, error) {
	if x.data {
		if err := facts.decode(); err != nil {
			return nil, fmt.Errorf("%s %q: %w", x.what, x.text, err)
		}
	}
	// CEL looks at the context only in loops.
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s %q: %w", x.what, x.text, err)
	}
	out, _, err := x.program.ContextEval(ctx, facts)
	if err != nil {
		return nil, fmt.Errorf("%s %q: %w", x.what, x.text, err)
	}
	return out, nil
}

// Eval reports whether e passes. An error means that this can't be told: a
// field is not in the data, or of another type than the filter expects (has(data.x)
// asks first), the data is not JSON, the cost limit was reached, or ctx is
// done. Unless it is the latter, it will be the same next time; callers treat
// the event as not matching, and report it.
func (f *Filter) Eval(ctx context.Context, e *event.Event) (bool, error) {
	return f.EvalFacts(ctx, NewFacts(e))
}

// EvalFacts is [Filter.Eval] for an event that several filters are asked about.
func (f *Filter) EvalFacts(ctx context.Context, facts *Facts) (bool, error) {
	out, err := f.value(ctx, facts)
	if err != nil {
		return false, err
	}
	pass, ok := out.(types.Bool)
	if !ok {
		return false, fmt.Errorf("filter %q: result is %v, not a bool", f.text, out.Type())
	}
	return bool(pass), nil
}

// Facts are what filters can know of one event. The data is decoded when the
// first filter wants it, and then kept for the others; so Facts are for one
// goroutine.
type Facts struct {
	event   *event.Event
	decoded bool
	data    any
	err     error
}

// NewFacts returns the facts of e, which must not change while they are in use.
func NewFacts(e *event.Event) *Facts { return &Facts{event: e} }

// ResolveName returns the value of a variable; it is for CEL.
func (f *Facts) ResolveName(name string) (any, bool) {
	switch name {
	case "type":
		return f.event.Type, true
	case "source":
		return f.event.Source, true
	case "tenant":
		return f.event.Tenant, true
	case "subject":
		return f.event.Subject, true
	case "context":
		if f.event.Context == "" {
			return event.DefaultContext, true
		}
		return f.event.Context, true
	case "extensions":
		return f.event.Extensions, true
	case "data":
		return f.data, f.decoded && f.err == nil
	}
	return nil, false
}

// Parent returns nil: there is nothing beyond the event. It is for CEL.
func (f *Facts) Parent() cel.Activation { return nil }

func (f *Facts) decode() error {
	if !f.decoded {
		f.data, f.err = decodeData(f.event)
		f.decoded = true
	}
	return f.err
}

func decodeData(e *event.Event) (any, error) {
	if !event.IsJSON(e.ContentType()) {
		return nil, fmt.Errorf("data is %s, not JSON", e.ContentType())
	}
	v, err := rawjson.Decode(e.Data)
	if err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	return rawjson.Numbers(v, number)
}

// number is what CEL calculates with.
func number(n json.Number) (any, error) {
	if i, err := n.Int64(); err == nil {
		return i, nil
	}
	d, err := n.Float64()
	if err != nil {
		return nil, fmt.Errorf("data: number %s is too large", n)
	}
	return d, nil
}
