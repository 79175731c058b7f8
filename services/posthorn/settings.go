package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/posthornhq/posthorn/pkg/client"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func newBackoff(a *app) *cobra.Command {
	return newResource(a, noun[*posthornv1.BackoffOverride]{
		name: "backoff", plural: "backoffs",
		short: "How deliveries of a source's or a type's events are tried again, where the subscription names no policy",
		example: `  posthorn backoff apply -f - <<EOF
  name: payments
  type: payment.#
  maxRetries: 10
  backoff: {strategy: LINEAR, initial: 60s, maxElapsed: 604800s}
  EOF`,
		collection: func(c *client.Client) *client.Collection[*posthornv1.BackoffOverride] { return c.Backoffs },
		empty:      func() *posthornv1.BackoffOverride { return new(posthornv1.BackoffOverride) },
		header:     []string{"NAME", "SOURCE", "TYPE", "RETRIES", "BACKOFF", "AGE"},
		row: func(v *posthornv1.BackoffOverride) []string {
			retries := ""
			if v.MaxRetries != nil {
				retries = strconv.Itoa(int(v.GetMaxRetries()))
			}
			return []string{
				v.GetName(), orAny(v.GetSource()), orAny(v.GetType()), retries, backoffText(v.GetBackoff()),
				age(v.GetMeta().GetCreatedAt(), time.Now()),
			}
		},
	})
}

func orAny(s string) string {
	if s == "" {
		return "(any)"
	}
	return s
}

// backoffText is what an override says of the waits, in one line.
func backoffText(b *posthornv1.Backoff) string {
	var words []string
	if s := b.GetStrategy(); s != posthornv1.Backoff_STRATEGY_UNSPECIFIED {
		words = append(words, strings.ToLower(s.String()))
	}
	if d := b.GetInitial(); d != nil {
		words = append(words, "from "+d.AsDuration().String())
	}
	if d := b.GetMax(); d != nil {
		words = append(words, "to "+d.AsDuration().String())
	}
	if d := b.GetMaxElapsed(); d != nil {
		words = append(words, "within "+d.AsDuration().String())
	}
	return strings.Join(words, " ")
}

func newSettings(a *app) *cobra.Command {
	return group(&cobra.Command{Use: "settings", Short: "Feature flags of the platform as a whole"}, newSettingsGet(a), newSettingsApply(a))
}

func newSettingsGet(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "get",
		Short: "Show the settings",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			s, err := c.GetSettings(cmd.Context())
			if err != nil {
				return err
			}
			return a.showSettings(s)
		},
	}
}

func newSettingsApply(a *app) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:     "apply -f <file>",
		Short:   "Change the settings to what a file says",
		Long:    "Change the settings to what a file says, YAML or JSON. A flag that is left out has its default.",
		Example: "  echo 'flags: {requestRecording: false}' | posthorn settings apply -f -",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usageError{cmd, errors.New("-f says which file; - is standard input")}
			}
			wanted, err := a.readSettings(file)
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			got, err := c.PutSettings(cmd.Context(), wanted)
			if err != nil {
				return err
			}
			return a.showSettings(got)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "file to read, - for standard input")
	return cmd
}

func (a *app) readSettings(file string) (*posthornv1.Settings, error) {
	text, name, err := a.readFile(file)
	if err != nil {
		return nil, err
	}
	docs, err := parseDocuments(name, text)
	if err != nil {
		return nil, usageError{err: err}
	}
	if len(docs) != 1 {
		return nil, usageError{err: fmt.Errorf("%s has %d documents; there is one resource of settings", name, len(docs))}
	}
	wanted := new(posthornv1.Settings)
	if err := protojson.Unmarshal(docs[0].json, wanted); err != nil {
		return nil, usageError{err: fmt.Errorf("%s: %s", docs[0].name, plain(err))}
	}
	return wanted, nil
}

func (a *app) showSettings(s *posthornv1.Settings) error {
	doc, err := protoJSON(s)
	if err != nil {
		return err
	}
	return a.show(doc, func(t *table) {
		t.row("FLAG", "ON", "WHAT IT DOES")
		for _, name := range slices.Sorted(maps.Keys(s.GetFlags())) {
			t.row(name, strconv.FormatBool(s.GetFlags()[name]), s.GetAbout()[name])
		}
	})
}
