package house

import (
	"go/ast"
	"go/token"
	"path"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	t.Parallel()
	packages := map[string]bool{} // by directory: has a package comment where it belongs
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		dir := path.Dir(s.path)
		inPlace := s.command() || path.Base(s.path) == "doc.go"
		packages[dir] = packages[dir] || inPlace && s.ast.Doc != nil
	}
	for dir, documented := range packages {
		if !documented {
			t.Errorf("%s has no doc.go with a package comment", dir)
		}
	}
}

func TestFilesAreShort(t *testing.T) {
	t.Parallel()
	const most = 600
	for _, s := range sources(t) {
		if n := strings.Count(s.text, "\n"); !s.test() && n > most {
			t.Errorf("%s has %d lines, want at most %d", s.path, n, most)
		}
	}
}

// A rule looks at one node of a file and returns what is wrong with it.
type rule struct {
	name  string
	check func(*source, ast.Node) string
}

var rules = []rule{
	{"nothing runs before main", func(_ *source, n ast.Node) string {
		if f, ok := n.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
			return "init runs where nobody called it"
		}
		return ""
	}},
	{"only main and tests own a lifetime", func(s *source, n ast.Node) string {
		if s.test() || s.command() {
			return ""
		}
		if s.calls(n, "context", "Background") || s.calls(n, "context", "TODO") {
			return "a context that nobody can cancel; take one as a parameter"
		}
		return ""
	}},
	{"nobody sleeps", func(s *source, n ast.Node) string {
		if s.calls(n, "time", "Sleep") {
			return "time.Sleep; wait for the event, not for a while"
		}
		return ""
	}},
	{"no test skips", func(s *source, n ast.Node) string {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok || !s.test() {
			return ""
		}
		if id, ok := sel.X.(*ast.Ident); ok && strings.Contains(" t b f tb ", " "+id.Name+" ") && strings.HasPrefix(sel.Sel.Name, "Skip") {
			return "a test that skips is a test that nobody misses"
		}
		return ""
	}},
	{"constructors start nothing", func(s *source, n ast.Node) string {
		f, ok := n.(*ast.FuncDecl)
		if ok && !s.test() && f.Recv == nil && f.Body != nil && strings.HasPrefix(f.Name.Name, "New") && startsGoroutine(f.Body) {
			return f.Name.Name + " starts a goroutine; Run owns them"
		}
		return ""
	}},
	{"interfaces are small", func(s *source, n ast.Node) string {
		if i, ok := n.(*ast.InterfaceType); ok && !s.test() && i.Methods.NumFields() > 5 {
			return "an interface of " + strconv.Itoa(i.Methods.NumFields()) + " methods; its consumer needs fewer"
		}
		return ""
	}},
	{"long functions say why", func(s *source, n ast.Node) string {
		f, ok := n.(*ast.FuncDecl)
		if !ok || s.test() {
			return ""
		}
		if lines := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line; lines > 80 && f.Doc == nil {
			return f.Name.Name + " has " + strconv.Itoa(lines) + " lines and no comment that says why"
		}
		return ""
	}},
	{"topology alone names subjects", func(s *source, n ast.Node) string {
		lit, ok := n.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING || s.test() || strings.HasPrefix(s.path, "jetstream/topology/") {
			return ""
		}
		if text, err := strconv.Unquote(lit.Value); err == nil && subject.MatchString(text) {
			return "subject " + lit.Value + "; jetstream/topology names them"
		}
		return ""
	}},
}

// subject matches literals that are, or begin, a subject of ours, or
// of a bucket of ours.
var subject = regexp.MustCompile(`^(events\.(in|out|%|\*|>|$)|deliveries\.(shared|lane|%|\*|>|$)|(attempts|deadletters|rejections|audit)\.([%*>]|$)|\$(KV|O)\.)`)

// startsGoroutine looks at what body does itself, not at the functions that it
// makes for later.
func startsGoroutine(body ast.Node) bool {
	found := false
	ast.Inspect(body, func(n ast.Node) bool {
		switch n.(type) {
		case *ast.FuncLit:
			return false
		case *ast.GoStmt:
			found = true
		}
		return !found
	})
	return found
}

func TestCodeKeepsTheRules(t *testing.T) {
	t.Parallel()
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			for _, s := range sources(t) {
				ast.Inspect(s.ast, func(n ast.Node) bool {
					if n != nil {
						if wrong := r.check(s, n); wrong != "" {
							t.Errorf("%s: %s", s.at(n), wrong)
						}
					}
					return true
				})
			}
		})
	}
}

// A note to oneself without a name is a note to nobody, and what a linter found
// is excused in its configuration, where the reason stands.
func TestCommentsExcuseNothing(t *testing.T) {
	t.Parallel()
	todo := regexp.MustCompile(`\b(TODO|FIXME|XXX)\b(\([a-z#0-9-]+\))?`)
	for _, s := range sources(t) {
		for _, group := range s.ast.Comments {
			for _, c := range group.List {
				if strings.HasPrefix(c.Text, "//nolint") {
					t.Errorf("%s: %s", s.at(c), c.Text)
				}
				if m := todo.FindStringSubmatch(c.Text); m != nil && m[2] == "" {
					t.Errorf("%s: %s without an owner", s.at(c), m[1])
				}
			}
		}
	}
}
