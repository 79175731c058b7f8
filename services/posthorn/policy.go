package main

import (
	"errors"
	"fmt"
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
	cmd.AddCommand(newPolicyHistory(a, n), newPolicyRevert(a), newPolicySimulate(a, n))
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

func newPolicySimulate(a *app, n noun[*posthornv1.Policy]) *cobra.Command {
	req := &posthornv1.SimulatePolicyRequest{Request: &posthornv1.SimulatedRequest{Method: "POST", Headers: map[string]string{}}}
	var headers []string
	var body, file string
	var last int32
	cmd := &cobra.Command{
		Use:   "simulate <name>",
		Short: "Show what a policy would do to a request",
		Long: "Show what a policy would do to a publisher's request: each interceptor's verdict, and the schedule of\n" +
			"retries. With -f, what that draft of it would do. With --last, what it would do to the last requests of\n" +
			"the source; their credentials are not recorded, so of those the decision of then is shown.\n" +
			"Nothing is stored or delivered.",
		Example: "  posthorn policy simulate partners --source shop --last 5\n" +
			"  posthorn policy simulate partners --source shop --address 203.0.113.7 -H 'X-Key: …' --body @order.json",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: n.complete(a),
		RunE: func(cmd *cobra.Command, names []string) error {
			req.Name = names[0]
			for _, h := range headers {
				name, value, ok := strings.Cut(h, ":")
				if !ok {
					return usageError{cmd, fmt.Errorf("-H %q is not \"Name: value\"", h)}
				}
				req.Request.Headers[strings.TrimSpace(name)] = strings.TrimSpace(value)
			}
			req.Request.Body = []byte(body)
			if from, ok := strings.CutPrefix(body, "@"); ok {
				text, _, err := a.readFile(from)
				if err != nil {
					return err
				}
				req.Request.Body = text
			}
			if file != "" {
				drafts, err := n.read(a, []string{file})
				if err != nil {
					return err
				}
				if len(drafts) != 1 {
					return usageError{cmd, fmt.Errorf("%s has %d policies; one is simulated at a time", file, len(drafts))}
				}
				req.Draft = drafts[0]
			}
			if last != 0 {
				if cmd.Flags().Changed("address") || cmd.Flags().Changed("path") || cmd.Flags().Changed("body") || len(headers) > 0 {
					return usageError{cmd, errors.New("--last takes the recorded requests; -H, --address, --body and --path are of a request that is given")}
				}
				req.LastRequests, req.Request = last, nil
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			got, err := c.SimulatePolicy(cmd.Context(), req)
			if err != nil {
				return err
			}
			return a.showSimulation(got)
		},
	}
	f := cmd.Flags()
	f.StringVar(&req.Source, "source", "", "source whose secrets and context it has")
	f.StringVar(&req.Type, "type", "", "type of the event whose schedule of retries is shown, with the overrides that hold for it")
	f.StringVar(&req.Request.RemoteAddress, "address", "", "address of the client")
	f.StringVar(&req.Request.Path, "path", "", "path and query of the request")
	f.StringArrayVarP(&headers, "header", "H", nil, `header of the request, "Name: value" (repeatable)`)
	f.StringVar(&body, "body", "", "body of the request, or @ and a file")
	f.Int32Var(&last, "last", 0, "simulate so many of the last requests of the source")
	f.StringVarP(&file, "file", "f", "", "draft of the policy, - for standard input")
	return cmd
}

func (a *app) showSimulation(got *posthornv1.SimulatePolicyResponse) error {
	doc, err := protoJSON(got)
	if err != nil {
		return err
	}
	return a.show(doc, func(t *table) {
		for _, r := range got.GetRecorded() {
			t.row(clock(r.GetAt())+" "+r.GetMethod()+" "+r.GetPath(), fmt.Sprintf("was answered %d, would be %s", r.GetAnswered(), r.GetOutcome()))
			verdictRows(t, r.GetVerdicts())
		}
		if len(got.GetRecorded()) == 0 && got.GetStatus() == 0 && !got.GetAllowed() {
			t.row("there are no requests", "")
		} else if len(got.GetRecorded()) == 0 {
			verdict := "allowed"
			if !got.GetAllowed() {
				verdict = fmt.Sprintf("refused with %d", got.GetStatus())
			}
			t.row("the request is", verdict)
			verdictRows(t, got.GetVerdicts())
		}
		for i, d := range got.GetSchedule() {
			t.row(fmt.Sprintf("retry %d after", i+1), d.AsDuration().String())
		}
		for _, w := range got.GetWarnings() {
			t.row("note", w)
		}
	})
}

func verdictRows(t *table, all []*posthornv1.SimulatePolicyResponse_Verdict) {
	for _, v := range all {
		outcome := v.GetOutcome()
		if outcome == "" {
			outcome = "not reached"
		}
		t.row(v.GetKind()+" "+v.GetId(), strings.TrimSpace(outcome+" "+v.GetDetail()))
	}
}
