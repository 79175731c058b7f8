package api

import (
	"context"
	"log/slog"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/settings"
	"github.com/posthornhq/posthorn/pkg/transform"
	"github.com/posthornhq/posthorn/pkg/wire"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// The servers below differ in nothing but their messages.

type sourceServer struct {
	posthornv1.UnimplementedSourceServiceServer
	edge
	r *resource[*posthornv1.Source]
}

func (s sourceServer) ListSources(ctx context.Context, req *posthornv1.ListSourcesRequest) (*posthornv1.ListSourcesResponse, error) {
	items, next, err := s.r.list(ctx, req)
	return &posthornv1.ListSourcesResponse{Items: items, NextCursor: next}, s.status(ctx, err)
}

func (s sourceServer) GetSource(ctx context.Context, req *posthornv1.GetSourceRequest) (*posthornv1.Source, error) {
	out, err := s.r.get(ctx, req.GetName())
	return out, s.status(ctx, err)
}

func (s sourceServer) CreateSource(ctx context.Context, req *posthornv1.CreateSourceRequest) (*posthornv1.Source, error) {
	out, err := s.r.create(ctx, req.GetSource())
	return out, s.status(ctx, err)
}

func (s sourceServer) PutSource(ctx context.Context, req *posthornv1.PutSourceRequest) (*posthornv1.Source, error) {
	out, err := s.r.replace(ctx, req.GetSource())
	return out, s.status(ctx, err)
}

func (s sourceServer) DeleteSource(ctx context.Context, req *posthornv1.DeleteSourceRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.status(ctx, s.r.delete(ctx, req.GetName()))
}

type subscriptionServer struct {
	posthornv1.UnimplementedSubscriptionServiceServer
	edge
	r          *resource[*posthornv1.Subscription]
	transforms *transform.Runner
}

func (s subscriptionServer) ListSubscriptions(ctx context.Context, req *posthornv1.ListSubscriptionsRequest) (*posthornv1.ListSubscriptionsResponse, error) {
	items, next, err := s.r.list(ctx, req)
	return &posthornv1.ListSubscriptionsResponse{Items: items, NextCursor: next}, s.status(ctx, err)
}

func (s subscriptionServer) GetSubscription(ctx context.Context, req *posthornv1.GetSubscriptionRequest) (*posthornv1.Subscription, error) {
	out, err := s.r.get(ctx, req.GetName())
	return out, s.status(ctx, err)
}

func (s subscriptionServer) CreateSubscription(ctx context.Context, req *posthornv1.CreateSubscriptionRequest) (*posthornv1.Subscription, error) {
	out, err := s.r.create(ctx, req.GetSubscription())
	return out, s.status(ctx, err)
}

func (s subscriptionServer) PutSubscription(ctx context.Context, req *posthornv1.PutSubscriptionRequest) (*posthornv1.Subscription, error) {
	out, err := s.r.replace(ctx, req.GetSubscription())
	return out, s.status(ctx, err)
}

func (s subscriptionServer) DeleteSubscription(ctx context.Context, req *posthornv1.DeleteSubscriptionRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.status(ctx, s.r.delete(ctx, req.GetName()))
}

// TryTransform runs a program as a delivery would. That it fails is its answer; that
// it is none is an error.
func (s subscriptionServer) TryTransform(ctx context.Context, req *posthornv1.TryTransformRequest) (*posthornv1.TryTransformResponse, error) {
	p, err := transform.Compile(req.GetProgram())
	if err != nil {
		return nil, s.status(ctx, errs.Field("program", "%v", err))
	}
	out, err := s.transforms.Apply(ctx, p, "application/json", []byte(req.GetData()))
	answer := &posthornv1.TryTransformResponse{Output: string(out)}
	if err != nil {
		answer.Error = err.Error()
	}
	return answer, nil
}

type policyServer struct {
	posthornv1.UnimplementedPolicyServiceServer
	edge
	r *resource[*posthornv1.Policy]
}

func (s policyServer) ListPolicies(ctx context.Context, req *posthornv1.ListPoliciesRequest) (*posthornv1.ListPoliciesResponse, error) {
	items, next, err := s.r.list(ctx, req)
	return &posthornv1.ListPoliciesResponse{Items: items, NextCursor: next}, s.status(ctx, err)
}

func (s policyServer) GetPolicy(ctx context.Context, req *posthornv1.GetPolicyRequest) (*posthornv1.Policy, error) {
	out, err := s.r.get(ctx, req.GetName())
	out, err = s.advised(ctx, out, err)
	return out, s.status(ctx, err)
}

func (s policyServer) CreatePolicy(ctx context.Context, req *posthornv1.CreatePolicyRequest) (*posthornv1.Policy, error) {
	out, err := s.r.create(ctx, req.GetPolicy())
	out, err = s.advised(ctx, out, err)
	return out, s.status(ctx, err)
}

func (s policyServer) PutPolicy(ctx context.Context, req *posthornv1.PutPolicyRequest) (*posthornv1.Policy, error) {
	out, err := s.r.replace(ctx, req.GetPolicy())
	out, err = s.advised(ctx, out, err)
	return out, s.status(ctx, err)
}

func (s policyServer) DeletePolicy(ctx context.Context, req *posthornv1.DeletePolicyRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.status(ctx, s.r.delete(ctx, req.GetName()))
}

type authorizationServer struct {
	posthornv1.UnimplementedAuthorizationServiceServer
	edge
	r *resource[*posthornv1.Authorization]
}

func (s authorizationServer) ListAuthorizations(ctx context.Context, req *posthornv1.ListAuthorizationsRequest) (*posthornv1.ListAuthorizationsResponse, error) {
	items, next, err := s.r.list(ctx, req)
	return &posthornv1.ListAuthorizationsResponse{Items: items, NextCursor: next}, s.status(ctx, err)
}

func (s authorizationServer) GetAuthorization(ctx context.Context, req *posthornv1.GetAuthorizationRequest) (*posthornv1.Authorization, error) {
	out, err := s.r.get(ctx, req.GetName())
	return out, s.status(ctx, err)
}

func (s authorizationServer) CreateAuthorization(ctx context.Context, req *posthornv1.CreateAuthorizationRequest) (*posthornv1.Authorization, error) {
	out, err := s.r.create(ctx, req.GetAuthorization())
	return out, s.status(ctx, err)
}

func (s authorizationServer) PutAuthorization(ctx context.Context, req *posthornv1.PutAuthorizationRequest) (*posthornv1.Authorization, error) {
	out, err := s.r.replace(ctx, req.GetAuthorization())
	return out, s.status(ctx, err)
}

func (s authorizationServer) DeleteAuthorization(ctx context.Context, req *posthornv1.DeleteAuthorizationRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.status(ctx, s.r.delete(ctx, req.GetName()))
}

type backoffServer struct {
	posthornv1.UnimplementedBackoffServiceServer
	edge
	r *resource[*posthornv1.BackoffOverride]
}

func (s backoffServer) ListBackoffs(ctx context.Context, req *posthornv1.ListBackoffsRequest) (*posthornv1.ListBackoffsResponse, error) {
	items, next, err := s.r.list(ctx, req)
	return &posthornv1.ListBackoffsResponse{Items: items, NextCursor: next}, s.status(ctx, err)
}

func (s backoffServer) GetBackoff(ctx context.Context, req *posthornv1.GetBackoffRequest) (*posthornv1.BackoffOverride, error) {
	out, err := s.r.get(ctx, req.GetName())
	return out, s.status(ctx, err)
}

func (s backoffServer) CreateBackoff(ctx context.Context, req *posthornv1.CreateBackoffRequest) (*posthornv1.BackoffOverride, error) {
	out, err := s.r.create(ctx, req.GetBackoff())
	return out, s.status(ctx, err)
}

func (s backoffServer) PutBackoff(ctx context.Context, req *posthornv1.PutBackoffRequest) (*posthornv1.BackoffOverride, error) {
	out, err := s.r.replace(ctx, req.GetBackoff())
	return out, s.status(ctx, err)
}

func (s backoffServer) DeleteBackoff(ctx context.Context, req *posthornv1.DeleteBackoffRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.status(ctx, s.r.delete(ctx, req.GetName()))
}

type settingsServer struct {
	posthornv1.UnimplementedSettingsServiceServer
	edge
	r *resource[*posthornv1.Settings]
}

func (s settingsServer) GetSettings(ctx context.Context, _ *posthornv1.GetSettingsRequest) (*posthornv1.Settings, error) {
	out, err := s.r.get(ctx, settings.Name)
	return out, s.status(ctx, err)
}

func (s settingsServer) PutSettings(ctx context.Context, req *posthornv1.PutSettingsRequest) (*posthornv1.Settings, error) {
	v := req.GetSettings()
	if v == nil {
		return nil, s.status(ctx, errs.Field("settings", "is required"))
	}
	if v.GetName() != "" && v.GetName() != settings.Name {
		return nil, s.status(ctx, errs.Field("name", "is %q, but there is one resource of settings, %q", v.GetName(), settings.Name))
	}
	v = proto.CloneOf(v)
	v.Name = settings.Name
	out, err := s.r.replace(ctx, v)
	return out, s.status(ctx, err)
}

// edge is where errors leave the API.
type edge struct{ log *slog.Logger }

// status returns err as a gRPC status, nil for nil. What a client is not told,
// the log has.
func (e edge) status(ctx context.Context, err error) error {
	switch kind := errs.KindOf(err); {
	case err == nil:
		return nil
	case ctx.Err() != nil:
	case kind == errs.Internal && status.Code(err) == codes.Unknown, kind == errs.Unavailable:
		method, _ := grpc.Method(ctx)
		e.log.ErrorContext(ctx, "a request failed", "method", method, "kind", kind.String(), "err", err)
	}
	return wire.Status(err)
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}
