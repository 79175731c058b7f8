package webhook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/errs"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// DefaultOrigin is who asks for permission when the subscription does not say.
const DefaultOrigin = "posthorn"

// A validation is the endpoint's permission to be delivered to (HTTP 1.1 Web
// Hooks for Event Delivery, section 4, of CloudEvents). It is asked for once in the
// life of a Webhook, so anew in each process and after each edit.
type validation struct {
	origin string

	mu      sync.Mutex // held while the endpoint is asked
	granted bool
}

func newValidation(spec *posthornv1.WebhookValidation) (*validation, error) {
	if spec == nil {
		return nil, nil
	}
	v := &validation{origin: cmp.Or(spec.GetOrigin(), DefaultOrigin)}
	if strings.ContainsFunc(v.origin, func(r rune) bool { return r <= ' ' || r > '~' }) || len(v.origin) > 255 {
		return nil, errs.Field("destination.webhook.validation.origin", "is not a name such as events.example.com")
	}
	return v, nil
}

// validate returns what is wrong if the endpoint does not give its permission. A
// no counts as an answer of its status, to which the policy has its say; a 2xx
// without permission is never tried again by itself.
func (w *Webhook) validate(ctx context.Context) (destination.Result, bool) {
	v := w.validation
	if v == nil {
		return destination.Result{}, true
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.granted {
		return destination.Result{}, true
	}
	begun := time.Now()
	resp, err := w.roundTrip(ctx, func() *http.Request {
		req := w.template.WithContext(ctx)
		req.Method, req.Header = http.MethodOptions, http.Header{}
		for _, f := range w.static {
			req.Header[f.key] = f.values
		}
		req.Header.Set("WebHook-Request-Origin", v.origin)
		return req
	})
	if err != nil {
		r := noAnswer(ctx, err)
		r.Latency = time.Since(begun)
		return r, false
	}
	r := destination.Result{Status: resp.StatusCode, Response: readBody(resp), Latency: time.Since(begun), Verdict: destination.Answered}
	allowed := resp.Header.Get("WebHook-Allowed-Origin")
	switch {
	case resp.StatusCode/100 != 2:
		r.Err = fmt.Errorf("validation answered %s", statusText(resp.StatusCode))
	case allowed == "*" || strings.EqualFold(allowed, v.origin):
		v.granted = true
		return destination.Result{}, true
	case allowed == "":
		r.Err = errors.New("validation: the endpoint did not allow deliveries: its answer has no WebHook-Allowed-Origin")
	default:
		r.Err = errors.New("validation: the endpoint allows deliveries from another origin")
	}
	return r, false
}
