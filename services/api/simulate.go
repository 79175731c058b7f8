package api

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/interceptor"
	"github.com/posthornhq/posthorn/pkg/policy"
	"github.com/posthornhq/posthorn/pkg/wire"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// SimulatePolicy runs a request through the flow of a policy, or of a draft, and
// shows each verdict and the schedule of retries. Nothing is stored, and the
// authorization servers are really asked.
func (s policyServer) SimulatePolicy(ctx context.Context, req *posthornv1.SimulatePolicyRequest) (*posthornv1.SimulatePolicyResponse, error) {
	out, err := s.simulate(ctx, req)
	return out, s.status(ctx, err)
}

func (s policyServer) simulate(ctx context.Context, req *posthornv1.SimulatePolicyRequest) (*posthornv1.SimulatePolicyResponse, error) {
	spec, values, err := s.simulated(ctx, req)
	if err != nil {
		return nil, err
	}
	compiled, err := policy.Compile(spec)
	if err != nil {
		return nil, err
	}
	flow, err := interceptor.Compile(spec.GetSecurity(), policy.SecretsByID(values), s.r.api.deps.Asker)
	if err != nil {
		return nil, err
	}
	r, err := s.request(ctx, req)
	if err != nil {
		return nil, err
	}
	steps, refusal := flow.Check(ctx, r)
	out := &posthornv1.SimulatePolicyResponse{Allowed: refusal == nil, Warnings: policy.Warnings(spec)}
	if refusal != nil {
		out.Status, out.Detail = http.StatusForbidden, errs.MessageOf(refusal)
		if errs.KindOf(refusal) == errs.Unauthenticated {
			out.Status = http.StatusUnauthorized
		}
	}
	for i, in := range spec.GetSecurity().GetFlow() {
		v := &posthornv1.SimulatePolicyResponse_Verdict{Id: in.GetId(), Kind: interceptor.Kind(in)}
		if i < len(steps) {
			v.Outcome, v.Detail, v.Took = steps[i].Outcome, steps[i].Detail, wire.Duration(steps[i].Took)
		}
		out.Verdicts = append(out.Verdicts, v)
	}
	for _, d := range compiled.Schedule.Preview(compiled.MaxRetries) {
		out.Schedule = append(out.Schedule, wire.Duration(d))
	}
	missing, err := s.missing(ctx, spec, r.Context)
	out.Warnings = append(out.Warnings, missing...)
	return out, err
}

// simulated returns the policy that a request means, and its secret values.
func (s policyServer) simulated(ctx context.Context, req *posthornv1.SimulatePolicyRequest) (*posthornv1.Policy, []string, error) {
	cur, err := s.r.current(ctx, req.GetName())
	if err != nil {
		return nil, nil, err
	}
	if cur.value == nil && req.GetDraft() == nil {
		return nil, nil, s.r.notFound(req.GetName())
	}
	var stored []string
	if cur.value != nil && cur.value.GetSecretCount() > 0 {
		if stored, err = s.r.storedSecrets(ctx, req.GetName()); err != nil {
			return nil, nil, err
		}
	}
	if req.GetDraft() == nil {
		return cur.value, stored, nil
	}
	draft := proto.CloneOf(req.GetDraft())
	draft.Name = req.GetName()
	s.r.complete(draft)
	if err := policy.Validate(draft); err != nil {
		return nil, nil, err
	}
	return draft, policy.MergeSecrets(draft, policy.TakeSecrets(draft), stored), nil
}

// storedSecrets returns the secrets of a resource in clear.
func (r *resource[T]) storedSecrets(ctx context.Context, name string) ([]string, error) {
	e, err := r.sealed.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	return r.open(name, e.Value)
}

// request makes of a simulated request what the gateway would.
func (s policyServer) request(ctx context.Context, req *posthornv1.SimulatePolicyRequest) (*interceptor.Request, error) {
	in := req.GetRequest()
	_, query, _ := strings.Cut(in.GetPath(), "?")
	r := &interceptor.Request{RawQuery: query, Header: http.Header{}, Body: in.GetBody(), Context: event.DefaultContext, Now: time.Now()}
	for name, value := range in.GetHeaders() {
		r.Header.Set(name, value)
	}
	if a := in.GetRemoteAddress(); a != "" {
		var err error
		if r.Client, err = netip.ParseAddr(a); err != nil {
			return nil, errs.Field("request.remoteAddress", "%q is not an IP address", a)
		}
	}
	if req.GetSource() == "" {
		return r, nil
	}
	sources := s.r.api.sources
	src, err := sources.current(ctx, req.GetSource())
	if err != nil {
		return nil, err
	}
	if src.value == nil {
		return nil, errs.Field("source", "%q does not exist", req.GetSource())
	}
	r.Context = cmp.Or(src.value.GetContext(), event.DefaultContext)
	if src.value.GetSecretCount() == 0 {
		return r, nil
	}
	list, err := sources.storedSecrets(ctx, req.GetSource())
	for _, secret := range list {
		r.Secrets = append(r.Secrets, []byte(secret))
	}
	return r, err
}

// missing says which interceptors refuse everything in a context, since nobody can
// be asked there.
func (s policyServer) missing(ctx context.Context, spec *posthornv1.Policy, context string) ([]string, error) {
	az, err := s.r.api.authorizations.current(ctx, context)
	if err != nil {
		return nil, err
	}
	return interceptor.Missing(spec.GetSecurity(), context, az.value), nil
}

// advised adds to a policy's warnings what is missing where it is used; where no
// source names it, in the default context.
func (s policyServer) advised(ctx context.Context, p *posthornv1.Policy, err error) (*posthornv1.Policy, error) {
	if err != nil || len(p.GetSecurity().GetFlow()) == 0 {
		return p, err
	}
	sources, err := s.r.api.sources.all(ctx)
	if err != nil {
		return nil, err
	}
	contexts := map[string]bool{}
	for _, src := range sources {
		if src.value.GetPolicy() == p.GetName() {
			contexts[cmp.Or(src.value.GetContext(), event.DefaultContext)] = true
		}
	}
	if len(contexts) == 0 {
		contexts[event.DefaultContext] = true
	}
	for name := range contexts {
		more, err := s.missing(ctx, p, name)
		if err != nil {
			return nil, err
		}
		p.Warnings = append(p.Warnings, more...)
	}
	return p, nil
}
