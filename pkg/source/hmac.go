package source

import (
	"time"

	"github.com/posthornhq/posthorn/pkg/signature"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// defaultSignatureHeader is where the signature is if the settings do not say.
const defaultSignatureHeader = "X-Signature"

// hmacSigned takes any body that is signed with an HMAC, one event each. The
// signature covers the body, and with a timestamp header "<timestamp>.<body>";
// it does not cover the headers that an ID or a type is taken from.
type hmacSigned struct {
	places
	settings  *posthornv1.HmacSettings
	header    string
	scheme    signature.Scheme
	tolerance time.Duration
	secrets   [][]byte
	details   []string // for the receipt, one a secret
}

func newHMAC(spec *posthornv1.Source, secrets [][]byte) (*hmacSigned, error) {
	s := spec.GetHmac()
	where, err := newPlaces(s, spec.GetType())
	if err != nil {
		return nil, err
	}
	k := &hmacSigned{
		places:    where,
		settings:  s,
		header:    defaultSignatureHeader,
		scheme:    signature.Scheme{Prefix: s.GetPrefix()},
		tolerance: signature.DefaultTolerance,
		secrets:   secrets,
	}
	if s.GetHeader() != "" {
		k.header = s.GetHeader()
	}
	if s.GetAlgorithm() == posthornv1.HmacSettings_SHA512 {
		k.scheme.Algorithm = signature.SHA512
	}
	if s.GetEncoding() == posthornv1.HmacSettings_BASE64 {
		k.scheme.Encoding = signature.Base64
	}
	if s.GetTolerance() != nil {
		k.tolerance = s.GetTolerance().AsDuration()
	}
	k.details = verifyDetails("hmac-"+k.scheme.Algorithm.String(), len(secrets))
	return k, nil
}

func (k *hmacSigned) verify(r *Request) (string, error) {
	sig := r.Header.Get(k.header)
	if sig == "" {
		return "", unverified("the request has no %s header", k.header)
	}
	i, err := k.match(r, sig)
	if err != nil {
		return "", err
	}
	if i < 0 {
		return "", mismatch(k.header)
	}
	return k.details[i], nil
}

// match returns the index of the secret that sig is made with, or -1.
func (k *hmacSigned) match(r *Request, sig string) (int, error) {
	name := k.settings.GetTimestampHeader()
	if name == "" {
		return k.scheme.Match(k.secrets, sig, r.Body), nil
	}
	timestamp := r.Header.Get(name)
	if timestamp == "" {
		return -1, unverified("the request has no %s header", name)
	}
	i := k.scheme.Match(k.secrets, sig, []byte(timestamp), []byte("."), r.Body)
	// Whether it is stale is told to those alone who signed it.
	if i >= 0 && !signature.Fresh(timestamp, r.Now, k.tolerance) {
		return -1, stale(name, k.tolerance)
	}
	return i, nil
}
