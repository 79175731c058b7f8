package interceptor

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/posthornhq/posthorn/pkg/errs"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// Limits of what a flow may ask for.
const (
	MaxInterceptors = 32
	// MaxAddresses is the limit of one IP filter.
	MaxAddresses = 10_000
	// MaxTolerance is the limit of hmac.tolerance.
	MaxTolerance = 24 * time.Hour
	maxName      = 256 // of a header, cookie, query parameter or path, in bytes
	maxID        = 64
)

// Validate returns an error of kind [errs.Invalid] about the first field of a
// policy's security that is wrong. Disabled interceptors are checked too: to
// enable one must not need more than that.
func Validate(spec *posthornv1.Security) error {
	if n := len(spec.GetFlow()); n > MaxInterceptors {
		return errs.Field("security.flow", "has %d interceptors, at most %d are allowed", n, MaxInterceptors)
	}
	seen := make(map[string]int)
	for i, in := range spec.GetFlow() {
		field := fmt.Sprintf("security.flow[%d]", i)
		if err := validInterceptor(field, in); err != nil {
			return err
		}
		id := in.GetId()
		if id == "" {
			continue
		}
		if len(id) > maxID || strings.ContainsFunc(id, notInID) {
			return errs.Field(field+".id", "is at most %d letters, digits, dashes and underscores", maxID)
		}
		if first, taken := seen[id]; taken {
			return errs.Field(field+".id", "%q is that of security.flow[%d] too", id, first)
		}
		seen[id] = i
	}
	return nil
}

func notInID(r rune) bool {
	letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
	return !letter && (r < '0' || r > '9') && r != '-' && r != '_'
}

func validInterceptor(field string, in *posthornv1.Interceptor) error {
	kind := Kind(in)
	if kind == "" {
		return errs.Field(field, "says of no interceptor what kind it is")
	}
	field += "." + kind
	switch k := in.GetKind().(type) {
	case *posthornv1.Interceptor_AccessToken_:
		return validLocation(field, k.AccessToken.GetLocation(), k.AccessToken.GetName())
	case *posthornv1.Interceptor_ClientId_:
		return validLocation(field, k.ClientId.GetLocation(), k.ClientId.GetName())
	case *posthornv1.Interceptor_Jwt_:
		return validJWT(field, k.Jwt)
	case *posthornv1.Interceptor_IpFilter_:
		return validIPFilter(field, k.IpFilter)
	case *posthornv1.Interceptor_Hmac_:
		return validHMAC(field, k.Hmac)
	case *posthornv1.Interceptor_HeaderValue_:
		return validHeader(field+".name", k.HeaderValue.GetName())
	case *posthornv1.Interceptor_JsonField_:
		if _, err := parsePath(k.JsonField.GetPath()); err != nil {
			return errs.Field(field+".path", "%v", err)
		}
	}
	return nil // oauth has no fields
}

// validLocation checks where an access token or client ID is said to be.
func validLocation(field string, l posthornv1.Interceptor_Location, name string) error {
	switch l {
	case posthornv1.Interceptor_LOCATION_UNSPECIFIED, posthornv1.Interceptor_ANY, posthornv1.Interceptor_COOKIE,
		posthornv1.Interceptor_HEADER, posthornv1.Interceptor_HEADER_OR_COOKIE:
		return validHeader(field+".name", name)
	case posthornv1.Interceptor_QUERY:
		return validParameter(field+".name", name)
	}
	return errs.Field(field+".location", "is one of ANY, COOKIE, HEADER, HEADER_OR_COOKIE and QUERY")
}

// validHeader checks the name of a header, which is spelled as a cookie's is.
func validHeader(field, name string) error {
	switch {
	case name == "":
		return errs.Field(field, "is missing")
	case len(name) > maxName:
		return errs.Field(field, "has %d bytes, at most %d are allowed", len(name), maxName)
	case !httpguts.ValidHeaderFieldName(name):
		return errs.Field(field, "%q is not the name of a header or cookie", name)
	}
	return nil
}

func validParameter(field, name string) error {
	switch {
	case name == "":
		return errs.Field(field, "is missing")
	case len(name) > maxName:
		return errs.Field(field, "has %d bytes, at most %d are allowed", len(name), maxName)
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return errs.Field(field, "%q is not the name of a query parameter", name)
	}
	return nil
}

