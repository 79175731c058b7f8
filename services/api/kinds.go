package api

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/posthornhq/posthorn/pkg/authorization"
	"github.com/posthornhq/posthorn/pkg/catalog"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/policy"
	"github.com/posthornhq/posthorn/pkg/signature"
	"github.com/posthornhq/posthorn/pkg/source"
	"github.com/posthornhq/posthorn/pkg/subscription"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func sourceKind(a *API) kind[*posthornv1.Source] {
	return kind[*posthornv1.Source]{
		plural: catalog.Sources, noun: "source",
		fresh:    func() *posthornv1.Source { return new(posthornv1.Source) },
		setMeta:  func(s *posthornv1.Source, m *posthornv1.Meta) { s.Meta = m },
		complete: completeSource,
		validate: a.validateSource,
		refers:   a.knownPolicyOf,
		secrets: &secretive[*posthornv1.Source]{
			get:      (*posthornv1.Source).GetSecrets,
			set:      func(s *posthornv1.Source, list []string) { s.Secrets = list },
			count:    (*posthornv1.Source).GetSecretCount,
			setCount: func(s *posthornv1.Source, list []string) { s.SecretCount = int32(len(list)) },
			// What GitHub knows means nothing to another kind of publisher, and a
			// password is not sent to a broker that it was not given for.
			keep: func(old, v *posthornv1.Source) bool {
				return old.GetKind() == v.GetKind() &&
					old.GetAmqp().GetUrl() == v.GetAmqp().GetUrl() && old.GetAmqp().GetUsername() == v.GetAmqp().GetUsername()
			},
		},
	}
}

func subscriptionKind(a *API) kind[*posthornv1.Subscription] {
	return kind[*posthornv1.Subscription]{
		plural: catalog.Subscriptions, noun: "subscription",
		fresh:    func() *posthornv1.Subscription { return new(posthornv1.Subscription) },
		setMeta:  func(s *posthornv1.Subscription, m *posthornv1.Meta) { s.Meta = m },
		complete: completeSubscription,
		validate: a.validateSubscription,
		refers: func(ctx context.Context, s *posthornv1.Subscription) error {
			return a.knownPolicy(ctx, s.GetPolicy())
		},
		secrets: &secretive[*posthornv1.Subscription]{
			get: subscription.TakeSecrets,
			set: func(s *posthornv1.Subscription, list []string) {
				subscription.ClearSecrets(s)
				s.Secrets = list
			},
			count:    func(s *posthornv1.Subscription) int32 { return s.GetSecretCount() + s.GetCredentialCount() },
			setCount: subscription.CountSecrets,
			merge: func(s *posthornv1.Subscription, _, stored []string) []string {
				return subscription.MergeSecrets(s, stored)
			},
			check: subscription.ValidateSecrets,
			first: firstSecret,
		},
		// Header values that an earlier version stored in clear.
		present: subscription.ClearSecrets,
	}
}

// firstSecret makes the secret of a webhook that has none to sign with; the other
// kinds of destinations are not signed for.
func firstSecret(s *posthornv1.Subscription, list []string) string {
	if s.GetDestination().GetWebhook() == nil || len(subscription.SigningSecrets(list)) > 0 {
		return ""
	}
	return signature.NewStandardSecret()
}

func authorizationKind(a *API) kind[*posthornv1.Authorization] {
	return kind[*posthornv1.Authorization]{
		plural: catalog.Authorizations, noun: "authorization",
		fresh:    func() *posthornv1.Authorization { return new(posthornv1.Authorization) },
		setMeta:  func(v *posthornv1.Authorization, m *posthornv1.Meta) { v.Meta = m },
		complete: completeAuthorization,
		validate: func(_ context.Context, v *posthornv1.Authorization, secrets int) error {
			return authorization.Validate(v, secrets)
		},
		secrets: &secretive[*posthornv1.Authorization]{
			get: func(v *posthornv1.Authorization) []string {
				if s := v.GetOauth().GetClientSecret(); s != "" {
					return []string{s}
				}
				return nil
			},
			set: func(v *posthornv1.Authorization, _ []string) {
				if v.Oauth != nil {
					v.Oauth.ClientSecret = nil
				}
			},
			count:    (*posthornv1.Authorization).GetSecretCount,
			setCount: func(v *posthornv1.Authorization, list []string) { v.SecretCount = int32(len(list)) },
			// A secret is not sent to a server it was not given for.
			keep: func(old, v *posthornv1.Authorization) bool {
				return v.GetOauth() != nil && old.GetOauth().GetUrl() == v.GetOauth().GetUrl() && old.GetOauth().GetClientId() == v.GetOauth().GetClientId()
			},
		},
	}
}

