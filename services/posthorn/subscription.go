package main

import (
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/posthornhq/posthorn/pkg/client"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func newSubscription(a *app) *cobra.Command {
	n := noun[*posthornv1.Subscription]{
		name: "subscription", plural: "subscriptions",
		short: "Who gets which events",
		example: `  posthorn subscription apply -f - <<EOF
  name: orders-erp
  types: ["order.*"]
  destination:
    webhook: {url: "https://erp.example/hooks"}
  EOF`,
		collection: func(c *client.Client) *client.Collection[*posthornv1.Subscription] { return c.Subscriptions },
		empty:      func() *posthornv1.Subscription { return new(posthornv1.Subscription) },
		header:     []string{"NAME", "TYPES", "DESTINATION", "POLICY", "PRIORITY", "STATE", "AGE"},
		row: func(s *posthornv1.Subscription) []string {
			return []string{
				s.GetName(), strings.Join(s.GetTypes(), ","), destinationText(s), firstOf(s.GetPolicy(), "default"),
				priority(s.GetPriority()), subscriptionState(s), age(s.GetMeta().GetCreatedAt(), time.Now()),
			}
		},
	}
	cmd := newResource(a, n)
	cmd.AddCommand(newSubscriptionTransform(a), newSubscriptionTest(a, n))
	return cmd
}

func newSubscriptionTransform(a *app) *cobra.Command {
	var program, file string
	cmd := &cobra.Command{
		Use:   "transform",
		Short: "Show what a program makes of data",
		Long: "Show what a program, in the language of jq, makes of data in JSON, as a subscription's transform would.\n" +
			"Nothing is stored or delivered.",
		Example: `  posthorn subscription transform --program '{id, total: (.lines | map(.price) | add)}' -f order.json
  posthorn subscription transform --program @erp.jq < order.json`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if program == "" {
				return usageError{cmd, errors.New("--program is required")}
			}
			text := program
			if from, ok := strings.CutPrefix(program, "@"); ok {
				read, _, err := a.readFile(from)
				if err != nil {
					return err
				}
				text = string(read)
			}
			data, _, err := a.readFile(file)
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			got, err := c.TryTransform(cmd.Context(), &posthornv1.TryTransformRequest{Program: text, Data: string(data)})
			if err != nil {
				return err
			}
			if got.GetError() != "" {
				return errors.New("nothing would be sent: " + oneLine(got.GetError()))
			}
			_, err = a.stdout.Write([]byte(got.GetOutput() + "\n"))
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&program, "program", "", "the program, or @ and a file")
	f.StringVarP(&file, "file", "f", "-", "the data, - for standard input")
	return cmd
}

func priority(p posthornv1.Subscription_Priority) string {
	if p == posthornv1.Subscription_PRIORITY_UNSPECIFIED {
		p = posthornv1.Subscription_NORMAL
	}
	return strings.ToLower(p.String())
}

func subscriptionState(s *posthornv1.Subscription) string {
	switch {
	case s.GetDisabled():
		return "disabled"
	case s.GetPaused():
		return "paused"
	}
	return "on"
}

// destinationText shows where a subscription's deliveries go, without what may be
// secret in it.
func destinationText(s *posthornv1.Subscription) string {
	if n := s.GetDestination().GetNats(); n != nil {
		return n.GetUrl() + " " + n.GetSubject()
	}
	if q := s.GetDestination().GetAmqp(); q != nil {
		return q.GetUrl() + " " + q.GetExchange()
	}
	if s.GetDestination().GetPull() != nil {
		return "pull"
	}
	w := s.GetDestination().GetWebhook()
	if w == nil {
		return ""
	}
	u, err := url.Parse(w.GetUrl())
	if err != nil {
		return "?"
	}
	if u.RawQuery != "" {
		u.RawQuery = "…"
	}
	return u.Redacted()
}
