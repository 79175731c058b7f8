package app

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc"

	"github.com/posthornhq/posthorn/pkg/audit"
	"github.com/posthornhq/posthorn/pkg/catalog"
	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/ledger"
	"github.com/posthornhq/posthorn/pkg/queue"
	"github.com/posthornhq/posthorn/pkg/replay"
	"github.com/posthornhq/posthorn/pkg/store"
	"github.com/posthornhq/posthorn/pkg/trace"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
	"github.com/posthornhq/posthorn/services/api"
	"github.com/posthornhq/posthorn/services/broker"
)

// The Master API says in its own words what it wants to see; these put what the
// packages have into them.

type eventViews struct {
	store  *store.Store
	tracer *trace.Tracer
}

func (v eventViews) Get(ctx context.Context, id string) (*event.Event, error) {
	return v.store.Get(ctx, id)
}

func (v eventViews) List(ctx context.Context, q api.EventQuery) ([]api.EventSummary, string, error) {
	found, next, err := v.tracer.List(ctx, trace.Query(q))
	if err != nil {
		return nil, "", err
	}
	out := make([]api.EventSummary, len(found))
	for i := range found {
		out[i] = api.EventSummary(found[i])
	}
	return out, next, nil
}

type traceViews struct{ tracer *trace.Tracer }

func (v traceViews) Trace(ctx context.Context, id string) (*api.Trace, error) {
	t, err := v.tracer.Trace(ctx, id)
	if err != nil {
		return nil, err
	}
	out := &api.Trace{
		ID: t.Event.ID, Type: t.Event.Type, Source: t.Event.Source, Status: t.Status,
		TraceParent: t.Event.TraceParent, CorrelationIDs: t.Event.CorrelationIDs,
		Entries: make([]api.TraceEntry, len(t.Entries)),
	}
	for i := range t.Entries {
		out.Entries[i] = api.TraceEntry(t.Entries[i])
	}
	return out, nil
}

type rejectionViews struct{ ledger *ledger.Ledger }

func (v rejectionViews) List(ctx context.Context, q api.RejectionQuery) ([]event.Rejection, string, error) {
	return v.ledger.Rejections(ctx, ledger.Query{Source: q.Source, Context: q.Context, Status: q.Status, From: q.From, To: q.To, Limit: q.Limit, Before: q.Cursor})
}

type changeViews struct{ js jetstream.JetStream }

func (v changeViews) List(ctx context.Context, q audit.Query) ([]audit.Change, string, error) {
	return audit.List(ctx, v.js, q)
}

type deadLetterViews struct {
	letters *deadletter.Letters
	tracer  *trace.Tracer
	broker  *broker.Broker
}

func (v deadLetterViews) List(ctx context.Context, q api.DeadLetterQuery) ([]event.DeadLetter, string, error) {
	return v.tracer.DeadLetters(ctx, deadletter.Query{
		Subscription: q.Subscription, Event: q.Event, Context: q.Context, From: q.From, To: q.To,
		Status: q.Status, Limit: q.Limit, Before: q.Cursor,
	})
}

func (v deadLetterViews) Retry(ctx context.Context, ids []string) ([]api.Retried, error) {
	done := v.broker.Retry(ctx, v.letters, ids)
	out := make([]api.Retried, len(done))
	for i, r := range done {
		out[i] = api.Retried{ID: r.ID, Event: r.Event, Subscription: r.Subscription, Round: r.Round, Err: r.Err, Gone: r.Gone}
	}
	return out, nil
}

func (v deadLetterViews) Remove(ctx context.Context, id string) (bool, error) {
	return v.letters.Remove(ctx, id)
}

type laneViews struct {
	lanes   *queue.OwnLanes
	queue   *queue.Queue
	catalog *catalog.Catalog
}

// List adds to what attempts taught what the subscriptions ask for.
func (v laneViews) List(ctx context.Context) ([]api.LaneState, error) {
	states, err := v.lanes.List(ctx)
	if err != nil {
		return nil, err
	}
	queued, err := v.queue.Queued(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]api.LaneState, 0, len(states))
	for name, s := range states {
		l := api.LaneState{Subscription: name, OwnState: s, Queued: queued[name]}
		if sub, ok := v.catalog.Subscription(name); ok {
			for reason, asked := range map[queue.Reason]bool{
				queue.Ordered: sub.Ordered, queue.Paused: sub.Paused, queue.Limited: sub.Rate > 0, queue.Pulled: sub.Pulled,
			} {
				if asked {
					l.Reasons = append(l.Reasons, reason)
				}
			}
		}
		out = append(out, l)
	}
	return out, nil
}

type replayViews struct{ *broker.Replays }

func (v replayViews) Preview(ctx context.Context, j *replay.Job) (api.ReplayPreview, error) {
	p, err := v.Replays.Preview(ctx, j)
	return api.ReplayPreview(p), err
}

// localBroker is the broker of this process, as the Master API calls it.
type localBroker struct{ *broker.Server }

// remoteBroker returns the broker at the other end of conn.
func remoteBroker(conn grpc.ClientConnInterface) api.Broker {
	return remote{posthornv1.NewEventBrokerClient(conn)}
}

type remote struct{ rpc posthornv1.EventBrokerClient }

func (r remote) SendOutgoingEvent(ctx context.Context, req *posthornv1.SendOutgoingEventRequest) (*posthornv1.SendOutgoingEventResponse, error) {
	return r.rpc.SendOutgoingEvent(ctx, req)
}

func (r remote) PublishBatch(ctx context.Context, req *posthornv1.PublishBatchRequest) (*posthornv1.PublishBatchResponse, error) {
	return r.rpc.PublishBatch(ctx, req)
}
