package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/posthornhq/posthorn/pkg/client"
	"github.com/posthornhq/posthorn/pkg/policy"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// maxFile bounds what is read of a file or of standard input as a whole, in bytes.
const maxFile = 64 << 20

// A noun is a kind of resource, and how it is shown.
type noun[T client.Resource] struct {
	name, plural string
	short        string
	example      string
	collection   func(*client.Client) *client.Collection[T]
	empty        func() T
	header       []string
	row          func(T) []string
}

func newResource[T client.Resource](a *app, n noun[T]) *cobra.Command {
	return group(&cobra.Command{Use: n.name, Aliases: []string{n.plural}, Short: n.short},
		n.list(a), n.get(a), n.apply(a), n.delete(a))
}

func (n noun[T]) list(a *app) *cobra.Command {
	var opts client.ListOptions
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List " + n.plural,
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			var items []T
			for item, err := range n.collection(c).List(cmd.Context(), opts) {
				if err != nil {
					return err
				}
				items = append(items, item)
				if len(items) == limit {
					break
				}
			}
			return n.show(a, items, true)
		},
	}
	cmd.Flags().StringVar(&opts.Search, "search", "", "only names with this in them")
	cmd.Flags().StringVar(&opts.OrderBy, "order-by", "name asc", "name or created, asc or desc")
	cmd.Flags().IntVar(&limit, "limit", 0, "at most this many; 0 is all")
	return cmd
}

func (n noun[T]) get(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "get <name>…",
		Short: "Show " + n.plural + " by name",
		Long: "Show " + n.plural + " by name. With -o yaml, without what the platform sets itself, so that\n" +
			"`posthorn " + n.name + " apply -f -` takes it back; with -o json, with everything.",
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: n.complete(a),
		RunE: func(cmd *cobra.Command, names []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			var items []T
			for _, name := range names {
				item, err := n.collection(c).Get(cmd.Context(), name)
				if err != nil {
					return fmt.Errorf("%s %s: %w", n.name, name, err)
				}
				items = append(items, item)
			}
			return n.show(a, items, len(names) > 1)
		},
	}
}

// show writes the resources. As YAML they are documents to edit and to apply.
func (n noun[T]) show(a *app, items []T, asList bool) error {
	docs := make([]json.RawMessage, len(items))
	for i, item := range items {
		if a.output == formatYAML {
			item = client.Settable(item)
		}
		var err error
		if docs[i], err = protoJSON(item); err != nil {
			return err
		}
	}
	switch {
	case a.output == formatYAML:
		return a.showYAML(docs...)
	case a.output == formatTable:
		return a.showTable(func(t *table) {
			t.row(n.header...)
			for _, item := range items {
				t.row(n.row(item)...)
			}
		})
	case !asList:
		return a.showJSON(docs[0])
	}
	doc, err := itemsJSON(docs)
	if err != nil {
		return err
	}
	return a.showJSON(doc)
}

func (n noun[T]) apply(a *app) *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use:   "apply -f <file>",
		Short: "Create or change " + n.plural + " as files say",
		Long: "Create or change " + n.plural + " as files say: YAML or JSON, several documents separated by ---.\n" +
			"A field that is left out has its default. Nothing is sent if one of the documents cannot be read.",
		Example: n.example,
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return usageError{cmd, errors.New("-f says which file; - is standard input")}
			}
			wanted, err := n.read(a, files)
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			return n.ensure(cmd.Context(), a, n.collection(c), wanted)
		},
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "file to read, - for standard input; may be repeated")
	return cmd
}

// read reads the resources of all files before any is sent.
func (n noun[T]) read(a *app, files []string) ([]T, error) {
	var wanted []T
	seen := make(map[string]string)
	for _, file := range files {
		text, name, err := a.readFile(file)
		if err != nil {
			return nil, err
		}
		docs, err := parseDocuments(name, text)
		if err != nil {
			return nil, usageError{err: err}
		}
		for _, doc := range docs {
			v := n.empty()
			if _, ok := any(v).(*posthornv1.Policy); ok {
				if err := policy.ValidDocument(doc.json, ""); err != nil {
					return nil, usageError{err: fmt.Errorf("%s: %w", doc.name, err)}
				}
			}
			if err := protojson.Unmarshal(doc.json, v); err != nil {
				return nil, usageError{err: fmt.Errorf("%s: %s", doc.name, plain(err))}
			}
			if v.GetName() == "" {
				return nil, usageError{err: fmt.Errorf("%s: the %s has no name", doc.name, n.name)}
			}
			if other, ok := seen[v.GetName()]; ok {
				return nil, usageError{err: fmt.Errorf("%s: %s %s is in %s too", doc.name, n.name, v.GetName(), other)}
			}
			seen[v.GetName()] = doc.name
			wanted = append(wanted, v)
		}
	}
	return wanted, nil
}

