package subscription

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/pattern"
	"github.com/posthornhq/posthorn/pkg/signature"
	"github.com/posthornhq/posthorn/pkg/transform"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// Limits of what a subscription may have. Most of them cost something with
// each event or request: patterns are compared, secrets sign, headers are sent.
const (
	MaxTypes     = 100
	MaxSecrets   = 10
	MaxHeaders   = 50
	maxURL       = 2048 // bytes
	maxTenant    = 255  // bytes
	maxHeader    = 4096 // bytes of name and value
	minSecret    = 8    // bytes
	minRate      = 0.001
	maxRate      = 1e6
	secretPrefix = "whsec_"
)

// Validate returns an error of kind [errs.Invalid] about the first field of spec
// that is wrong. Whether its policy exists, and where its URL leads, is for
// others to say.
//
// A secret is either "whsec_" and a key in base64 or "whsk_" and an ed25519 key in
// base64 (Standard Webhooks), or any other text of at least 8 bytes, which is the key
// as it stands.
func Validate(spec *posthornv1.Subscription) error {
	for _, check := range []func(*posthornv1.Subscription) error{
		validNames, validTypes, validTenant, validFilter, validOrderingKey, validTransform, validDestination, validPace, validSecrets,
	} {
		if err := check(spec); err != nil {
			return err
		}
	}
	return nil
}

func validNames(spec *posthornv1.Subscription) error {
	if err := pattern.ValidName("name", spec.GetName()); err != nil {
		return err
	}
	if c := spec.GetContext(); c != "" {
		if err := pattern.ValidName("context", c); err != nil {
			return err
		}
	}
	if p := spec.GetPolicy(); p != "" {
		if err := pattern.ValidName("policy", p); err != nil {
			return err
		}
	}
	if _, known := posthornv1.Event_Direction_name[int32(spec.GetDirection())]; !known {
		return errs.Field("direction", "%d is not a direction", spec.GetDirection())
	}
	if _, known := posthornv1.Subscription_Priority_name[int32(spec.GetPriority())]; !known {
		return errs.Field("priority", "%d is not a priority", spec.GetPriority())
	}
	return nil
}

func validTypes(spec *posthornv1.Subscription) error {
	if n := len(spec.GetTypes()); n == 0 || n > MaxTypes {
		return errs.Field("types", "has %d patterns, must have 1 to %d; # stands for all types", n, MaxTypes)
	}
	for i, text := range spec.GetTypes() {
		if err := pattern.Valid(text); err != nil {
			return errs.Field(fmt.Sprintf("types[%d]", i), "%v", err)
		}
	}
	return nil
}

func validTenant(spec *posthornv1.Subscription) error {
	switch t := spec.GetTenant(); {
	case len(t) > maxTenant:
		return errs.Field("tenant", "is %d bytes long, at most %d are allowed", len(t), maxTenant)
	case !utf8.ValidString(t) || strings.ContainsFunc(t, unicode.IsControl):
		return errs.Field("tenant", "%q contains control characters", t)
	}
	return nil
}

func validFilter(spec *posthornv1.Subscription) error {
	if spec.GetFilter() == "" {
		return nil
	}
	if _, err := CompileFilter(spec.GetFilter()); err != nil {
		return errs.Field("filter", "%v", err)
	}
	return nil
}

func validTransform(spec *posthornv1.Subscription) error {
	if spec.GetTransform() == "" {
		return nil
	}
	if _, err := transform.Compile(spec.GetTransform()); err != nil {
		return errs.Field("transform", "%v", err)
	}
	return nil
}

func validOrderingKey(spec *posthornv1.Subscription) error {
	if spec.GetOrderingKey() == "" {
		return nil
	}
	if _, err := CompileKey(spec.GetOrderingKey()); err != nil {
		return errs.Field("orderingKey", "%v", err)
	}
	return nil
}

func validPace(spec *posthornv1.Subscription) error {
	switch rate := spec.GetRatePerSecond(); {
	case !spec.GetOrdered() && spec.GetOrderingKey() != "":
		return errs.Field("orderingKey", "is for ordered subscriptions; set ordered, or leave it out")
	case !spec.GetOrdered() && spec.GetOnExhausted() != posthornv1.Subscription_ON_EXHAUSTED_UNSPECIFIED:
		return errs.Field("onExhausted", "is for ordered subscriptions; set ordered, or leave it out")
	case rate != 0 && !(rate >= minRate && rate <= maxRate): // NaN, too
		return errs.Field("ratePerSecond", "is %v, must be %v to %v, or 0 for no limit", rate, minRate, maxRate)
	case spec.GetMaxInFlight() < 0:
		return errs.Field("maxInFlight", "is %d, must not be negative", spec.GetMaxInFlight())
	}
	return nil
}

