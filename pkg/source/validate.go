package source

import (
	"cmp"
	"fmt"
	"math"
	"net/url"
	"strings"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/pattern"
	"github.com/posthornhq/posthorn/pkg/signature"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// Validate checks what a user wrote. Secrets is how many there are, those that
// are stored already included; such as stand in spec are checked too. Its errors
// are [errs.Invalid] and name the field as it is called in JSON.
func Validate(spec *posthornv1.Source, secrets int) error {
	if err := pattern.ValidName("name", spec.GetName()); err != nil {
		return err
	}
	for _, ref := range []struct{ field, name string }{{"context", spec.GetContext()}, {"policy", spec.GetPolicy()}} {
		if ref.name == "" {
			continue
		}
		if err := pattern.ValidName(ref.field, ref.name); err != nil {
			return err
		}
	}
	if spec.GetType() != "" {
		if _, err := pattern.ParseType(spec.GetType()); err != nil {
			return errs.Field("type", "%v", err)
		}
	}
	for _, check := range []func(*posthornv1.Source, int) error{
		validateKind, validateSettings, validateSchemaMode, validateTopics, validateContexts, validateRates, validateSecrets,
		validateHMAC, validateAuth0, validateHeader, validateJSONField, validateTwilio,
		validateAMQP,
	} {
		if err := check(spec, secrets); err != nil {
			return err
		}
	}
	return nil
}

func validateKind(spec *posthornv1.Source, _ int) error {
	if _, known := posthornv1.Source_Kind_name[int32(spec.GetKind())]; known && spec.GetKind() != posthornv1.Source_KIND_UNSPECIFIED {
		return nil
	}
	return errs.Field("kind", "is one of %s", kindNames())
}

// kindNames lists the kinds in the order of the protos.
func kindNames() string {
	var names []string
	for n := posthornv1.Source_GENERIC; posthornv1.Source_Kind_name[int32(n)] != ""; n++ {
		names = append(names, n.String())
	}
	return strings.Join(names, ", ")
}

// validateSettings refuses settings of another kind: whoever wrote them believes
// that they are followed.
func validateSettings(spec *posthornv1.Source, _ int) error {
	for _, s := range []struct {
		field string
		set   bool
		kind  posthornv1.Source_Kind
	}{
		{"hmac", spec.GetHmac() != nil, posthornv1.Source_HMAC},
		{"auth0", spec.GetAuth0() != nil, posthornv1.Source_AUTH0},
		{"header", spec.GetHeader() != nil, posthornv1.Source_HEADER},
		{"jsonField", spec.GetJsonField() != nil, posthornv1.Source_JSON_FIELD},
		{"twilio", spec.GetTwilio() != nil, posthornv1.Source_TWILIO},
		{"amqp", spec.GetAmqp() != nil, posthornv1.Source_AMQP},
	} {
		if s.set && spec.GetKind() != s.kind {
			return errs.Field(s.field, "is for kind %s; this source is of kind %s", s.kind, spec.GetKind())
		}
	}
	return nil
}

func validateSchemaMode(spec *posthornv1.Source, _ int) error {
	if _, known := posthornv1.Source_SchemaMode_name[int32(spec.GetSchemaMode())]; !known {
		return errs.Field("schemaMode", "is one of REJECT, WARN and OFF")
	}
	if spec.GetSchemaRequired() && spec.GetSchemaMode() == posthornv1.Source_OFF {
		return errs.Field("schemaRequired", "needs schemaMode REJECT or WARN; with OFF schemas are not looked at")
	}
	return nil
}

// maxContexts is how many further contexts a source may be in.
const maxContexts = 32

// validateContexts holds a source to one place in each context.
func validateContexts(spec *posthornv1.Source, _ int) error {
	if n := len(spec.GetContexts()); n > maxContexts {
		return errs.Field("contexts", "has %d, at most %d are allowed", n, maxContexts)
	}
	taken := map[string]bool{cmp.Or(spec.GetContext(), event.DefaultContext): true}
	for i, c := range spec.GetContexts() {
		field := fmt.Sprintf("contexts[%d].context", i)
		if err := pattern.ValidName(field, c.GetContext()); err != nil {
			return err
		}
		if taken[c.GetContext()] {
			return errs.Field(field, "the source is in context %q already", c.GetContext())
		}
		taken[c.GetContext()] = true
		for j, t := range c.GetTopics() {
			if _, err := pattern.ParseType(t); err != nil {
				return errs.Field(fmt.Sprintf("contexts[%d].topics[%d]", i, j), "%v", err)
			}
		}
	}
	return nil
}

// validateTopics holds topics to what a type must be, as they become one.
func validateTopics(spec *posthornv1.Source, _ int) error {
	for i, t := range spec.GetTopics() {
		if _, err := pattern.ParseType(t); err != nil {
			return errs.Field(fmt.Sprintf("topics[%d]", i), "%v", err)
		}
	}
	return nil
}

func validateRates(spec *posthornv1.Source, _ int) error {
	for _, r := range []struct {
		field string
		rate  float64
	}{{"ratePerClient", spec.GetRatePerClient()}, {"ratePerSecond", spec.GetRatePerSecond()}} {
		if !(r.rate >= 0) || math.IsInf(r.rate, 1) { // so that NaN is refused too
			return errs.Field(r.field, "is a number of requests a second, 0 for no limit")
		}
	}
	return nil
}

func validateSecrets(spec *posthornv1.Source, secrets int) error {
	for i, s := range spec.GetSecrets() {
		if wrong := wrongSecret(spec.GetKind(), s); wrong != "" {
			return errs.Field("secrets", "number %d %s", i+1, wrong)
		}
	}
	if verifies(spec.GetKind()) {
		if secrets < 1 {
			if spec.GetKind() == posthornv1.Source_AMQP {
				return errs.Field("secrets", "kind AMQP needs one, the password of amqp.username")
			}
			return errs.Field("secrets", "kind %s needs at least one, else it would refuse every request", spec.GetKind())
		}
		return nil
	}
	// Whoever sets a secret believes that it is asked for.
	if secrets > 0 {
		return errs.Field("secrets", "kind %s checks none; use kind HMAC, or a policy", spec.GetKind())
	}
	return nil
}

// wrongSecret says what is wrong with a secret, and nothing of what is in it.
func wrongSecret(kind posthornv1.Source_Kind, secret string) string {
	if secret == "" {
		return "is empty"
	}
	switch kind {
	case posthornv1.Source_AUTH0, posthornv1.Source_HEADER:
		return wrongToken(secret)
	case posthornv1.Source_STANDARD_WEBHOOKS:
		return wrongStandardSecret(secret)
	case posthornv1.Source_GITLAB:
		if strings.HasPrefix(secret, gitlabSigning) {
			return wrongStandardSecret(secret)
		}
		return wrongToken(secret)
	}
	return ""
}

// wrongToken is wrongSecret for what a publisher sends in a header.
func wrongToken(secret string) string {
	if strings.TrimSpace(secret) != secret {
		return "begins or ends with a blank, which no header can"
	}
	return ""
}

func wrongStandardSecret(secret string) string {
	if strings.HasPrefix(secret, "whsk_") {
		return "is a private key, which only the sender has; here belongs the public one (whpk_)"
	}
	if _, err := signature.ParseStandardSecret(secret); err != nil {
		return "is no key of Standard Webhooks: " + strings.TrimPrefix(err.Error(), "signature: ")
	}
	return ""
}

// verifies says whether a kind checks by itself who sent a request.
func verifies(k posthornv1.Source_Kind) bool {
	return k != posthornv1.Source_GENERIC && k != posthornv1.Source_CLOUDEVENTS
}

func validateHMAC(spec *posthornv1.Source, _ int) error {
	s := spec.GetHmac()
	if s == nil {
		return nil
	}
	if _, known := posthornv1.HmacSettings_Algorithm_name[int32(s.GetAlgorithm())]; !known {
		return errs.Field("hmac.algorithm", "is one of SHA256 and SHA512")
	}
	if _, known := posthornv1.HmacSettings_Encoding_name[int32(s.GetEncoding())]; !known {
		return errs.Field("hmac.encoding", "is one of HEX and BASE64")
	}
	if err := validatePrefix("hmac.prefix", s.GetPrefix()); err != nil {
		return err
	}
	for _, h := range []struct{ field, name string }{{"hmac.header", s.GetHeader()}, {"hmac.timestampHeader", s.GetTimestampHeader()}} {
		if err := validateHeaderName(h.field, h.name); err != nil {
			return err
		}
	}
	if err := validatePlaces("hmac", s); err != nil {
		return err
	}
	return validateTolerance(s)
}

func validatePrefix(field, prefix string) error {
	if strings.TrimLeft(prefix, " \t") != prefix || !cleanText(prefix) {
		return errs.Field(field, "begins with a blank or has a control character, which no header's value can")
	}
	return nil
}

// validateHeaderName takes "" for no header.
func validateHeaderName(field, name string) error {
	if name != "" && !validHeaderName(name) {
		return errs.Field(field, "%q is not the name of a header", name)
	}
	return nil
}

// validatePlaces checks what HMAC, HEADER and JSON_FIELD have in common.
func validatePlaces(message string, s placesSpec) error {
	for _, h := range []struct{ field, name string }{{"idHeader", s.GetIdHeader()}, {"typeHeader", s.GetTypeHeader()}} {
		if err := validateHeaderName(message+"."+h.field, h.name); err != nil {
			return err
		}
	}
	for _, p := range []struct{ field, pointer string }{{"idPointer", s.GetIdPointer()}, {"typePointer", s.GetTypePointer()}} {
		if _, err := parsePointer(p.pointer); err != nil {
			return errs.Field(message+"."+p.field, "%v", err)
		}
	}
	return nil
}

func validateHeader(spec *posthornv1.Source, _ int) error {
	if spec.GetKind() != posthornv1.Source_HEADER {
		return nil
	}
	s := spec.GetHeader()
	if s.GetName() == "" {
		return errs.Field("header.name", "is required")
	}
	if err := validateHeaderName("header.name", s.GetName()); err != nil {
		return err
	}
	if err := validatePrefix("header.prefix", s.GetPrefix()); err != nil {
		return err
	}
	return validatePlaces("header", s)
}

func validateJSONField(spec *posthornv1.Source, _ int) error {
	if spec.GetKind() != posthornv1.Source_JSON_FIELD {
		return nil
	}
	s := spec.GetJsonField()
	if s.GetPointer() == "" {
		return errs.Field("jsonField.pointer", "is required, for instance /token")
	}
	if _, err := parsePointer(s.GetPointer()); err != nil {
		return errs.Field("jsonField.pointer", "%v", err)
	}
	return validatePlaces("jsonField", s)
}

func validateTwilio(spec *posthornv1.Source, _ int) error {
	raw := spec.GetTwilio().GetUrl()
	if raw == "" {
		return nil
	}
	u, err := url.Parse(raw)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || strings.ContainsAny(raw, "?#") {
		// Not what is wrong with it: a URL may have a password.
		return errs.Field("twilio.url", "is not a URL with http or https, a host and no query, as in https://example.com/events/calls")
	}
	return nil
}

func validateTolerance(s *posthornv1.HmacSettings) error {
	if s.GetTolerance() == nil {
		return nil
	}
	if err := s.GetTolerance().CheckValid(); err != nil || s.GetTolerance().AsDuration() <= 0 {
		return errs.Field("hmac.tolerance", "is a positive duration, for instance 300s")
	}
	if s.GetTimestampHeader() == "" {
		return errs.Field("hmac.tolerance", "needs hmac.timestampHeader; without one, age is not checked")
	}
	return nil
}

func validateAuth0(spec *posthornv1.Source, _ int) error {
	s := spec.GetAuth0()
	if s == nil {
		return nil
	}
	for i, code := range s.GetCodes() {
		if code == "" || word(code) != code {
			return errs.Field(fmt.Sprintf("auth0.codes[%d]", i), "%q is not a log event code, such as \"s\" or \"fp\"", code)
		}
	}
	for i, name := range s.GetCategories() {
		if auth0Codes(name) == nil {
			return errs.Field(fmt.Sprintf("auth0.categories[%d]", i), "%q is not a category; known are %s", name, auth0CategoryNames())
		}
	}
	return nil
}

// validHeaderName says whether s is a token of RFC 9110.
func validHeaderName(s string) bool {
	for _, c := range []byte(s) {
		if !isAlphanumeric(c) && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}
