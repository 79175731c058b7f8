package config

import (
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// envPrefix begins the name of every variable.
const envPrefix = "POSTHORN_"

// A setting is one field of Config, and how it is called from outside.
type setting struct {
	key   string // "store.max-age"
	usage string
	index []int // of the field in Config
	typ   reflect.Type

	noFlag, noFile bool
}

func (s *setting) flag() string { return strings.ReplaceAll(s.key, ".", "-") }

func (s *setting) env() string {
	return envPrefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(s.key))
}

// value returns the setting's field in c.
func (s *setting) value(c *Config) reflect.Value {
	return reflect.ValueOf(c).Elem().FieldByIndex(s.index)
}

// A section is a field of Config that groups settings.
type section struct {
	key, usage string
	settings   []*setting
}

// sections returns Config's settings in the order of its fields. Those on the
// top level stand in sections without a key.
func sections() []*section {
	var all []*section
	top := &section{}
	t := reflect.TypeFor[Config]()
	for i := range t.NumField() {
		f := t.Field(i)
		key := f.Tag.Get("koanf")
		switch {
		case !f.IsExported():
		case f.Type.Kind() == reflect.Struct && f.Type.PkgPath() == t.PkgPath():
			sec := &section{key: key, usage: f.Tag.Get("usage")}
			for j := range f.Type.NumField() {
				sub := f.Type.Field(j)
				sec.settings = append(sec.settings, newSetting(key+"."+sub.Tag.Get("koanf"), sub, []int{i, j}))
			}
			all = append(all, sec)
		default:
			if len(top.settings) == 0 {
				all = append(all, top)
			}
			top.settings = append(top.settings, newSetting(key, f, []int{i}))
		}
	}
	return all
}

func newSetting(key string, f reflect.StructField, index []int) *setting {
	return &setting{
		key: key, usage: f.Tag.Get("usage"), index: index, typ: f.Type,
		noFlag: f.Tag.Get("flag") == "none" || f.Tag.Get("env") == "only",
		noFile: f.Tag.Get("env") == "only",
	}
}

// settings returns all settings, in the order of Config's fields.
func settings() []*setting {
	var all []*setting
	for _, sec := range sections() {
		all = append(all, sec.settings...)
	}
	return all
}

// parse reads a setting of type t from text; a list is separated by commas.
func parse(t reflect.Type, text string) (reflect.Value, error) {
	v := reflect.New(t).Elem()
	if t.Kind() == reflect.Slice {
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part == "" {
				continue
			}
			elem, err := parse(t.Elem(), part)
			if err != nil {
				return v, err
			}
			v = reflect.Append(v, elem)
		}
		return v, nil
	}
	got, err := parseOne(t, text)
	if err != nil {
		return v, err
	}
	v.Set(reflect.ValueOf(got).Convert(t))
	return v, nil
}

func parseOne(t reflect.Type, text string) (any, error) {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return parseDuration(text)
	case reflect.TypeFor[Bytes]():
		return ParseBytes(text)
	case reflect.TypeFor[netip.Prefix]():
		return parsePrefix(text)
	case reflect.TypeFor[slog.Level]():
		var l slog.Level
		if err := l.UnmarshalText([]byte(text)); err != nil {
			return nil, fmt.Errorf("%q is not a level: debug, info, warn or error", text)
		}
		return l, nil
	}
	if few, ok := choices[t]; ok {
		if slices.Contains(few, text) {
			return text, nil
		}
		return nil, fmt.Errorf("%q is none of %s", text, strings.Join(few, ", "))
	}
	switch t.Kind() {
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return nil, fmt.Errorf("%q is neither true nor false", text)
		}
		return b, nil
	case reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("%q is not a whole number", text)
		}
		return n, nil
	default:
		return text, nil
	}
}

// format is the opposite of parse. Secrets come out masked.
func format(v reflect.Value) string {
	if v.Kind() == reflect.Slice {
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = format(v.Index(i))
		}
		return strings.Join(parts, ",")
	}
	switch x := v.Interface().(type) {
	case time.Duration:
		return formatDuration(x)
	case slog.Level:
		return strings.ToLower(x.String())
	default:
		return fmt.Sprint(x)
	}
}

// Flags returns a flag for every setting that may be one, with the defaults.
// Hand the same set to [Load] after it is parsed.
func Flags() *pflag.FlagSet {
	fs := pflag.NewFlagSet("config", pflag.ContinueOnError)
	def := Default()
	for _, s := range settings() {
		if s.noFlag {
			continue
		}
		f := fs.VarPF(&flagValue{typ: s.typ, text: format(s.value(def))}, s.flag(), "", s.usage)
		if s.typ.Kind() == reflect.Bool {
			f.NoOptDefVal = "true"
		}
	}
	return fs
}

// A flagValue is a setting's text on its way from the command line to Load. It
// refuses what Load would refuse, so that the error names the flag.
type flagValue struct {
	typ     reflect.Type
	text    string
	changed bool
}

func (v *flagValue) String() string { return v.text }

// Set takes a value. The first replaces the default, the next ones of a list
// are added to it.
func (v *flagValue) Set(text string) error {
	if _, err := parse(v.typ, text); err != nil {
		return err
	}
	if v.changed && v.typ.Kind() == reflect.Slice && v.text != "" {
		text = v.text + "," + text
	}
	v.text, v.changed = text, true
	return nil
}

// Type is what the help shows as the kind of value.
func (v *flagValue) Type() string {
	t, suffix := v.typ, ""
	if t.Kind() == reflect.Slice {
		t, suffix = t.Elem(), ",…"
	}
	names := map[reflect.Type]string{
		reflect.TypeFor[time.Duration](): "duration",
		reflect.TypeFor[Bytes]():         "size",
		reflect.TypeFor[netip.Prefix]():  "CIDR",
		reflect.TypeFor[slog.Level]():    "level",
		reflect.TypeFor[URL]():           "URL",
		reflect.TypeFor[Role]():          "role",
	}
	switch name, ok := names[t]; {
	case ok:
		return name + suffix
	case choices[t] != nil:
		return strings.Join(choices[t], "|")
	default:
		return t.Kind().String()
	}
}
