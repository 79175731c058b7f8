package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func newSubscriptionTest(a *app, n noun[*posthornv1.Subscription]) *cobra.Command {
	req := new(posthornv1.TestSubscriptionRequest)
	var data string
	cmd := &cobra.Command{
		Use:   "test <name>",
		Short: "Send a test event to a subscription's destination",
		Long: "Send a test event to a subscription's destination right now, and show what was sent, without credentials,\n" +
			"and what came back. It is one attempt, outside the queue: nothing is stored, recorded or tried again.\n" +
			"The exit code is 1 if the destination did not take it.",
		Example:           `  posthorn subscription test orders-erp --data '{"id":1}'` + "\n  posthorn subscription test orders-erp --type order.paid --data @order.json -o json",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: n.complete(a),
		RunE: func(cmd *cobra.Command, names []string) error {
			req.Name = names[0]
			if data != "" {
				text := []byte(data)
				if from, ok := strings.CutPrefix(data, "@"); ok {
					var err error
					if text, _, err = a.readFile(from); err != nil {
						return err
					}
				}
				req.Data = new(structpb.Value)
				if err := protojson.Unmarshal(text, req.Data); err != nil {
					return usageError{cmd, fmt.Errorf("--data is not JSON: %s", plain(err))}
				}
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			got, err := c.TestSubscription(cmd.Context(), req)
			if err != nil {
				return fmt.Errorf("%s %s: %w", n.name, req.GetName(), err)
			}
			if err := a.showTest(got); err != nil {
				return err
			}
			if !got.GetOk() {
				return reported{errors.New("the destination did not take the event")}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&data, "data", "", `data of the event as JSON, or @ and a file (default {"test":true})`)
	f.StringVar(&req.Type, "type", "", "type of the event (default the subscription's first that is no pattern, or posthorn.test)")
	return cmd
}

func (a *app) showTest(got *posthornv1.TestSubscriptionResponse) error {
	doc, err := protoJSON(got)
	if err != nil {
		return err
	}
	return a.show(doc, func(t *table) {
		t.row("sent", got.GetSent().GetMethod()+" "+got.GetSent().GetTarget())
		for _, h := range got.GetSent().GetHeaders() {
			t.row("header", h.GetName()+": "+h.GetValue())
		}
		t.row("body", got.GetSent().GetBody())
		outcome := got.GetOutcome()
		if !got.GetOk() {
			outcome += "; a delivery would " + map[bool]string{true: "be tried again by the policy", false: "not be tried again"}[outcome == "retry"]
		}
		t.row("outcome", outcome)
		if got.GetError() != "" {
			t.row("because", strings.TrimSpace(got.GetErrorClass()+" "+got.GetError()))
		}
		if got.GetStatus() != 0 {
			t.row("status", fmt.Sprint(got.GetStatus()))
		}
		if got.GetResponse() != "" {
			t.row("response", got.GetResponse())
		}
		t.row("took", got.GetLatency().AsDuration().String())
	})
}
