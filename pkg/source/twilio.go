package source

import (
	"net"
	"net/url"
	"strings"

	"github.com/posthornhq/posthorn/pkg/signature"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// twilioBodyHash is the parameter of a URL that has the hash of a body which is
// not a form.
const twilioBodyHash = "bodySHA256"

// twilio takes the webhooks of Twilio, forms and JSON. What it signs is the URL
// that it called, so this kind alone needs to know that. The type of events is
// the topic in the path or the source's; Twilio names none.
type twilio struct {
	tokens      [][]byte
	details     []string // for the receipt, one a token
	settings    *posthornv1.TwilioSettings
	defaultType string
}

func newTwilio(spec *posthornv1.Source, secrets [][]byte) twilio {
	return twilio{
		tokens: secrets, details: verifyDetails("twilio hmac-sha1", len(secrets)),
		settings: spec.GetTwilio(), defaultType: spec.GetType(),
	}
}

func (k twilio) verify(r *Request) (string, error) {
	sig := r.Header.Get(signature.HeaderTwilio)
	if sig == "" {
		return "", unverified("the request has no %s header", signature.HeaderTwilio)
	}
	urls := k.urls(r)
	if len(urls) == 0 {
		return "", unverified("the request does not say which host it is for; set twilio.url of the source")
	}
	var form url.Values
	if isForm(r.Header) {
		var err error
		if form, err = url.ParseQuery(string(r.Body)); err != nil {
			return "", unverified("the body is not a form, as its content type says")
		}
	}
	i := signature.MatchTwilio(k.tokens, sig, urls, form)
	if i < 0 {
		return "", unverified("%s does not match: Twilio has another auth token, the body was changed, or the URL is not what Twilio called (then set twilio.url of the source)",
			signature.HeaderTwilio)
	}
	// The signature does not cover a body that is no form, but the hash of it.
	if form == nil && len(r.Body) > 0 {
		query, err := url.ParseQuery(r.RawQuery)
		if err != nil || len(query[twilioBodyHash]) != 1 || !signature.VerifyTwilioBody(query.Get(twilioBodyHash), r.Body) {
			return "", unverified("the body is not a form, nor is its hash what %s in the URL says", twilioBodyHash)
		}
	}
	return k.details[i], nil
}

// urls returns what Twilio may have signed: the URL of the settings, or else the
// request's, with and without the port, as Twilio's own libraries try it. Twilio
// calls https as a rule, even if TLS ends in front of the platform.
func (k twilio) urls(r *Request) []string {
	type base struct{ scheme, user, host, path string }
	bases := []base{{"https", "", r.Host, r.Path}, {"http", "", r.Host, r.Path}}
	if k.settings.GetUrl() != "" {
		var b base
		b.scheme, b.path, _ = strings.Cut(k.settings.GetUrl(), "://")
		b.host, b.path = b.path, ""
		if i := strings.IndexByte(b.host, '/'); i >= 0 {
			b.host, b.path = b.host[:i], b.host[i:]
		}
		if i := strings.LastIndexByte(b.host, '@'); i >= 0 {
			b.user, b.host = b.host[:i+1], b.host[i+1:]
		}
		bases = []base{b}
	} else if r.Scheme != "http" {
		bases = bases[:1]
	}
	query := ""
	if r.RawQuery != "" {
		query = "?" + r.RawQuery
	}
	var urls []string
	for _, b := range bases {
		if b.host == "" {
			continue
		}
		for _, host := range withAndWithoutPort(b.scheme, b.host) {
			urls = append(urls, b.scheme+"://"+b.user+host+b.path+query)
		}
	}
	return urls
}

func withAndWithoutPort(scheme, host string) []string {
	if _, port, err := net.SplitHostPort(host); err == nil {
		return []string{host, strings.TrimSuffix(host, ":"+port)}
	}
	if strings.EqualFold(scheme, "http") {
		return []string{host, host + ":80"}
	}
	return []string{host, host + ":443"}
}

func (k twilio) parse(r *Request) (Batch, error) {
	// Event Streams come as CloudEvents; ce- headers would not be signed.
	if hasPrefixFold(mediaType(r.Header.Get("Content-Type")), mediaCloudEvents) {
		return parseCloudEvents(r)
	}
	ev, err := plainEvent(r)
	if err != nil {
		return Batch{}, err
	}
	if ev.Type, err = fallbackType(r, k.defaultType); err != nil {
		return Batch{}, err
	}
	field, err := twilioFields(r, jsonDocument(ev))
	if err != nil {
		return Batch{}, err
	}
	var key string
	ev.ExternalID, key = twilioKey(field)
	return Batch{Events: []Incoming{{Event: ev, Key: key}}}, nil
}

// twilioFields returns how to look up a parameter, in a form or in JSON.
func twilioFields(r *Request, doc []byte) (func(name string) string, error) {
	if !isForm(r.Header) {
		return func(name string) string { return cleanString(member(doc, name)) }, nil
	}
	form, err := url.ParseQuery(string(r.Body))
	if err != nil {
		return nil, malformed("the body is not a form, as its content type says")
	}
	return func(name string) string {
		if v := form.Get(name); cleanText(v) {
			return v
		}
		return ""
	}, nil
}

// twilioKey returns the SID of the message or call, and the idempotency key.
// Twilio reports the progress of both with the SID unchanged, so the key has the
// status too, and the number of the report where there is one.
func twilioKey(field func(name string) string) (id, key string) {
	statusName := "MessageStatus"
	if id = field("MessageSid"); id == "" {
		statusName, id = "CallStatus", field("CallSid")
	}
	if id == "" {
		return "", ""
	}
	key = id
	for _, name := range []string{statusName, "SequenceNumber"} {
		if v := field(name); v != "" {
			key += "/" + v
		}
	}
	return id, key
}
