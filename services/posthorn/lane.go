package main

import (
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func newLane(a *app) *cobra.Command {
	return group(&cobra.Command{Use: "lane", Aliases: []string{"lanes"}, Short: "Which subscriptions have a lane of their own, and why"}, newLaneList(a))
}

func newLaneList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the subscriptions that have a lane of their own",
		Long: `List the subscriptions that have a lane of their own: because their endpoint fails, is slow or asked to be
left alone, or because they ask for it (ordered, paused, limited, pulled).`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			lanes, err := c.ListLanes(cmd.Context())
			if err != nil {
				return err
			}
			all := func(yield func(*posthornv1.Lane, error) bool) {
				for _, l := range lanes {
					if !yield(l, nil) {
						return
					}
				}
			}
			return showList(a, all, 0, protoDoc[*posthornv1.Lane],
				[]string{"SUBSCRIPTION", "WHY", "QUEUED", "SINCE", "NEXT TRY", "ERROR"},
				func(l *posthornv1.Lane) []string {
					return []string{l.GetSubscription(), laneWhy(l), strconv.FormatInt(l.GetQueued(), 10), age(l.GetSince(), time.Now()), laneNext(l), oneLine(l.GetError())}
				})
		},
	}
}

func laneWhy(l *posthornv1.Lane) string {
	switch {
	case l.GetClosing():
		return "closing"
	case len(l.GetReasons()) == 0:
		return "recovered"
	}
	return strings.Join(l.GetReasons(), ",")
}

// laneNext says when a lane that waits goes on.
func laneNext(l *posthornv1.Lane) string {
	if l.GetUntil() == nil {
		return "-"
	}
	return "in " + max(time.Until(l.GetUntil().AsTime()), 0).Round(time.Second).String()
}
