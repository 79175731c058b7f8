package subscription

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/posthornhq/posthorn/pkg/errs"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// A subscription's secrets are what its deliveries are signed with, and the
// credentials of its destination: the write-only fields, and the values of headers.
// They are stored apart, in one list. A signing secret stands there as it is, a
// credential as
//
//	NUL <field> <what it was given for, quoted> LF <value>
//
// so that a credential goes with its field, and only to the server and user that it
// was given for: whoever may edit a subscription may not learn its credentials by
// pointing it elsewhere.

// Masked stands for a header's value in answers and in bucket config. In an edit it
// keeps the value that is stored.
const Masked = "***"

// credentialMark begins a stored credential. No signing secret may begin so.
const credentialMark = "\x00"

// ErrCredentialsMissing says that not all credentials of a destination are at hand.
var ErrCredentialsMissing = errors.New("subscription: not all of its credentials are there")

// A credential is one write-only value of a destination, whether it is set or not.
type credential struct {
	field string // as clients know it
	key   string // what it is stored under
	value string // in the spec; "" for none, or [Masked]
	given bool   // the spec has it, if only to say that there is none
	// needed says that the destination is of no use without it.
	needed bool
	// one is set where only one of several can be: giving one drops the others.
	one bool
	set func(string) // "" clears
}

// stored returns what is kept under the credential's key in a list.
func (c *credential) stored(list []string) (value string, ok bool) {
	for _, s := range list {
		if value, ok = strings.CutPrefix(s, c.key); ok {
			return value, true
		}
	}
	return "", false
}

func (c *credential) new() bool { return c.given && c.value != "" && c.value != Masked }

// credentials lists those of a destination, always in the same order.
func credentials(d *posthornv1.Destination) []*credential {
	switch k := d.GetKind().(type) {
	case *posthornv1.Destination_Webhook:
		return webhookCredentials(k.Webhook)
	case *posthornv1.Destination_Amqp:
		at := slot{"destination.amqp.", []string{k.Amqp.GetUrl(), k.Amqp.GetUsername()}}
		list := at.headers(k.Amqp.GetHeaders(), strings.Clone)
		return append(list, at.optional("password", &k.Amqp.Password, k.Amqp.GetUsername() != ""))
	case *posthornv1.Destination_Nats:
		at := slot{"destination.nats.", []string{k.Nats.GetUrl(), k.Nats.GetUsername()}}
		list := at.headers(k.Nats.GetHeaders(), strings.Clone)
		for _, c := range []*credential{
			at.optional("credentials", &k.Nats.Credentials, false),
			at.optional("token", &k.Nats.Token, false),
			at.optional("password", &k.Nats.Password, k.Nats.GetUsername() != ""),
		} {
			c.one = true
			list = append(list, c)
		}
		return list
	}
	return nil
}

func webhookCredentials(w *posthornv1.Webhook) []*credential {
	at := slot{"destination.webhook.", []string{origin(w.GetUrl())}}
	list := at.headers(w.GetHeaders(), http.CanonicalHeaderKey)
	auth := slot{at.path + "auth.", at.bound}
	switch k := w.GetAuth().GetKind().(type) {
	case *posthornv1.WebhookAuth_Bearer_:
		list = append(list, auth.optional("bearer.token", &k.Bearer.Token, true))
	case *posthornv1.WebhookAuth_Basic_:
		auth.bound = append(slices.Clone(at.bound), k.Basic.GetUsername())
		list = append(list, auth.optional("basic.password", &k.Basic.Password, true))
	case *posthornv1.WebhookAuth_Oauth2:
		// Bound to the endpoint too, which gets a token for it.
		auth.bound = append(slices.Clone(at.bound), k.Oauth2.GetTokenUrl(), k.Oauth2.GetClientId())
		list = append(list, auth.optional("oauth2.clientSecret", &k.Oauth2.ClientSecret, true))
	}
	if a := w.GetAuth(); a != nil {
		auth.bound = at.bound
		list = append(list, auth.optional("clientKey", &a.ClientKey, a.GetClientCertificate() != ""))
	}
	return list
}

// origin is the server that a URL names.
func origin(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return raw
	}
	return strings.ToLower(u.Scheme + "://" + u.Host)
}

// A slot is a message whose fields are credentials for the same server and user.
type slot struct {
	path  string
	bound []string
}

func (s slot) key(field string) string {
	var b strings.Builder
	b.WriteString(credentialMark + field)
	for _, text := range s.bound {
		b.WriteString(" " + strconv.Quote(text))
	}
	b.WriteByte('\n')
	return b.String()
}

func (s slot) optional(name string, value **string, needed bool) *credential {
	c := &credential{field: s.path + name, needed: needed, given: *value != nil}
	c.key = s.key(c.field)
	if c.given {
		c.value = **value
	}
	c.set = func(v string) {
		*value = nil
		if v != "" {
			*value = &v
		}
	}
	return c
}

