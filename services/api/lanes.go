package api

import (
	"cmp"
	"context"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/posthornhq/posthorn/pkg/queue"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// Lanes are those of subscriptions that have one of their own.
type Lanes interface {
	List(ctx context.Context) ([]LaneState, error)
}

// A LaneState is a subscription's own lane.
type LaneState struct {
	Subscription string
	queue.OwnState
	// Queued deliveries wait or are being tried.
	Queued uint64
}

type laneServer struct {
	posthornv1.UnimplementedLanesServer
	edge
	lanes Lanes
}

func (s laneServer) ListLanes(ctx context.Context, _ *posthornv1.ListLanesRequest) (*posthornv1.ListLanesResponse, error) {
	lanes, err := s.lanes.List(ctx)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	slices.SortFunc(lanes, func(a, b LaneState) int { return cmp.Compare(a.Subscription, b.Subscription) })
	out := &posthornv1.ListLanesResponse{Items: make([]*posthornv1.Lane, len(lanes))}
	for i := range lanes {
		l := &lanes[i]
		item := &posthornv1.Lane{
			Subscription: l.Subscription, Closing: l.Closing, Since: timestamppb.New(l.Since),
			Failures: int32(min(l.Failures, 1<<30)), Error: l.Error, Probes: int32(min(l.Probes, 1<<30)), Queued: int64(min(l.Queued, 1<<62)),
		}
		for _, r := range l.Reasons {
			item.Reasons = append(item.Reasons, string(r))
		}
		slices.Sort(item.Reasons)
		if !l.Until.IsZero() {
			item.Until = timestamppb.New(l.Until)
		}
		out.Items[i] = item
	}
	return out, nil
}
