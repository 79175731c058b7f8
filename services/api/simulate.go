package api

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/interceptor"
	"github.com/posthornhq/posthorn/pkg/policy"
	"github.com/posthornhq/posthorn/pkg/recording"
	"github.com/posthornhq/posthorn/pkg/wire"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// SimulatePolicy runs a request, or the last of a source, through the flow of a policy, or of a draft, and
// shows each verdict and the schedule of retries. Nothing is stored, and the
// authorization servers are really asked.
func (s policyServer) SimulatePolicy(ctx context.Context, req *posthornv1.SimulatePolicyRequest) (*posthornv1.SimulatePolicyResponse, error) {
	out, err := s.simulate(ctx, req)
	return out, s.status(ctx, err)
}

func (s policyServer) simulate(ctx context.Context, req *posthornv1.SimulatePolicyRequest) (*posthornv1.SimulatePolicyResponse, error) {
	if err := checkLastRequests(req); err != nil {
		return nil, err
	}
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
	out := &posthornv1.SimulatePolicyResponse{Warnings: policy.Warnings(spec)}
	if req.GetLastRequests() > 0 {
		if err := s.replay(ctx, req, spec, flow, r, out); err != nil {
			return nil, err
		}
	} else {
		steps, refusal := flow.Check(ctx, r)
		out.Allowed, out.Verdicts = refusal == nil, verdicts(spec, steps)
		if out.Status = refusedWith(refusal); refusal != nil {
			out.Detail = errs.MessageOf(refusal)
		}
	}
	compiled = s.r.api.deps.Mirror.Delivery(compiled, req.GetSource(), req.GetType())
	for _, d := range compiled.Schedule.Preview(compiled.MaxRetries) {
		out.Schedule = append(out.Schedule, wire.Duration(d))
	}
	missing, err := s.missing(ctx, spec, r.Context)
	out.Warnings = append(out.Warnings, missing...)
	return out, err
}

func checkLastRequests(req *posthornv1.SimulatePolicyRequest) error {
	n := req.GetLastRequests()
	switch {
	case n == 0:
		return nil
	case n < 0 || n > recording.Most:
		return errs.Field("lastRequests", "is %d, must be 1 to %d", n, recording.Most)
	case req.GetSource() == "":
		return errs.Field("source", "is required: it is its requests that are recorded")
	case req.GetRequest() != nil:
		return errs.Field("request", "is not taken together with lastRequests; simulate one or the others")
	}
	return nil
}

// replay runs the recorded requests of a source through the flow. given has what
// the source lends to it.
func (s policyServer) replay(ctx context.Context, req *posthornv1.SimulatePolicyRequest, spec *posthornv1.Policy, flow *interceptor.Flow, given *interceptor.Request, out *posthornv1.SimulatePolicyResponse) error {
	last, err := s.r.api.deps.Requests.Last(ctx, req.GetSource(), int(req.GetLastRequests()))
	if err != nil {
		return err
	}
	if len(last) == 0 {
		out.Warnings = append(out.Warnings, fmt.Sprintf("No request of source %s was recorded in the last 24 hours; flag requestRecording of the settings says whether any is.", req.GetSource()))
	}
	// A value that comes with the draft is not the one that was compared with then.
	changed := policy.SecretsByID(policy.TakeSecrets(req.GetDraft()))
	out.Allowed = len(last) > 0
	for i := range last {
		rec := &last[i]
		past := rec.Past()
		past.Secrets = given.Secrets
		past.Decisions = slices.DeleteFunc(past.Decisions, func(d interceptor.Decision) bool {
			_, has := changed[d.ID]
			return has
		})
		steps, all, refusal := flow.Replay(ctx, past)
		v := &posthornv1.SimulatePolicyResponse_Recorded{
			At: wire.Timestamp(rec.At), Method: rec.Method, Path: rec.Path, Query: rec.Query, Headers: make(map[string]string, len(past.Header)),
			Size: rec.Size, Answered: int32(rec.Answered), Policy: rec.Policy, Outcome: "allowed",
			Status: refusedWith(refusal), Verdicts: verdicts(spec, steps),
		}
		for name := range past.Header {
			v.Headers[name] = past.Header.Get(name)
		}
		if rec.Client.IsValid() {
			v.RemoteAddress = rec.Client.String()
		}
		switch {
		case refusal != nil:
			v.Outcome = "refused"
		case !all:
			v.Outcome = interceptor.Unknown
		}
		out.Allowed = out.Allowed && v.Outcome == "allowed"
		out.Recorded = append(out.Recorded, v)
	}
	return nil
}

// refusedWith is the status of a refusal, 0 without one.
func refusedWith(refusal error) int32 {
	switch {
	case refusal == nil:
		return 0
	case errs.KindOf(refusal) == errs.Unauthenticated:
		return http.StatusUnauthorized
	}
	return http.StatusForbidden
}

// verdicts has one for each interceptor; steps end with the first that refused.
func verdicts(spec *posthornv1.Policy, steps []event.Step) []*posthornv1.SimulatePolicyResponse_Verdict {
	var out []*posthornv1.SimulatePolicyResponse_Verdict
	for i, in := range spec.GetSecurity().GetFlow() {
		v := &posthornv1.SimulatePolicyResponse_Verdict{Id: in.GetId(), Kind: interceptor.Kind(in)}
		if i < len(steps) {
			v.Outcome, v.Detail, v.Took = steps[i].Outcome, steps[i].Detail, wire.Duration(steps[i].Took)
		}
		out = append(out, v)
	}
	return out
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
			for name := range contextsOf(src.value) {
				contexts[name] = true
			}
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