// headers stores each value under the name as it is given; to HTTP, case does not count.
func (s slot) headers(headers map[string]string, as func(name string) string) []*credential {
	var list []*credential
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		list = append(list, &credential{
			field: s.path + "headers." + name,
			key:   s.key(s.path + "headers." + as(name)),
			value: headers[name], given: true, needed: headers[name] == Masked,
			set: func(v string) { headers[name] = v },
		})
	}
	return list
}

func isCredential(s string) bool { return strings.HasPrefix(s, credentialMark) }

// SigningSecrets returns what signs, of a stored list.
func SigningSecrets(list []string) []string {
	return slices.DeleteFunc(slices.Clone(list), isCredential)
}

// TakeSecrets returns the secrets and credentials that spec has, as they are stored.
func TakeSecrets(spec *posthornv1.Subscription) []string {
	list := slices.Clone(spec.GetSecrets())
	for _, c := range credentials(spec.GetDestination()) {
		if c.new() {
			list = append(list, c.key+c.value)
		}
	}
	return list
}

// ClearSecrets removes secrets and credentials from spec and masks headers, as
// answers and bucket config have it.
func ClearSecrets(spec *posthornv1.Subscription) {
	spec.Secrets = nil
	for _, c := range credentials(spec.GetDestination()) {
		switch {
		case !strings.Contains(c.field, ".headers."):
			c.set("")
		case c.value != "": // an empty one is stored as it is
			c.set(Masked)
		}
	}
}

// CountSecrets sets what spec says of a list that is stored for it.
func CountSecrets(spec *posthornv1.Subscription, list []string) {
	signing := len(SigningSecrets(list))
	spec.SecretCount, spec.CredentialCount = int32(signing), int32(len(list)-signing)
}

// MergeSecrets returns what is to be stored for spec: its secrets, or else those
// that are stored; its credentials, and of those that are stored the ones that it
// leaves out and that were given for the server and user that it names.
func MergeSecrets(spec *posthornv1.Subscription, stored []string) []string {
	list := slices.Clone(spec.GetSecrets())
	if len(list) == 0 {
		list = SigningSecrets(stored)
	}
	all := credentials(spec.GetDestination())
	replaced := slices.ContainsFunc(all, func(c *credential) bool { return c.one && c.new() })
	for _, c := range all {
		if c.new() {
			list = append(list, c.key+c.value)
			continue
		}
		if c.given && c.value == "" || c.one && replaced {
			continue // taken away
		}
		if value, ok := c.stored(stored); ok {
			list = append(list, c.key+value)
		}
	}
	return list
}

// ValidateSecrets refuses a subscription whose destination is of no use with the
// credentials that are to be stored; list is what [MergeSecrets] gave.
func ValidateSecrets(spec *posthornv1.Subscription, list []string) error {
	one := 0
	for _, c := range credentials(spec.GetDestination()) {
		_, ok := c.stored(list)
		switch {
		case !ok && c.value == Masked:
			return errs.Field(c.field, "is %q, which keeps a stored value, and none is stored for this header and this server; give the value", Masked)
		case !ok && c.needed:
			return errs.Field(c.field, "is required: none is stored for this server and user")
		case ok && c.one:
			one++
		}
	}
	if one > 1 {
		return errs.Field("destination.nats", "has several of credentials, token and password; one of them is enough")
	}
	return validClientKey(spec.GetDestination().GetWebhook(), list)
}

// validClientKey says whether certificate and key belong together, without
// repeating what the parser makes of a key.
func validClientKey(w *posthornv1.Webhook, list []string) error {
	certificate := w.GetAuth().GetClientCertificate()
	if certificate == "" {
		return nil
	}
	for _, c := range webhookCredentials(w) {
		if c.field != "destination.webhook.auth.clientKey" {
			continue
		}
		key, _ := c.stored(list)
		if _, err := tls.X509KeyPair([]byte(certificate), []byte(key)); err != nil {
			return errs.Field(c.field, "is not the key of destination.webhook.auth.clientCertificate, in PEM and without a passphrase")
		}
	}
	return nil
}

// FillCredentials puts those of a stored list into spec, as it was stored, and
// returns the secrets that sign. It is [ErrCredentialsMissing] while spec was
// written and its credentials are on their way.
func FillCredentials(spec *posthornv1.Subscription, list []string) (signing []string, err error) {
	filled := 0
	for _, c := range credentials(spec.GetDestination()) {
		if value, ok := c.stored(list); ok {
			c.set(value)
			filled++
		} else if c.value == Masked {
			return nil, fmt.Errorf("%w: %s", ErrCredentialsMissing, c.field)
		}
	}
	if want := int(spec.GetCredentialCount()); filled < want {
		return nil, fmt.Errorf("%w: %d of %d", ErrCredentialsMissing, filled, want)
	}
	return SigningSecrets(list), nil
}
