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
	}, newDeadLetterList(a), newDeadLetterRetry(a))
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

func newDeadLetterRetry(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "retry <id>…",
		Short: "Queue deliveries anew, each as a new round",
		Args:  args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, ids []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			got, err := c.RetryDeadLetters(cmd.Context(), ids...)
			if err != nil {
				return err
			}
			return a.showRetried(got)
		},
	}
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
