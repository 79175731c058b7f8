package transform

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/itchyny/gojq"
)

// A call says how a function is called: which guard its input and its arguments
// pass first. An empty name is none.
type call struct {
	input string
	args  []string // the last one is for all that follow
}

// functions are those that programs may call besides their own. What is not here
// reaches out of the program, is not the same at each try, or cannot be bounded.
var functions = func() map[string]call {
	all := map[string]call{}
	// These take one step each, whatever they are given, or are written in jq
	// themselves.
	for name := range strings.FieldsSeq(`
		empty length utf8bytelength not has in map select recurse any all range type isempty first last limit skip until while repeat walk
		arrays objects iterables booleans numbers normals finites strings nulls values scalars
		startswith endswith ltrimstr rtrimstr ltrim rtrim trim abs
		floor ceil round nearbyint rint trunc significand fabs sqrt cbrt exp exp10 exp2 expm1 log log10 log1p log2 logb pow
		sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh gamma tgamma lgamma erf erfc frexp modf atan2 copysign drem
		fdim fmax fmin fmod hypot ldexp scalb scalbln nextafter nexttoward remainder fma
		infinite nan isinfinite isfinite isnan isnormal todate fromdate todateiso8601 fromdateiso8601 gmtime mktime`) {
		all[name] = call{}
	}
	// These go through all of their input, and those that take filters do so once.
	for name := range strings.FieldsSeq(`path paths del delpaths pick map_values keys to_entries from_entries with_entries
		implode reverse ascii_downcase ascii_upcase`) {
		all[name] = call{input: guardWhole}
	}
	for name := range strings.FieldsSeq(`explode tojson tostring sort unique min max flatten bsearch error IN INDEX format`) {
		all[name] = call{input: guardWhole, args: []string{guardWhole}}
	}
	for name := range strings.FieldsSeq(`contains index rindex indices`) {
		all[name] = call{input: guardWhole, args: []string{guardFew}}
	}
	all["inside"] = call{input: guardFew, args: []string{guardWhole}}
	for name := range strings.FieldsSeq(`test match capture scan splits sub gsub`) {
		all[name] = call{input: guardPassage, args: []string{guardPattern, guardFew}}
	}
	for name := range strings.FieldsSeq(`strftime strptime`) {
		all[name] = call{input: guardWhole, args: []string{guardFew}}
	}
	all["tonumber"] = call{input: guardNumber}
	all["getpath"] = call{args: []string{guardPath}}
	all["setpath"] = call{args: []string{guardPath, ""}}
	all["nth"] = call{args: []string{guardIndex, ""}}
	// What follows is rewritten in a way of its own.
	for name := range strings.FieldsSeq(`add join split fromjson sort_by group_by unique_by min_by max_by`) {
		all[name] = call{}
	}
	return all
}()

// refused says why, for functions whose absence would surprise.
var refused = map[string]string{
	"input": "a program sees the data of one event only", "inputs": "a program sees the data of one event only",
	"env": "a program does not see the environment", "$ENV": "a program does not see the environment",
	"now": "a retry must send what the try before has sent", "localtime": "it depends on the machine", "strflocaltime": "it depends on the machine",
	"debug": "a program has nowhere to write to", "stderr": "a program has nowhere to write to", "input_filename": "there is no file",
}

// builtins are all functions of the interpreter. A program that defined one anew
// could still call the old one where its own is not in sight.
var builtins = sync.OnceValue(func() map[string]bool {
	all := map[string]bool{}
	query, err := gojq.Parse("builtins[]")
	if err != nil {
		panic(err) // as it stands here, it parses
	}
	for names := query.Run(nil); ; {
		name, ok := names.Next()
		if !ok {
			return all
		}
		if s, ok := name.(string); ok {
			s, _, _ = strings.Cut(s, "/")
			all[s] = true
		}
	}
})

// maxParts is how many values one text may have put into it.
const maxParts = 64

// confine refuses what a program may not do, and rewrites it so that each step is
// bounded.
func confine(q *gojq.Query) error {
	c := &confiner{own: map[string]bool{}}
	c.walk(reflect.ValueOf(q), c.declare)
	if c.err == nil {
		c.walk(reflect.ValueOf(q), c.rewrite)
	}
	return c.err
}

type confiner struct {
	own map[string]bool // functions and parameters of the program itself
	err error           // the first
}

func (c *confiner) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, args...)
	}
}