func policyKind(a *API) kind[*posthornv1.Policy] {
	return kind[*posthornv1.Policy]{
		plural: catalog.Policies, noun: "policy",
		fresh:    func() *posthornv1.Policy { return new(posthornv1.Policy) },
		setMeta:  func(p *posthornv1.Policy, m *posthornv1.Meta) { p.Meta = m },
		complete: completePolicy,
		validate: func(_ context.Context, p *posthornv1.Policy, _ int) error { return policy.Validate(p) },
		secrets: &secretive[*posthornv1.Policy]{
			get:      policy.TakeSecrets,
			set:      func(p *posthornv1.Policy, _ []string) { policy.ClearSecrets(p) },
			count:    (*posthornv1.Policy).GetSecretCount,
			setCount: func(p *posthornv1.Policy, list []string) { p.SecretCount = int32(len(list)) },
			merge:    policy.MergeSecrets,
			check:    policy.ValidateSecrets,
		},
		inUse:   a.policyInUse,
		present: func(p *posthornv1.Policy) { p.Warnings = policy.Warnings(p) },
		builtin: policy.Default,
	}
}

// The complete functions write the defaults of config.proto out, so that answers
// show what holds, and a later version's other defaults change nothing that is stored.

func completeSource(s *posthornv1.Source) {
	s.Meta, s.SecretCount = nil, 0
	orDefault(&s.Context, event.DefaultContext)
	mode := posthornv1.Source_REJECT
	if s.Kind == posthornv1.Source_AUTH0 {
		mode = posthornv1.Source_WARN
	}
	orDefault(&s.SchemaMode, mode)
	if q := s.Amqp; q != nil {
		orDefault(&q.Prefetch, source.DefaultPrefetch)
	}
	if h := s.Hmac; h != nil {
		orDefault(&h.Header, "X-Signature")
		orDefault(&h.Algorithm, posthornv1.HmacSettings_SHA256)
		orDefault(&h.Encoding, posthornv1.HmacSettings_HEX)
		if h.TimestampHeader != "" {
			orDuration(&h.Tolerance, 300*time.Second)
		}
	}
}

func completeSubscription(s *posthornv1.Subscription) {
	s.Meta, s.SecretCount, s.CredentialCount = nil, 0, 0
	orDefault(&s.Direction, posthornv1.Event_OUTGOING)
	orDefault(&s.Context, event.DefaultContext)
	orDefault(&s.Policy, policy.DefaultName)
	orDefault(&s.Priority, posthornv1.Subscription_NORMAL)
	if w := s.GetDestination().GetWebhook(); w != nil {
		orDefault(&w.Format, posthornv1.Webhook_CLOUDEVENTS_BINARY)
	}
	if n := s.GetDestination().GetNats(); n != nil {
		orDefault(&n.Format, posthornv1.Webhook_CLOUDEVENTS_BINARY)
	}
	if q := s.GetDestination().GetAmqp(); q != nil {
		orDefault(&q.RoutingKey, "{type}")
	}
}

func completeAuthorization(v *posthornv1.Authorization) {
	v.Meta, v.SecretCount = nil, 0
	if o := v.Oauth; o != nil {
		orDefault(&o.Mode, posthornv1.Authorization_OAuth_CALLOUT)
		orDuration(&o.Timeout, authorization.DefaultTimeout)
		orDuration(&o.Cache, authorization.DefaultCache)
	}
	if j := v.Jwt; j != nil && len(j.Algorithms) == 0 {
		j.Algorithms = authorization.Algorithms()
	}
}

func completePolicy(p *posthornv1.Policy) {
	p.Meta, p.Warnings, p.SecretCount = nil, nil, 0
	policy.NameInterceptors(p.GetSecurity().GetFlow())
	def := policy.Default().GetDelivery()
	if p.Security == nil {
		p.Security = &posthornv1.Security{}
	}
	if p.Delivery == nil {
		p.Delivery = &posthornv1.Delivery{}
	}
	d := p.Delivery
	if d.MaxRetries == nil {
		d.MaxRetries = proto.Int32(def.GetMaxRetries())
	}
	orDuration(&d.Timeout, def.GetTimeout().AsDuration())
	if len(d.RetryOn) == 0 {
		d.RetryOn = def.GetRetryOn()
	}
	if d.Backoff == nil {
		d.Backoff = &posthornv1.Backoff{}
	}
	b := d.Backoff
	orDefault(&b.Strategy, def.GetBackoff().GetStrategy())
	orDuration(&b.Initial, def.GetBackoff().GetInitial().AsDuration())
	orDuration(&b.Max, def.GetBackoff().GetMax().AsDuration())
	orDuration(&b.MaxElapsed, def.GetBackoff().GetMaxElapsed().AsDuration())
	if b.Jitter == nil {
		b.Jitter = proto.Float64(def.GetBackoff().GetJitter())
	}
}

