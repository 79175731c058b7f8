package house

import (
	"fmt"
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// Nobody else has these directories, so text that names them is about one
// person's machine.
func TestNoTextNamesOneMachine(t *testing.T) {
	t.Parallel()
	private := []*regexp.Regexp{regexp.MustCompile(`(/home|/Users)/[a-z][\w.-]*/`)}
	if dir := root(t); strings.Count(dir, "/") > 1 {
		private = append(private, regexp.MustCompile(regexp.QuoteMeta(dir)+`\b`))
	}
	if home, err := os.UserHomeDir(); err == nil && home != "/" && home != os.TempDir() {
		private = append(private, regexp.MustCompile(`(^|[\s"'=:(])`+regexp.QuoteMeta(home)+`/`))
	}
	for _, path := range files(t) {
		text := read(t, path)
		if !utf8.ValidString(text) || strings.HasSuffix(path, "go.sum") {
			continue
		}
		for _, re := range private {
			if m := re.FindString(text); m != "" {
				t.Errorf("%s names %s", path, strings.TrimSpace(m))
			}
		}
	}
}

var (
	requirementRow = regexp.MustCompile(`(?m)^\| ([CASP]\d+) \| (.*?) \| (.*?) \|$`)
	testName       = regexp.MustCompile("^`((?:Test|Fuzz|Benchmark)[A-Z]\\w*)`$")
)

// testNames returns every test, fuzz test and benchmark of the tree.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, s := range sources(t) {
		if !s.test() {
			continue
		}
		for _, d := range s.ast.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				names[f.Name.Name] = true
			}
		}
	}
	return names
}

func TestRequirementsNameTheirTests(t *testing.T) {
	t.Parallel()
	var want []string
	for _, group := range []struct {
		letter string
		count  int
	}{{"C", 20}, {"A", 7}, {"S", 16}, {"P", 5}} {
		for i := range group.count {
			want = append(want, fmt.Sprintf("%s%d", group.letter, i+1))
		}
	}
	tests := testNames(t)
	var got []string
	for _, row := range requirementRow.FindAllStringSubmatch(read(t, "docs/requirements.md"), -1) {
		number, text, shown := row[1], row[2], row[3]
		got = append(got, number)
		if strings.TrimSpace(text) == "" {
			t.Errorf("%s says nothing", number)
		}
		// "not yet" may follow tests, for what they leave open.
		for part := range strings.SplitSeq(shown, ",") {
			part = strings.TrimSpace(part)
			if part == "not yet" {
				continue
			}
			m := testName.FindStringSubmatch(part)
			if m == nil {
				t.Errorf("%s: %q is neither a test's name in backquotes nor \"not yet\"", number, part)
			} else if !tests[m[1]] {
				t.Errorf("%s: there is no %s", number, m[1])
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("docs/requirements.md has the numbers\n%v, want\n%v", got, want)
	}
}

// What a document says that a test shows, some test shows.
func TestDocumentsNameTestsThatAreThere(t *testing.T) {
	t.Parallel()
	named := regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z]\\w*)`")
	tests := testNames(t)
	for _, path := range files(t) {
		if !strings.HasSuffix(path, ".md") {
			continue
		}
		for _, m := range named.FindAllStringSubmatch(read(t, path), -1) {
			if !tests[m[1]] {
				t.Errorf("%s names %s, which is not there", path, m[1])
			}
		}
	}
}

func TestDecisionsAreWhole(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob(filepath.Join(root(t), "docs", "adr", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) < 8 {
		t.Errorf("docs/adr has %d decisions, want at least 8", len(paths))
	}
	slices.Sort(paths)
	for i, path := range paths {
		name := filepath.Base(path)
		if want := fmt.Sprintf("%04d-", i+1); !strings.HasPrefix(name, want) {
			t.Errorf("%s should begin with %s: decisions are numbered in order", name, want)
		}
		text := read(t, "docs/adr/"+name)
		at := 0
		for _, part := range []string{"\nStatus: ", "\n## Context\n", "\n## Decision\n", "\n## Consequences\n"} {
			i := strings.Index(text[at:], part)
			if i < 0 {
				t.Errorf("%s has no %q where it belongs", name, strings.TrimSpace(part))
				break
			}
			at += i
		}
		if n := strings.Count(text, "\n"); n > 60 {
			t.Errorf("%s has %d lines, want at most 60", name, n)
		}
	}
}

// A link that leads nowhere is a promise not kept.
func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)]*)?\)`)
	for _, path := range files(t) {
		if !strings.HasSuffix(path, ".md") {
			continue
		}
		for _, m := range link.FindAllStringSubmatch(read(t, path), -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root(t), filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", path, m[1], err)
			}
		}
	}
}
