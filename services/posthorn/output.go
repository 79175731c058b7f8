package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"golang.org/x/term"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// A format is how results are shown. It is a flag's value.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
	formatYAML  format = "yaml"
)

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "format" }

func (f *format) Set(s string) error {
	switch v := format(s); v {
	case formatTable, formatJSON, formatYAML:
		*f = v
		return nil
	}
	return fmt.Errorf("%q is none of table, json and yaml", s)
}

// show writes a JSON document in the chosen format, or calls table.
func (a *app) show(doc json.RawMessage, table func(*table)) error {
	if a.output == formatTable {
		return a.showTable(table)
	}
	return a.showUnlessTable(doc)
}

// showUnlessTable is show for what is a sentence rather than a table.
func (a *app) showUnlessTable(doc json.RawMessage) error {
	switch a.output {
	case formatJSON:
		return a.showJSON(doc)
	case formatYAML:
		return a.showYAML(doc)
	}
	return nil
}

// showList writes at most limit items, 0 for all, fetching only as many.
func showList[T any](a *app, items iter.Seq2[T, error], limit int, doc func(T) (json.RawMessage, error), header []string, row func(T) []string) error {
	var got []T
	for item, err := range items {
		if err != nil {
			return err
		}
		got = append(got, item)
		if len(got) == limit {
			break
		}
	}
	if a.output == formatTable {
		return a.showTable(func(t *table) {
			t.row(header...)
			for _, item := range got {
				t.row(row(item)...)
			}
		})
	}
	docs := make([]json.RawMessage, len(got))
	for i, item := range got {
		var err error
		if docs[i], err = doc(item); err != nil {
			return err
		}
	}
	list, err := itemsJSON(docs)
	if err != nil {
		return err
	}
	return a.showUnlessTable(list)
}

func (a *app) showJSON(doc json.RawMessage) error {
	// Indent keeps numbers and the order of keys as they are.
	var out bytes.Buffer
	if err := json.Indent(&out, doc, "", "  "); err != nil {
		return fmt.Errorf("showing JSON: %w", err)
	}
	out.WriteByte('\n')
	_, err := a.stdout.Write(out.Bytes())
	return err
}

// showYAML writes documents, separated where there are several.
func (a *app) showYAML(docs ...json.RawMessage) error {
	for i, doc := range docs {
		out, err := jsonToYAML(doc)
		if err != nil {
			return fmt.Errorf("showing YAML: %w", err)
		}
		if i > 0 {
			out = append([]byte("---\n"), out...)
		}
		if _, err := a.stdout.Write(out); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) showTable(fill func(*table)) error {
	t := &table{w: tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)}
	fill(t)
	return t.w.Flush()
}

// A table aligns its columns.
type table struct{ w *tabwriter.Writer }

func (t *table) row(cells ...string) {
	for i, c := range cells {
		if i > 0 {
			io.WriteString(t.w, "\t")
		}
		// A cell without text would end the column for tabwriter and for the eye.
		io.WriteString(t.w, firstOf(oneLine(c), "-"))
	}
	io.WriteString(t.w, "\n")
}

// oneLine makes text of unknown origin harmless to tables and terminals.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, strings.TrimSpace(s))
}

// protoJSON is m in JSON. protojson's own blanks differ between builds, which
// showJSON evens out.
func protoJSON(m proto.Message) (json.RawMessage, error) {
	raw, err := protojson.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("showing %T: %w", m, err)
	}
	var out bytes.Buffer
	if err := json.Compact(&out, raw); err != nil {
		return nil, fmt.Errorf("showing %T: %w", m, err)
	}
	return out.Bytes(), nil
}

// itemsJSON is a list as the API has it.
func itemsJSON(items []json.RawMessage) (json.RawMessage, error) {
	if items == nil {
		items = []json.RawMessage{}
	}
	return marshal(map[string]any{"items": items})
}

func marshal(v any) (json.RawMessage, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("showing JSON: %w", err)
	}
	return out.Bytes(), nil
}

// clock shows a moment in local time; an unset one as nothing.
func clock(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Local().Format(time.RFC3339)
}

// age shows how long ago something was, in one unit.
func age(t *timestamppb.Timestamp, now time.Time) string {
	if t == nil {
		return ""
	}
	d := max(0, now.Sub(t.AsTime()))
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// short shows a duration with about three digits.
func short(d time.Duration) string {
	switch {
	case d >= time.Second:
		d = d.Round(10 * time.Millisecond)
	case d >= time.Millisecond:
		d = d.Round(10 * time.Microsecond)
	default:
		d = d.Round(time.Microsecond)
	}
	return d.String()
}

// isTerminal reports whether a person is looking.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