func orDefault[V comparable](field *V, def V) {
	var zero V
	if *field == zero {
		*field = def
	}
}

func orDuration(field **durationpb.Duration, def time.Duration) {
	if *field == nil {
		*field = durationpb.New(def)
	}
}

func (a *API) validateSource(ctx context.Context, s *posthornv1.Source, secrets int) error {
	if err := source.Validate(s, secrets); err != nil {
		return err
	}
	if err := a.knownPolicyOf(ctx, s); err != nil {
		return err
	}
	return a.separateNames(ctx, s)
}

func (a *API) validateSubscription(ctx context.Context, s *posthornv1.Subscription, _ int) error {
	if err := subscription.Validate(s); err != nil {
		return err
	}
	if err := a.knownPolicy(ctx, s.GetPolicy()); err != nil {
		return err
	}
	taken, err := a.sources.current(ctx, s.GetContext())
	if err != nil {
		return err
	}
	if taken.value != nil {
		return errs.Field("context", "%q is the name of a source, which a context may not share", s.GetContext())
	}
	return nil
}

func (a *API) knownPolicyOf(ctx context.Context, s *posthornv1.Source) error {
	if s.GetPolicy() == "" {
		return nil
	}
	return a.knownPolicy(ctx, s.GetPolicy())
}

// knownPolicy asks the bucket rather than the mirror: the policy may have been
// written by another process a moment ago.
func (a *API) knownPolicy(ctx context.Context, name string) error {
	p, err := a.policies.current(ctx, name)
	if err != nil {
		return err
	}
	if p.value == nil {
		return errs.Field("policy", "%q does not exist", name)
	}
	return nil
}

// separateNames holds the names of contexts and of sources apart: in the path of
// an event, /events/{context}/{source} and /events/{source}/{topic} would be the same.
func (a *API) separateNames(ctx context.Context, s *posthornv1.Source) error {
	if s.GetName() == event.DefaultContext {
		return errs.Field("name", "%q is the name of a context, which a source may not share", s.GetName())
	}
	sources, err := a.sources.all(ctx)
	if err != nil {
		return err
	}
	fields := contextsOf(s)
	for _, other := range sources {
		if field, ok := fields[other.value.GetName()]; ok && other.value.GetName() != s.GetName() {
			return errs.Field(field, "%q is the name of a source, which a context may not share", other.value.GetName())
		}
		if _, ok := contextsOf(other.value)[s.GetName()]; ok && other.value.GetName() != s.GetName() {
			return errs.Field("name", "%q is the context of source %q; a source may not share a context's name", s.GetName(), other.value.GetName())
		}
	}
	if field, ok := fields[s.GetName()]; ok {
		return errs.Field(field, "%q is the source's own name, which a context may not share", s.GetName())
	}
	subscriptions, err := a.subscriptions.all(ctx)
	if err != nil {
		return err
	}
	for _, sub := range subscriptions {
		if sub.value.GetContext() == s.GetName() {
			return errs.Field("name", "%q is the context of subscription %q; a source may not share a context's name", s.GetName(), sub.value.GetName())
		}
	}
	return nil
}

// contextsOf returns the contexts that a source is in, with the field that says so.
func contextsOf(s *posthornv1.Source) map[string]string {
	fields := map[string]string{cmp.Or(s.GetContext(), event.DefaultContext): "context"}
	for i, c := range s.GetContexts() {
		fields[c.GetContext()] = fmt.Sprintf("contexts[%d].context", i)
	}
	return fields
}

// policyInUse names all that would be left without the policy. A stored default
// policy may go: the built-in one takes its place.
func (a *API) policyInUse(ctx context.Context, name string) error {
	if name == policy.DefaultName {
		return nil
	}
	subscriptions, err := a.subscriptions.all(ctx)
	if err != nil {
		return err
	}
	sources, err := a.sources.all(ctx)
	if err != nil {
		return err
	}
	var users []string
	users = append(users, usersOf("subscription", name, subscriptions)...)
	users = append(users, usersOf("source", name, sources)...)
	if len(users) == 0 {
		return nil
	}
	return errs.New(errs.Conflict, "policy %q is used by %s; give them another one first", name, enumerate(users)).Because("in-use")
}

func usersOf[T interface {
	message
	GetPolicy() string
}](noun, policyName string, all []version[T]) []string {
	var users []string
	for _, v := range all {
		if v.value.GetPolicy() == policyName {
			users = append(users, noun+" "+v.value.GetName())
		}
	}
	slices.Sort(users)
	return users
}

// enumerate names the first ten and counts the rest.
func enumerate(list []string) string {
	const most = 10
	if len(list) > most {
		rest := len(list) - most
		return strings.Join(list[:most], ", ") + " and " + plural(rest, "other")
	}
	return strings.Join(list, ", ")
}
