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
	n := noun[*posthornv1.Policy]{
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
	}
	cmd := newResource(a, n)
	cmd.AddCommand(newPolicyHistory(a, n), newPolicyRevert(a))
	return cmd
}

func newPolicyHistory(a *app, n noun[*posthornv1.Policy]) *cobra.Command {
	return &cobra.Command{
		Use:               "history <name>",
		Short:             "Show what a policy was, newest first",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: n.complete(a),
		RunE: func(cmd *cobra.Command, names []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			all, err := c.ListPolicyVersions(cmd.Context(), names[0])
			if err != nil {
				return err
			}
			n.header = append([]string{"VERSION", "BY"}, n.header...)
			row := n.row
			n.row = func(p *posthornv1.Policy) []string {
				p.GetMeta().CreatedAt = p.GetMeta().GetUpdatedAt() // the age of the version
				return append([]string{p.GetMeta().GetEtag(), p.GetMeta().GetUpdatedBy()}, row(p)...)
			}
			return n.show(a, all, true)
		},
	}
}

func newPolicyRevert(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "revert <name> <version>",
		Short: "Make an old version of a policy the newest",
		Args:  args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			p, err := c.RevertPolicy(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			doc, err := protoJSON(p)
			if err != nil {
				return err
			}
			if a.output != formatTable {
				return a.showUnlessTable(doc)
			}
			_, err = a.stdout.Write([]byte("policy " + oneLine(p.GetName()) + " is what it was in version " + oneLine(args[1]) + "\n"))
			return err
		},
	}
}
