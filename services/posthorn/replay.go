package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/posthornhq/posthorn/pkg/client"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func newReplay(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use: "replay", Aliases: []string{"replays"}, Short: "Deliver stored events again, as jobs",
	}, newReplayStart(a), newReplayList(a), newReplayGet(a), newReplayCancel(a))
}

// replayFlags are those of `replay start`.
type replayFlags struct {
	req      posthornv1.StartReplayRequest
	filter   posthornv1.ReplayFilter
	from, to string
	wait     bool
}

func newReplayStart(a *app) *cobra.Command {
	f := new(replayFlags)
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Deliver events again that match every flag",
		Long: `Deliver events again that match every flag and were accepted before now, in the order of acceptance:
to all subscriptions that match them now, or with --subscription to one, which may be newer than the events.

The job goes on by itself, also after a restart. --wait waits for its end; then the exit code is 1 if it
failed or was cancelled.`,
		Example: `  posthorn replay start --type 'order.*' --from 2h --dry-run
  posthorn replay start --subscription orders-erp --rate 100 --wait`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.startReplay(cmd, f) },
	}
	fs := cmd.Flags()
	fs.StringArrayVar(&f.filter.Ids, "id", nil, "the event with this ID; may be repeated")
	fs.StringArrayVar(&f.filter.Types, "type", nil, "a type, or a pattern of types; may be repeated, one must match")
	fs.StringVar(&f.filter.Source, "source", "", "only of this source")
	fs.StringVar(&f.filter.Context, "context", "", "only of this context")
	fs.StringVar(&f.filter.Tenant, "tenant", "", "only for this tenant")
	addBetween(cmd, &f.from, &f.to)
	fs.StringVar(&f.req.Subscription, "subscription", "", "only to this subscription")
	fs.BoolVar(&f.req.Force, "force", false, "to the subscription also what its types and its filter do not let pass")
	fs.Float64Var(&f.req.RatePerSecond, "rate", 0, "deliveries queued a second; 0 is no limit")
	fs.BoolVar(&f.req.All, "all", false, "every event to everybody, if nothing else is said")
	fs.BoolVar(&f.req.DryRun, "dry-run", false, "only count")
	fs.BoolVar(&f.wait, "wait", false, "wait until it is over, and show how far it is")
	return cmd
}

func (a *app) startReplay(cmd *cobra.Command, f *replayFlags) error {
	if f.wait && f.req.GetDryRun() {
		return usageError{cmd, errors.New("--dry-run starts nothing to --wait for; give one")}
	}
	var err error
	if f.filter.From, f.filter.To, err = between(cmd, f.from, f.to); err != nil {
		return err
	}
	f.req.Filter = &f.filter
	c, err := a.client()
	if err != nil {
		return err
	}
	got, err := c.StartReplay(cmd.Context(), &f.req)
	if err != nil {
		return err
	}
	switch {
	case f.req.GetDryRun():
		return a.showPreview(got.GetPreview())
	case f.wait:
		return a.waitForReplay(cmd.Context(), c, got.GetReplay())
	case a.output == formatTable:
		// The ID alone on stdout, so that it can be used in $(…).
		fmt.Fprintln(a.stdout, oneLine(got.GetReplay().GetId()))
		return nil
	}
	return a.showReplay(got.GetReplay())
}

func (a *app) showPreview(p *posthornv1.ReplayPreview) error {
	doc, err := protoJSON(p)
	if err != nil {
		return err
	}
	if a.output != formatTable {
		return a.showUnlessTable(doc)
	}
	least := ""
	if p.GetAtLeast() {
		least = "at least "
	}
	_, err = fmt.Fprintf(a.stdout, "%s%d events would be replayed, as %d deliveries\n", least, p.GetEvents(), p.GetDeliveries())
	for _, id := range p.GetExamples() {
		fmt.Fprintln(a.stdout, "  "+oneLine(id))
	}
	return err
}

// replayPoll is how often a job is looked at that somebody waits for.
const replayPoll = 300 * time.Millisecond

// waitForReplay shows how far a job is until it is over, and then what came of it.
func (a *app) waitForReplay(ctx context.Context, c *client.Client, job *posthornv1.Replay) error {
	id := job.GetId()
	bar := progress{}
	if isTerminal(a.stderr) {
		bar = progress{progressbar.NewOptions64(-1,
			progressbar.OptionSetWriter(a.stderr),
			progressbar.OptionSetDescription("replaying"),
			progressbar.OptionShowCount(),
			progressbar.OptionShowIts(),
			progressbar.OptionSetItsString("events"),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionClearOnFinish(),
		)}
	}
	tick := time.NewTicker(replayPoll)
	defer tick.Stop()
	for !replayOver(job) {
		select {
		case <-ctx.Done():
			bar.clear()
			fmt.Fprintf(a.stderr, "replay %s goes on; `posthorn replay cancel` would end it\n", oneLine(id))
			return ctx.Err()
		case <-tick.C:
		}
		next, err := c.GetReplay(ctx, id)
		if ctx.Err() != nil {
			continue
		}
		if err != nil {
			bar.clear()
			return fmt.Errorf("replay %s was started and goes on, but: %w", id, err)
		}
		if job = next; job.Total != nil {
			bar.most(max(int64(job.GetTotal()), 1))
		}
		bar.set(int64(job.GetSeen()))
	}
	bar.finish()
	if err := a.showReplay(job); err != nil {
		return err
	}
	if job.GetState() != posthornv1.Replay_DONE {
		fmt.Fprintf(a.stderr, "posthorn: replay %s: %s\n", oneLine(id), replayState(job))
		return errReported
	}
	return nil
}

