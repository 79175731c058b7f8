package subscription

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/posthornhq/posthorn/pkg/errs"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// maxScopes bounds what a token is asked for with.
const maxScopes = 50

// validAuth checks what a webhook shows of us besides signatures. Whether what it
// needs is stored is [ValidateSecrets]'s to say: here spec may be without.
func validAuth(w *posthornv1.Webhook) error {
	a := w.GetAuth()
	if a == nil {
		return nil
	}
	if a.GetKind() == nil && a.GetClientCertificate() == "" && a.GetClientKey() == "" {
		return errs.Field("destination.webhook.auth", "has neither bearer, basic or oauth2 nor a clientCertificate; leave it out")
	}
	var err error
	switch k := a.GetKind().(type) {
	case *posthornv1.WebhookAuth_Bearer_:
		if !httpguts.ValidHeaderFieldValue(k.Bearer.GetToken()) {
			err = errs.Field("destination.webhook.auth.bearer.token", "has control characters")
		}
	case *posthornv1.WebhookAuth_Basic_:
		err = validBasic(k.Basic)
	case *posthornv1.WebhookAuth_Oauth2:
		err = validOAuth2(k.Oauth2)
	}
	if err != nil {
		return err
	}
	if err := validAuthorizationHeader(w); err != nil {
		return err
	}
	return validCertificate(w)
}

func validBasic(b *posthornv1.WebhookAuth_Basic) error {
	const field = "destination.webhook.auth.basic."
	switch {
	case b.GetUsername() == "":
		return errs.Field(field+"username", "is required")
	case strings.Contains(b.GetUsername(), ":"):
		return errs.Field(field+"username", "has a colon, at which the endpoint would cut it (RFC 7617)")
	case len(b.GetUsername())+len(b.GetPassword()) > maxHeader:
		return errs.Field(field+"password", "is longer than %d bytes", maxHeader)
	}
	return nil
}

func validOAuth2(o *posthornv1.WebhookAuth_OAuth2) error {
	const field = "destination.webhook.auth.oauth2."
	if err := validURL(field+"tokenUrl", o.GetTokenUrl()); err != nil {
		return err
	}
	if o.GetClientId() == "" {
		return errs.Field(field+"clientId", "is required")
	}
	if n := len(o.GetScopes()); n > maxScopes {
		return errs.Field(field+"scopes", "has %d, at most %d are allowed", n, maxScopes)
	}
	for i, scope := range o.GetScopes() {
		// RFC 6749, 3.3.
		if scope == "" || strings.ContainsFunc(scope, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
			return errs.Field(fmt.Sprintf("%sscopes[%d]", field, i), "%q is not a scope; give each in an element of its own", scope)
		}
	}
	return nil
}

// validAuthorizationHeader refuses two that want the same header.
func validAuthorizationHeader(w *posthornv1.Webhook) error {
	if w.GetAuth().GetKind() == nil {
		return nil
	}
	for name := range w.GetHeaders() {
		if strings.EqualFold(name, "Authorization") {
			return errs.Field("destination.webhook.headers."+name, "is what destination.webhook.auth sets; remove one of the two")
		}
	}
	if strings.EqualFold(w.GetJwtSignature().GetHeader(), "Authorization") {
		return errs.Field("destination.webhook.jwtSignature.header", "Authorization is what destination.webhook.auth sets; choose another header")
	}
	return nil
}

func validCertificate(w *posthornv1.Webhook) error {
	const field = "destination.webhook.auth.clientCertificate"
	chain := w.GetAuth().GetClientCertificate()
	if chain == "" {
		if w.GetAuth().GetClientKey() != "" {
			return errs.Field(field, "is required with a clientKey")
		}
		return nil
	}
	if u, err := url.Parse(w.GetUrl()); err == nil && u.Scheme != "https" {
		return errs.Field("destination.webhook.url", "must begin with https:// for a client certificate to be shown")
	}
	rest, n := []byte(chain), 0
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return errs.Field(field, "has a PEM block of another type than CERTIFICATE; the key belongs into clientKey")
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return errs.Field(field, "has a certificate, number %d, that cannot be read", n+1)
		}
		n++
	}
	if n == 0 || strings.TrimSpace(string(rest)) != "" {
		return errs.Field(field, "is not a chain of certificates in PEM")
	}
	return nil
}