// walk visits the nodes of a program, the inner ones first, so that what a visit
// puts in is not visited.
func (c *confiner) walk(v reflect.Value, visit func(node any)) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return
		}
		c.walk(v.Elem(), visit)
		visit(v.Interface())
	case reflect.Struct:
		for _, field := range v.Fields() {
			c.walk(field, visit)
		}
	case reflect.Slice:
		for i := range v.Len() {
			c.walk(v.Index(i), visit)
		}
	}
}

// declare notes what a program defines.
func (c *confiner) declare(node any) {
	switch n := node.(type) {
	case *gojq.Import:
		c.fail("import and include are not available in transformations")
	case *gojq.FuncDef:
		for _, name := range append([]string{n.Name}, n.Args...) {
			name = strings.TrimPrefix(name, "$") // a parameter $x is a function x, too
			if builtins()[name] || strings.HasPrefix(name, "_") {
				c.fail("%s cannot be defined anew; choose another name", name)
			}
			c.own[name] = true
		}
	}
}

func (c *confiner) rewrite(node any) {
	switch n := node.(type) {
	case *gojq.Query:
		switch {
		case n.Func != "":
			if to := c.called(n.Func, nil); to != nil {
				*n = gojq.Query{FuncDefs: n.FuncDefs, Term: group(to)}
			}
		case n.Op != 0:
			c.operator(n)
		}
	case *gojq.Term:
		c.term(n)
	case *gojq.Index:
		c.index(n)
	case *gojq.String:
		c.text(n)
	case *gojq.ObjectKeyVal:
		if strings.HasPrefix(n.Key, "$") {
			c.called(n.Key, nil)
		}
	}
}

func (c *confiner) term(t *gojq.Term) {
	switch t.Type {
	case gojq.TermTypeFunc:
		if to := c.called(t.Func.Name, t.Func.Args); to != nil {
			t.Type, t.Func, t.Query = gojq.TermTypeQuery, nil, to
		}
	case gojq.TermTypeFormat:
		if t.Str == nil {
			t.Query = pipe(checked(guardWhole), &gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeFormat, Format: t.Format}})
			t.Type, t.Format = gojq.TermTypeQuery, ""
		}
	}
}

// called returns what stands for a call, nil for the call itself.
func (c *confiner) called(name string, args []*gojq.Query) *gojq.Query {
	switch {
	case name == "." || name == ".." || name == "null" || name == "true" || name == "false" || c.own[name]:
		return nil
	case refused[name] != "":
		c.fail("%s is not available in transformations: %s", name, refused[name])
		return nil
	case strings.HasPrefix(name, own):
		c.fail("variables must not begin with %s", own)
		return nil
	case strings.HasPrefix(name, "$"):
		return nil
	}
	rule, ok := functions[name]
	if !ok {
		c.fail("function %s/%d is not available in transformations", name, len(args))
		return nil
	}
	switch by, isBy := strings.CutSuffix(name, "_by"); {
	case isBy && len(args) == 1:
		keys := function("map", &gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeArray, Array: &gojq.Array{Query: args[0]}}})
		return pipe(checked(guardWhole), function("_"+by+"_by", pipe(keys, checked(guardWhole))))
	case name == "add" && len(args) == 1:
		return pipe(&gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeArray, Array: &gojq.Array{Query: args[0]}}}, pipe(checked(guardWhole), function("add")))
	case name == "add":
		return pipe(checked(guardWhole), function("add", args...))
	case name == "join" && len(args) == 1:
		// The separator is evaluated once, with the input that join has.
		return bind(args[0], pipe(checked(guardJoin, variable()), function("join", variable())))
	case name == "split" && len(args) == 2:
		rule = functions["splits"]
	case name == "split":
		rule = call{input: guardWhole}
	case name == "fromjson" && len(args) == 0:
		return pipe(checked(guardWhole), function(fromJSON))
	}
	if rule.input == "" && len(rule.args) == 0 {
		return nil
	}
	guarded := slices.Clone(args)
	for i := range guarded {
		if len(rule.args) > 0 {
			guarded[i] = guard(rule.args[min(i, len(rule.args)-1)], guarded[i])
		}
	}
	out := function(name, guarded...)
	if rule.input != "" {
		out = pipe(checked(rule.input), out)
	}
	return out
}

