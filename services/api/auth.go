package api

import (
	"context"
	"net/http"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/identity"
	"github.com/posthornhq/posthorn/pkg/telemetry"
	"github.com/posthornhq/posthorn/pkg/wire"
)

// An Authenticator knows callers by the token that they send. Its error is of
// kind [errs.Unauthenticated] for a token that is nobody's. It is satisfied by
// *identity.Directory.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (identity.Identity, error)
}

type identityKey struct{}

func withIdentity(ctx context.Context, id identity.Identity) context.Context {
	return context.WithValue(ctx, identityKey{}, id)
}

// IdentityOf returns who the interceptors found the caller to be.
func IdentityOf(ctx context.Context) (identity.Identity, bool) {
	id, ok := ctx.Value(identityKey{}).(identity.Identity)
	return id, ok
}

// caller returns the name for records of who did something.
func caller(ctx context.Context) string {
	id, _ := IdentityOf(ctx)
	return id.Name
}

// UnaryAuth returns the interceptor that lets only those through whom auth
// knows by metadata authorization, "Bearer <token>" or "JWT <token>", and who have
// the role that the method wants. Health checks and reflection need none.
func UnaryAuth(auth Authenticator) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		ctx, err := authenticate(ctx, auth, info.FullMethod)
		if err != nil {
			return nil, wire.Status(err)
		}
		return handler(ctx, req)
	}
}

// StreamAuth is [UnaryAuth] for streams.
func StreamAuth(auth Authenticator) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, err := authenticate(ss.Context(), auth, info.FullMethod)
		if err != nil {
			return wire.Status(err)
		}
		return handler(srv, authenticated{ss, ctx})
	}
}

// authenticated is a stream whose context knows the caller: gRPC has no other
// way to hand it on.
type authenticated struct {
	grpc.ServerStream
	ctx context.Context
}

func (s authenticated) Context() context.Context { return s.ctx }

func authenticate(ctx context.Context, auth Authenticator, method string) (context.Context, error) {
	if strings.HasPrefix(method, "/grpc.health.") || strings.HasPrefix(method, "/grpc.reflection.") {
		return ctx, nil
	}
	if want, ok := identity.Require(method); ok && want == identity.Public {
		return ctx, nil
	}
	id, known := IdentityOf(ctx) // by REST, in this process; nothing from a network can put it there
	if !known {
		var err error
		if id, err = identify(ctx, auth); err != nil {
			return nil, err
		}
		ctx = withIdentity(ctx, id)
	}
	return ctx, identity.Allowed(id, method)
}

func identify(ctx context.Context, auth Authenticator) (identity.Identity, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if _, open := auth.(internal); open && len(md.Get("authorization")) == 0 {
		return identity.Identity{Name: identity.PlatformName, Roles: []string{identity.RoleAdmin}}, nil
	}
	token, err := parseAuthorization(md.Get("authorization"))
	if err != nil {
		return identity.Identity{}, err
	}
	return auth.Authenticate(ctx, token)
}

// internal lets callers without a token through.
type internal struct{ Authenticator }

// Internal returns auth for a port whose callers have shown a certificate: who gives
// no token is let through, and one that is given must be right.
func Internal(auth Authenticator) Authenticator { return internal{auth} }

const howToAuthenticate = `send "Authorization: Bearer <API key or token of a sign-in>"; the administrator's key is in admin.key in the data directory of the first start, or what POSTHORN_ADMIN_KEY says`

func parseAuthorization(values []string) (token string, err error) {
	if len(values) == 0 {
		return "", errs.New(errs.Unauthenticated, "no API key: %s", howToAuthenticate)
	}
	if len(values) > 1 {
		return "", errs.New(errs.Unauthenticated, "more than one Authorization: %s", howToAuthenticate)
	}
	scheme, token, _ := strings.Cut(strings.TrimSpace(values[0]), " ")
	token = strings.TrimSpace(token)
	if token == "" || !strings.EqualFold(scheme, "Bearer") && !strings.EqualFold(scheme, "JWT") {
		return "", errs.New(errs.Unauthenticated, "the Authorization is neither Bearer nor JWT with a token: %s", howToAuthenticate)
	}
	return token, nil
}

// traceOf returns the trace context that a caller sent, or a new one.
func traceOf(ctx context.Context) (parent, state string) {
	md, _ := metadata.FromIncomingContext(ctx)
	return telemetry.Extract(http.Header{"Traceparent": md.Get("traceparent"), "Tracestate": md.Get("tracestate")})
}
