package api

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc"

	"github.com/posthornhq/posthorn/pkg/audit"
	"github.com/posthornhq/posthorn/pkg/identity"
	"github.com/posthornhq/posthorn/pkg/interceptor"
	"github.com/posthornhq/posthorn/pkg/policy"
	"github.com/posthornhq/posthorn/pkg/recording"
	"github.com/posthornhq/posthorn/pkg/transform"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// A Mirror knows what is in force in this process. It is satisfied by *catalog.Catalog.
type Mirror interface {
	// WaitFor returns when these revisions of buckets config and secrets are.
	WaitFor(ctx context.Context, config, secrets uint64) error
	// Delivery returns p, or what an override makes of it for an event.
	Delivery(p *policy.Policy, source, typ string) *policy.Policy
}

// A Sealer seals what must not be read in a bucket. It is satisfied by *seal.Sealer.
type Sealer interface {
	Seal(plain []byte, aad string) ([]byte, error)
	Open(sealed []byte, aad string) ([]byte, error)
}

// An Auditor records changes. It is satisfied by *audit.Recorder.
type Auditor interface {
	Record(ctx context.Context, c audit.Change) error
}

// Requests are the recorded requests of sources. It is satisfied by *recording.Reader.
type Requests interface {
	// Last returns at most n, newest first.
	Last(ctx context.Context, source string, n int) ([]recording.Request, error)
}

// A Broker takes responsibility for events. It is the broker, in this process
// or in another.
type Broker interface {
	SendOutgoingEvent(ctx context.Context, req *posthornv1.SendOutgoingEventRequest) (*posthornv1.SendOutgoingEventResponse, error)
	PublishBatch(ctx context.Context, req *posthornv1.PublishBatchRequest) (*posthornv1.PublishBatchResponse, error)
}

// Deps is what the Master API is built on. All are needed but Commit and Disabled.
type Deps struct {
	// Config and Secrets are the KV buckets of those names.
	Config, Secrets jetstream.KeyValue
	Sealer          Sealer
	Mirror          Mirror
	Audit           Auditor
	Changes         Changes
	Identities      *identity.Directory
	Asker           *interceptor.Asker
	// Disabled is told of a subscription that the platform has disabled, and when;
	// again for each who asked for that. nil tells nobody.
	Disabled func(ctx context.Context, s *posthornv1.Subscription, at time.Time)
	Requests Requests
	// Commit returns when what was written before is stored for good. nil waits
	// for nothing.
	Commit func(ctx context.Context) error

	Broker      Broker
	Tester      Tester
	Events      Events
	Tracer      Tracer
	Replayer    Replayer
	Replays     Replays
	Lanes       Lanes
	Rejections  Rejections
	DeadLetters DeadLetters
}

// Config holds what may be tuned. The zero value is usable.
type Config struct {
	// VisibleWithin bounds how long an edit that is stored waits to be in force in
	// this process. After it the edit is answered all the same. Default 5s.
	VisibleWithin time.Duration
}

// An API is the Master API's gRPC servers.
type API struct {
	deps Deps
	log  *slog.Logger
	cfg  Config

	sources       *resource[*posthornv1.Source]
	subscriptions *resource[*posthornv1.Subscription]
	policies      *resource[*posthornv1.Policy]
	// An authorization is named after its context.
	authorizations *resource[*posthornv1.Authorization]
	backoffs       *resource[*posthornv1.BackoffOverride]
	settings       *resource[*posthornv1.Settings]
}

