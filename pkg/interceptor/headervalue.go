package interceptor

import (
	"context"

	"github.com/posthornhq/posthorn/pkg/signature"
)

// A headerValue lets requests pass whose header is one of its values (C8).
type headerValue struct {
	name   string
	values [][]byte
}

func (h headerValue) check(_ context.Context, r *Request) (string, *refusal) {
	if len(h.values) == 0 {
		return "", denied("the interceptor has no value to compare with")
	}
	// An empty value is as good as none: no live value is empty.
	got := r.Header.Get(h.name)
	if got == "" {
		return "", unauthenticated("the request has no %s header", h.name)
	}
	if signature.MatchToken(h.values, got) < 0 {
		return "", unauthenticated("the value of %s does not match", h.name)
	}
	return "value of " + h.name, nil
}
