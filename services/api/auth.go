package api

import (
	"context"
	"net/http"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/telemetry"
	"github.com/posthornhq/posthorn/pkg/wire"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// RoleAdmin may do everything.
const RoleAdmin = "admin"

// An Identity is a caller, as the platform knows it.
type Identity struct {
	Name  string
	Roles []string
}

// An Authenticator knows callers by the token that they send. Its error is of
// kind [errs.Unauthenticated] for a token that is nobody's.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (Identity, error)
}

type identityKey struct{}

func withIdentity(ctx context.Context, id Identity) context.Context {
	return context.WithValue(ctx, identityKey{}, id)
}

// IdentityOf returns who the interceptors found the caller to be.
func IdentityOf(ctx context.Context) (Identity, bool) {
	id, ok := ctx.Value(identityKey{}).(Identity)
	return id, ok
}

// caller returns the name for records of who did something.
func caller(ctx context.Context) string {
	id, _ := IdentityOf(ctx)
	return id.Name
}

// UnaryAuth returns the interceptor that lets only those through whom auth
// knows by metadata authorization, "Bearer <token>" or "JWT <token>". Health
// checks and reflection need none.
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
	if _, known := IdentityOf(ctx); known {
		return ctx, nil // by REST, in this process; nothing from a network can put it there
	}
	md, _ := metadata.FromIncomingContext(ctx)
	if _, open := auth.(internal); open && len(md.Get("authorization")) == 0 {
		return withIdentity(ctx, Identity{Name: "local"}), nil
	}
	token, err := parseAuthorization(md.Get("authorization"))
	if err != nil {
		return nil, err
	}
	id, err := auth.Authenticate(ctx, token)
	if err != nil {
		return nil, err
	}
	return withIdentity(ctx, id), nil
}

// internal lets callers without a token through.
type internal struct{ Authenticator }

// Internal returns auth for a port that only this machine reaches: who gives no
// token is let through, and one that is given must be right.
func Internal(auth Authenticator) Authenticator { return internal{auth} }

const howToAuthenticate = `send "Authorization: Bearer <key>"; the administrator's key is in admin.key in the data directory of the first start, or what POSTHORN_ADMIN_KEY says`

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

type accountServer struct {
	posthornv1.UnimplementedAccountServiceServer
}

func (accountServer) WhoAmI(ctx context.Context, _ *posthornv1.WhoAmIRequest) (*posthornv1.WhoAmIResponse, error) {
	id, ok := IdentityOf(ctx)
	if !ok {
		return nil, wire.Status(errs.New(errs.Unauthenticated, "nobody was asked for: %s", howToAuthenticate))
	}
	return &posthornv1.WhoAmIResponse{Name: id.Name, Roles: id.Roles}, nil
}
