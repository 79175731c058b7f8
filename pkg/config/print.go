package config

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
)

// Print writes the configuration as YAML, every setting, with secrets and
// passwords masked.
func (c *Config) Print(w io.Writer) error {
	var b bytes.Buffer
	for _, sec := range sections() {
		indent := ""
		if sec.key != "" {
			fmt.Fprintf(&b, "%s:\n", sec.key)
			indent = "  "
		}
		for _, s := range sec.settings {
			fmt.Fprintf(&b, "%s%s: %s\n", indent, s.leaf(), yamlValue(s.value(c)))
		}
	}
	return flush(w, &b)
}

// WriteSample writes a file to start from: every setting with its default, as a
// comment, under a line that says what it is. Read as it is, it changes nothing;
// what is uncommented is what somebody decided.
func WriteSample(w io.Writer) error {
	b := bytes.NewBufferString(`# Settings of posthorn, each with its default. Uncomment what you change.
# A setting may also be a flag (store.max-age is --store-max-age) or a variable
# (POSTHORN_STORE_MAX_AGE); flags win over variables, variables over this file.
# Durations are 30s, 336h or 14d, sizes 512KiB, 8MiB or 20GB.
`)
	def := Default()
	for _, sec := range sections() {
		indent := ""
		if sec.key != "" {
			fmt.Fprintf(b, "\n# %s\n%s:\n", upperFirst(sec.usage), sec.key)
			indent = "  "
		}
		for _, s := range sec.settings {
			if sec.key == "" {
				b.WriteByte('\n')
			}
			if s.noFile {
				fmt.Fprintf(b, "# %s is set by %s only: %s.\n", s.key, s.env(), s.usage)
				continue
			}
			fmt.Fprintf(b, "%s# %s\n%s#%s: %s\n", indent, upperFirst(s.usage), indent, s.leaf(), yamlValue(s.value(def)))
		}
	}
	return flush(w, b)
}

func flush(w io.Writer, b *bytes.Buffer) error {
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("config: writing: %w", err)
	}
	return nil
}

// leaf is the setting's key within its section.
func (s *setting) leaf() string {
	if _, leaf, ok := strings.Cut(s.key, "."); ok {
		return leaf
	}
	return s.key
}

// yamlValue returns v as it stands after "key: ".
func yamlValue(v reflect.Value) string {
	if v.Kind() != reflect.Slice {
		return yamlScalar(v)
	}
	parts := make([]string, v.Len())
	for i := range parts {
		parts[i] = yamlScalar(v.Index(i))
		// Inside brackets a plain colon may end the element.
		if strings.Contains(parts[i], ":") {
			parts[i] = strconv.Quote(format(v.Index(i)))
		}
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

func yamlScalar(v reflect.Value) string {
	text := format(v)
	if v.Kind() == reflect.Bool || v.CanInt() {
		return text // numbers, sizes and durations need no quotes
	}
	// The parser's own encoder knows best what needs quotes.
	out, err := yaml.Parser().Marshal(map[string]any{"k": text})
	if err != nil {
		return fmt.Sprintf("%q", text)
	}
	return strings.TrimSpace(strings.TrimPrefix(string(out), "k:"))
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
