package house

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// floors tells on which floor a package lives. The longest prefix that fits
// counts; a package may import those on its own floor and below.
var floors = map[string]int{
	"pkg/event": 0,
	"pkg/errs":  0,

	"pkg/bucket":    1,
	"pkg/certs":     1,
	"pkg/signature": 1,
	"pkg/seal":      1,
	"pkg/telemetry": 1,
	"pkg/config":    1,
	"pkg/backoff":   1,
	"pkg/pattern":   1,
	"pkg/netguard":  1,
	"pkg/rawjson":   1,
	"pkg/stream":    1,
	"pkg/wire":      1,
	"jetstream":     1,

	"pkg": 2,

	"services":          3,
	"services/app":      4,
	"services/posthorn": 5,

	"internal/house": 6, // tests of everything
	"internal/e2e":   6, // tests from outside
}

// floor returns the floor of an import path of ours.
func floor(path string) (int, bool) {
	rel := strings.TrimPrefix(path, module)
	for prefix := rel; prefix != ""; {
		if f, ok := floors[prefix]; ok {
			return f, true
		}
		i := strings.LastIndex(prefix, "/")
		prefix = prefix[:max(i, 0)]
	}
	return 0, false
}

// wire reports whether a package is generated from the .proto files, or embeds
// what is. All floors but the lowest may import it, and it imports none.
func wire(path string) bool { return strings.HasPrefix(path+"/", module+"proto/") }

// service returns the service that a package belongs to, if it does.
func service(path string) string {
	rest, ok := strings.CutPrefix(path, module+"services/")
	if f, _ := floor(path); !ok || f != 3 {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return name
}

// A goPackage is what `go list` says of one.
type goPackage struct {
	ImportPath string
	Imports    []string
	Standard   bool
}

// climbs returns what is wrong with one import, or nothing.
func climbs(from, to string, standard bool) string {
	f, ok := floor(from)
	if !ok {
		return "has no floor; give it one in internal/house and .golangci.yml"
	}
	if f == 0 && !standard && !strings.HasPrefix(to, module+"pkg/") {
		return "imports " + to + "; floor 0 knows the standard library alone"
	}
	if from == module+"pkg/event" && !standard {
		return "imports " + to + "; the vocabulary depends on nothing"
	}
	if !strings.HasPrefix(to, module) || wire(to) {
		return ""
	}
	g, _ := floor(to) // a package without one is reported for itself
	if g > f {
		return "imports " + to + ", which is on a higher floor"
	}
	if a, b := service(from), service(to); a != "" && b != "" && a != b {
		return "imports " + to + "; services do not know each other, services/app connects them"
	}
	return ""
}

// goList returns every package that the binary and its libraries are made of,
// by import path.
func goList(t *testing.T) map[string]goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Imports,Standard", "./...")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("go list: %s", exit.Stderr)
		}
		t.Fatal(err)
	}
	packages := map[string]goPackage{}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages[p.ImportPath] = p
	}
	return packages
}

func TestImportsGoDownOnly(t *testing.T) {
	t.Parallel()
	packages := goList(t)
	ours := 0
	for path, p := range packages {
		if !strings.HasPrefix(path, module) || wire(path) {
			continue
		}
		ours++
		if _, ok := floor(path); !ok {
			t.Errorf("%s has no floor; give it one in internal/house and .golangci.yml", path)
		}
		for _, imp := range p.Imports {
			if wrong := climbs(path, imp, packages[imp].Standard); wrong != "" {
				t.Errorf("%s %s", path, wrong)
			}
		}
	}
	if ours < 3 {
		t.Errorf("go list knows %d packages of ours; this test looks in the wrong place", ours)
	}
}

func TestClimbingIsSeen(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, from, to string
		standard       bool
		wrong          bool
	}{
		{"vocabulary and standard library", "pkg/event", "time", true, false},
		{"vocabulary and the wire", "pkg/event", module + "proto/gen/posthorn/v1", false, true},
		{"vocabulary and errors", "pkg/event", module + "pkg/errs", false, true},
		{"errors and vocabulary", "pkg/errs", module + "pkg/event", false, false},
		{"errors and a module", "pkg/errs", "google.golang.org/grpc", false, true},
		{"mechanism and state", "pkg/bucket", module + "pkg/store", false, true},
		{"state and mechanism", "pkg/store", module + "pkg/bucket", false, false},
		{"state and topology", "pkg/queue", module + "jetstream/topology", false, false},
		{"topology and state", "jetstream/topology", module + "pkg/queue", false, true},
		{"state and a service", "pkg/store", module + "services/broker", false, true},
		{"a part of a service and the service", "services/gateway/kind", module + "services/gateway", false, false},
		{"a service and another", "services/gateway", module + "services/broker", false, true},
		{"a service and the wiring", "services/gateway", module + "services/app", false, true},
		{"the wiring and a service", "services/app", module + "services/gateway", false, false},
		{"the wiring and main", "services/app", module + "services/posthorn", false, true},
		{"a service and the wire", "services/gateway", module + "proto/gen/posthorn/v1", false, false},
		{"a newcomer", "tools/x", "time", true, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := climbs(module+tt.from, tt.to, tt.standard)
			if (got != "") != tt.wrong {
				t.Errorf("%s importing %s: %q, want an objection: %t", tt.from, tt.to, got, tt.wrong)
			}
		})
	}
}

// P4: these are not merely required, code that ships imports them.
func TestAgreedModulesAreInUse(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	for path, p := range goList(t) {
		if strings.HasPrefix(path, module) {
			for _, imp := range p.Imports {
				used[imp] = true
			}
		}
	}
	for _, want := range []string{
		"github.com/nats-io/nats.go",
		"github.com/nats-io/nats-server/v2/server",
		"google.golang.org/grpc",
		"github.com/grpc-ecosystem/grpc-gateway/v2/runtime",
		"github.com/redis/go-redis/v9",
		"github.com/invopop/jsonschema",
	} {
		if !used[want] {
			t.Errorf("no package of ours imports %s, want it in use", want)
		}
	}
}
