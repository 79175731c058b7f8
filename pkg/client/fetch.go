package client

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// A Delivery is an event that was fetched of a pull subscription, and the right to
// answer for it until it expires.
type Delivery struct {
	Event Event
	// Stored is the event as the platform has it.
	Stored       *posthornv1.Event
	Subscription string
	// Round is 1, and one more for every retry by hand; Attempt counts the tries of
	// the round, from 1.
	Round, Attempt int

	ackWait time.Duration

	mu      sync.Mutex
	token   string
	expires time.Time
}

// Token is what the answers send. Extend changes it.
func (d *Delivery) Token() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.token
}

// Expires is when the delivery is given to somebody else, by the clock here. Extend
// puts it off.
func (d *Delivery) Expires() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.expires
}

// FetchOptions says what to fetch. The zero value is one delivery, if there is one.
type FetchOptions struct {
	// Max is how many at most. Default 1.
	Max int
	// Wait is how long to wait for the first, up to 30s. It should leave some of the
	// HTTP client's own timeout for the answer.
	Wait time.Duration
}

// Fetch returns deliveries of a pull subscription: those that there are, or the first
// that come within opts.Wait. It is not repeated by itself where no answer came: what
// was fetched then comes again when its lease has run out.
func (c *Client) Fetch(ctx context.Context, subscription string, opts FetchOptions) ([]*Delivery, error) {
	req := &posthornv1.FetchRequest{Max: int32(max(opts.Max, 1)), Wait: durationpb.New(opts.Wait)}
	ans, err := c.answer(ctx, subscription, "fetch", req, refused)
	if err != nil {
		return nil, err
	}
	var got struct {
		Deliveries []json.RawMessage `json:"deliveries"`
	}
	if err := json.Unmarshal(ans.body, &got); err != nil {
		return nil, fmt.Errorf("client: fetch of %s: %w", subscription, err)
	}
	at := time.Now() // a little late: whoever extends does so well before
	out := make([]*Delivery, len(got.Deliveries))
	for i, raw := range got.Deliveries {
		if out[i], err = parsePulled(raw, at); err != nil {
			return nil, fmt.Errorf("client: fetch of %s: %w", subscription, err)
		}
	}
	return out, nil
}

func parsePulled(raw json.RawMessage, at time.Time) (*Delivery, error) {
	m := new(posthornv1.PulledDelivery)
	var stored *posthornv1.Event
	err := decodeAround(raw, m, "event", "", func(ev, _ json.RawMessage) (err error) {
		stored, err = decodeEvent(ev)
		return err
	})
	if err != nil {
		return nil, err
	}
	d := &Delivery{
		Stored: stored, Subscription: m.GetSubscription(), Round: int(m.GetRound()), Attempt: int(m.GetAttempt()),
		ackWait: m.GetAckWait().AsDuration(), token: m.GetToken(), expires: at.Add(m.GetAckWait().AsDuration()),
		Event: Event{
			ID: cmp.Or(stored.GetExternalId(), stored.GetId()), Type: stored.GetType(), Source: cmp.Or(stored.GetExternalSource(), stored.GetSource()),
			Context: stored.GetContext(), Tenant: stored.GetTenant(), Subject: stored.GetSubject(), DataSchema: stored.GetDataSchema(),
			DataContentType: stored.GetDataContentType(), Data: stored.GetData(), Extensions: stored.GetExtensions(),
			DeliveryID: m.GetWebhookId(), TraceParent: stored.GetTraceparent(),
		},
	}
	if t := stored.GetTime(); t != nil {
		d.Event.Time = t.AsTime()
	}
	return d, nil
}

// Ack says that deliveries of one subscription are done. Its error is about the
// first that it could not be said of; saying it again does no harm.
func (c *Client) Ack(ctx context.Context, deliveries ...*Delivery) error {
	results, err := c.ackAll(ctx, deliveries)
	if err != nil {
		return err
	}
	for _, err := range results {
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) ackAll(ctx context.Context, deliveries []*Delivery) ([]error, error) {
	if len(deliveries) == 0 {
		return nil, nil
	}
	req := &posthornv1.AckRequest{Tokens: make([]string, len(deliveries))}
	for i, d := range deliveries {
		req.Tokens[i] = d.Token()
	}
	out := new(posthornv1.AckResponse)
	if err := c.answerInto(ctx, deliveries[0].Subscription, "ack", req, out); err != nil {
		return nil, err
	}
	return leaseErrors(out.GetResults(), len(deliveries))
}

func leaseErrors(results []*posthornv1.LeaseResult, want int) ([]error, error) {
	if len(results) != want {
		return nil, fmt.Errorf("client: %d leases were answered with %d results", want, len(results))
	}
	out := make([]error, want)
	for i, r := range results {
		if e := r.GetError(); e != nil {
			code := refusalStatus(int(e.GetCode()))
			out[i] = &Error{Status: code, Title: http.StatusText(code), Detail: printable(e.GetMessage())}
		}
	}
	return out, nil
}

// A NackError is an error of a handler that says what becomes of the delivery.
type NackError struct {
	// Delay is when the next try is due; 0 leaves it to the policy.
	Delay time.Duration
	// DeadLetter says that there is to be no other try.
	DeadLetter bool
	// Err is why.
	Err error
}

func (e *NackError) Error() string {
	if e.Err == nil {
		return "not taken"
	}
	return e.Err.Error()
}

func (e *NackError) Unwrap() error { return e.Err }

// Nack says that a delivery failed, and why.
func (c *Client) Nack(ctx context.Context, d *Delivery, why NackError) error {
	req := &posthornv1.NackRequest{Token: d.Token(), Reason: why.Error(), DeadLetter: why.DeadLetter}
	if why.Delay > 0 {
		req.Delay = durationpb.New(why.Delay)
	}
	return c.answerInto(ctx, d.Subscription, "nack", req, new(posthornv1.NackResponse))
}

// Extend keeps a delivery for the subscription's ackWait from now.
func (c *Client) Extend(ctx context.Context, d *Delivery) error {
	out, at := new(posthornv1.ExtendResponse), time.Now()
	if err := c.answerInto(ctx, d.Subscription, "extend", &posthornv1.ExtendRequest{Tokens: []string{d.Token()}}, out); err != nil {
		return err
	}
	results, err := leaseErrors(out.GetResults(), 1)
	if err != nil {
		return err
	}
	if results[0] == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.token, d.expires = out.GetResults()[0].GetToken(), at.Add(d.ackWait)
	}
	return results[0]
}

func (c *Client) answer(ctx context.Context, subscription, verb string, req proto.Message, again repeat) (answer, error) {
	if subscription == "" {
		return answer{}, errNoName
	}
	body, err := protojson.Marshal(req)
	if err != nil {
		return answer{}, fmt.Errorf("client: %s: %w", verb, err)
	}
	return c.do(ctx, call{method: http.MethodPost, path: "/api/v1/subscriptions/" + url.PathEscape(subscription) + ":" + verb, body: body, repeat: again})
}

// answerInto makes a call that does nothing new when it is made again.
func (c *Client) answerInto(ctx context.Context, subscription, verb string, req, out proto.Message) error {
	ans, err := c.answer(ctx, subscription, verb, req, always)
	if err != nil {
		return err
	}
	if err := decode.Unmarshal(ans.body, out); err != nil {
		return fmt.Errorf("client: %s: %w", verb, err)
	}
	return nil
}
