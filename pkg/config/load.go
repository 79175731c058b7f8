package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
)

// DefaultFile is read by [File] when no other is named and it exists.
const DefaultFile = "posthorn.yaml"

// fileVariable names the file, as the flag --config of commands does.
const fileVariable = envPrefix + "CONFIG"

// clientVariables are those of the commands and the SDK, which talk to a
// platform rather than run one.
var clientVariables = []string{fileVariable, envPrefix + "SERVER", envPrefix + "API_KEY"}

// File returns the configuration file to read: named if it is not empty, else
// the one that POSTHORN_CONFIG names, else posthorn.yaml if that exists, else
// none.
func File(named string, environ []string) string {
	if named != "" {
		return named
	}
	for _, v := range environ {
		if path, ok := strings.CutPrefix(v, fileVariable+"="); ok && path != "" {
			return path
		}
	}
	if _, err := os.Stat(DefaultFile); err == nil {
		return DefaultFile
	}
	return ""
}

// Load returns the configuration that flags (as [Flags] made them, parsed;
// others in the set are left alone), environ (as [os.Environ] has it) and file
// make together, and checks it. A nil set, a nil environ and an empty file name
// are as good as empty ones; an empty variable and a key without a value are as
// good as absent ones. The error names everything that is wrong, not only the
// first.
func Load(flags *pflag.FlagSet, environ []string, file string) (*Config, error) {
	l := loader{merged: koanf.New("."), byKey: map[string]*setting{}, origins: map[string]string{}}
	for _, s := range settings() {
		l.byKey[s.key] = s
	}
	// Weakest first: each layer overwrites what the ones before it said.
	if file != "" {
		if err := l.loadFile(file); err != nil {
			return nil, err
		}
	}
	if err := l.loadEnv(environ); err != nil {
		return nil, err
	}
	if flags != nil {
		if err := l.loadFlags(flags); err != nil {
			return nil, err
		}
	}
	cfg := Default()
	cfg.origins = l.origins
	for key := range l.origins {
		s := l.byKey[key]
		v, err := parse(s.typ, l.merged.String(key))
		if err != nil {
			continue // already among the problems, with its origin
		}
		s.value(cfg).Set(v)
	}
	if len(l.problems) > 0 {
		slices.SortFunc(l.problems, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
		return nil, fmt.Errorf("config: %w", errors.Join(l.problems...))
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return cfg, nil
}

// A loader merges the layers. Every value in it is the text that was written;
// types come last, when it is known which text holds.
type loader struct {
	merged   *koanf.Koanf
	byKey    map[string]*setting
	origins  map[string]string
	problems []error
}

func (l *loader) problem(format string, args ...any) {
	l.problems = append(l.problems, fmt.Errorf(format, args...))
}

// take notes that key was set to text somewhere, and returns whether it can be.
func (l *loader) take(s *setting, where, text string) bool {
	if text == "" {
		return false
	}
	if _, err := parse(s.typ, text); err != nil {
		l.problem("%s: %w", where, err)
		return false
	}
	l.origins[s.key] = where
	return true
}

func (l *loader) loadFile(path string) error {
	raw := koanf.New(".")
	if err := raw.Load(file.Provider(path), yaml.Parser()); err != nil {
		return fmt.Errorf("config: reading %s: %w", path, err)
	}
	name := filepath.Base(path)
	layer := map[string]any{}
	l.walk(name, "", raw.Raw(), layer)
	if err := l.merged.Load(confmap.Provider(layer, "."), nil); err != nil {
		return fmt.Errorf("config: merging %s: %w", path, err)
	}
	return nil
}

// walk flattens a YAML tree into layer.
func (l *loader) walk(name, prefix string, tree, layer map[string]any) {
	for _, k := range slices.Sorted(maps.Keys(tree)) {
		key, value := prefix+k, tree[k]
		s := l.byKey[key]
		sub, isTree := value.(map[string]any)
		switch {
		case s == nil && (isTree || value == nil) && l.isSection(key):
			l.walk(name, key+".", sub, layer)
		case s == nil && l.isSection(key):
			l.problem("%s: %s holds settings (%s), not a value", name, key, strings.Join(l.below(key), ", "))
		case s == nil:
			l.problem("%s: there is no setting %q%s", name, key, suggest(key, slices.Collect(maps.Keys(l.byKey))))
		case s.noFile:
			l.problem("%s: %s comes from the environment only: set %s", name, key, s.env())
		case isTree:
			l.problem("%s: %s is a value and holds no settings", name, key)
		case value == nil:
		default:
			if text := scalar(value); l.take(s, name+": "+key, text) {
				layer[key] = text
			}
		}
	}
}

func (l *loader) isSection(key string) bool { return len(l.below(key)) > 0 }

// below returns the settings of a section.
func (l *loader) below(key string) []string {
	var keys []string
	for k := range l.byKey {
		if strings.HasPrefix(k, key+".") {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// scalar returns a YAML value as the text that it was, a list with commas.
func scalar(v any) string {
	list, ok := v.([]any)
	if !ok {
		return fmt.Sprint(v)
	}
	parts := make([]string, len(list))
	for i, e := range list {
		parts[i] = fmt.Sprint(e)
	}
	return strings.Join(parts, ",")
}

func (l *loader) loadEnv(environ []string) error {
	byName := make(map[string]*setting, len(l.byKey))
	for _, s := range l.byKey {
		byName[s.env()] = s
	}
	transform := func(name, value string) (string, any) {
		s := byName[name]
		switch {
		case s != nil:
			if l.take(s, name, value) {
				return s.key, value
			}
		case slices.Contains(clientVariables, name), serviceLink(name, value):
		default:
			l.problem("%s: there is no such setting%s", name, suggest(name, slices.Collect(maps.Keys(byName))))
		}
		return "", nil
	}
	p := env.Provider(".", env.Opt{
		Prefix:        envPrefix,
		TransformFunc: transform,
		EnvironFunc:   func() []string { return environ },
	})
	if err := l.merged.Load(p, nil); err != nil {
		return fmt.Errorf("config: reading the environment: %w", err)
	}
	return nil
}

// Kubernetes gives every container variables about every service in its
// namespace, and for a service named posthorn, or posthorn-broker, they begin as
// ours do: POSTHORN_SERVICE_HOST, POSTHORN_PORT_9600_TCP_ADDR.
var serviceLinkName = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)

func serviceLink(name, value string) bool {
	return serviceLinkName.MatchString(name) || strings.HasSuffix(name, "_PORT") && strings.Contains(value, "://")
}

func (l *loader) loadFlags(flags *pflag.FlagSet) error {
	byFlag := make(map[string]*setting, len(l.byKey))
	for _, s := range l.byKey {
		if !s.noFlag {
			byFlag[s.flag()] = s
		}
	}
	p := posflag.ProviderWithFlag(flags, ".", l.merged, func(f *pflag.Flag) (string, any) {
		s := byFlag[f.Name]
		if s == nil || !f.Changed {
			return "", nil
		}
		text := f.Value.String()
		if text == "" {
			// Unlike an empty variable, --redis-url="" is there on purpose.
			l.origins[s.key] = "--" + f.Name
			return s.key, text
		}
		if !l.take(s, "--"+f.Name, text) {
			return "", nil
		}
		return s.key, text
	})
	if err := l.merged.Load(p, nil); err != nil {
		return fmt.Errorf("config: reading flags: %w", err)
	}
	return nil
}

// suggest returns "; did you mean …?" with the name that is nearest to what was
// written, or nothing if none is near.
func suggest(written string, names []string) string {
	plain := func(s string) string { return strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(s)) }
	best, least := "", len(written)/3+1
	slices.Sort(names) // a tie goes the same way every time
	for _, name := range names {
		if d := distance(plain(written), plain(name)); d < least {
			best, least = name, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// distance is Levenshtein's: how many characters to add, drop or change.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
