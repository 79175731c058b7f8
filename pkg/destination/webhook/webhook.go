package webhook

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/signature"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// A Webhook delivers the events of one subscription. It implements
// [destination.Destination].
type Webhook struct {
	client         *Client
	shown          string // the URL for people
	template       *http.Request
	static         []field
	format         posthornv1.Webhook_Format
	expectedStatus int
	disableOnGone  bool

	keys   []signature.StandardKey // one for each secret, in their order
	certes []byte                  // the first secret that is shared; may be empty
	signer signature.Signer        // of header HMAC-SIG, by that secret

	validation *validation // nil if nobody is asked

	own              map[string]bool // headers that the subscription gave
	ownAuthorization bool            // by a header or the URL's user
	tokens           *tokens         // nil if the endpoint wants none
	cert             *clientCert     // nil if it wants none

	jwtHeader    string // canonical; empty for no JWT
	jwtPrefix    string // of its value
	jwtIssuer    string
	subscription string
}

// A field is a header that is the same in every request.
type field struct {
	key    string // canonical
	values []string
}

// New compiles the webhook of the named subscription. Its secrets are at least
// one, the first signs first. An error is an [errs.Invalid] one that names the
// field of the subscription and repeats neither URL nor secret.
func New(c *Client, spec *posthornv1.Webhook, subscription string, secrets []string) (*Webhook, error) {
	u, err := parseURL(spec.GetUrl())
	if err != nil {
		return nil, err
	}
	w := &Webhook{
		client:         c,
		format:         spec.GetFormat(),
		expectedStatus: int(spec.GetExpectedStatus()),
		disableOnGone:  spec.GetDisableOnGone(),
		subscription:   subscription,
	}
	switch w.format {
	case posthornv1.Webhook_FORMAT_UNSPECIFIED:
		w.format = posthornv1.Webhook_CLOUDEVENTS_BINARY
	case posthornv1.Webhook_CLOUDEVENTS_BINARY, posthornv1.Webhook_CLOUDEVENTS_STRUCTURED, posthornv1.Webhook_RAW:
	default:
		return nil, errs.Field("destination.webhook.format", "%d is not a format", w.format)
	}
	if s := w.expectedStatus; s != 0 && (s < 200 || s > 599) {
		return nil, errs.Field("destination.webhook.expectedStatus", "%d is not the status of an answer (200 to 599)", s)
	}
	if err := w.setSecrets(subscription, secrets); err != nil {
		return nil, err
	}
	if err := w.setStatic(spec.GetHeaders(), u.User); err != nil {
		return nil, err
	}
	if err := w.setAuth(spec.GetAuth()); err != nil {
		return nil, err
	}
	if w.validation, err = newValidation(spec.GetValidation()); err != nil {
		return nil, err
	}
	if err := w.setJWT(spec.GetJwtSignature()); err != nil {
		return nil, err
	}
	u.User = nil
	w.shown = u.Scheme + "://" + u.Host + u.EscapedPath()
	w.template = &http.Request{
		Method: http.MethodPost, URL: u, Host: u.Host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	return w, nil
}

// parseURL never repeats what it was given, nor what [url.Parse] says of it: the
// one thing that is sure about a URL that does not parse is that nobody can say
// where in it the password is.
func parseURL(raw string) (*url.URL, error) {
	const name = "destination.webhook.url"
	if raw == "" {
		return nil, errs.Field(name, "is missing")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errs.Field(name, "is not a URL")
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return nil, errs.Field(name, "must begin with https:// or http://")
	}
	if u.Hostname() == "" {
		return nil, errs.Field(name, "has no host")
	}
	u.Fragment, u.RawFragment = "", ""
	return u, nil
}

func (w *Webhook) setSecrets(subscription string, secrets []string) error {
	for _, s := range secrets {
		key, err := signingKey(s)
		if err != nil {
			return errs.Field("secrets", "one of subscription %q cannot sign: %v", subscription, err)
		}
		w.keys = append(w.keys, key)
		if w.certes == nil && !strings.HasPrefix(s, privatePrefix) {
			w.certes = []byte(s)
			w.signer = signature.NewCertes(w.certes)
		}
	}
	if len(w.keys) == 0 {
		return errs.Field("secrets", "subscription %q has none to sign with", subscription)
	}
	return nil
}

// privatePrefix marks an ed25519 key, of which the subscriber has the other half.
const privatePrefix = "whsk_"

// signingKey reads a secret as the libraries of Standard Webhooks do: as base64,
// with or without a prefix. One that is not, and so cannot be used with them, is
// a key as it stands.
func signingKey(secret string) (signature.StandardKey, error) {
	key, err := signature.ParseStandardSecret(secret)
	if err != nil && secret != "" && !hasKeyPrefix(secret) {
		key, err = signature.ParseStandardSecret("whsec_" + base64.StdEncoding.EncodeToString([]byte(secret)))
	}
	if err == nil && !key.CanSign() {
		err = errors.New("it is a public key")
	}
	return key, err
}

func hasKeyPrefix(secret string) bool {
	return strings.HasPrefix(secret, "whsec_") || strings.HasPrefix(secret, privatePrefix) || strings.HasPrefix(secret, "whpk_")
}

// setStatic collects the headers that are the same in every request.
func (w *Webhook) setStatic(headers map[string]string, user *url.Userinfo) error {
	all := map[string]string{"User-Agent": w.client.userAgent}
	if user != nil {
		password, _ := user.Password()
		all["Authorization"] = "Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password))
	}
	if w.format == posthornv1.Webhook_CLOUDEVENTS_BINARY {
		all["Ce-Specversion"] = "1.0"
	}
	w.own = make(map[string]bool, len(headers))
	for name, value := range headers {
		key := http.CanonicalHeaderKey(name)
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			return errs.Field("destination.webhook.headers", "%q is not the name of a header", name)
		case reserved(key):
			return errs.Field("destination.webhook.headers", "%s is set by the platform", key)
		case !httpguts.ValidHeaderFieldValue(value):
			return errs.Field("destination.webhook.headers", "the value of %s has characters that a header cannot carry", key)
		}
		all[key] = value
		w.own[key] = true
	}
	_, w.ownAuthorization = all["Authorization"]
	for key, value := range all {
		w.static = append(w.static, field{key, []string{value}})
	}
	slices.SortFunc(w.static, func(a, b field) int { return strings.Compare(a.key, b.key) })
	return nil
}

