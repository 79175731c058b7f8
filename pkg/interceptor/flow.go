package interceptor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// Reason is the reason of every refusal, for its rejection and for metrics.
const Reason = "interceptor"

// Outcomes of a step.
const (
	OK      = "ok"
	Refused = "refused"
	Skipped = "skipped" // the interceptor is disabled
)

// A Request is what a publisher sent. It is not modified.
type Request struct {
	// RawQuery is the query of the URL, without the question mark.
	RawQuery string
	Header   http.Header
	Body     []byte
	// Client is who sent it, as [ClientAddr] says. The zero Addr means that it is
	// not known, which no IP filter lets pass.
	Client netip.Addr
	// Context decides which authorization is asked; empty for the default one.
	Context string
	// Secrets are the source's, for HMAC interceptors that have none themselves.
	Secrets [][]byte
	// Now is when the request came.
	Now time.Time
}

// A check is one interceptor, ready to be used concurrently.
type check interface {
	// check lets r pass and says why, or refuses it. Neither text may have a
	// secret or a credential in it.
	check(ctx context.Context, r *Request) (detail string, no *refusal)
}

// A refusal is a check's no.
type refusal struct {
	kind errs.Kind // Unauthenticated or Denied
	text string    // safe to show
	// cause is for operators.
	cause error
}

func unauthenticated(format string, args ...any) *refusal {
	return &refusal{kind: errs.Unauthenticated, text: fmt.Sprintf(format, args...)}
}

func denied(format string, args ...any) *refusal {
	return &refusal{kind: errs.Denied, text: fmt.Sprintf(format, args...)}
}

// because adds a cause and returns the refusal.
func (no *refusal) because(err error) *refusal {
	no.cause = err
	return no
}

// A Flow is ready to check requests. It may be used concurrently. A nil Flow
// lets everything pass.
type Flow struct {
	stages []stage
}

type stage struct {
	step  string // of the receipt: "interceptor[1]:jwt"
	name  string // for messages: "interceptor jwt (security.flow[1])"
	check check  // nil if disabled
	// The interceptor's ID, and what its settings are, for those who come later.
	id, settings string
}

// Compile prepares a flow. Secrets are the write-only values (hmac.secret,
// headerValue.value, jsonField.value) by interceptor ID; those in spec are not
// looked at. An interceptor whose value is missing refuses everything. Asker may
// be nil if no enabled interceptor asks. Errors are those of [Validate].
func Compile(spec *posthornv1.Security, secrets map[string]string, asker *Asker) (*Flow, error) {
	if err := Validate(spec); err != nil {
		return nil, fmt.Errorf("interceptor: compile: %w", err)
	}
	f := &Flow{stages: make([]stage, 0, len(spec.GetFlow()))}
	for i, in := range spec.GetFlow() {
		kind := Kind(in)
		s := stage{
			step: fmt.Sprintf("interceptor[%d]:%s", i, kind),
			name: fmt.Sprintf("interceptor %s (security.flow[%d])", kind, i),
			id:   in.GetId(), settings: fingerprint(in),
		}
		if !in.GetDisabled() {
			var err error
			if s.check, err = newCheck(in, liveValues(secrets, in.GetId()), asker); err != nil {
				return nil, fmt.Errorf("interceptor: compile security.flow[%d]: %w", i, err)
			}
		}
		f.stages = append(f.stages, s)
	}
	return f, nil
}

func newCheck(in *posthornv1.Interceptor, secrets [][]byte, asker *Asker) (check, error) {
	if asks(in) && asker == nil {
		return nil, errors.New("interceptor asks an authorization, and there is nobody to do it")
	}
	switch k := in.GetKind().(type) {
	case *posthornv1.Interceptor_AccessToken_:
		return newAccessToken(k.AccessToken, asker), nil
	case *posthornv1.Interceptor_ClientId_:
		return newClientID(k.ClientId, asker), nil
	case *posthornv1.Interceptor_Oauth:
		return oauth{asker: asker}, nil
	case *posthornv1.Interceptor_Jwt_:
		return newJWT(k.Jwt, asker), nil
	case *posthornv1.Interceptor_IpFilter_:
		return newIPFilter(k.IpFilter)
	case *posthornv1.Interceptor_Hmac_:
		return newHMAC(k.Hmac, secrets), nil
	case *posthornv1.Interceptor_HeaderValue_:
		return headerValue{name: k.HeaderValue.GetName(), values: secrets}, nil
	case *posthornv1.Interceptor_JsonField_:
		return newJSONField(k.JsonField, secrets)
	}
	return nil, errors.New("interceptor is of no kind")
}

// liveValues returns the lines of an interceptor's write-only value.
func liveValues(secrets map[string]string, id string) [][]byte {
	if id == "" {
		return nil
	}
	var values [][]byte
	for line := range strings.SplitSeq(secrets[id], "\n") {
		if line = strings.TrimSuffix(line, "\r"); line != "" {
			values = append(values, []byte(line))
		}
	}
	return values
}

// Kind returns the kind of an interceptor as JSON has it, such as "ipFilter", or
// "" if it has none.
func Kind(in *posthornv1.Interceptor) string {
	switch in.GetKind().(type) {
	case *posthornv1.Interceptor_AccessToken_:
		return "accessToken"
	case *posthornv1.Interceptor_ClientId_:
		return "clientId"
	case *posthornv1.Interceptor_Oauth:
		return "oauth"
	case *posthornv1.Interceptor_Jwt_:
		return "jwt"
	case *posthornv1.Interceptor_IpFilter_:
		return "ipFilter"
	case *posthornv1.Interceptor_Hmac_:
		return "hmac"
	case *posthornv1.Interceptor_HeaderValue_:
		return "headerValue"
	case *posthornv1.Interceptor_JsonField_:
		return "jsonField"
	}
	return ""
}

// Check runs the flow in order, for the receipts of the request's events or for
// its rejection: one step for each interceptor up to the first that refuses.
//
// The error is an [errs.Error] with reason [Reason] that names the interceptor:
// [errs.Unauthenticated] if the credential is missing or not valid, [errs.Denied]
// if the client is known and not allowed, or nobody can say.
func (f *Flow) Check(ctx context.Context, r *Request) ([]event.Step, error) {
	if f == nil || len(f.stages) == 0 {
		return nil, nil
	}
	steps := make([]event.Step, 0, len(f.stages))
	for _, s := range f.stages {
		if s.check == nil {
			steps = append(steps, event.Step{Name: s.step, Outcome: Skipped, Detail: "disabled", At: r.Now})
			continue
		}
		began := time.Now()
		detail, no := s.check.check(ctx, r)
		step := event.Step{Name: s.step, Outcome: OK, Detail: detail, At: r.Now, Took: time.Since(began)}
		if no != nil {
			step.Outcome, step.Detail = Refused, no.text
			return append(steps, step), s.refuse(no)
		}
		steps = append(steps, step)
	}
	return steps, nil
}

func (s stage) refuse(no *refusal) error {
	if no.cause != nil {
		return errs.Wrap(no.cause, no.kind, "%s: %s", s.name, no.text).Because(Reason)
	}
	return errs.New(no.kind, "%s: %s", s.name, no.text).Because(Reason)
}
