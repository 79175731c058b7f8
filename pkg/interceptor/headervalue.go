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
	if no := h.present(r); no != nil {
		return "", no
	}
	if signature.MatchToken(h.values, r.Header.Get(h.name)) < 0 {
		return "", unauthenticated("the value of %s does not match", h.name)
	}
	return "value of " + h.name, nil
}

func (h headerValue) present(r *Request) *refusal {
	if len(h.values) == 0 {
		return denied("the interceptor has no value to compare with")
	}
	// An empty value is as good as none: no live value is empty.
	if r.Header.Get(h.name) == "" {
		return unauthenticated("the request has no %s header", h.name)
	}
	return nil
}

func (h headerValue) headers() []string { return []string{h.name} }
