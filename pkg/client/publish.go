package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/posthornhq/posthorn/pkg/event"
)

// A Receipt is the platform's promise: the event is stored, and will be delivered.
type Receipt struct {
	// ID is the event's, or of a duplicate the first event's.
	ID string `json:"id"`
	// Duplicate says that the idempotency key was seen before this publish.
	Duplicate bool `json:"duplicate"`
}

// A Result is the answer for one event of a batch: a receipt, or the [*Error]
// that says why it was not accepted.
type Result struct {
	Receipt
	Err error
}

// Publish sends an outgoing event and returns when it is stored.
func (c *Client) Publish(ctx context.Context, e Event) (Receipt, error) {
	made := e.ensureKey()
	body, err := e.appendJSON(nil)
	if err != nil {
		return Receipt{}, err
	}
	ans, err := c.do(ctx, call{method: http.MethodPost, path: "/api/v1/events", body: body, repeat: always})
	if err != nil {
		return Receipt{}, err
	}
	var r Receipt
	if err := json.Unmarshal(ans.body, &r); err != nil {
		return Receipt{}, fmt.Errorf("client: receipt: %w", err)
	}
	// Nobody but us has a key that we made: a repeat is our own, whose answer got lost.
	r.Duplicate = r.Duplicate && !made
	return r, nil
}

// PublishBatch sends events together and returns an answer for each, in order.
// Its error means that nothing is known of any of them. Events that the platform
// had no room for are sent again, as Publish does.
func (c *Client) PublishBatch(ctx context.Context, events []Event) ([]Result, error) {
	results := make([]Result, len(events))
	keyed := make([]Event, len(events))
	made := make([]bool, len(events))
	todo := make([]int, len(events))
	for i, e := range events {
		made[i] = e.ensureKey()
		keyed[i] = e
		todo[i] = i
	}
	for round := 0; len(todo) > 0; round++ {
		got, err := c.publishSome(ctx, keyed, todo, round)
		if err != nil {
			if round > 0 {
				return results, nil // those that are left carry their refusal of the round before
			}
			return nil, err
		}
		var again []int
		for n, i := range todo {
			results[i] = got[n]
			results[i].Duplicate = got[n].Duplicate && !made[i]
			if hasStatus(got[n].Err, http.StatusTooManyRequests, http.StatusServiceUnavailable) && round < c.cfg.Retries {
				again = append(again, i)
			}
		}
		todo = again
	}
	return results, nil
}

// publishSome sends the events with the given indexes, after a pause if it is
// not the first round.
func (c *Client) publishSome(ctx context.Context, events []Event, which []int, round int) ([]Result, error) {
	if round > 0 {
		if err := pause(ctx, min(firstDelay<<round, maxDelay)); err != nil {
			return nil, err
		}
	}
	body := []byte(`{"events":[`)
	for n, i := range which {
		if n > 0 {
			body = append(body, ',')
		}
		var err error
		if body, err = events[i].appendJSON(body); err != nil {
			return nil, fmt.Errorf("client: event %d of the batch: %w", i, err)
		}
	}
	body = append(body, "]}"...)
	ans, err := c.do(ctx, call{method: http.MethodPost, path: "/api/v1/events:batch", body: body, repeat: always})
	if err != nil {
		return nil, err
	}
	return parseResults(ans.body, len(which))
}

func parseResults(body []byte, want int) ([]Result, error) {
	var got struct {
		Results []struct {
			Receipt
			Error *struct {
				Code       int               `json:"code"`
				Message    string            `json:"message"`
				Violations []event.Violation `json:"violations"`
			} `json:"error"`
		} `json:"results"`
	}
	if err := json.Unmarshal(body, &got); err != nil {
		return nil, fmt.Errorf("client: receipts: %w", err)
	}
	if len(got.Results) != want {
		return nil, fmt.Errorf("client: %d events were answered with %d receipts", want, len(got.Results))
	}
	results := make([]Result, want)
	for i, r := range got.Results {
		if r.Error == nil {
			results[i].Receipt = r.Receipt
			continue
		}
		status := refusalStatus(r.Error.Code)
		results[i].Err = &Error{
			Status: status, Title: http.StatusText(status), Detail: printable(r.Error.Message), Violations: r.Error.Violations,
		}
	}
	return results, nil
}

// ensureKey gives the event an idempotency key and reports whether it had none.
func (e *Event) ensureKey() bool {
	if e.IdempotencyKey != "" {
		return false
	}
	e.IdempotencyKey = "auto-" + rand.Text()
	return true
}

// IsRefusal reports whether err is about what was sent, so that sending the
// same again would be refused again.
func IsRefusal(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Status >= 400 && e.Status < 500 &&
		e.Status != http.StatusTooManyRequests && e.Status != http.StatusUnauthorized && e.Status != http.StatusForbidden
}
