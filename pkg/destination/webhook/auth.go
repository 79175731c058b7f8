package webhook

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"net/http"

	"golang.org/x/net/http/httpguts"

	"github.com/posthornhq/posthorn/pkg/errs"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// A clientCert is what a webhook shows of us in TLS.
type clientCert struct {
	id   [sha256.Size]byte // of chain and key: webhooks with the same share connections
	cert tls.Certificate
}

// setAuth makes of a subscription's auth a header that is the same in every request,
// a source of tokens, or a certificate.
func (w *Webhook) setAuth(spec *posthornv1.WebhookAuth) error {
	const name = "destination.webhook.auth."
	switch k := spec.GetKind().(type) {
	case *posthornv1.WebhookAuth_Bearer_:
		token := k.Bearer.GetToken()
		if token == "" || !httpguts.ValidHeaderFieldValue(token) {
			return errs.Field(name+"bearer.token", "is missing, or has characters that a header cannot carry")
		}
		w.addStatic("Authorization", "Bearer "+token)
	case *posthornv1.WebhookAuth_Basic_:
		if k.Basic.GetPassword() == "" {
			return errs.Field(name+"basic.password", "is missing")
		}
		w.addStatic("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(k.Basic.GetUsername()+":"+k.Basic.GetPassword())))
	case *posthornv1.WebhookAuth_Oauth2:
		if k.Oauth2.GetTokenUrl() == "" || k.Oauth2.GetClientSecret() == "" {
			return errs.Field(name+"oauth2", "has no tokenUrl or no clientSecret")
		}
		w.tokens = newTokens(w.client, k.Oauth2)
	}
	if spec.GetKind() != nil && w.ownAuthorization {
		return errs.Field(name[:len(name)-1], "sets Authorization, which the subscription's headers or the URL set too")
	}
	chain, key := spec.GetClientCertificate(), spec.GetClientKey()
	if chain == "" {
		return nil
	}
	cert, err := tls.X509KeyPair([]byte(chain), []byte(key))
	if err != nil {
		return errs.Field(name+"clientKey", "is not the key of clientCertificate")
	}
	sum := sha256.New()
	sum.Write([]byte(chain + "\x00" + key))
	w.cert = &clientCert{cert: cert}
	sum.Sum(w.cert.id[:0])
	return nil
}

// transportFor returns what makes requests with a certificate; nil is without one.
func (c *Client) transportFor(cert *clientCert) *http.Transport {
	if cert == nil {
		return c.transport
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.certified.Get(cert.id); ok {
		return t
	}
	t := c.transport.Clone()
	t.TLSClientConfig.Certificates = []tls.Certificate{cert.cert}
	// A session that is resumed has the identity that it began with.
	t.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	c.certified.Add(cert.id, t)
	return t
}

// roundTrip makes a request and returns its answer. Where the endpoint wants tokens
// and does not take the one that it got, it is asked once more, with a new one: a
// 401 says that the request was not looked at.
func (w *Webhook) roundTrip(ctx context.Context, newRequest func() *http.Request) (*http.Response, error) {
	// The transport itself, not an http.Client: that would follow redirects.
	transport := w.client.transportFor(w.cert)
	if w.tokens == nil {
		return transport.RoundTrip(newRequest())
	}
	token, err := w.tokens.get(ctx, "")
	if err != nil {
		return nil, err
	}
	req := newRequest()
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := transport.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	fresh, tokenErr := w.tokens.get(ctx, token)
	if tokenErr != nil || fresh == token {
		return resp, err // the endpoint's word is what is known
	}
	readBody(resp)
	req = newRequest()
	req.Header.Set("Authorization", "Bearer "+fresh)
	return transport.RoundTrip(req)
}
