package main

import (
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/posthornhq/posthorn/pkg/client"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func newSubscription(a *app) *cobra.Command {
	return newResource(a, noun[*posthornv1.Subscription]{
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
	})
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
