package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/posthornhq/posthorn/pkg/client"
	"github.com/posthornhq/posthorn/pkg/event"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func newSchema(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use: "schema", Aliases: []string{"schemas"}, Short: "What the data of an event type must look like",
	}, newSchemaList(a), newSchemaGet(a), newSchemaApply(a), newSchemaValidate(a))
}

func newSchemaList(a *app) *cobra.Command {
	var prefix string
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the newest schema of each type",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return showList(a, c.ListSchemas(cmd.Context(), prefix), limit, schemaJSON,
				[]string{"TYPE", "VERSION", "KIND", "CREATED BY", "AGE"},
				func(s *posthornv1.Schema) []string {
					return []string{
						s.GetType(), strconv.Itoa(int(s.GetVersion())), s.GetKind().String(), s.GetCreatedBy(),
						age(s.GetCreatedAt(), time.Now()),
					}
				})
		},
	}
	cmd.Flags().StringVar(&prefix, "prefix", "", "only types that begin with this")
	cmd.Flags().IntVar(&limit, "limit", 0, "at most this many; 0 is all")
	return cmd
}

func newSchemaGet(a *app) *cobra.Command {
	var version int
	cmd := &cobra.Command{
		Use:   "get <type>",
		Short: "Show a type's schema",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			got, err := c.GetSchema(cmd.Context(), args[0], version)
			if err != nil {
				return fmt.Errorf("schema %s: %w", args[0], err)
			}
			s := got.GetSchema()
			doc, err := schemaJSON(s)
			if err != nil {
				return err
			}
			err = a.show(doc, func(t *table) {
				t.row("type", s.GetType())
				t.row("version", fmt.Sprintf("%d of %v", s.GetVersion(), got.GetVersions()))
				t.row("created", clock(s.GetCreatedAt()))
				t.row("by", s.GetCreatedBy())
			})
			if err != nil || a.output != formatTable {
				return err
			}
			if s.GetKind() == posthornv1.Schema_PROTOBUF {
				_, err := io.WriteString(a.stdout, s.GetDefinition())
				return err
			}
			return a.showJSON(json.RawMessage(s.GetDefinition()))
		},
	}
	cmd.Flags().IntVar(&version, "version", 0, "version to show; 0 is the newest")
	return cmd
}

// schemaJSON is a schema with its definition as JSON instead of as text.
func schemaJSON(s *posthornv1.Schema) (json.RawMessage, error) {
	def := json.RawMessage(s.GetDefinition())
	if !json.Valid(def) {
		return protoJSON(s)
	}
	head := &posthornv1.Schema{
		Type: s.GetType(), Version: s.GetVersion(), Kind: s.GetKind(), CreatedAt: s.GetCreatedAt(), CreatedBy: s.GetCreatedBy(),
	}
	raw, err := protoJSON(head)
	if err != nil {
		return nil, err
	}
	return withMember(raw, "definition", def), nil
}

// withMember adds a member to the end of a JSON object, as the text it is.
func withMember(object json.RawMessage, name string, value []byte) json.RawMessage {
	out := bytes.Clone(bytes.TrimSuffix(bytes.TrimSpace(object), []byte("}")))
	if len(out) > 1 {
		out = append(out, ',')
	}
	out = append(append(out, '"'), name...)
	return append(append(append(out, `":`...), value...), '}')
}

func newSchemaApply(a *app) *cobra.Command {
	var file, message string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "apply <type> -f <file>",
		Short: "Store a JSON Schema, or a message of a .proto file, as the type's next version",
		Long: "Store a JSON Schema, in JSON or YAML, or a message of a file that ends with .proto, as the type's next\n" +
			"version, if it is compatible with the newest. What `schema get -o json` or -o yaml shows is taken too.",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usageError{cmd, errors.New("-f says which file; - is standard input")}
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			got, err := a.storeSchema(cmd.Context(), c, args[0], file, message, dryRun)
			if _, ours := errors.AsType[usageError](err); ours {
				return err
			}
			if err != nil {
				return fmt.Errorf("schema %s: %w", args[0], err)
			}
			return a.showStored(args[0], got, dryRun)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say whether it would be stored")
	cmd.Flags().StringVarP(&file, "file", "f", "", "file to read, - for standard input")
	cmd.Flags().StringVar(&message, "message", "", "full name of the message in a .proto file that has several; makes of standard input such a file")
	return cmd
}

