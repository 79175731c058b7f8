package interceptor

import (
	"context"

	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// An accessToken lets requests pass whose token the context's OAUTH URL accepts.
type accessToken struct {
	place place
	asker *Asker
}

func newAccessToken(spec *posthornv1.Interceptor_AccessToken, asker *Asker) accessToken {
	return accessToken{place: placeOf(spec.GetLocation(), spec.GetName(), true), asker: asker}
}

func (a accessToken) check(ctx context.Context, r *Request) (string, *refusal) {
	tokens, no := a.place.find(r)
	if no != nil {
		return "", no
	}
	return tryAll(tokens, func(token string) (string, *refusal) {
		return a.asker.askOAuth(ctx, question{kind: askAccessToken, context: contextOf(r), token: token})
	})
}