func validJWT(field string, spec *posthornv1.Interceptor_Jwt) error {
	switch spec.GetLocation() {
	case posthornv1.Interceptor_LOCATION_UNSPECIFIED, posthornv1.Interceptor_HEADER_DEFAULT:
		if spec.GetName() != "" {
			return errs.Field(field+".name", "is for locations HEADER and QUERY; HEADER_DEFAULT is Authorization: Bearer")
		}
		return nil
	case posthornv1.Interceptor_HEADER:
		return validHeader(field+".name", spec.GetName())
	case posthornv1.Interceptor_QUERY:
		return validParameter(field+".name", spec.GetName())
	}
	return errs.Field(field+".location", "is one of HEADER, HEADER_DEFAULT and QUERY")
}

func validIPFilter(field string, spec *posthornv1.Interceptor_IpFilter) error {
	switch spec.GetMode() {
	case posthornv1.Interceptor_IpFilter_ALLOW, posthornv1.Interceptor_IpFilter_BLOCK:
	default:
		return errs.Field(field+".mode", "is one of ALLOW and BLOCK")
	}
	n := 0
	for a := range addresses(spec) {
		if a.err != nil {
			return errs.Field(fmt.Sprintf("%s.addresses[%d]", field, a.index), "%v", a.err)
		}
		if n++; n > MaxAddresses {
			return errs.Field(field+".addresses", "has more than %d addresses", MaxAddresses)
		}
	}
	if n == 0 {
		return errs.Field(field+".addresses", "has no address")
	}
	return nil
}

func validHMAC(field string, spec *posthornv1.Interceptor_Hmac) error {
	if _, known := posthornv1.HmacSettings_Algorithm_name[int32(spec.GetAlgorithm())]; !known {
		return errs.Field(field+".algorithm", "is one of SHA256 and SHA512")
	}
	if _, known := posthornv1.HmacSettings_Encoding_name[int32(spec.GetEncoding())]; !known {
		return errs.Field(field+".encoding", "is one of HEX and BASE64")
	}
	if p := spec.GetPrefix(); strings.TrimLeft(p, " \t") != p || !httpguts.ValidHeaderFieldValue(p) || len(p) > maxName {
		return errs.Field(field+".prefix", "begins with a blank, has a control character or is longer than %d bytes", maxName)
	}
	for _, h := range []struct{ field, name string }{{"header", spec.GetHeader()}, {"timestampHeader", spec.GetTimestampHeader()}} {
		if h.name == "" {
			continue
		}
		if err := validHeader(field+"."+h.field, h.name); err != nil {
			return err
		}
	}
	if spec.GetTolerance() == nil {
		return nil
	}
	if spec.GetTimestampHeader() == "" {
		return errs.Field(field+".tolerance", "needs timestampHeader; without one, age is not checked")
	}
	return validDuration(field+".tolerance", spec.GetTolerance(), time.Nanosecond, MaxTolerance)
}

func validDuration(field string, d *durationpb.Duration, least, most time.Duration) error {
	if d == nil {
		return nil
	}
	if v := d.AsDuration(); d.CheckValid() != nil || v < least || v > most {
		return errs.Field(field, "is a duration of at most %s", most)
	}
	return nil
}

// Missing says, a sentence each, which enabled interceptors refuse everything in
// a context because its authorization (nil if there is none) does not have the
// URL that they ask.
func Missing(spec *posthornv1.Security, context string, az *posthornv1.Authorization) []string {
	var missing []string
	for i, in := range spec.GetFlow() {
		if in.GetDisabled() || !asks(in) {
			continue
		}
		_, isJWT := in.GetKind().(*posthornv1.Interceptor_Jwt_)
		section, has := "OAUTH", az.GetOauth().GetUrl() != ""
		if isJWT {
			section, has = "JWT", az.GetJwt().GetJwksUrl() != "" || az.GetJwt().GetIssuer() != ""
		}
		if !has {
			missing = append(missing, fmt.Sprintf("security.flow[%d]: interceptor %s refuses everything: the authorization of context %q has no %s section with a URL",
				i, Kind(in), context, section))
		}
	}
	return missing
}

// asks says whether an interceptor needs an authorization.
func asks(in *posthornv1.Interceptor) bool {
	switch in.GetKind().(type) {
	case *posthornv1.Interceptor_AccessToken_, *posthornv1.Interceptor_ClientId_,
		*posthornv1.Interceptor_Oauth, *posthornv1.Interceptor_Jwt_:
		return true
	}
	return false
}