// validSecrets must not show any: errors end up in logs.
func validSecrets(spec *posthornv1.Subscription) error {
	if n := len(spec.GetSecrets()); n > MaxSecrets {
		return errs.Field("secrets", "has %d, at most %d are allowed", n, MaxSecrets)
	}
	for i, secret := range spec.GetSecrets() {
		field := fmt.Sprintf("secrets[%d]", i)
		key, standard := strings.CutPrefix(secret, secretPrefix)
		switch {
		case isCredential(secret):
			return errs.Field(field, "begins with a NUL character")
		case strings.HasPrefix(secret, "whsk_"), strings.HasPrefix(secret, "whpk_"):
			if k, err := signature.ParseStandardSecret(secret); err != nil || !k.CanSign() {
				return errs.Field(field, "is not a private key of Standard Webhooks: whsk_ and 32 or 64 bytes of ed25519 in base64; the subscriber has the public one, whpk_")
			}
			continue
		}
		if !standard {
			if len(secret) < minSecret {
				return errs.Field(field, "is shorter than %d bytes", minSecret)
			}
			continue
		}
		// Subscribers' libraries decode what begins so. One that is not base64
		// would be one key to us and another, or an error, to them.
		raw, err := base64.StdEncoding.DecodeString(key)
		if err != nil {
			return errs.Field(field, "begins with %s, so the rest must be base64", secretPrefix)
		}
		if len(raw) < minSecret {
			return errs.Field(field, "has a key shorter than %d bytes", minSecret)
		}
	}
	return nil
}

func validDestination(spec *posthornv1.Subscription) error {
	switch kind := spec.GetDestination().GetKind().(type) {
	case *posthornv1.Destination_Webhook:
		return validWebhook(kind.Webhook)
	case *posthornv1.Destination_Nats:
		return validNats(kind.Nats)
	case *posthornv1.Destination_Amqp:
		return validAmqp(kind.Amqp)
	case *posthornv1.Destination_Pull:
		return validPull(spec, kind.Pull)
	}
	return errs.Field("destination", "is required; give one of destination.webhook, amqp, nats and pull")
}

func validWebhook(w *posthornv1.Webhook) error {
	if err := validURL("destination.webhook.url", w.GetUrl()); err != nil {
		return err
	}
	if _, known := posthornv1.Webhook_Format_name[int32(w.GetFormat())]; !known {
		return errs.Field("destination.webhook.format", "%d is not a format", w.GetFormat())
	}
	if s := w.GetExpectedStatus(); s != 0 && (s < 200 || s > 299) {
		return errs.Field("destination.webhook.expectedStatus", "is %d, must be 200 to 299, or 0 for any of them", s)
	}
	if err := validHeaders(w.GetHeaders()); err != nil {
		return err
	}
	if err := validAuth(w); err != nil {
		return err
	}
	return validJWTSignature(w)
}

func validJWTSignature(w *posthornv1.Webhook) error {
	s := w.GetJwtSignature()
	if s.GetHeader() == "" {
		return nil
	}
	const field = "destination.webhook.jwtSignature.header"
	if !httpguts.ValidHeaderFieldName(s.GetHeader()) {
		return errs.Field(field, "%q is not the name of a header", s.GetHeader())
	}
	if reserved(strings.ToLower(s.GetHeader())) {
		return errs.Field(field, "%s is set by the platform or the connection and can't be chosen", s.GetHeader())
	}
	for name := range w.GetHeaders() {
		if strings.EqualFold(name, s.GetHeader()) {
			return errs.Field(field, "%s is among destination.webhook.headers too", s.GetHeader())
		}
	}
	return nil
}

// validURL does not show the URL, which may have credentials.
func validURL(field, text string) error {
	if text == "" {
		return errs.Field(field, "is required")
	}
	if len(text) > maxURL {
		return errs.Field(field, "is %d bytes long, at most %d are allowed", len(text), maxURL)
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errs.Field(field, "is not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return errs.Field(field, "must begin with http:// or https://")
	case u.Hostname() == "":
		return errs.Field(field, "has no host")
	case u.User != nil:
		return errs.Field(field, "has a user name or password, which would be seen in logs; use destination.webhook.auth")
	case u.Fragment != "":
		return errs.Field(field, "has a fragment (#…), which is never sent; remove it")
	}
	return nil
}

func validHeaders(headers map[string]string) error {
	if n := len(headers); n > MaxHeaders {
		return errs.Field("destination.webhook.headers", "has %d, at most %d are allowed", n, MaxHeaders)
	}
	seen := make(map[string]bool, len(headers))
	for name, value := range headers {
		field := "destination.webhook.headers." + name
		lower := strings.ToLower(name)
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			return errs.Field("destination.webhook.headers", "%q is not the name of a header", name)
		case reserved(lower):
			return errs.Field(field, "is set by the platform or the connection and can't be chosen")
		case seen[lower]:
			return errs.Field(field, "is there twice, in different case")
		case !httpguts.ValidHeaderFieldValue(value):
			return errs.Field(field, "has control characters in its value")
		case len(name)+len(value) > maxHeader:
			return errs.Field(field, "is longer than %d bytes", maxHeader)
		}
		seen[lower] = true
	}
	return nil
}

// reserved reports whether the header of that lower-case name is ours: what
// identifies, describes, signs or traces the event, and what belongs to the
// connection.
func reserved(name string) bool {
	switch name {
	case "hmac-sig", "content-type", "content-length", "content-encoding", "host", "traceparent", "tracestate",
		"x-correlation-id", "idempotency-key", "x-idempotency-key", // one value for all would make all but the first a repeat
		"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "expect":
		return true
	}
	return strings.HasPrefix(name, "webhook-") || strings.HasPrefix(name, "ce-") || strings.HasPrefix(name, "proxy-")
}