func replayOver(r *posthornv1.Replay) bool {
	return r.GetState() != posthornv1.Replay_PENDING && r.GetState() != posthornv1.Replay_RUNNING
}

// replayState is a job's state, with the reason if there is one.
func replayState(r *posthornv1.Replay) string {
	state := strings.ToLower(r.GetState().String())
	if r.GetError() != "" {
		return state + ": " + oneLine(r.GetError())
	}
	return state
}

func newReplayList(a *app) *cobra.Command {
	req := new(posthornv1.ListReplaysRequest)
	var state string
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List jobs, newest first",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if state != "" {
				n, ok := posthornv1.Replay_State_value[strings.ToUpper(state)]
				if !ok || n == 0 {
					return usageError{cmd, fmt.Errorf("--state: %q is none of pending, running, done, cancelled and failed", state)}
				}
				req.State = posthornv1.Replay_State(n)
			}
			req.Limit = pageOf(limit)
			c, err := a.client()
			if err != nil {
				return err
			}
			return showList(a, c.ListReplays(cmd.Context(), req), limit, protoDoc[*posthornv1.Replay],
				[]string{"ID", "STATE", "PROGRESS", "SEEN", "TOTAL", "QUEUED", "SKIPPED", "SUBSCRIPTION", "ROUND", "BY", "AGE"},
				func(r *posthornv1.Replay) []string {
					return []string{
						r.GetId(), r.GetState().String(), drawn(r), amount(r.GetSeen()), total(r), amount(r.GetQueued()), amount(r.GetSkipped()),
						firstOf(r.GetSubscription(), "(all)"), strconv.Itoa(int(r.GetRound())), r.GetCreatedBy(), age(r.GetCreatedAt(), time.Now()),
					}
				})
		},
	}
	cmd.Flags().StringVar(&state, "state", "", "only in this state: pending, running, done, cancelled or failed")
	cmd.Flags().IntVar(&limit, "limit", 50, "at most this many; 0 is all")
	return cmd
}

func amount(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

func total(r *posthornv1.Replay) string {
	if r.Total == nil {
		return ""
	}
	return amount(r.GetTotal())
}

// drawn is a bar of ten, for one line of a table.
func drawn(r *posthornv1.Replay) string {
	const width = 10
	if r.Total == nil {
		return "[" + strings.Repeat(".", width) + "]"
	}
	done := width
	percent := 100
	if t := uint64(r.GetTotal()); t > 0 {
		seen := min(uint64(r.GetSeen()), t)
		done, percent = int(seen*width/t), int(seen*100/t)
	}
	return fmt.Sprintf("[%s%s] %d%%", strings.Repeat("#", done), strings.Repeat(".", width-done), percent)
}

func newReplayGet(a *app) *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "get <id>",
		Short: "Show a job and how far it is",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			job, err := c.GetReplay(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("replay %s: %w", args[0], err)
			}
			if wait {
				return a.waitForReplay(cmd.Context(), c, job)
			}
			return a.showReplay(job)
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it is over, and show how far it is")
	return cmd
}

func newReplayCancel(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel <id>",
		Short: "End a job; what it has queued is delivered",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			job, err := c.CancelReplay(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("replay %s: %w", args[0], err)
			}
			return a.showReplay(job)
		},
	}
}

func (a *app) showReplay(r *posthornv1.Replay) error {
	doc, err := protoJSON(r)
	if err != nil {
		return err
	}
	return a.show(doc, func(t *table) {
		f := r.GetFilter()
		for _, row := range []struct{ name, value string }{
			{"id", r.GetId()},
			{"state", r.GetState().String()},
			{"progress", drawn(r)},
			{"total", total(r)},
			{"seen", amount(r.GetSeen())},
			{"queued", amount(r.GetQueued())},
			{"skipped", amount(r.GetSkipped())},
			{"ids", strings.Join(f.GetIds(), " ")},
			{"types", strings.Join(f.GetTypes(), " ")},
			{"from", clock(f.GetFrom())},
			{"to", clock(f.GetTo())},
			{"source", f.GetSource()},
			{"context", f.GetContext()},
			{"tenant", f.GetTenant()},
			{"subscription", firstOf(r.GetSubscription(), "(all)")},
			{"force", map[bool]string{true: "yes"}[r.GetForce()]},
			{"rate", perSecond(r.GetRatePerSecond())},
			{"round", strconv.Itoa(int(r.GetRound()))},
			{"by", r.GetCreatedBy()},
			{"created", clock(r.GetCreatedAt())},
			{"finished", clock(r.GetFinishedAt())},
			{"error", r.GetError()},
		} {
			if row.value != "" {
				t.row(row.name, row.value)
			}
		}
	})
}

func perSecond(rate float64) string {
	if rate == 0 {
		return ""
	}
	return strconv.FormatFloat(rate, 'g', -1, 64) + "/s"
}
