package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/posthornhq/posthorn/pkg/client"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func newSource(a *app) *cobra.Command {
	return newResource(a, noun[*posthornv1.Source]{
		name: "source", plural: "sources",
		short: "The named entrances of publishers",
		example: `  posthorn source apply -f - <<EOF
  name: github
  kind: GITHUB
  secrets: ["…"]
  EOF`,
		collection: func(c *client.Client) *client.Collection[*posthornv1.Source] { return c.Sources },
		empty:      func() *posthornv1.Source { return new(posthornv1.Source) },
		header:     []string{"NAME", "KIND", "CONTEXT", "POLICY", "STATE", "AGE"},
		row: func(s *posthornv1.Source) []string {
			state := "on"
			if s.GetDisabled() {
				state = "disabled"
			}
			return []string{
				s.GetName(), s.GetKind().String(), firstOf(s.GetContext(), "default"), s.GetPolicy(), state,
				age(s.GetMeta().GetCreatedAt(), time.Now()),
			}
		},
	})
}
