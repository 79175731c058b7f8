package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func newEvent(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use: "event", Aliases: []string{"events"}, Short: "What was accepted, and what became of it",
	}, newEventList(a), newEventGet(a), newEventTrace(a))
}

func newEventList(a *app) *cobra.Command {
	req := new(posthornv1.ListEventsRequest)
	var from, to string
	var limit int
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List events, newest first",
		Example: "  posthorn event list --type 'order.*' --from 1h --status failed",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if req.From, req.To, err = between(cmd, from, to); err != nil {
				return err
			}
			req.Limit = pageOf(limit)
			req.Direction = strings.ToUpper(req.Direction)
			c, err := a.client()
			if err != nil {
				return err
			}
			return showList(a, c.ListEvents(cmd.Context(), req), limit, protoDoc[*posthornv1.EventSummary],
				[]string{"ID", "TYPE", "SOURCE", "TENANT", "STATUS", "RECEIVED"},
				func(e *posthornv1.EventSummary) []string {
					return []string{e.GetId(), e.GetType(), e.GetSource(), e.GetTenant(), e.GetStatus(), clock(e.GetReceivedAt())}
				})
		},
	}
	f := cmd.Flags()
	f.StringVar(&req.Type, "type", "", "a type, or a pattern of types")
	f.StringVar(&req.Source, "source", "", "only of this source")
	f.StringVar(&req.Status, "status", "", "accepted, unmatched, pending, delivered, retrying or failed")
	f.StringVar(&req.Context, "context", "", "only of this context")
	f.StringVar(&req.Tenant, "tenant", "", "only for this tenant")
	f.StringVar(&req.Direction, "direction", "", "incoming or outgoing")
	f.StringVar(&req.Subscription, "subscription", "", "only with a delivery to this subscription, whose status then counts alone")
	f.StringVar(&req.EventId, "id", "", "only the event with this ID")
	f.StringVar(&req.Answer, "answer", "", "HTTP status of the last attempt: 404, 2xx, 4xx, 5xx, or 0 for no answer")
	addBetween(cmd, &from, &to)
	f.IntVar(&limit, "limit", 50, "at most this many; 0 is all")
	return cmd
}

// protoDoc is protoJSON for lists of one type.
func protoDoc[T proto.Message](m T) (json.RawMessage, error) { return protoJSON(m) }

// pageOf returns the page size for a list that shows at most limit items.
func pageOf(limit int) int32 {
	if limit <= 0 || limit > 200 {
		return 200
	}
	return int32(limit)
}

func addBetween(cmd *cobra.Command, from, to *string) {
	cmd.Flags().StringVar(from, "from", "", "since then: RFC 3339, a date, or how long ago (90m, 24h)")
	cmd.Flags().StringVar(to, "to", "", "until then, likewise")
}

func between(cmd *cobra.Command, from, to string) (since, until *timestamppb.Timestamp, err error) {
	now := time.Now()
	if since, err = moment(from, now); err != nil {
		return nil, nil, usageError{cmd, fmt.Errorf("--from: %w", err)}
	}
	if until, err = moment(to, now); err != nil {
		return nil, nil, usageError{cmd, fmt.Errorf("--to: %w", err)}
	}
	return since, until, nil
}

// moment reads a time, a day in local time, or how long before now; nothing is nil.
func moment(s string, now time.Time) (*timestamppb.Timestamp, error) {
	if s == "" {
		return nil, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return timestamppb.New(now.Add(-d.Abs())), nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return timestamppb.New(t), nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, s, now.Location()); err == nil {
		return timestamppb.New(t), nil
	}
	return nil, fmt.Errorf("%q is neither a time (2026-01-31T09:00:00Z), nor a day (2026-01-31), nor how long ago (90m)", s)
}

func newEventGet(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "get <id>",
		Short: "Show an event and its data",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			ev, err := c.GetEvent(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("event %s: %w", args[0], err)
			}
			if a.output == formatTable {
				return a.showEvent(ev)
			}
			doc, err := eventJSON(ev)
			if err != nil {
				return err
			}
			return a.showUnlessTable(doc)
		},
	}
}

// eventJSON is an event as the API has it, with data that is JSON as it is.
func eventJSON(ev *posthornv1.Event) (json.RawMessage, error) {
	head := proto.CloneOf(ev)
	head.Data = nil
	raw, err := protoJSON(head)
	switch {
	case err != nil || ev.GetData() == nil:
		return raw, err
	case json.Valid(ev.GetData()):
		return withMember(raw, "data", ev.GetData()), nil
	}
	return withMember(raw, "dataBase64", []byte(`"`+base64.StdEncoding.EncodeToString(ev.GetData())+`"`)), nil
}

