package interceptor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// Stripped stands in a recorded request for a value that was not recorded.
const Stripped = "(stripped)"

// Unknown is the outcome of an interceptor that would have to look at what a
// recorded request lacks.
const Unknown = "unknown"

// A Decision is what an interceptor decided about a request when it came.
type Decision struct {
	ID string `json:"id,omitempty"` // the interceptor's
	// Settings stands for its settings but the secret ones: another interceptor may
	// have its ID by now.
	Settings string `json:"settings"`
	Outcome  string `json:"outcome"`
	Detail   string `json:"detail,omitempty"`
}

// A Past is a request of the past, without its credentials and its body.
type Past struct {
	// Request has [Stripped] for every value of a header, cookie or parameter that
	// may be a credential, and no body.
	Request
	Decisions []Decision
	// Answered is the status that it got.
	Answered int
}

// fingerprint stands for an interceptor's settings but the secret ones.
func fingerprint(in *posthornv1.Interceptor) string {
	in = proto.CloneOf(in)
	in.Disabled = false
	switch k := in.GetKind().(type) {
	case *posthornv1.Interceptor_Hmac_:
		k.Hmac.Secret = nil
	case *posthornv1.Interceptor_HeaderValue_:
		k.HeaderValue.Value = nil
	case *posthornv1.Interceptor_JsonField_:
		k.JsonField.Value = nil
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(in)
	if err != nil {
		return "" // what is stored has been encoded before
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// Decisions returns what of steps, as [Flow.Check] made them, is worth keeping
// for [Flow.Replay].
func (f *Flow) Decisions(steps []event.Step) []Decision {
	if f == nil {
		return nil
	}
	var out []Decision
	for _, s := range f.stages {
		if i := slices.IndexFunc(steps, func(step event.Step) bool { return step.Name == s.step }); i >= 0 && steps[i].Outcome != Skipped {
			out = append(out, Decision{ID: s.id, Settings: s.settings, Outcome: steps[i].Outcome, Detail: steps[i].Detail})
		}
	}
	return out
}

// Reads reports whether the flow looks at a header of that name for more than the
// client's address.
func (f *Flow) Reads(header string) bool {
	if f == nil {
		return false
	}
	header = http.CanonicalHeaderKey(header)
	return slices.ContainsFunc(f.stages, func(s stage) bool {
		c, ok := s.check.(credentialed)
		return ok && slices.ContainsFunc(c.headers(), func(h string) bool { return http.CanonicalHeaderKey(h) == header })
	})
}

// A credentialed check looks at something that is not recorded.
type credentialed interface {
	// present refuses a request which lacks what is looked at, or which is refused
	// whatever that is.
	present(r *Request) *refusal
	// headers are those that it looks at.
	headers() []string
}

// Replay runs a request of the past through the flow, as far as that can be done
// without its credentials: addresses are filtered, and what is missing is
// refused. Of a credential that was there the decision of then is repeated, if
// the interceptor is still as it was, and else the outcome is [Unknown]. The error
// is that of [Flow.Check]; without one, all reports whether the outcome of every
// step is known.
func (f *Flow) Replay(ctx context.Context, p *Past) (steps []event.Step, all bool, err error) {
	all = true
	if f == nil {
		return nil, all, nil
	}
	for _, s := range f.stages {
		step := event.Step{Name: s.step, Outcome: OK, At: p.Now}
		var no *refusal
		switch c := s.check.(type) {
		case nil:
			step.Outcome, step.Detail = Skipped, "disabled"
		case credentialed:
			step.Outcome, step.Detail, no = s.remember(c, p)
		default:
			step.Detail, no = c.check(ctx, &p.Request)
		}
		if no != nil {
			step.Outcome, step.Detail = Refused, no.text
			return append(steps, step), all, s.refuse(no)
		}
		all = all && step.Outcome != Unknown
		steps = append(steps, step)
	}
	return steps, all, nil
}

// remember is what can be said of a credential that was not recorded.
func (s stage) remember(c credentialed, p *Past) (outcome, detail string, no *refusal) {
	if no := c.present(&p.Request); no != nil {
		return "", "", no
	}
	what := "the credential is there, but was not recorded"
	if _, body := c.(*jsonField); body {
		what = "the body was not recorded"
	}
	for _, d := range p.Decisions {
		if d.ID != s.id || d.Settings != s.settings {
			continue
		}
		if d.Outcome == Refused {
			no := denied("%s; it was refused then: %s", what, d.Detail)
			if p.Answered == http.StatusUnauthorized {
				no.kind = errs.Unauthenticated
			}
			return "", "", no
		}
		return OK, what + "; it was let through then: " + d.Detail, nil
	}
	return Unknown, what + ", and this check was not made then, so nobody can say", nil
}

func (p place) headers() []string {
	var names []string
	if p.header {
		names = append(names, p.name)
	}
	if p.cookie {
		names = append(names, "Cookie")
	}
	return names
}

func (a accessToken) present(r *Request) *refusal {
	if _, no := a.place.find(r); no != nil {
		return no
	}
	return a.asker.askable(r)
}

func (a accessToken) headers() []string { return a.place.headers() }

func (c clientID) present(r *Request) *refusal {
	if _, no := c.place.find(r); no != nil {
		return no
	}
	return c.asker.askable(r)
}

func (c clientID) headers() []string { return c.place.headers() }

func (o oauth) present(r *Request) *refusal {
	for _, name := range o.headers() {
		if _, no := single(r.Header, name); no != nil {
			return no
		}
	}
	return o.asker.askable(r)
}

func (o oauth) headers() []string { return []string{headerClientID, headerAccessToken} }

func (j *jwtBearer) present(r *Request) *refusal {
	if _, no := j.place.find(r); no != nil {
		return no
	}
	_, no := j.asker.jwtSection(contextOf(r))
	return no
}

func (j *jwtBearer) headers() []string { return j.place.headers() }
