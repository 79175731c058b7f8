package client

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/posthornhq/posthorn/pkg/event"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// settable returns a copy without the fields that the platform sets.
func settable(m proto.Message) proto.Message {
	m = proto.Clone(m)
	switch v := m.(type) {
	case *posthornv1.Source:
		v.Meta, v.SecretCount = nil, 0
	case *posthornv1.Subscription:
		v.Meta, v.SecretCount, v.CredentialCount = nil, 0, 0
	case *posthornv1.Policy:
		v.Meta, v.Warnings, v.SecretCount = nil, nil, 0
	case *posthornv1.Authorization:
		v.Meta, v.SecretCount = nil, 0
	case *posthornv1.BackoffOverride:
		v.Meta = nil
	case *posthornv1.Settings:
		v.Name, v.About, v.Meta = "", nil, nil
	case *posthornv1.User:
		v.Meta, v.LockedUntil = nil, nil
	}
	return m
}

// Settable returns a copy of a resource without the fields that the platform sets: what is worth keeping in a file.
func Settable[T Resource](v T) T { return settable(v).(T) }

func setMeta(m proto.Message, meta *posthornv1.Meta) {
	switch v := m.(type) {
	case *posthornv1.Source:
		v.Meta = meta
	case *posthornv1.Subscription:
		v.Meta = meta
	case *posthornv1.Policy:
		v.Meta = meta
	case *posthornv1.Authorization:
		v.Meta = meta
	case *posthornv1.BackoffOverride:
		v.Meta = meta
	case *posthornv1.User:
		v.Meta = meta
	}
}

// hasSecrets reports whether m has what cannot be read back.
func hasSecrets(m proto.Message) bool {
	switch v := m.(type) {
	case *posthornv1.Subscription:
		return len(v.GetSecrets()) > 0 || hasCredentials(v.GetDestination())
	case interface{ GetSecrets() []string }:
		return len(v.GetSecrets()) > 0
	case *posthornv1.Authorization:
		return v.GetOauth().GetClientSecret() != ""
	case *posthornv1.User:
		return v.GetPassword() != ""
	case *posthornv1.Policy:
		for _, in := range v.GetSecurity().GetFlow() {
			if in.GetHmac().GetSecret() != "" || in.GetHeaderValue().GetValue() != "" || in.GetJsonField().GetValue() != "" {
				return true
			}
		}
	}
	return false
}

// maskedValue is what the platform answers in place of a header's value, and takes
// for the one that it has.
const maskedValue = "***"

// hasCredentials reports whether a destination has any that are to be stored. A
// field that says to remove one counts too.
func hasCredentials(d *posthornv1.Destination) bool {
	w, a, n := d.GetWebhook(), d.GetAmqp(), d.GetNats()
	for _, headers := range []map[string]string{w.GetHeaders(), a.GetHeaders(), n.GetHeaders()} {
		for _, value := range headers {
			if value != maskedValue {
				return true
			}
		}
	}
	if auth := w.GetAuth(); auth.GetBearer() != nil && auth.GetBearer().Token != nil || auth.GetBasic() != nil && auth.GetBasic().Password != nil ||
		auth.GetOauth2() != nil && auth.GetOauth2().ClientSecret != nil || auth != nil && auth.ClientKey != nil {
		return true
	}
	return a != nil && a.Password != nil || n != nil && (n.Credentials != nil || n.Token != nil || n.Password != nil)
}

// canonical returns a copy in which fields that were left empty have the
// defaults that config.proto gives them, so that what was meant can be compared.
// A default that is missing here costs a needless write and nothing else.
func canonical(m proto.Message) proto.Message {
	m = settable(m)
	switch v := m.(type) {
	case *posthornv1.Source:
		canonicalSource(v)
	case *posthornv1.Subscription:
		canonicalSubscription(v)
	case *posthornv1.Policy:
		canonicalPolicy(v)
	case *posthornv1.Authorization:
		canonicalAuthorization(v)
	}
	return m
}

func canonicalSource(v *posthornv1.Source) {
	orDefault(&v.Context, event.DefaultContext)
	mode := posthornv1.Source_REJECT
	if v.Kind == posthornv1.Source_AUTH0 {
		mode = posthornv1.Source_WARN
	}
	orDefault(&v.SchemaMode, mode)
	if h := v.Hmac; h != nil {
		orDefault(&h.Header, "X-Signature")
		orDefault(&h.Algorithm, posthornv1.HmacSettings_SHA256)
		orDefault(&h.Encoding, posthornv1.HmacSettings_HEX)
		orDuration(&h.Tolerance, 300*time.Second)
	}
}

func canonicalSubscription(v *posthornv1.Subscription) {
	orDefault(&v.Context, event.DefaultContext)
	orDefault(&v.Direction, posthornv1.Event_OUTGOING)
	orDefault(&v.Policy, "default")
	orDefault(&v.Priority, posthornv1.Subscription_NORMAL)
	if w := v.GetDestination().GetWebhook(); w != nil {
		orDefault(&w.Format, posthornv1.Webhook_CLOUDEVENTS_BINARY)
	}
	if n := v.GetDestination().GetNats(); n != nil {
		orDefault(&n.Format, posthornv1.Webhook_CLOUDEVENTS_BINARY)
	}
}

func canonicalAuthorization(v *posthornv1.Authorization) {
	if o := v.Oauth; o != nil {
		orDefault(&o.Mode, posthornv1.Authorization_OAuth_CALLOUT)
		orDuration(&o.Timeout, 3*time.Second)
	}
}

func canonicalPolicy(v *posthornv1.Policy) {
	if v.Security == nil {
		v.Security = &posthornv1.Security{}
	}
	if v.Delivery == nil {
		v.Delivery = &posthornv1.Delivery{}
	}
	d := v.Delivery
	if d.MaxRetries == nil {
		d.MaxRetries = proto.Int32(5)
	}
	orDuration(&d.Timeout, 10*time.Second)
	if len(d.RetryOn) == 0 {
		d.RetryOn = []string{"408", "429", "5xx"}
	}
	if d.Backoff == nil {
		d.Backoff = &posthornv1.Backoff{}
	}
	b := d.Backoff
	orDefault(&b.Strategy, posthornv1.Backoff_EXPONENTIAL)
	orDuration(&b.Initial, time.Second)
	orDuration(&b.Max, 300*time.Second)
	orDuration(&b.MaxElapsed, 24*time.Hour)
	if b.Jitter == nil {
		b.Jitter = proto.Float64(0.2)
	}
}

func orDefault[V comparable](field *V, def V) {
	var zero V
	if *field == zero {
		*field = def
	}
}

func orDuration(field **durationpb.Duration, def time.Duration) {
	if (*field).AsDuration() == 0 {
		*field = durationpb.New(def)
	}
}