func (a *app) showEvent(ev *posthornv1.Event) error {
	err := a.showTable(func(t *table) {
		for _, f := range []struct{ name, value string }{
			{"id", ev.GetId()},
			{"type", ev.GetType()},
			{"source", ev.GetSource()},
			{"context", ev.GetContext()},
			{"tenant", ev.GetTenant()},
			{"direction", strings.ToLower(ev.GetDirection().String())},
			{"subject", ev.GetSubject()},
			{"time", clock(ev.GetTime())},
			{"received", clock(ev.GetReceivedAt())},
			{"external id", ev.GetExternalId()},
			{"external source", ev.GetExternalSource()},
			{"schema version", number(ev.GetSchemaVersion())},
			{"content type", ev.GetDataContentType()},
			{"data schema", ev.GetDataSchema()},
			{"traceparent", ev.GetTraceparent()},
			{"correlation", strings.Join(ev.GetCorrelationIds(), " ")},
		} {
			if f.value != "" {
				t.row(f.name, f.value)
			}
		}
		for _, name := range sortedKeys(ev.GetExtensions()) {
			t.row("extension "+name, ev.GetExtensions()[name])
		}
	})
	switch {
	case err != nil || len(ev.GetData()) == 0:
		return err
	case json.Valid(ev.GetData()):
		return a.showJSON(ev.GetData())
	}
	_, err = fmt.Fprintf(a.stdout, "%d bytes of data; -o json shows them in base64\n", len(ev.GetData()))
	return err
}

// number shows a number that is nothing when it is 0.
func number(n int32) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(int(n))
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

func newEventTrace(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "trace <id>",
		Short: "Show all that happened to an event, in time order",
		Args:  args(cobra.ExactArgs(1)),
		RunE:  func(cmd *cobra.Command, args []string) error { return a.trace(cmd.Context(), args[0]) },
	}
}

func (a *app) trace(ctx context.Context, id string) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	tr, err := c.TraceEvent(ctx, id)
	if err != nil {
		return fmt.Errorf("event %s: %w", id, err)
	}
	if a.output != formatTable {
		doc, err := protoJSON(tr)
		if err != nil {
			return err
		}
		return a.showUnlessTable(doc)
	}
	err = a.showTable(func(t *table) {
		t.row("event", tr.GetId())
		t.row("type", tr.GetType())
		t.row("source", tr.GetSource())
		t.row("status", tr.GetStatus())
		if entries := tr.GetEntries(); len(entries) > 0 {
			t.row("began", clock(entries[0].GetAt()))
		}
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(a.stdout)
	return a.showTable(func(t *table) {
		t.row("AFTER", "STEP", "SUBSCRIPTION", "OUTCOME", "TOOK", "DETAIL")
		for _, e := range tr.GetEntries() {
			t.row(traceRow(tr.GetEntries()[0].GetAt(), e)...)
		}
	})
}

func traceRow(began *timestamppb.Timestamp, e *posthornv1.TraceEntry) []string {
	step, took, detail := e.GetStep(), e.GetTook(), e.GetDetail()
	outcome := e.GetOutcome()
	if at := e.GetAttempt(); at != nil {
		step += " " + strconv.Itoa(int(at.GetNumber()))
		outcome = firstOf(outcome, at.GetOutcome())
		if took == nil {
			took = at.GetLatency()
		}
		detail = attemptDetail(at, detail)
	}
	if e.GetRound() > 1 {
		step += fmt.Sprintf(" (round %d)", e.GetRound())
	}
	lasted := ""
	if took != nil {
		lasted = short(took.AsDuration())
	}
	after := "+" + short(e.GetAt().AsTime().Sub(began.AsTime()))
	return []string{after, step, e.GetSubscription(), outcome, lasted, detail}
}

// attemptDetail says what came back, and when it is tried again.
func attemptDetail(at *posthornv1.Attempt, detail string) string {
	var parts []string
	if at.GetStatus() != 0 {
		parts = append(parts, "HTTP "+strconv.Itoa(int(at.GetStatus())))
	}
	if at.GetErrorClass() != "" {
		parts = append(parts, at.GetErrorClass())
	}
	if text := firstOf(at.GetError(), detail); text != "" {
		parts = append(parts, text)
	}
	if at.GetNextAt() != nil {
		parts = append(parts, "again at "+at.GetNextAt().AsTime().Local().Format(time.TimeOnly))
	}
	return strings.Join(parts, ", ")
}
