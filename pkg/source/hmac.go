package source

import (
	"fmt"
	"time"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/signature"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// defaultSignatureHeader is where the signature is if the settings do not say.
const defaultSignatureHeader = "X-Signature"

// hmacSigned takes any body that is signed with an HMAC, one event each. The
// signature covers the body, and with a timestamp header "<timestamp>.<body>";
// it does not cover the headers that an ID or a type is taken from.
type hmacSigned struct {
	settings    *posthornv1.HmacSettings
	header      string
	scheme      signature.Scheme
	tolerance   time.Duration
	idPointer   []string
	typePointer []string
	defaultType string
	secrets     [][]byte
	details     []string // for the receipt, one a secret
}

func newHMAC(spec *posthornv1.Source, secrets [][]byte) (*hmacSigned, error) {
	s := spec.GetHmac()
	k := &hmacSigned{
		settings:    s,
		header:      defaultSignatureHeader,
		scheme:      signature.Scheme{Prefix: s.GetPrefix()},
		tolerance:   signature.DefaultTolerance,
		defaultType: spec.GetType(),
		secrets:     secrets,
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
	var err error
	if k.idPointer, err = parsePointer(s.GetIdPointer()); err != nil {
		return nil, fmt.Errorf("id pointer: %w", err)
	}
	if k.typePointer, err = parsePointer(s.GetTypePointer()); err != nil {
		return nil, fmt.Errorf("type pointer: %w", err)
	}
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
		return -1, unverified("%s is not a time in Unix seconds within %s of now", name, k.tolerance)
	}
	return i, nil
}

func (k *hmacSigned) parse(r *Request) (Batch, error) {
	ev, err := plainEvent(r)
	if err != nil {
		return Batch{}, err
	}
	// Pointers lead into JSON whatever the content type says it is.
	doc := ev.Data
	if (k.idPointer != nil || k.typePointer != nil) && !isJSON(ev.DataContentType) && !validJSON(doc) {
		doc = nil
	}
	if ev.Type, err = k.eventType(r, doc); err != nil {
		return Batch{}, err
	}
	key, err := k.setID(r, doc, &ev)
	if err != nil {
		return Batch{}, err
	}
	return Batch{Events: []Incoming{{Event: ev, Key: key}}}, nil
}

// eventType is what the header says, or else the body, the path, the settings.
func (k *hmacSigned) eventType(r *Request, doc []byte) (string, error) {
	if name := k.settings.GetTypeHeader(); name != "" {
		if t := r.Header.Get(name); t != "" {
			return checkType(name, t)
		}
	}
	if k.typePointer != nil {
		if t, ok := text(resolve(doc, k.typePointer)); ok && t != "" {
			return checkType(k.settings.GetTypePointer(), t)
		}
	}
	return fallbackType(r, k.defaultType)
}

// setID sets the publisher's ID of the event and returns its key: that ID, or
// where the settings name none, the Idempotency-Key header. A request without
// the ID is taken all the same, without protection against repeats.
func (k *hmacSigned) setID(r *Request, doc []byte, ev *event.Event) (string, error) {
	if k.settings.GetIdHeader() == "" && k.idPointer == nil {
		return headerText(r.Header, headerKey)
	}
	if name := k.settings.GetIdHeader(); name != "" {
		id, err := headerText(r.Header, name)
		if err != nil {
			return "", err
		}
		ev.ExternalID = id
	}
	if ev.ExternalID == "" && k.idPointer != nil {
		id, _ := scalarText(resolve(doc, k.idPointer))
		if !cleanText(id) {
			return "", malformedField(k.settings.GetIdPointer(), "the ID is longer than %d bytes or has control characters", maxText)
		}
		ev.ExternalID = id
	}
	return ev.ExternalID, nil
}
