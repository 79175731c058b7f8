package broker

import (
	"context"

	"google.golang.org/grpc"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/wire"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// A Client is a broker in another process. It accepts as a [Broker] does; one
// suite holds the two to it.
type Client struct {
	rpc posthornv1.EventBrokerClient
}

// NewClient returns the broker at the other end of conn.
func NewClient(conn grpc.ClientConnInterface) *Client {
	return &Client{rpc: posthornv1.NewEventBrokerClient(conn)}
}

// Accept is [Broker.Accept].
func (c *Client) Accept(ctx context.Context, ev event.Event, key string) (event.Receipt, error) {
	var receipt *posthornv1.Receipt
	if ev.Direction == event.Incoming {
		resp, err := c.rpc.HandleIncomingEvent(ctx, &posthornv1.HandleIncomingEventRequest{Event: wire.FromEvent(&ev), IdempotencyKey: key})
		if err != nil {
			return event.Receipt{}, wire.Error(err)
		}
		receipt = resp.GetReceipt()
	} else {
		resp, err := c.rpc.SendOutgoingEvent(ctx, &posthornv1.SendOutgoingEventRequest{Event: wire.FromEvent(&ev), IdempotencyKey: key})
		if err != nil {
			return event.Receipt{}, wire.Error(err)
		}
		receipt = resp.GetReceipt()
	}
	return toReceipt(receipt), nil
}

// AcceptAll is [Broker.AcceptAll].
func (c *Client) AcceptAll(ctx context.Context, batch []event.Publish) []event.Result {
	req := &posthornv1.PublishBatchRequest{Events: make([]*posthornv1.PublishRequest, len(batch))}
	for i := range batch {
		req.Events[i] = &posthornv1.PublishRequest{Event: wire.FromEvent(&batch[i].Event), IdempotencyKey: batch[i].Key}
	}
	results := make([]event.Result, len(batch))
	resp, err := c.rpc.PublishBatch(ctx, req)
	for i := range results {
		switch {
		case err != nil:
			results[i].Err = wire.Error(err)
		case i >= len(resp.GetResults()):
			results[i].Err = errs.New(errs.Internal, "the broker answered for %d of %d events", len(resp.GetResults()), len(batch))
		case resp.GetResults()[i].GetRefusal() != nil:
			results[i].Err = wire.RefusalError(resp.GetResults()[i].GetRefusal())
		default:
			results[i].Receipt = toReceipt(resp.GetResults()[i].GetReceipt())
		}
	}
	return results
}

func toReceipt(r *posthornv1.Receipt) event.Receipt {
	return event.Receipt{ID: r.GetId(), Duplicate: r.GetDuplicate(), Sequence: r.GetSequence()}
}
