package interceptor

import (
	"context"

	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// A clientID lets requests pass whose client ID the context's OAUTH URL accepts.
type clientID struct {
	place place
	asker *Asker
}

func newClientID(spec *posthornv1.Interceptor_ClientId, asker *Asker) clientID {
	return clientID{place: placeOf(spec.GetLocation(), spec.GetName(), false), asker: asker}
}

func (c clientID) check(ctx context.Context, r *Request) (string, *refusal) {
	ids, no := c.place.find(r)
	if no != nil {
		return "", no
	}
	return tryAll(ids, func(id string) (string, *refusal) {
		return c.asker.askOAuth(ctx, question{kind: askClientID, context: contextOf(r), client: id})
	})
}
