package api

import (
	"context"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/wire"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// selected calls f with the IDs that req means, so many at a time. Letters that
// come while it runs are not among them: it goes from the newest there is backwards.
func (s deadLetterServer) selected(ctx context.Context, req *posthornv1.RetryDeadLettersRequest, f func(ids []string) error) error {
	filter := &posthornv1.ListDeadLettersRequest{
		Limit: MaxLimit, Subscription: req.GetSubscription(), From: req.GetFrom(), To: req.GetTo(),
		Status: req.GetStatus(), EventId: req.GetEventId(), Context: req.GetContext(),
	}
	filtered := req.GetSubscription() != "" || req.GetFrom() != nil || req.GetTo() != nil || req.GetStatus() != "" ||
		req.GetEventId() != "" || req.GetContext() != "" || req.GetAll()
	switch ids := req.GetIds(); {
	case len(ids) > 0 && filtered:
		return errs.Field("ids", "and a filter exclude each other")
	case len(ids) > maxNamed:
		return errs.Field("ids", "has %d, at most %d are allowed at once", len(ids), maxNamed)
	case slices.Contains(ids, ""):
		return errs.Field("ids", "has an empty one")
	case len(ids) > 0:
		return f(ids)
	case !filtered:
		return errs.Field("ids", `is empty; name dead letters, filter by subscription, from, to, status, eventId or context, or say "all": true`)
	}
	q, err := deadLetterQuery(filter)
	if err != nil {
		return err
	}
	for {
		found, next, err := s.deps.DeadLetters.List(ctx, q)
		if err != nil {
			return err
		}
		if len(found) > 0 {
			if err := f(idsOf(found)); err != nil {
				return err
			}
		}
		if next == "" {
			return nil
		}
		q.Cursor = next
	}
}

func idsOf(letters []event.DeadLetter) []string {
	ids := make([]string, len(letters))
	for i := range letters {
		ids[i] = letters[i].ID
	}
	return ids
}

func (s deadLetterServer) RetryDeadLetters(ctx context.Context, req *posthornv1.RetryDeadLettersRequest) (*posthornv1.RetryDeadLettersResponse, error) {
	out := &posthornv1.RetryDeadLettersResponse{}
	// All of them are found before the first is retried: where a subscription is
	// ordered, the order is that of all.
	var all []string
	err := s.selected(ctx, req, func(ids []string) error {
		if all = append(all, ids...); req.GetDryRun() {
			out.Retried, all = out.Retried+int32(len(ids)), all[:0]
		}
		return nil
	})
	if err != nil {
		return nil, s.status(ctx, err)
	}
	if len(all) == 0 {
		return out, nil
	}
	named := len(req.GetIds()) > 0
	if !named {
		slices.Reverse(all) // oldest first
	}
	done, err := s.deps.DeadLetters.Retry(ctx, all)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	for _, r := range done {
		if r.Gone && !named {
			continue // somebody else was faster: it matches no more
		}
		res := &posthornv1.RetryDeadLettersResponse_Result{Id: r.ID, EventId: r.Event, Subscription: r.Subscription, Round: int32(r.Round)}
		if r.Err != nil {
			res.Error = wire.Refusal(r.Err)
		} else {
			out.Retried++
		}
		if r.Err != nil || len(out.Results) < maxNamed {
			out.Results = append(out.Results, res)
		}
	}
	return out, nil
}

func (s deadLetterServer) DeleteDeadLetter(ctx context.Context, req *posthornv1.DeleteDeadLetterRequest) (*emptypb.Empty, error) {
	there, err := s.deps.DeadLetters.Remove(ctx, req.GetId())
	if err == nil && !there {
		err = errs.New(errs.NotFound, "dead letter %s is not there; it was retried, deleted, or is kept no longer", req.GetId())
	}
	return &emptypb.Empty{}, s.status(ctx, err)
}

// removeAtOnce is how many dead letters are deleted side by side.
const removeAtOnce = 32

// removeAll deletes dead letters and returns how many were there.
func (s deadLetterServer) removeAll(ctx context.Context, ids []string) (int32, error) {
	var there atomic.Int32
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(removeAtOnce)
	for _, id := range ids {
		g.Go(func() error {
			ok, err := s.deps.DeadLetters.Remove(ctx, id)
			if ok {
				there.Add(1)
			}
			return err
		})
	}
	err := g.Wait()
	return there.Load(), err
}

func (s deadLetterServer) DeleteDeadLetters(ctx context.Context, req *posthornv1.DeleteDeadLettersRequest) (*posthornv1.DeleteDeadLettersResponse, error) {
	out := &posthornv1.DeleteDeadLettersResponse{}
	selection := &posthornv1.RetryDeadLettersRequest{
		Ids: req.GetIds(), Subscription: req.GetSubscription(), From: req.GetFrom(), To: req.GetTo(), Status: req.GetStatus(),
		EventId: req.GetEventId(), Context: req.GetContext(), All: req.GetAll(),
	}
	err := s.selected(ctx, selection, func(ids []string) error {
		if req.GetDryRun() {
			out.Deleted += int32(len(ids))
			return nil
		}
		n, err := s.removeAll(ctx, ids)
		out.Deleted += n
		return err
	})
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return out, nil
}
