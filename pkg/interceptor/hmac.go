package interceptor

import (
	"context"
	"time"

	"github.com/posthornhq/posthorn/pkg/signature"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// defaultSignatureHeader is where the signature is if the settings do not say,
// as for sources of kind HMAC.
const defaultSignatureHeader = "X-Signature"

// An hmacSigned lets requests pass that are signed with one of its secrets, or
// of the source's if it has none. The signature covers the body, and with a
// timestamp header "<timestamp>.<body>".
type hmacSigned struct {
	header    string
	timestamp string
	scheme    signature.Scheme
	tolerance time.Duration
	secrets   [][]byte
	detail    string
}

func newHMAC(spec *posthornv1.Interceptor_Hmac, secrets [][]byte) *hmacSigned {
	h := &hmacSigned{
		header:    spec.GetHeader(),
		timestamp: spec.GetTimestampHeader(),
		scheme:    signature.Scheme{Prefix: spec.GetPrefix()},
		tolerance: signature.DefaultTolerance,
		secrets:   secrets,
	}
	if h.header == "" {
		h.header = defaultSignatureHeader
	}
	if spec.GetAlgorithm() == posthornv1.HmacSettings_SHA512 {
		h.scheme.Algorithm = signature.SHA512
	}
	if spec.GetEncoding() == posthornv1.HmacSettings_BASE64 {
		h.scheme.Encoding = signature.Base64
	}
	if spec.GetTolerance() != nil {
		h.tolerance = spec.GetTolerance().AsDuration()
	}
	h.detail = "hmac-" + h.scheme.Algorithm.String() + " in " + h.header
	return h
}

func (h *hmacSigned) check(_ context.Context, r *Request) (string, *refusal) {
	if no := h.present(r); no != nil {
		return "", no
	}
	secrets, sig := h.live(r), r.Header.Get(h.header)
	if h.timestamp == "" {
		if !h.scheme.Verify(secrets, sig, r.Body) {
			return "", h.mismatch()
		}
		return h.detail, nil
	}
	timestamp := r.Header.Get(h.timestamp)
	if !h.scheme.Verify(secrets, sig, []byte(timestamp), []byte("."), r.Body) {
		return "", h.mismatch()
	}
	// Whether it is stale is told to those alone who signed it.
	if !signature.Fresh(timestamp, r.Now, h.tolerance) {
		return "", unauthenticated("%s is not a time in Unix seconds within %s of now", h.timestamp, h.tolerance)
	}
	return h.detail, nil
}

// live returns the secrets to verify with.
func (h *hmacSigned) live(r *Request) [][]byte {
	if len(h.secrets) > 0 {
		return h.secrets
	}
	return r.Secrets
}

func (h *hmacSigned) present(r *Request) *refusal {
	if len(h.live(r)) == 0 {
		return denied("neither the interceptor nor the source has a secret to verify with")
	}
	for _, name := range h.headers() {
		if r.Header.Get(name) == "" {
			return unauthenticated("the request has no %s header", name)
		}
	}
	return nil
}

func (h *hmacSigned) headers() []string {
	if h.timestamp == "" {
		return []string{h.header}
	}
	return []string{h.header, h.timestamp}
}

func (h *hmacSigned) mismatch() *refusal {
	return unauthenticated("the signature in %s does not match", h.header)
}
