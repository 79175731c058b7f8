package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/interceptor"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// A policy's secrets are the values that its interceptors compare with. They are
// stored apart, each as "<id> <kind> <name>\n<value>": a value stays with its
// interceptor wherever that is moved to in the flow, and is not handed to another
// one that happens to be given its ID.

// secretOf returns where the value of an interceptor is, and what it is kept
// under; nil if its kind has none.
func secretOf(in *posthornv1.Interceptor) (value **string, key string) {
	switch k := in.GetKind().(type) {
	case *posthornv1.Interceptor_Hmac_:
		return &k.Hmac.Secret, in.GetId() + " hmac " + k.Hmac.GetHeader()
	case *posthornv1.Interceptor_HeaderValue_:
		return &k.HeaderValue.Value, in.GetId() + " headerValue " + k.HeaderValue.GetName()
	case *posthornv1.Interceptor_JsonField_:
		return &k.JsonField.Value, in.GetId() + " jsonField " + k.JsonField.GetPath()
	}
	return nil, ""
}

// TakeSecrets returns the secret values in spec, as they are stored.
func TakeSecrets(spec *posthornv1.Policy) []string {
	var list []string
	for _, in := range spec.GetSecurity().GetFlow() {
		if value, key := secretOf(in); value != nil && *value != nil && **value != "" {
			list = append(list, key+"\n"+**value)
		}
	}
	return list
}

// ClearSecrets removes the secret values from spec.
func ClearSecrets(spec *posthornv1.Policy) {
	for _, in := range spec.GetSecurity().GetFlow() {
		if value, _ := secretOf(in); value != nil {
			*value = nil
		}
	}
}

// MergeSecrets returns what is to be stored for spec: the values it was given,
// and of those that were stored before the ones that its other interceptors need.
func MergeSecrets(spec *posthornv1.Policy, given, stored []string) []string {
	var list []string
	for _, in := range spec.GetSecurity().GetFlow() {
		value, key := secretOf(in)
		if value == nil {
			continue
		}
		has := func(s string) bool { return strings.HasPrefix(s, key+"\n") }
		if i := slices.IndexFunc(given, has); i >= 0 {
			list = append(list, given[i])
		} else if i := slices.IndexFunc(stored, has); i >= 0 {
			list = append(list, stored[i])
		}
	}
	return list
}

// ValidateSecrets refuses a policy with an enabled interceptor that has nothing
// to compare with: it would refuse everything. stored is what [MergeSecrets] gave.
func ValidateSecrets(spec *posthornv1.Policy, stored []string) error {
	values := SecretsByID(stored)
	for i, in := range spec.GetSecurity().GetFlow() {
		kind := interceptor.Kind(in)
		if in.GetDisabled() || kind != "headerValue" && kind != "jsonField" { // an HMAC may use the source's
			continue
		}
		if values[in.GetId()] == "" {
			return errs.Field(fmt.Sprintf("security.flow[%d].%s.value", i, kind), "is missing, so it would refuse everything")
		}
	}
	return nil
}

// SecretsByID returns stored values by the IDs of their interceptors.
func SecretsByID(stored []string) map[string]string {
	byID := make(map[string]string, len(stored))
	for _, s := range stored {
		key, value, _ := strings.Cut(s, "\n")
		id, _, _ := strings.Cut(key, " ")
		byID[id] = value
	}
	return byID
}

// NameInterceptors gives those without an ID one: their kind and a number. The
// same flow gets the same names, so that storing it again changes nothing.
func NameInterceptors(flow []*posthornv1.Interceptor) {
	taken := make(map[string]bool, len(flow))
	for _, in := range flow {
		taken[in.GetId()] = true
	}
	for _, in := range flow {
		for n := 1; in.GetId() == ""; n++ {
			if id := fmt.Sprintf("%s-%d", kindName(in), n); !taken[id] {
				in.Id, taken[id] = id, true
			}
		}
	}
}

// kindName is an interceptor's kind as names are written.
func kindName(in *posthornv1.Interceptor) string {
	switch in.GetKind().(type) {
	case *posthornv1.Interceptor_AccessToken_:
		return "access-token"
	case *posthornv1.Interceptor_ClientId_:
		return "client-id"
	case *posthornv1.Interceptor_Oauth:
		return "oauth"
	case *posthornv1.Interceptor_Jwt_:
		return "jwt"
	case *posthornv1.Interceptor_IpFilter_:
		return "ip-filter"
	case *posthornv1.Interceptor_Hmac_:
		return "hmac"
	case *posthornv1.Interceptor_HeaderValue_:
		return "header-value"
	case *posthornv1.Interceptor_JsonField_:
		return "json-field"
	}
	return "interceptor"
}
