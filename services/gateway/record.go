package gateway

import (
	"net/http"
	"net/textproto"
	"time"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/interceptor"
	"github.com/posthornhq/posthorn/pkg/recording"
	"github.com/posthornhq/posthorn/pkg/source"
)

// A Recorder keeps a sample of the requests, for the simulation of policies. It is
// satisfied by *recording.Recorder.
type Recorder interface {
	// Due reports whether a request is one for the sample.
	Due(source string, refused bool, now time.Time) bool
	// Offer does not wait.
	Offer(*recording.Request)
}

// record offers a request that was answered to the recorder, without what may be
// a credential. Most are not due, and cost next to nothing.
func (g *Gateway) record(r *http.Request, src *source.Source, steps []event.Step, status int, begun time.Time) {
	// A request over its rate got to no check.
	if g.cfg.Recorder == nil || status == http.StatusTooManyRequests || !g.cfg.Recorder.Due(src.Name(), status >= http.StatusBadRequest, begun) {
		return
	}
	req := &recording.Request{
		Source: src.Name(), Context: src.Context(), Policy: src.Policy(), At: begun.UTC(),
		Method: r.Method, Path: recording.Path(r.URL.EscapedPath()), Query: recording.Query(r.URL.RawQuery),
		Size: r.ContentLength, Answered: status,
	}
	var flow *interceptor.Flow
	if src.Policy() != "" {
		flow, _ = g.catalog.Flow(src.Policy()) // without one there are no decisions
	}
	req.Decisions = flow.Decisions(steps)
	req.Header, req.Cookies = recording.Strip(r.Header, func(header string) bool {
		return flow.Reads(header) || readBySource(src, header)
	})
	// One that is not known stays so, and the filters refuse it.
	req.Client, _ = interceptor.ClientAddr(r.RemoteAddr, r.Header, g.cfg.TrustedProxies)
	g.cfg.Recorder.Offer(req)
}

// readBySource reports whether the verification of a source looks at a header,
// of those that its settings name. All others are not kept anyhow.
func readBySource(src *source.Source, header string) bool {
	spec := src.Spec()
	for _, name := range []string{spec.GetHmac().GetHeader(), spec.GetHmac().GetTimestampHeader(), spec.GetHeader().GetName()} {
		if name != "" && textproto.CanonicalMIMEHeaderKey(name) == header {
			return true
		}
	}
	return false
}