func (w *Webhook) addStatic(key, value string) {
	w.static = append(w.static, field{key, []string{value}})
}

// DefaultJWTHeader is where a delivery's JWT goes when the subscription does not say.
const DefaultJWTHeader = "X-Signature-JWT"

func (w *Webhook) setJWT(spec *posthornv1.JwtSignature) error {
	if spec == nil {
		return nil
	}
	const name = "destination.webhook.jwtSignature"
	w.jwtHeader = http.CanonicalHeaderKey(cmp.Or(spec.GetHeader(), DefaultJWTHeader))
	w.jwtIssuer = cmp.Or(spec.GetIssuer(), "posthorn")
	switch {
	case !httpguts.ValidHeaderFieldName(w.jwtHeader):
		return errs.Field(name+".header", "%q is not the name of a header", spec.GetHeader())
	case reserved(w.jwtHeader):
		return errs.Field(name+".header", "%s is set by the platform", w.jwtHeader)
	case slices.ContainsFunc(w.static, func(f field) bool { return f.key == w.jwtHeader }), w.tokens != nil && w.jwtHeader == "Authorization":
		return errs.Field(name+".header", "%s is among the subscription's own headers, or set by its auth or its URL's user", w.jwtHeader)
	case len(w.certes) == 0:
		return errs.Field(name, "needs a secret that is shared; subscription %q has private keys only", w.subscription)
	}
	if w.jwtHeader == "Authorization" {
		w.jwtPrefix = "Bearer "
	}
	return nil
}

// reserved says whether a header is not the subscription's to set.
func reserved(key string) bool {
	switch key {
	case "Host", "Content-Type", "Content-Length", // follow from URL and event
		"Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Expect", // the connection's
		"Hmac-Sig", "Traceparent", "Tracestate", "X-Correlation-Id",
		// One value for all events would make an endpoint drop all but the first,
		// and makes net/http repeat a request on its own.
		"Idempotency-Key", "X-Idempotency-Key":
		return true
	}
	return strings.HasPrefix(key, "Webhook-") || strings.HasPrefix(key, "Ce-") || strings.HasPrefix(key, "Proxy-")
}

// String returns the URL without user, password, query and fragment.
func (w *Webhook) String() string { return w.shown }

// Prepare implements [destination.Preparer]. The permission that an endpoint may be
// asked for before is no part of it.
func (w *Webhook) Prepare(_ context.Context, m *destination.Message) destination.Request {
	body := w.body(m)
	header := w.header(m, body)
	if w.tokens != nil {
		header.Set("Authorization", destination.MaskedValue)
	}
	r := destination.Request{Method: http.MethodPost, Target: w.shown, Body: body}
	for _, key := range slices.Sorted(maps.Keys(header)) {
		for _, value := range header[key] {
			if w.own[key] || key == "Authorization" {
				value = destination.MaskedValue
			}
			r.Header = append(r.Header, destination.HeaderField{Name: key, Value: value})
		}
	}
	return r
}

// Send implements [destination.Destination].
func (w *Webhook) Send(ctx context.Context, m *destination.Message) destination.Result {
	if r, ok := w.validate(ctx); !ok {
		return r
	}
	start := time.Now()
	resp, err := w.roundTrip(ctx, func() *http.Request { return w.newRequest(ctx, m) })
	if err != nil {
		r := noAnswer(ctx, err)
		r.Latency = time.Since(start)
		return r
	}
	r := destination.Result{Status: resp.StatusCode, Response: readBody(resp)}
	r.Latency = time.Since(start)
	w.judge(&r, resp.Header, m.Now.Add(r.Latency))
	return r
}
