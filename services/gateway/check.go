package gateway

import (
	"maps"
	"net/http"
	"time"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/interceptor"
	"github.com/posthornhq/posthorn/pkg/source"
)

// check runs the security of the source's policy. A policy that is not there, or
// cannot be used, lets nobody in.
func (g *Gateway) check(r *http.Request, src *source.Source, body []byte, secrets [][]byte, now time.Time) ([]event.Step, error) {
	flow, ok := g.catalog.Flow(src.Policy())
	if !ok {
		return nil, errs.New(errs.Denied, "policy %s of source %s is not usable, so nobody may send; the log of the platform says why", src.Policy(), src.Name()).Because("policy")
	}
	// Without a client that is known, the filters of addresses refuse.
	client, err := interceptor.ClientAddr(r.RemoteAddr, r.Header, g.cfg.TrustedProxies)
	if err != nil {
		g.log.Debug("the address of a client is not known", "source", src.Name(), "err", err)
	}
	return flow.Check(r.Context(), &interceptor.Request{
		RawQuery: r.URL.RawQuery, Header: r.Header, Body: body, Client: client, Context: src.Context(), Secrets: secrets, Now: now,
	})
}

// allow answers the validation request of webhooks (CloudEvents).
func (g *Gateway) allow(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Allow", "POST, OPTIONS")
	src, _, err := g.named(r)
	if err != nil {
		g.problem(w, r, src, err)
		return
	}
	maps.Copy(w.Header(), src.AllowWebhook(r.Header))
	w.WriteHeader(http.StatusOK)
}

// reply answers with what a source wants its publisher to hear.
func (g *Gateway) reply(w http.ResponseWriter, src *source.Source, reply *source.Reply, begun time.Time) {
	g.metrics.replied(src.Name(), reply.Status, begun)
	w.Header().Set("Content-Type", reply.ContentType)
	w.WriteHeader(reply.Status)
	_, _ = w.Write(reply.Body) // the client may be gone
}

// scheme is that of the URL as the publisher knows it, by what this process sees
// of it; a proxy that ends TLS is named in the source's own settings.
func scheme(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	return "http"
}
