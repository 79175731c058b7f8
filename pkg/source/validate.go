package source

import (
	"fmt"
	"strings"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/pattern"
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
		if err := pattern.ValidType(spec.GetType()); err != nil {
			return errs.Field("type", "%v", err)
		}
	}
	for _, check := range []func(*posthornv1.Source, int) error{
		validateKind, validateSchemaMode, validateSecrets, validateHMAC, validateAuth0,
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
	return errs.Field("kind", "is one of GENERIC, CLOUDEVENTS, GITHUB, AUTH0 and HMAC")
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

func validateSecrets(spec *posthornv1.Source, secrets int) error {
	for i, s := range spec.GetSecrets() {
		switch {
		case s == "":
			return errs.Field("secrets", "number %d is empty", i+1)
		case spec.GetKind() == posthornv1.Source_AUTH0 && strings.TrimSpace(s) != s:
			return errs.Field("secrets", "number %d begins or ends with a blank, which no Authorization header can", i+1)
		}
	}
	if verifies(spec.GetKind()) {
		if secrets < 1 {
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

// verifies says whether a kind checks by itself who sent a request.
func verifies(k posthornv1.Source_Kind) bool {
	return k == posthornv1.Source_GITHUB || k == posthornv1.Source_AUTH0 || k == posthornv1.Source_HMAC
}

func validateHMAC(spec *posthornv1.Source, _ int) error {
	s := spec.GetHmac()
	if s == nil {
		return nil
	}
	if spec.GetKind() != posthornv1.Source_HMAC {
		return errs.Field("hmac", "is for kind HMAC; this source is of kind %s", spec.GetKind())
	}
	if _, known := posthornv1.HmacSettings_Algorithm_name[int32(s.GetAlgorithm())]; !known {
		return errs.Field("hmac.algorithm", "is one of SHA256 and SHA512")
	}
	if _, known := posthornv1.HmacSettings_Encoding_name[int32(s.GetEncoding())]; !known {
		return errs.Field("hmac.encoding", "is one of HEX and BASE64")
	}
	if strings.TrimLeft(s.GetPrefix(), " \t") != s.GetPrefix() || !cleanText(s.GetPrefix()) {
		return errs.Field("hmac.prefix", "begins with a blank or has a control character, which no header's value can")
	}
	for _, h := range []struct{ field, name string }{
		{"header", s.GetHeader()}, {"timestampHeader", s.GetTimestampHeader()},
		{"idHeader", s.GetIdHeader()}, {"typeHeader", s.GetTypeHeader()},
	} {
		if h.name != "" && !validHeaderName(h.name) {
			return errs.Field("hmac."+h.field, "%q is not the name of a header", h.name)
		}
	}
	for _, p := range []struct{ field, pointer string }{{"idPointer", s.GetIdPointer()}, {"typePointer", s.GetTypePointer()}} {
		if _, err := parsePointer(p.pointer); err != nil {
			return errs.Field("hmac."+p.field, "%v", err)
		}
	}
	return validateTolerance(s)
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
	if spec.GetKind() != posthornv1.Source_AUTH0 {
		return errs.Field("auth0", "is for kind AUTH0; this source is of kind %s", spec.GetKind())
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