func (a *app) storeSchema(ctx context.Context, c *client.Client, eventType, file, message string, dryRun bool) (*posthornv1.StoreSchemaResponse, error) {
	if strings.HasSuffix(file, ".proto") || message != "" {
		text, _, err := a.readFile(file)
		if err != nil {
			return nil, err
		}
		return c.PutProtoSchema(ctx, eventType, string(text), message, dryRun)
	}
	schema, err := a.readSchema(file)
	if err != nil {
		return nil, err
	}
	if dryRun {
		return c.CheckSchema(ctx, eventType, schema)
	}
	return c.PutSchema(ctx, eventType, schema)
}

// readSchema reads one JSON Schema, alone or as `schema get` shows it.
func (a *app) readSchema(file string) (json.RawMessage, error) {
	text, name, err := a.readFile(file)
	if err != nil {
		return nil, err
	}
	schema, err := toJSON(text, 0)
	if err != nil {
		return nil, usageError{err: fmt.Errorf("%s: %w", name, err)}
	}
	if schema == nil {
		return nil, usageError{err: fmt.Errorf("%s: there is no document in it", name)}
	}
	// No keyword of JSON Schema is called definition or version.
	var shown struct {
		Version    int             `json:"version"`
		Definition json.RawMessage `json:"definition"`
	}
	if json.Unmarshal(schema, &shown) == nil && shown.Version > 0 && shown.Definition != nil {
		return shown.Definition, nil
	}
	return schema, nil
}

func (a *app) showStored(eventType string, got *posthornv1.StoreSchemaResponse, dryRun bool) error {
	change := client.Unchanged
	if got.GetCreated() {
		change = client.Created
	}
	doc, err := marshal(map[string]any{
		"type": eventType, "version": got.GetSchema().GetVersion(), "change": change, "changes": append([]string{}, got.GetChanges()...),
	})
	if err != nil {
		return err
	}
	if a.output != formatTable {
		return a.showUnlessTable(doc)
	}
	note := ""
	if dryRun {
		note = ", dry run: nothing is stored"
	}
	fmt.Fprintf(a.stdout, "schema %s %s (version %d%s)\n", eventType, change, got.GetSchema().GetVersion(), note)
	for _, c := range got.GetChanges() {
		fmt.Fprintf(a.stdout, "  %s\n", oneLine(c))
	}
	return nil
}

func newSchemaValidate(a *app) *cobra.Command {
	var data, file string
	var version int
	cmd := &cobra.Command{
		Use:   "validate <type>",
		Short: "Check data against a type's schema",
		Long: "Check data against a type's schema: that of --data, of a file, or of standard input.\n" +
			"The exit code is 1 if it is not valid.",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := a.dataOf(cmd, data, file)
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			got, err := c.ValidateData(cmd.Context(), args[0], version, raw)
			if err != nil {
				return fmt.Errorf("schema %s: %w", args[0], err)
			}
			return a.showVerdict(args[0], got)
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "the data, JSON")
	cmd.Flags().StringVarP(&file, "file", "f", "", "file with the data, - for standard input")
	cmd.Flags().IntVar(&version, "version", 0, "version to check against; 0 is the newest")
	return cmd
}

func (a *app) showVerdict(eventType string, got *posthornv1.ValidateEventForSchemaResponse) error {
	doc, err := protoJSON(got)
	if err != nil {
		return err
	}
	if err := a.showUnlessTable(doc); err != nil {
		return err
	}
	if a.output == formatTable {
		switch {
		case got.GetVersion() == 0 && got.GetValid():
			fmt.Fprintf(a.stdout, "valid: %s has no schema\n", eventType)
		case got.GetValid():
			fmt.Fprintf(a.stdout, "valid by version %d\n", got.GetVersion())
		default:
			fmt.Fprintf(a.stdout, "not valid by version %d\n", got.GetVersion())
			for _, v := range got.GetViolations() {
				at := event.Violation{Field: v.GetField(), Description: v.GetDescription()}
				fmt.Fprintf(a.stdout, "  %s\n", oneLine(at.String()))
			}
		}
	}
	if !got.GetValid() {
		return errReported
	}
	return nil
}

// dataOf returns an event's data from a flag, from a file, or from standard
// input if it is not a terminal.
func (a *app) dataOf(cmd *cobra.Command, data, file string) ([]byte, error) {
	switch {
	case cmd.Flags().Changed("data") && file != "":
		return nil, usageError{cmd, errors.New("--data and -f are two places for the data; give one")}
	case cmd.Flags().Changed("data"):
		return []byte(data), nil
	case file == "" && isTerminal(a.stdin):
		return nil, usageError{cmd, errors.New("there is no data: give --data, or -f with a file, or pipe it in")}
	}
	text, _, err := a.readFile(firstOf(file, "-"))
	return text, err
}
