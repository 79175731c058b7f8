package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"

	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// StartReplay begins a job that delivers stored events again, or counts what it would
// do. It is not repeated by itself: each call that gets through is a job.
func (c *Client) StartReplay(ctx context.Context, req *posthornv1.StartReplayRequest) (*posthornv1.StartReplayResponse, error) {
	out := new(posthornv1.StartReplayResponse)
	return out, c.post(ctx, "/api/v1/replays", req, out)
}

// ListReplays yields the jobs, newest first.
func (c *Client) ListReplays(ctx context.Context, req *posthornv1.ListReplaysRequest) iter.Seq2[*posthornv1.Replay, error] {
	return list(ctx, c, "/api/v1/replays", req, func() *posthornv1.Replay { return new(posthornv1.Replay) })
}

// GetReplay returns a job and how far it is.
func (c *Client) GetReplay(ctx context.Context, id string) (*posthornv1.Replay, error) {
	if id == "" {
		return nil, errNoName
	}
	out := new(posthornv1.Replay)
	return out, c.into(ctx, call{method: http.MethodGet, path: "/api/v1/replays/" + url.PathEscape(id), repeat: always}, out)
}

// CancelReplay ends a job. What it has queued is delivered.
func (c *Client) CancelReplay(ctx context.Context, id string) (*posthornv1.Replay, error) {
	if id == "" {
		return nil, errNoName
	}
	out := new(posthornv1.Replay)
	in := call{method: http.MethodPost, path: "/api/v1/replays/" + url.PathEscape(id) + ":cancel", body: []byte("{}"), repeat: always}
	return out, c.into(ctx, in, out)
}
