package api

import (
	"context"
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/posthornhq/posthorn/pkg/audit"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/replay"
	"github.com/posthornhq/posthorn/pkg/wire"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// Replays are the jobs that deliver stored events again.
type Replays interface {
	// Preview counts what a job would do.
	Preview(ctx context.Context, j *replay.Job) (ReplayPreview, error)
	// Start begins a job and returns it. What is wrong with it is Invalid.
	Start(ctx context.Context, j *replay.Job) (replay.Job, error)
	Get(ctx context.Context, id string) (replay.Job, error)
	// List returns a page, newest first, and the cursor of the next. A cursor that it
	// did not make is Invalid. An empty state is all.
	List(ctx context.Context, state replay.State, limit int, cursor string) ([]replay.Job, string, error)
	// Cancel ends a job. One that is over already is an error of kind
	// [errs.Conflict], unless it was cancelled.
	Cancel(ctx context.Context, id string) (replay.Job, error)
}

// A ReplayPreview is what a replay would do.
type ReplayPreview struct {
	Events, Deliveries uint64
	Examples           []string // IDs of the first events with a delivery
	AtLeast            bool     // there was no time to count all
}

// kindReplays is the kind of a job in the record of changes.
const kindReplays = "replays"

type replayServer struct {
	posthornv1.UnimplementedReplaysServer
	edge
	deps *Deps
}

func (s replayServer) StartReplay(ctx context.Context, req *posthornv1.StartReplayRequest) (*posthornv1.StartReplayResponse, error) {
	f := req.GetFilter()
	if proto.Size(f) == 0 && req.GetSubscription() == "" && !req.GetAll() && !req.GetDryRun() {
		return nil, s.status(ctx, errs.Field("filter", "selects every event for everybody; narrow it, name a subscription, or set all to true"))
	}
	from, to, err := between(f.GetFrom(), f.GetTo())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	job := &replay.Job{
		Filter: replay.Filter{
			IDs: f.GetIds(), From: from, To: to, Types: f.GetTypes(), Source: f.GetSource(), Context: f.GetContext(), Tenant: f.GetTenant(),
		},
		Subscription: req.GetSubscription(), Force: req.GetForce(), Rate: req.GetRatePerSecond(), CreatedBy: caller(ctx),
	}
	if req.GetDryRun() {
		p, err := s.deps.Replays.Preview(ctx, job)
		if err != nil {
			return nil, s.status(ctx, err)
		}
		return &posthornv1.StartReplayResponse{Preview: &posthornv1.ReplayPreview{
			Events: count(p.Events), Deliveries: count(p.Deliveries), Examples: p.Examples, AtLeast: p.AtLeast,
		}}, nil
	}
	started, err := s.deps.Replays.Start(ctx, job)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	out := fromJob(&started)
	s.record(ctx, audit.Change{Name: started.ID, Action: audit.Created, After: document(out)})
	return &posthornv1.StartReplayResponse{Replay: out}, nil
}

// record writes down what was done to a job. It is done; that it could not be recorded
// does not undo it.
func (s replayServer) record(ctx context.Context, c audit.Change) {
	c.Kind, c.Who, c.At = kindReplays, caller(ctx), time.Now()
	if err := s.deps.Audit.Record(ctx, c); err != nil {
		s.log.ErrorContext(ctx, "a change could not be recorded", "kind", c.Kind, "name", c.Name, "action", c.Action, "who", c.Who, "err", err)
	}
}

func (s replayServer) ListReplays(ctx context.Context, req *posthornv1.ListReplaysRequest) (*posthornv1.ListReplaysResponse, error) {
	limit, err := pageLimit(req.GetLimit())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	state := replay.State("")
	if req.GetState() != posthornv1.Replay_STATE_UNSPECIFIED {
		if _, ok := posthornv1.Replay_State_name[int32(req.GetState())]; !ok {
			return nil, s.status(ctx, errs.Field("state", "is %d, must be one of %v", req.GetState(), replay.States()))
		}
		state = replay.State(req.GetState().String())
	}
	found, next, err := s.deps.Replays.List(ctx, state, limit, req.GetCursor())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	out := &posthornv1.ListReplaysResponse{NextCursor: next, Items: make([]*posthornv1.Replay, len(found))}
	for i := range found {
		out.Items[i] = fromJob(&found[i])
	}
	return out, nil
}

func (s replayServer) GetReplay(ctx context.Context, req *posthornv1.GetReplayRequest) (*posthornv1.Replay, error) {
	j, err := s.deps.Replays.Get(ctx, req.GetId())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return fromJob(&j), nil
}

func (s replayServer) CancelReplay(ctx context.Context, req *posthornv1.CancelReplayRequest) (*posthornv1.Replay, error) {
	before, err := s.deps.Replays.Get(ctx, req.GetId())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	j, err := s.deps.Replays.Cancel(ctx, req.GetId())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	out := fromJob(&j)
	if before.State != replay.Cancelled {
		s.record(ctx, audit.Change{Name: j.ID, Action: audit.Cancelled, Fields: []string{"state"}, Before: document(fromJob(&before)), After: document(out)})
	}
	return out, nil
}

func fromJob(j *replay.Job) *posthornv1.Replay {
	out := &posthornv1.Replay{
		Id: j.ID, State: posthornv1.Replay_State(posthornv1.Replay_State_value[string(j.State)]),
		Filter: &posthornv1.ReplayFilter{
			Ids: j.Filter.IDs, From: wire.Timestamp(j.Filter.From), To: wire.Timestamp(j.Filter.To), Types: j.Filter.Types,
			Source: j.Filter.Source, Context: j.Filter.Context, Tenant: j.Filter.Tenant,
		},
		Subscription: j.Subscription, Force: j.Force, RatePerSecond: j.Rate, Round: int32(j.Round()),
		Seen: count(j.Seen), Queued: count(j.Queued), Skipped: count(j.Skipped), Position: j.Position, CreatedBy: j.CreatedBy,
		CreatedAt: wire.Timestamp(j.CreatedAt), UpdatedAt: wire.Timestamp(j.UpdatedAt), FinishedAt: wire.Timestamp(j.FinishedAt), Error: j.Error,
	}
	if j.Counted {
		out.Total = new(count(j.Total))
	}
	return out
}

// count is a number of events, which JSON can have as a number.
func count(n uint64) uint32 { return uint32(min(n, math.MaxUint32)) }
