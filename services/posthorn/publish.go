package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/posthornhq/posthorn/pkg/client"
)

// publishFlags are those of `publish`.
type publishFlags struct {
	event      client.Event // what the flags say of it
	data, file string
	at         string
	extensions []string

	lines, envelopes bool
	parallel, batch  int
}

func newPublish(a *app) *cobra.Command {
	f := new(publishFlags)
	cmd := &cobra.Command{
		Use:   "publish",
		Short: "Publish an event, or many from a file",
		Long: `Publish an event whose data comes from --data, from a file or from standard input.

With --lines each line of the file or of standard input is the data of one event. With
--envelopes each line is a whole publish request:
  {"type":"order.created","tenant":"acme","data":{…},"idempotencyKey":"o-17"}
and the flags say what a request leaves out. A line that is refused is told on stderr with its
number, the others go on, and the exit code is 1. With --idempotency-key, line n is published
with <key>:n, so that the same file can be published again after a failure without doubling events.

Here --data is the event's data; POSTHORN_DATA says where the data directory is.`,
		Example: `  posthorn publish --type order.created --tenant acme --data '{"id":17}'
  jq -c '.orders[]' orders.json | posthorn publish --type order.created --lines`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(cmd); err != nil {
				return err
			}
			if f.lines {
				return a.publishLines(cmd, f)
			}
			return a.publishOne(cmd, f)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.event.Type, "type", "", "what happened, for instance order.created")
	fl.StringVar(&f.data, "data", "", "the event's data")
	fl.StringVarP(&f.file, "file", "f", "", "file with the data, - for standard input")
	fl.StringVar(&f.event.Tenant, "tenant", "", "the external party that the event is meant for")
	fl.StringVar(&f.event.Source, "source", "", "the producer's name for itself")
	fl.StringVar(&f.event.Context, "context", "", "the environment (default \"default\")")
	fl.StringVar(&f.event.Subject, "subject", "", "CloudEvents subject")
	fl.StringVar(&f.at, "time", "", "when it happened, RFC 3339")
	fl.StringVar(&f.event.DataContentType, "content-type", "", "media type of the data (default \"application/json\")")
	fl.StringVar(&f.event.DataSchema, "data-schema", "", "CloudEvents dataschema, a URI")
	fl.StringVar(&f.event.IdempotencyKey, "idempotency-key", "", "a repeat of this key is answered with the first event's ID")
	fl.StringArrayVar(&f.extensions, "extension", nil, "CloudEvents extension attribute, name=value; may be repeated")
	fl.BoolVar(&f.lines, "lines", false, "each line is the data of one event")
	fl.BoolVar(&f.envelopes, "envelopes", false, "each line is a whole publish request")
	fl.IntVar(&f.parallel, "parallel", 4, "requests in flight at once, for lines")
	fl.IntVar(&f.batch, "batch", 100, "events in one request, for lines")
	return cmd
}

func (f *publishFlags) check(cmd *cobra.Command) error {
	f.lines = f.lines || f.envelopes
	switch {
	case f.event.Type == "" && !f.envelopes:
		return usageError{cmd, errors.New("--type says what happened, for instance order.created")}
	case f.lines && cmd.Flags().Changed("data"):
		return usageError{cmd, errors.New("--data is one event, --lines are many; give one")}
	case f.parallel < 1 || f.parallel > 256:
		return usageError{cmd, errors.New("--parallel is 1 to 256")}
	case f.batch < 1 || f.batch > 1000:
		return usageError{cmd, errors.New("--batch is 1 to 1000")}
	}
	if f.at != "" {
		t, err := time.Parse(time.RFC3339, f.at)
		if err != nil {
			return usageError{cmd, fmt.Errorf("--time: %q is not like 2026-01-31T09:00:00Z", f.at)}
		}
		f.event.Time = t
	}
	for _, x := range f.extensions {
		name, value, ok := strings.Cut(x, "=")
		if !ok || name == "" {
			return usageError{cmd, fmt.Errorf("--extension: %q is not name=value", x)}
		}
		if f.event.Extensions == nil {
			f.event.Extensions = make(map[string]string)
		}
		f.event.Extensions[name] = value
	}
	return nil
}

func (a *app) publishOne(cmd *cobra.Command, f *publishFlags) error {
	data, err := a.dataOf(cmd, f.data, f.file)
	if err != nil {
		return err
	}
	ev := f.event
	ev.Data = data
	if ev.DataContentType == "" && !json.Valid(data) {
		return usageError{cmd, errors.New("the data is not JSON; --content-type says what else it is")}
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	receipt, err := c.Publish(cmd.Context(), ev)
	if err != nil {
		return err
	}
	doc, err := marshal(receipt)
	if err != nil {
		return err
	}
	if a.output != formatTable {
		return a.showUnlessTable(doc)
	}
	// The ID alone on stdout, so that it can be used in $(…).
	fmt.Fprintln(a.stdout, oneLine(receipt.ID))
	if receipt.Duplicate {
		fmt.Fprintln(a.stderr, "a duplicate: the ID is the first event's")
	}
	return nil
}

func (a *app) publishLines(cmd *cobra.Command, f *publishFlags) error {
	if f.file == "" && isTerminal(a.stdin) {
		return usageError{cmd, errors.New("there are no lines: give -f with a file, or pipe them in")}
	}
	// A person waits for one answer; a long file is worth some more patience.
	a.retries = 6
	c, err := a.client()
	if err != nil {
		return err
	}
	in, name, err := a.open(firstOf(f.file, "-"))
	if err != nil {
		return err
	}
	defer in.Close()

	began := time.Now()
	p := &linePublisher{client: c, flags: f, stderr: a.stderr, bar: a.progress(in)}
	err = p.run(cmd.Context(), in)
	p.bar.finish()
	if showErr := a.showSummary(p, time.Since(began)); showErr != nil {
		return showErr
	}
	switch {
	case err != nil && p.firstUnanswered > 0:
		return fmt.Errorf("%s: stopped; line %d is the first that was sent without an answer: %w", name, p.firstUnanswered, err)
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case p.refused > 0:
		return errReported
	}
	return nil
}

func (a *app) showSummary(p *linePublisher, took time.Duration) error {
	doc, err := marshal(map[string]any{
		"published": p.published, "duplicates": p.duplicates, "refused": p.refused, "seconds": took.Seconds(),
	})
	if err != nil {
		return err
	}
	if a.output != formatTable {
		return a.showUnlessTable(doc)
	}
	rate := float64(p.published+p.duplicates) / max(took.Seconds(), 1e-3)
	_, err = fmt.Fprintf(a.stdout, "%d published, %d duplicates, %d refused in %s (%.0f/s)\n",
		p.published, p.duplicates, p.refused, short(took), rate)
	return err
}

// A batchPublisher publishes events together. It is *client.Client.
type batchPublisher interface {
	PublishBatch(ctx context.Context, events []client.Event) ([]client.Result, error)
}
