package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func newDeadLetter(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use: "deadletter", Aliases: []string{"deadletters"}, Short: "Deliveries that the platform gave up on",
	}, newDeadLetterList(a), newDeadLetterRetry(a), newDeadLetterDelete(a))
}

func newDeadLetterList(a *app) *cobra.Command {
	req := new(posthornv1.ListDeadLettersRequest)
	var from, to string
	var limit int
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List dead letters, newest first",
		Example: "  posthorn deadletter list --subscription orders-erp --status 5xx",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if req.From, req.To, err = between(cmd, from, to); err != nil {
				return err
			}
			req.Limit = pageOf(limit)
			c, err := a.client()
			if err != nil {
				return err
			}
			return showList(a, c.ListDeadLetters(cmd.Context(), req), limit, protoDoc[*posthornv1.DeadLetter],
				[]string{"ID", "EVENT", "TYPE", "SUBSCRIPTION", "ROUND", "TRIES", "REASON", "STATUS", "AGE"},
				func(d *posthornv1.DeadLetter) []string {
					return []string{
						d.GetId(), d.GetEventId(), d.GetEventType(), d.GetSubscription(), strconv.Itoa(int(d.GetRound())),
						strconv.Itoa(int(d.GetAttempts())), d.GetReason(), number(d.GetStatus()), age(d.GetAt(), time.Now()),
					}
				})
		},
	}
	f := cmd.Flags()
	f.StringVar(&req.Subscription, "subscription", "", "only of this subscription")
	f.StringVar(&req.Status, "status", "", "HTTP status of the last attempt: 503, 5xx, or 0 for no answer")
	f.StringVar(&req.EventId, "event", "", "only of the event with this ID")
	f.StringVar(&req.Context, "context", "", "only of this context")
	addBetween(cmd, &from, &to)
	f.IntVar(&limit, "limit", 50, "at most this many; 0 is all")
	return cmd
}

// A letterFilter is what `retry` and `delete` take beside IDs.
type letterFilter struct {
	req      posthornv1.RetryDeadLettersRequest
	from, to string
}

func (f *letterFilter) flags(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.req.Subscription, "subscription", "", "all of this subscription")
	fs.StringVar(&f.req.Status, "status", "", "all whose last attempt had this HTTP status: 503, 5xx, or 0 for no answer")
	fs.StringVar(&f.req.EventId, "event", "", "all of the event with this ID")
	fs.StringVar(&f.req.Context, "context", "", "all of this context")
	fs.BoolVar(&f.req.All, "all", false, "all there are")
	fs.BoolVar(&f.req.DryRun, "dry-run", false, "only count")
	addBetween(cmd, &f.from, &f.to)
}

// read completes the request. The server refuses one that selects nothing.
func (f *letterFilter) read(cmd *cobra.Command, ids []string) (*posthornv1.RetryDeadLettersRequest, error) {
	var err error
	f.req.Ids = ids
	f.req.From, f.req.To, err = between(cmd, f.from, f.to)
	return &f.req, err
}

func newDeadLetterRetry(a *app) *cobra.Command {
	var f letterFilter
	cmd := &cobra.Command{
		Use:   "retry [<id>…]",
		Short: "Queue deliveries anew, each as a new round",
		Long: "Queue deliveries anew, each as a new round: those with the IDs, or all that match every flag.\n" +
			"An ordered subscription gets its in the order in which the events were accepted.",
		Example: `  posthorn deadletter retry 17 18
  posthorn deadletter retry --subscription orders-erp --status 5xx`,
		RunE: func(cmd *cobra.Command, ids []string) error {
			req, err := f.read(cmd, ids)
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			got, err := c.RetryDeadLetters(cmd.Context(), req)
			if err != nil {
				return err
			}
			if req.GetDryRun() && a.output == formatTable {
				fmt.Fprintf(a.stdout, "%d would be retried\n", got.GetRetried())
				return nil
			}
			return a.showRetried(got)
		},
	}
	f.flags(cmd)
	return cmd
}

func newDeadLetterDelete(a *app) *cobra.Command {
	var f letterFilter
	cmd := &cobra.Command{
		Use:     "delete [<id>…]",
		Short:   "Delete dead letters for good",
		Long:    "Delete dead letters for good: those with the IDs, or all that match every flag. Their events stay.",
		Example: `  posthorn deadletter delete --subscription orders-erp --to 2026-01-31`,
		RunE: func(cmd *cobra.Command, ids []string) error {
			req, err := f.read(cmd, ids)
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			n, err := c.DeleteDeadLetters(cmd.Context(), &posthornv1.DeleteDeadLettersRequest{
				Ids: req.GetIds(), Subscription: req.GetSubscription(), From: req.GetFrom(), To: req.GetTo(), Status: req.GetStatus(),
				EventId: req.GetEventId(), Context: req.GetContext(), All: req.GetAll(), DryRun: req.GetDryRun(),
			})
			if err != nil {
				return err
			}
			if a.output == formatTable {
				fmt.Fprintf(a.stdout, "%d %s\n", n, map[bool]string{true: "would be deleted", false: "deleted"}[req.GetDryRun()])
				return nil
			}
			doc, err := marshal(map[string]int{"deleted": n})
			if err != nil {
				return err
			}
			return a.showUnlessTable(doc)
		},
	}
	f.flags(cmd)
	return cmd
}

// showRetried writes what was queued to stdout and what was not to stderr.
func (a *app) showRetried(got *posthornv1.RetryDeadLettersResponse) error {
	doc, err := protoJSON(got)
	if err != nil {
		return err
	}
	if err := a.showUnlessTable(doc); err != nil {
		return err
	}
	refused := 0
	for _, r := range got.GetResults() {
		if e := r.GetError(); e != nil {
			refused++
			fmt.Fprintf(a.stderr, "posthorn: deadletter %s: %s\n", oneLine(r.GetId()), oneLine(e.GetMessage()))
		} else if a.output == formatTable {
			fmt.Fprintf(a.stdout, "deadletter %s: event %s queued for %s, round %d\n",
				oneLine(r.GetId()), oneLine(r.GetEventId()), oneLine(r.GetSubscription()), r.GetRound())
		}
	}
	if refused > 0 {
		return errReported
	}
	return nil
}
