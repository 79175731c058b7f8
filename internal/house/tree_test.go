package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// module is the prefix of every import path of ours.
const module = "github.com/posthornhq/posthorn/"

// A source is one Go file that a person wrote.
type source struct {
	path string // from the root of the module, with slashes
	text string
	ast  *ast.File
	fset *token.FileSet
}

func (s *source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

// command reports whether the file is part of a binary's main.
func (s *source) command() bool { return s.ast.Name.Name == "main" }

// at returns where n is, as editors understand it.
func (s *source) at(n ast.Node) string {
	p := s.fset.Position(n.Pos())
	p.Filename = s.path
	return p.String()
}

// root is the directory of go.mod.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// read returns a file of the project.
func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root(t), filepath.FromSlash(path)))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// files returns the paths of what belongs to the project: not what is built or
// stored, nor what tools keep in directories of their own.
func files(t *testing.T) []string {
	t.Helper()
	dir := root(t)
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() {
			hidden := strings.HasPrefix(name, ".") && rel != "." && name != ".ci" && name != ".tools"
			if hidden || name == "posthorn-data" || name == "node_modules" {
				return fs.SkipDir
			}
			return nil
		}
		if d.Type().IsRegular() {
			all = append(all, filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// parsed holds the tree once for all tests of the package, which only read it.
var parsed struct {
	once sync.Once
	all  []*source
	err  error
}

// sources returns every Go file but generated ones.
func sources(t *testing.T) []*source {
	t.Helper()
	parsed.once.Do(func() {
		fset := token.NewFileSet()
		for _, path := range files(t) {
			if !strings.HasSuffix(path, ".go") || strings.HasPrefix(path, "proto/gen/") || strings.Contains(path, "/testdata/") {
				continue
			}
			text := read(t, path)
			f, err := parser.ParseFile(fset, path, text, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				parsed.err = err
				return
			}
			parsed.all = append(parsed.all, &source{path: path, text: text, ast: f, fset: fset})
		}
	})
	if parsed.err != nil {
		t.Fatal(parsed.err)
	}
	if len(parsed.all) < 10 {
		t.Fatalf("found %d Go files; this test looks in the wrong place", len(parsed.all))
	}
	return parsed.all
}

// calls reports whether n is a use of pkg.name, by whatever name the file
// imports pkg.
func (s *source) calls(n ast.Node, pkg, name string) bool {
	sel, ok := n.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != name {
		return false
	}
	id, ok := sel.X.(*ast.Ident)
	if !ok {
		return false
	}
	for _, imp := range s.ast.Imports {
		path := strings.Trim(imp.Path.Value, `"`)
		local := path[strings.LastIndex(path, "/")+1:]
		if imp.Name != nil {
			local = imp.Name.Name
		}
		if path == pkg && local == id.Name {
			return true
		}
	}
	return false
}
