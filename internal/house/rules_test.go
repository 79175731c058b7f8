package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
)

// A rule that finds nothing in a clean tree may be blind.
func TestRulesSeeWhatTheyForbid(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, path, code string
		want             string // of a rule; none if nothing is wrong
	}{
		{"init", "pkg/x/x.go", `func init() {}`, "nothing runs before main"},
		{"a method named init", "pkg/x/x.go", `func (T) init() {}`, ""},
		{"background", "pkg/x/x.go", `var ctx = context.Background()`, "only main and tests own a lifetime"},
		{"background in a test", "pkg/x/x_test.go", `var ctx = context.Background()`, ""},
		{"sleep in a test", "pkg/x/x_test.go", `func f() { time.Sleep(1) }`, "nobody sleeps"},
		{"another sleep", "pkg/x/x.go", `func f() { bed.Sleep(1) }`, ""},
		{"skip", "pkg/x/x_test.go", `func TestX(t *testing.T) { t.Skip() }`, "no test skips"},
		{"goroutine", "pkg/x/x.go", `func NewX() { go f() }`, "constructors start nothing"},
		{"goroutine for later", "pkg/x/x.go", `func NewX() { f(func() { go f() }) }`, ""},
		{"large interface", "pkg/x/x.go", `type I interface { A(); B(); C(); D(); E(); F() }`, "interfaces are small"},
		{"long function", "pkg/x/x.go", "func f() {\n" + strings.Repeat("f()\n", 90) + "}", "long functions say why"},
		{"long function with a reason", "pkg/x/x.go", "// f is straight.\nfunc f() {\n" + strings.Repeat("f()\n", 90) + "}", ""},
		{"subject", "pkg/x/x.go", `var s = "deliveries.shared." + p`, "topology alone names subjects"},
		{"subject in topology", "jetstream/topology/x.go", `var s = "deliveries.shared." + p`, ""},
		{"no subject", "pkg/x/x.go", `var s = "events.proto, deliveries. And attempts.go"`, ""},
		{"bucket's subject", "pkg/x/x.go", `var s = "$KV.events." + id`, "topology alone names subjects"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			fset := token.NewFileSet()
			const header = "package x\nimport (\"context\"; \"testing\"; \"time\")\n"
			f, err := parser.ParseFile(fset, tt.path, header+tt.code, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			s := &source{path: tt.path, ast: f, fset: fset}
			got := ""
			ast.Inspect(f, func(n ast.Node) bool {
				for _, r := range rules {
					if n != nil && r.check(s, n) != "" {
						got = r.name
					}
				}
				return true
			})
			if got != tt.want {
				t.Errorf("broken is %q, want %q", got, tt.want)
			}
		})
	}
}
