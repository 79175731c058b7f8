package main

import (
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/posthornhq/posthorn/pkg/client"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func newPolicy(a *app) *cobra.Command {
	return newResource(a, noun[*posthornv1.Policy]{
		name: "policy", plural: "policies",
		short: "What publishers must pass, and how deliveries are tried",
		example: `  posthorn policy apply -f - <<EOF
  name: patient
  delivery:
    maxRetries: 10
    timeout: 20s
    retryOn: ["408", "429", "5xx"]
    backoff: {strategy: EXPONENTIAL, initial: 2s, max: 600s}
  EOF`,
		collection: func(c *client.Client) *client.Collection[*posthornv1.Policy] { return c.Policies },
		empty:      func() *posthornv1.Policy { return new(posthornv1.Policy) },
		header:     []string{"NAME", "CHECKS", "RETRIES", "TIMEOUT", "RETRY ON", "AGE"},
		row: func(p *posthornv1.Policy) []string {
			d := p.GetDelivery()
			retries, timeout := "", ""
			if d != nil && d.MaxRetries != nil {
				retries = strconv.Itoa(int(d.GetMaxRetries()))
			}
			if d.GetTimeout() != nil {
				timeout = d.GetTimeout().AsDuration().String()
			}
			return []string{
				p.GetName(), strconv.Itoa(len(p.GetSecurity().GetFlow())), retries, timeout,
				strings.Join(d.GetRetryOn(), ","), age(p.GetMeta().GetCreatedAt(), time.Now()),
			}
		},
	})
}
