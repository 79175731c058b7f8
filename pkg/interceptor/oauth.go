package interceptor

import (
	"context"
	"net/http"
)

// The headers of an OAuth interceptor (S6), as they are written on the wire.
const (
	headerClientID    = "client_id"
	headerAccessToken = "access_token"
)

// An oauth lets requests pass whose client ID and access token, both from the
// headers, the context's OAUTH URL accepts together.
type oauth struct {
	asker *Asker
}

func (o oauth) check(ctx context.Context, r *Request) (string, *refusal) {
	client, no := single(r.Header, headerClientID)
	if no != nil {
		return "", no
	}
	token, no := single(r.Header, headerAccessToken)
	if no != nil {
		return "", no
	}
	if bare, is := cutBearer(token); is {
		token = bare
	}
	return o.asker.askOAuth(ctx, question{kind: askBoth, context: contextOf(r), token: token, client: client})
}

func single(h http.Header, name string) (string, *refusal) {
	found, no := place{header: true, name: name}.find(&Request{Header: h})
	if no != nil {
		return "", no
	}
	return found[0], nil
}
