package authorization

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/posthornhq/posthorn/pkg/errs"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// Defaults of what an authorization leaves out, and limits.
const (
	DefaultTimeout = 3 * time.Second
	MaxTimeout     = 10 * time.Second
	DefaultCache   = 60 * time.Second
	MaxCache       = time.Hour

	maxDescription = 1000
	maxList        = 32
)

// Algorithms returns those of JSON Web Signatures (RFC 7518, RFC 8037) that may be
// allowed, which are the default too: with them only the issuer can sign.
func Algorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// An Authorization is ready to be asked. It must not be changed.
type Authorization struct {
	Spec *posthornv1.Authorization
	// ClientSecret is the platform's at the introspection endpoint; may be empty.
	ClientSecret string
}

// Validate refuses what can never work as Invalid, naming the field. secrets is
// how many there are, given or stored.
func Validate(spec *posthornv1.Authorization, secrets int) error {
	if len(spec.GetDescription()) > maxDescription {
		return errs.Field("description", "has more than %d bytes", maxDescription)
	}
	if spec.GetOauth() == nil && spec.GetJwt() == nil {
		return errs.Field("oauth", "is missing, and so is jwt; one of them must say whom to ask")
	}
	if o := spec.GetOauth(); o != nil {
		if err := validOAuth(o, secrets); err != nil {
			return err
		}
	}
	if j := spec.GetJwt(); j != nil {
		return validJWT(j)
	}
	return nil
}

func validOAuth(o *posthornv1.Authorization_OAuth, secrets int) error {
	if err := validURL("oauth.url", o.GetUrl()); err != nil {
		return err
	}
	if _, known := posthornv1.Authorization_OAuth_Mode_name[int32(o.GetMode())]; !known {
		return errs.Field("oauth.mode", "%d is not a mode", o.GetMode())
	}
	if o.GetClientId() == "" && secrets > 0 {
		return errs.Field("oauth.clientId", "is missing, but there is a clientSecret")
	}
	if len(o.GetClientId()) > 256 || len(o.GetClientSecret()) > 4096 {
		return errs.Field("oauth.clientId", "or clientSecret is too long; at most 256 and 4096 bytes are allowed")
	}
	if err := validDuration("oauth.timeout", o.GetTimeout(), 10*time.Millisecond, MaxTimeout); err != nil {
		return err
	}
	return validDuration("oauth.cache", o.GetCache(), 0, MaxCache)
}

func validJWT(j *posthornv1.Authorization_Jwt) error {
	switch {
	case j.GetJwksUrl() == "" && j.GetIssuer() == "":
		return errs.Field("jwt.jwksUrl", "is missing, and so is jwt.issuer; one of them must say where the signing keys are")
	case j.GetJwksUrl() != "":
		if err := validURL("jwt.jwksUrl", j.GetJwksUrl()); err != nil {
			return err
		}
	default:
		if err := validURL("jwt.issuer", j.GetIssuer()); err != nil {
			return err
		}
	}
	if len(j.GetAudiences()) > maxList || slices.Contains(j.GetAudiences(), "") {
		return errs.Field("jwt.audiences", "must be at most %d, none of them empty", maxList)
	}
	for _, a := range j.GetAlgorithms() {
		if !slices.Contains(Algorithms(), a) {
			return errs.Field("jwt.algorithms", "%q is not allowed; %s are: with others whoever can check a token could make one", a, strings.Join(Algorithms(), " "))
		}
	}
	return nil
}

func validURL(field, s string) error {
	u, err := url.Parse(s)
	switch {
	case s == "":
		return errs.Field(field, "is missing")
	case err != nil || len(s) > 2048:
		return errs.Field(field, "is not a URL")
	case u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
		return errs.Field(field, "must be an http or https URL with a host")
	case u.User != nil:
		return errs.Field(field, "has credentials in it; use clientId and clientSecret")
	case u.Fragment != "":
		return errs.Field(field, "has a fragment, which is never sent")
	}
	return nil
}

func validDuration(field string, d *durationpb.Duration, least, most time.Duration) error {
	if d == nil {
		return nil
	}
	if err := d.CheckValid(); err != nil || d.AsDuration() < least || d.AsDuration() > most {
		return errs.Field(field, "must be from %s to %s", least, most)
	}
	return nil
}