// applied is what apply shows of one resource.
type applied struct {
	Name    string        `json:"name"`
	Change  client.Change `json:"change"`
	Secrets []string      `json:"secrets,omitempty"`
}

// ensure applies the resources. What the platform refuses does not keep it from
// the others; an error that would come with each of them does.
func (n noun[T]) ensure(ctx context.Context, a *app, coll *client.Collection[T], wanted []T) error {
	var done []applied
	var failed error
	for _, v := range wanted {
		got, change, err := coll.Ensure(ctx, v)
		if err != nil {
			err = fmt.Errorf("%s %s: %w", n.name, v.GetName(), err)
			if failed == nil {
				failed = err
			}
			if !client.IsRefusal(err) {
				failed = err
				break
			}
			if len(wanted) > 1 {
				fmt.Fprintln(a.stderr, "posthorn: "+a.explain(err))
			}
			continue
		}
		res := applied{Name: v.GetName(), Change: change}
		if len(secretsOf(v)) == 0 {
			res.Secrets = secretsOf(got)
		}
		done = append(done, res)
		if p, ok := any(got).(interface{ GetWarnings() []string }); ok {
			for _, w := range p.GetWarnings() {
				fmt.Fprintf(a.stderr, "warning: %s %s: %s\n", n.name, v.GetName(), oneLine(w))
			}
		}
	}
	if err := n.showApplied(a, done); err != nil {
		return err
	}
	if failed != nil && len(wanted) > 1 && client.IsRefusal(failed) {
		return reported{failed}
	}
	return failed
}

func secretsOf(v any) []string {
	if s, ok := v.(interface{ GetSecrets() []string }); ok {
		return s.GetSecrets()
	}
	return nil
}

func (n noun[T]) showApplied(a *app, done []applied) error {
	if a.output == formatTable {
		for _, d := range done {
			fmt.Fprintf(a.stdout, "%s %s %s\n", n.name, d.Name, d.Change)
			for _, s := range d.Secrets {
				fmt.Fprintf(a.stdout, "  its secret, shown only now: %s\n", oneLine(s))
			}
		}
		return nil
	}
	if done == nil {
		done = []applied{}
	}
	doc, err := marshal(map[string]any{"items": done})
	if err != nil {
		return err
	}
	return a.showUnlessTable(doc)
}

func (n noun[T]) delete(a *app) *cobra.Command {
	var ignoreMissing bool
	cmd := &cobra.Command{
		Use:               "delete <name>…",
		Short:             "Delete " + n.plural + " by name",
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: n.complete(a),
		RunE: func(cmd *cobra.Command, names []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			var failed []error
			for _, name := range names {
				err := n.collection(c).Delete(cmd.Context(), name)
				switch {
				case err == nil:
					fmt.Fprintf(a.stdout, "%s %s deleted\n", n.name, name)
				case client.IsNotFound(err) && ignoreMissing:
				case client.IsRefusal(err):
					failed = append(failed, fmt.Errorf("%s %s: %w", n.name, name, err))
				default:
					return fmt.Errorf("%s %s: %w", n.name, name, err)
				}
			}
			return errors.Join(failed...)
		},
	}
	cmd.Flags().BoolVar(&ignoreMissing, "ignore-not-found", false, "a name that is not there is no failure")
	return cmd
}

// complete offers the names that the platform has.
func (n noun[T]) complete(a *app) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, begin string) ([]cobra.Completion, cobra.ShellCompDirective) {
		c, err := a.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for item, err := range n.collection(c).List(cmd.Context(), client.ListOptions{Search: begin}) {
			if err != nil || len(names) == 200 {
				break
			}
			if strings.HasPrefix(item.GetName(), begin) {
				names = append(names, item.GetName())
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// readFile reads a file, or standard input if it is "-", and says how to call it.
func (a *app) readFile(file string) (text []byte, name string, err error) {
	in, name, err := a.open(file)
	if err != nil {
		return nil, "", err
	}
	defer in.Close()
	text, err = io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return nil, "", usageError{err: err}
	}
	if len(text) > maxFile {
		return nil, "", usageError{err: fmt.Errorf("%s is over %d MiB", name, maxFile>>20)}
	}
	return text, name, nil
}

func (a *app) open(file string) (io.ReadCloser, string, error) {
	if file == "-" {
		return io.NopCloser(a.stdin), "standard input", nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, "", usageError{err: err}
	}
	return f, file, nil
}

var protoNoise = regexp.MustCompile(`^proto:[\s\p{Z}]*(\(line \d+:\d+\):[\s\p{Z}]*)?`)

// plain takes from protojson's errors what is about its own input, JSON in one
// line that nobody wrote. Their blanks are not always ASCII's.
func plain(err error) string { return protoNoise.ReplaceAllString(err.Error(), "") }