// New returns an API. It does nothing by itself.
func New(deps Deps, log *slog.Logger, cfg Config) (*API, error) {
	for _, d := range []struct {
		name    string
		missing bool
	}{
		{"Config", deps.Config == nil}, {"Secrets", deps.Secrets == nil}, {"Sealer", deps.Sealer == nil},
		{"Mirror", deps.Mirror == nil}, {"Audit", deps.Audit == nil}, {"Changes", deps.Changes == nil}, {"Identities", deps.Identities == nil}, {"Asker", deps.Asker == nil}, {"Requests", deps.Requests == nil}, {"Broker", deps.Broker == nil}, {"Tester", deps.Tester == nil},
		{"Events", deps.Events == nil}, {"Tracer", deps.Tracer == nil}, {"Replayer", deps.Replayer == nil},
		{"Replays", deps.Replays == nil}, {"Lanes", deps.Lanes == nil},
		{"Rejections", deps.Rejections == nil}, {"DeadLetters", deps.DeadLetters == nil},
	} {
		if d.missing {
			return nil, errors.New("api: Deps." + d.name + " is missing")
		}
	}
	if deps.Commit == nil {
		deps.Commit = func(context.Context) error { return nil }
	}
	cfg.VisibleWithin = cmp.Or(cfg.VisibleWithin, 5*time.Second)
	a := &API{deps: deps, log: log, cfg: cfg}
	a.sources = newResource(a, sourceKind(a))
	a.subscriptions = newResource(a, subscriptionKind(a))
	a.policies = newResource(a, policyKind(a))
	a.authorizations = newResource(a, authorizationKind(a))
	a.backoffs = newResource(a, backoffKind(a))
	a.settings = newResource(a, settingsKind())
	return a, nil
}

// Register adds the servers to s: a *grpc.Server, or a [Local]. The schema
// registry, which is part of the Master API too, is its own package's to add.
func (a *API) Register(s grpc.ServiceRegistrar) {
	e := edge{log: a.log}
	posthornv1.RegisterSourceServiceServer(s, sourceServer{edge: e, r: a.sources})
	posthornv1.RegisterSubscriptionServiceServer(s, subscriptionServer{edge: e, r: a.subscriptions, transforms: transform.NewRunner()})
	posthornv1.RegisterPolicyServiceServer(s, policyServer{edge: e, r: a.policies})
	posthornv1.RegisterAuthorizationServiceServer(s, authorizationServer{edge: e, r: a.authorizations})
	posthornv1.RegisterBackoffServiceServer(s, backoffServer{edge: e, r: a.backoffs})
	posthornv1.RegisterSettingsServiceServer(s, settingsServer{edge: e, r: a.settings})
	posthornv1.RegisterEventServiceServer(s, eventServer{edge: e, deps: &a.deps})
	posthornv1.RegisterDeadLetterServiceServer(s, deadLetterServer{edge: e, deps: &a.deps})
	posthornv1.RegisterReplaysServer(s, replayServer{edge: e, deps: &a.deps})
	posthornv1.RegisterLanesServer(s, laneServer{edge: e, lanes: a.deps.Lanes})
	posthornv1.RegisterAuditServiceServer(s, auditServer{edge: e, changes: a.deps.Changes})
	who := accounts{edge: e, dir: a.deps.Identities, api: a}
	posthornv1.RegisterAccountServiceServer(s, accountServer{accounts: who})
	posthornv1.RegisterUserServiceServer(s, userServer{accounts: who})
	posthornv1.RegisterKeyServiceServer(s, keyServer{accounts: who})
}

// DisableSubscription switches a subscription off, for instance because its
// endpoint answered 410. It is for the platform itself: who is the part of it
// that asks. One that is gone, or disabled already, is no error.
func (a *API) DisableSubscription(ctx context.Context, name, who string) error {
	if err := a.subscriptions.modify(ctx, name, who, func(s *posthornv1.Subscription) bool {
		changed := !s.Disabled
		s.Disabled = true
		return changed
	}); err != nil || a.deps.Disabled == nil {
		return err
	}
	// Also if somebody else was faster, who may have died before telling.
	cur, err := a.subscriptions.current(ctx, name)
	if err != nil {
		return err
	}
	if s := cur.value; s.GetDisabled() && s.GetMeta().GetUpdatedBy() == who {
		a.deps.Disabled(ctx, s, s.GetMeta().GetUpdatedAt().AsTime())
	}
	return nil
}