func (c *confiner) operator(q *gojq.Query) {
	op := q.Op
	switch op {
	case gojq.OpAssign, gojq.OpModify:
		update := *q
		update.FuncDefs = nil
		*q = gojq.Query{FuncDefs: q.FuncDefs, Term: group(pipe(&update, checked(guardWhole)))}
	case gojq.OpUpdateAdd, gojq.OpUpdateSub, gojq.OpUpdateMul, gojq.OpUpdateDiv, gojq.OpUpdateMod:
		// l += r is r as $x | l |= . + $x.
		sum := &gojq.Query{Left: function("."), Op: op - gojq.OpUpdateAdd + gojq.OpAdd, Right: variable()}
		c.operator(sum)
		update := &gojq.Query{Left: q.Left, Op: gojq.OpModify, Right: sum}
		c.operator(update)
		*q = gojq.Query{FuncDefs: q.FuncDefs, Term: group(bind(q.Right, update))}
	case gojq.OpAdd, gojq.OpDiv, gojq.OpMod, gojq.OpEq, gojq.OpNe, gojq.OpGt, gojq.OpLt, gojq.OpGe, gojq.OpLe:
		q.Left, q.Right = guard(guardWhole, q.Left), guard(guardWhole, q.Right)
	case gojq.OpSub:
		// The items of an array are compared with those of another, each with each.
		q.Left, q.Right = guard(guardWhole, q.Left), guard(guardFew, q.Right)
	case gojq.OpMul:
		both := checked(guardProduct, q.Left, q.Right)
		product := &gojq.Query{Left: item("0"), Op: gojq.OpMul, Right: item("1")}
		*q = gojq.Query{FuncDefs: q.FuncDefs, Term: group(pipe(both, product))}
	}
}

// index bounds what an assignment would fill an array up to.
func (c *confiner) index(x *gojq.Index) {
	if x.IsSlice || x.Start == nil {
		return // slices are cut to what is there
	}
	if t := x.Start.Term; t != nil && t.Type == gojq.TermTypeNumber && len(t.SuffixList) == 0 {
		if i, err := strconv.ParseFloat(t.Number, 64); err != nil || i > maxIndex {
			c.fail("index %s is larger than %d", t.Number, maxIndex)
		}
		return
	}
	x.Start = guard(guardIndex, x.Start)
}

func (c *confiner) text(s *gojq.String) {
	parts := 0
	for i, q := range s.Queries {
		if q.Term != nil && q.Term.Str != nil {
			continue // what stands between the values
		}
		parts++
		s.Queries[i] = &gojq.Query{Term: group(guard(guardWhole, q))}
	}
	if parts > maxParts {
		c.fail("a text has %d values put into it, at most %d are allowed", parts, maxParts)
	}
}

func function(name string, args ...*gojq.Query) *gojq.Query {
	if len(args) == 0 {
		return &gojq.Query{Func: name}
	}
	return &gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeFunc, Func: &gojq.Func{Name: name, Args: args}}}
}

func pipe(l, r *gojq.Query) *gojq.Query { return &gojq.Query{Left: l, Op: gojq.OpPipe, Right: r} }

func group(q *gojq.Query) *gojq.Term { return &gojq.Term{Type: gojq.TermTypeQuery, Query: q} }

// checked calls one of the guards.
func checked(name string, args ...*gojq.Query) *gojq.Query {
	return function(name, append(slices.Clone(args), function(theRun))...)
}

// guard returns q with its values checked; q itself where they need no check.
func guard(name string, q *gojq.Query) *gojq.Query {
	if name == "" || q == nil {
		return q
	}
	if t := q.Term; name == guardWhole && t != nil && len(t.SuffixList) == 0 && len(q.FuncDefs) == 0 &&
		(t.Type == gojq.TermTypeNumber || t.Type == gojq.TermTypeString && t.Str.Queries == nil) {
		return q // as short as it stands there
	}
	return pipe(q, checked(name))
}

// own is the variable that rewritten programs keep a value in, for as long as one
// operator or function takes.
const own = "$__posthorn"

func variable() *gojq.Query { return function(own) }

func bind(value, body *gojq.Query) *gojq.Query {
	return &gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeQuery, Query: value, SuffixList: []*gojq.Suffix{
		{Bind: &gojq.Bind{Patterns: []*gojq.Pattern{{Name: own}}, Body: body}},
	}}}
}

func item(index string) *gojq.Query {
	return &gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeIndex, Index: &gojq.Index{Start: &gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeNumber, Number: index}}}}}
}
