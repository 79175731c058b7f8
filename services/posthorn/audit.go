package main

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func newAudit(a *app) *cobra.Command {
	req := new(posthornv1.ListChangesRequest)
	var from, to string
	var limit int
	cmd := &cobra.Command{
		Use:     "audit",
		Short:   "Who changed what, newest first",
		Long:    "Who changed what, newest first. With -o json, what it was before and after.",
		Example: "  posthorn audit --kind policies --name default",
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
			return showList(a, c.ListChanges(cmd.Context(), req), limit, protoDoc[*posthornv1.Change],
				[]string{"AGE", "WHO", "ACTION", "KIND", "NAME", "FIELDS"},
				func(c *posthornv1.Change) []string {
					return []string{age(c.GetAt(), time.Now()), c.GetWho(), c.GetAction(), c.GetKind(), c.GetName(), strings.Join(c.GetFields(), " ")}
				})
		},
	}
	f := cmd.Flags()
	f.StringVar(&req.Kind, "kind", "", "only of this kind: sources, subscriptions, policies, authorizations, users, keys")
	f.StringVar(&req.Name, "name", "", "only of the resource with this name")
	f.StringVar(&req.Who, "who", "", "only by this user or key")
	addBetween(cmd, &from, &to)
	f.IntVar(&limit, "limit", 50, "at most this many; 0 is all")
	return cmd
}
