package api

import (
	"context"
	"strconv"
	"time"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/pattern"
	"github.com/posthornhq/posthorn/pkg/wire"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// maxNamed is how many dead letters one request may name, and how many results
// its answer has at most beside those that are errors.
const maxNamed = 1000

// DeadLetters is what the platform gave up on.
type DeadLetters interface {
	// List returns a page, newest first, and the cursor of the next. A cursor that
	// it did not make is Invalid.
	List(ctx context.Context, q DeadLetterQuery) ([]event.DeadLetter, string, error)
	// Retry queues deliveries anew, each as a new round, those of an ordered
	// subscription in the order in which their events were accepted, and answers for
	// each ID in order. Its error means that nothing is known of any of them.
	Retry(ctx context.Context, ids []string) ([]Retried, error)
	// Remove deletes one for good. It reports false if it is not there (any more).
	Remove(ctx context.Context, id string) (bool, error)
}

// A DeadLetterQuery says which dead letters are wanted. Empty fields want all.
type DeadLetterQuery struct {
	Subscription, Event, Context string
	From, To                     time.Time
	// Status of the last attempt: "503", a family such as "5xx", or "0" for no answer.
	Status string
	Limit  int // 1 to MaxLimit
	Cursor string
}

// A Retried says what became of one dead letter.
type Retried struct {
	ID, Event, Subscription string
	Round                   int   // that was queued
	Err                     error // why it was not
	Gone                    bool  // because it is not there any more
}

type deadLetterServer struct {
	posthornv1.UnimplementedDeadLetterServiceServer
	edge
	deps *Deps
}

func (s deadLetterServer) ListDeadLetters(ctx context.Context, req *posthornv1.ListDeadLettersRequest) (*posthornv1.ListDeadLettersResponse, error) {
	q, err := deadLetterQuery(req)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	found, next, err := s.deps.DeadLetters.List(ctx, q)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	out := &posthornv1.ListDeadLettersResponse{NextCursor: next, Items: make([]*posthornv1.DeadLetter, len(found))}
	for i, d := range found {
		out.Items[i] = &posthornv1.DeadLetter{
			Id: d.ID, EventId: d.Event, EventType: d.Type, Subscription: d.Subscription, Policy: d.Policy,
			Round: int32(d.Round), Attempts: int32(d.Attempts), Reason: d.Reason, Detail: d.Detail, Status: int32(d.Status),
			At: wire.Timestamp(d.At), Source: d.Source, Context: d.Context, Tenant: d.Tenant,
		}
	}
	return out, nil
}

func deadLetterQuery(req *posthornv1.ListDeadLettersRequest) (DeadLetterQuery, error) {
	q := DeadLetterQuery{Subscription: req.GetSubscription(), Event: req.GetEventId(), Context: req.GetContext(), Cursor: req.GetCursor()}
	var err error
	if q.Limit, err = pageLimit(req.GetLimit()); err != nil {
		return q, err
	}
	if q.From, q.To, err = between(req.GetFrom(), req.GetTo()); err != nil {
		return q, err
	}
	if q.Subscription != "" {
		if err := pattern.ValidName("subscription", q.Subscription); err != nil {
			return q, err
		}
	}
	q.Status = req.GetStatus()
	return q, validStatus("status", q.Status)
}

func validStatus(field, s string) error {
	if s == "" || len(s) == 3 && s[0] >= '1' && s[0] <= '5' && s[1:] == "xx" {
		return nil
	}
	if n, err := strconv.Atoi(s); err == nil && (n == 0 || n >= 100 && n <= 599) {
		return nil
	}
	return errs.Field(field, `is %q, must be a status such as "503", a family such as "5xx", or "0" for no answer`, s)
}
