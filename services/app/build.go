package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/alerts"
	"github.com/posthornhq/posthorn/pkg/audit"
	"github.com/posthornhq/posthorn/pkg/catalog"
	"github.com/posthornhq/posthorn/pkg/config"
	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/dedup"
	"github.com/posthornhq/posthorn/pkg/identity"
	"github.com/posthornhq/posthorn/pkg/interceptor"
	"github.com/posthornhq/posthorn/pkg/ledger"
	"github.com/posthornhq/posthorn/pkg/netguard"
	"github.com/posthornhq/posthorn/pkg/queue"
	"github.com/posthornhq/posthorn/pkg/recording"
	"github.com/posthornhq/posthorn/pkg/replay"
	"github.com/posthornhq/posthorn/pkg/schema"
	"github.com/posthornhq/posthorn/pkg/seal"
	"github.com/posthornhq/posthorn/pkg/settings"
	"github.com/posthornhq/posthorn/pkg/store"
	"github.com/posthornhq/posthorn/pkg/stream"
	"github.com/posthornhq/posthorn/pkg/subscription"
	"github.com/posthornhq/posthorn/pkg/telemetry"
	"github.com/posthornhq/posthorn/pkg/trace"
	"github.com/posthornhq/posthorn/pkg/wire"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
	"github.com/posthornhq/posthorn/services/api"
	"github.com/posthornhq/posthorn/services/broker"
	"github.com/posthornhq/posthorn/services/dispatcher"
	"github.com/posthornhq/posthorn/services/gateway"
	"github.com/posthornhq/posthorn/services/gateway/consumer"
	"github.com/posthornhq/posthorn/services/registry"
)

// build makes the parts and says in which order they start. It is long because
// it is straight: every dependency of the platform can be read here from top to
// bottom, and each "if" on a role is the only place where it is decided.
func (a *App) build(ctx context.Context) error {
	cfg, roles := a.cfg, a.cfg.Roles
	if err := a.openCerts(); err != nil {
		return err
	}
	if err := a.openNATS(ctx); err != nil {
		return err
	}
	nc, err := a.connect("main")
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("app: %w", err)
	}
	if err := a.ensureTopology(ctx, js); err != nil {
		return err
	}
	a.health.Register("jetstream", a.natsCheck(js))
	a.reg.MustRegister(stream.Failures())
	if a.server != nil {
		free := func() (int64, error) { return FreeDisk(a.cfg.Data) }
		a.add("disk", func(ctx context.Context) error { return a.watchDisk(ctx, free) }, nil)
	}
	if a.barrier != nil {
		a.add("commit", func(ctx context.Context) error { return a.barrier.Watch(ctx, a.log) }, nil)
	}

	// What every role needs: the configuration, its secrets, and who may change them.
	buckets, err := openBuckets(ctx, js)
	if err != nil {
		return err
	}
	sealer, older, err := a.sealer()
	if err != nil {
		return err
	}
	cat, err := catalog.New(buckets.config, buckets.secrets, sealer, a.log, catalog.Config{})
	if err != nil {
		return err
	}
	asker, err := interceptor.NewAsker(a.guardedClient(), cat, a.log, interceptor.Config{})
	if err != nil {
		return err
	}
	cat.UseAsker(asker)
	a.add("catalog", cat.Run, cat.Ready())
	foreign, err := a.foreignSchemas(buckets.foreign)
	if err != nil {
		return err
	}
	schemas, err := schema.NewRegistry(buckets.schemas, a.wait, a.log, schema.Config{Foreign: foreign})
	if err != nil {
		return err
	}
	a.add("foreign schemas", foreign.Run, foreign.Ready())
	a.add("schemas", schemas.Run, nil)
	if err := a.adminKey(ctx, buckets.identity); err != nil {
		return err
	}
	who, err := identity.New(buckets.identity, sealer, a.wait, a.log, identity.Config{})
	if err != nil {
		return err
	}
	a.add("identities", who.Run, who.Ready())

	// The state, over a connection of its own for each who writes much.
	after, err := a.connect("deliver")
	if err != nil {
		return err
	}
	claims, err := a.claims(after)
	if err != nil {
		return err
	}
	state, err := a.state(after)
	if err != nil {
		return err
	}

	lanes := queue.NewOwnLanes(buckets.lanes, a.log)
	if roles.Has(config.Broker) || roles.Has(config.Dispatcher) {
		a.add("lanes", lanes.Run, lanes.Ready())
	}
	spans, err := a.spans(ctx)
	if err != nil {
		return err
	}

	// The broker, here or there.
	brokerMetrics := broker.NewMetrics(a.reg)
	local := broker.New(broker.Deps{
		Store: state.events, Queue: state.queue, Ledger: state.ledger, Claims: claims, Schemas: schemas,
		Catalog: cat, Lanes: lanes, Log: a.log, Metrics: brokerMetrics, Spans: spans, Room: a.room,
	}, broker.Config{Window: cfg.Dedup.Window})
	brokerServer := broker.NewServer(local, a.status)
	replays := broker.NewReplays(local, state.publisher.JetStream(), replay.NewJobs(buckets.jobs), broker.ReplayConfig{})
	var accept gateway.Acceptor = local
	var publish api.Broker = localBroker{brokerServer}
	herald := alerts.New(local.Own())
	if roles.Has(config.Broker) {
		if err := a.router(ctx, js, state.publisher.JetStream(), local, state.events); err != nil {
			return err
		}
		a.add("alerts", func(ctx context.Context) error { return local.RunAlerts(ctx, js, herald, broker.AlertsConfig{}) }, nil)
		a.add("replays", replays.Run, nil)
		if err := a.serveGRPC(ctx, "broker", cfg.Broker, who, true, brokerServer.Register); err != nil {
			return err
		}
	} else if roles.Has(config.Gateway) || roles.Has(config.API) {
		conn, err := a.dialOwn(cfg.Broker)
		if err != nil {
			return err
		}
		accept, publish = broker.NewClient(conn), remoteBroker(conn)
	}

	destinations := newOpener(cfg, nc, a.log)
	a.add("destinations", destinations.run, nil)

	// The Master API, here or there.
	master, err := api.New(api.Deps{
		Config: buckets.config, Secrets: buckets.secrets, Sealer: sealer, Mirror: cat,
		Audit: audit.New(state.publisher), Changes: changeViews{js}, Identities: who, Asker: asker, Requests: recording.NewReader(js), Commit: a.wait, Broker: publish, Tester: destinations,
		Events: eventViews{store: state.events, tracer: state.tracer}, Tracer: traceViews{state.tracer}, Replayer: local, Replays: replayViews{replays}, Lanes: laneViews{lanes, state.queue, cat},
		Disabled: a.tellDisabled(herald), Rejections: rejectionViews{state.ledger}, DeadLetters: deadLetterViews{letters: state.letters, tracer: state.tracer, broker: local},
	}, a.log, api.Config{})
	if err != nil {
		return err
	}
	if roles.Has(config.API) {
		a.add("credentials", func(ctx context.Context) error { return a.sealCredentials(ctx, master) }, nil)
		a.add("query index", func(ctx context.Context) error { return state.tracer.Run(ctx, trace.IndexConfig{}, a.log) }, nil)
	}
	if older && roles.Has(config.API) {
		a.add("reseal", func(ctx context.Context) error { return a.reseal(ctx, master, sealer) }, nil)
	}
	schemaServer, err := registry.New(schemas, schemas, registry.Config{Caller: callerName, Stored: a.tellVersion(cat, local.Own())})
	if err != nil {
		return err
	}
	if roles.Has(config.Registry) {
		if err := a.serveGRPC(ctx, "registry", cfg.Registry, who, true, func(s *grpc.Server) {
			posthornv1.RegisterSchemaRegistryServer(s, schemaServer)
		}); err != nil {
			return err
		}
	}
	// Pull subscriptions, here or there.
	delivering := dispatcher.Deps{
		Events: state.events, Queue: state.queue, Lanes: lanes, Claims: claims, Ledger: state.ledger, Letters: state.letters,
		Catalog: cat, Log: a.log, Metrics: dispatcher.NewMetrics(a.reg), Spans: spans,
	}
	puller, pulls, err := a.puller(cat, delivering, sealer)
	if err != nil {
		return err
	}
	rest, err := a.masterAPI(ctx, master, schemaServer, pulls, who)
	if err != nil {
		return err
	}
	if roles.Has(config.Gateway) {
		recorder, err := recording.New(state.publisher, a.log, recording.Config{Enabled: func() bool { return cat.Flag(settings.RequestRecording) }})
		if err != nil {
			return err
		}
		a.add("recording", recorder.Run, nil)
		gw, err := gateway.New(accept, cat, state.ledger, a.log, gateway.NewMetrics(a.reg), gateway.Config{
			MaxBytes: int64(cfg.MaxEventBytes), TrustedProxies: cfg.TrustedProxy, Recorder: recorder,
		})
		if err != nil {
			return err
		}
		if err := a.serveHTTP(ctx, "gateway", cfg.HTTP, front(gw.Handler(), rest)); err != nil {
			return err
		}
		if err := a.consumers(accept, cat, state); err != nil {
			return err
		}
	}
	if roles.Has(config.Dispatcher) {
		if err := a.dispatcher(js, cat, delivering, destinations, herald, master); err != nil {
			return err
		}
		if !roles.Has(config.API) { // whose port has it
			if err := a.serveGRPC(ctx, "dispatcher", cfg.Dispatcher, who, false, func(s *grpc.Server) { pulls.Register(s) }); err != nil {
				return err
			}
		}
	}
	if err := a.serveMetrics(ctx); err != nil {
		return err
	}
	// The last door, which closes first: the others wait for what waits in it.
	a.doors = append(a.doors, part{name: "pull", run: puller.Run})
	return nil
}

func (a *App) add(name string, run func(context.Context) error, ready <-chan struct{}) {
	a.parts = append(a.parts, part{name: name, run: run, ready: ready})
}

// state is what is stored, as every role sees it.
type state struct {
	events    *store.Store
	queue     *queue.Queue
	ledger    *ledger.Ledger
	letters   *deadletter.Letters
	publisher *stream.Publisher
	tracer    *trace.Tracer
}

// state opens what is stored over two connections: one for what publishers wait
// for, and one for all that follows. What shares a connection shares its system
// calls; what does not is read by the server side by side.
func (a *App) state(after *nats.Conn) (*state, error) {
	nc, err := a.connect("accept")
	if err != nil {
		return nil, err
	}
	var s state
	if s.events, err = store.New(nc, a.barrier, a.log, store.NewMetrics(a.reg), store.Config{
		Threshold: int(a.cfg.Store.PayloadThreshold), MaxBytes: int(a.cfg.MaxEventBytes), MaxAge: a.cfg.Store.MaxAge,
	}); err != nil {
		return nil, err
	}
	if s.queue, err = queue.New(after, a.log); err != nil {
		return nil, err
	}
	if s.ledger, err = ledger.New(after); err != nil {
		return nil, err
	}
	if s.letters, err = deadletter.New(after); err != nil {
		return nil, err
	}
	if s.publisher, err = stream.New(after); err != nil {
		return nil, err
	}
	s.tracer = trace.New(s.publisher.JetStream(), s.events, s.ledger, s.letters)
	return &s, nil
}

// claims returns where claims are kept.
func (a *App) claims(nc *nats.Conn) (dedup.Claims, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("app: %w", err)
	}
	kv := dedup.NewKV(js)
	var claims dedup.Claims = kv
	if url := a.cfg.RedisURL.Reveal(); url != "" {
		dedup.LogRedis(a.log)
		client, err := dedup.OpenRedis(url)
		if err != nil {
			return nil, err
		}
		claims = dedup.NewRedis(client, "posthorn:")
		a.health.Register("redis", func(ctx context.Context) error { return client.Ping(ctx).Err() })
		if a.cfg.Dedup.OnRedisDown == config.KV {
			if claims, err = dedup.NewFallback(claims, kv, a.log, a.reg, dedup.FallbackConfig{}); err != nil {
				return nil, err
			}
		}
	}
	return dedup.Instrument(claims, a.reg)
}

// router adds the parts that route, keep the router's place, and make room.
func (a *App) router(ctx context.Context, js, deliver jetstream.JetStream, b *broker.Broker, events *store.Store) error {
	again, err := broker.PrepareRouter(ctx, js, a.checkpoint)
	if err != nil {
		return err
	}
	a.Facts.LookedBack = again
	a.Facts.Unclean = a.checkpoint != nil && a.checkpoint.Unclean()
	if a.checkpoint != nil {
		cp := a.checkpoint
		a.add("checkpoint", func(ctx context.Context) error { return cp.Keep(ctx, js, a.barrier, a.log) }, nil)
	}
	a.add("retention", events.Retain, nil)
	a.add("router", func(ctx context.Context) error {
		a.routed.Store(true)
		defer b.Drain(context.WithoutCancel(ctx))
		return b.Run(ctx, deliver)
	}, nil)
	return nil
}

// puller returns what hands out deliveries to those who fetch them.
func (a *App) puller(cat *catalog.Catalog, deps dispatcher.Deps, sealer *seal.Sealer) (*dispatcher.Puller, *dispatcher.PullServer, error) {
	mayAnswer := func(ctx context.Context) error {
		id, _ := api.IdentityOf(ctx)
		return identity.Allowed(id, posthornv1.Deliveries_Ack_FullMethodName)
	}
	p, err := dispatcher.NewPuller(deps, sealer, mayAnswer, dispatcher.Config{DoneTTL: a.cfg.Dedup.DoneTTL})
	if err != nil {
		return nil, nil, err
	}
	cat.OnChange(p.CatalogChanged)
	return p, dispatcher.NewPullServer(p), nil
}

// dispatcher adds the parts that deliver.
func (a *App) dispatcher(js jetstream.JetStream, cat *catalog.Catalog, deps dispatcher.Deps, destinations *opener, herald *alerts.Publisher, master *api.API) error {
	q := deps.Queue
	deps.Open, deps.Alerts = destinations.Open, herald
	deps.Disable = func(ctx context.Context, name string) error {
		return master.DisableSubscription(ctx, name, "dispatcher")
	}
	d, err := dispatcher.New(deps, dispatcher.Config{Concurrency: a.cfg.Dispatch.Concurrency, DoneTTL: a.cfg.Dedup.DoneTTL, ProbeInterval: a.cfg.Dispatch.ProbeInterval})
	if err != nil {
		return err
	}
	cat.OnChange(d.CatalogChanged)
	a.add("undertaker", func(ctx context.Context) error { return d.Bury(ctx, js) }, nil)
	a.add("queue depth", func(ctx context.Context) error { return watchDepth(ctx, q, a.reg, a.log) }, nil)
	a.add("dispatcher", d.Run, nil)
	return nil
}

// consumers adds the part that takes events from the queues of AMQP sources.
func (a *App) consumers(accept gateway.Acceptor, cat *catalog.Catalog, s *state) error {
	c, err := consumer.New(consumer.Deps{
		Accept: accept, Rejections: s.ledger, Catalog: cat, Dialer: netguard.New(a.cfg.AllowNet), Log: a.log, Metrics: consumer.NewMetrics(a.reg),
	}, consumer.Config{MaxBytes: int64(a.cfg.MaxEventBytes)})
	if err != nil {
		return err
	}
	cat.OnChange(c.CatalogChanged)
	a.add("AMQP sources", c.Run, nil)
	return nil
}

// foreignSchemas returns what fetches the schemas of other platforms.
func (a *App) foreignSchemas(kept jetstream.KeyValue) (*schema.Foreign, error) {
	tokens := map[string]string{}
	for pair := range strings.SplitSeq(a.cfg.Schemas.ForeignTokens.Reveal(), ",") {
		domain, token, _ := strings.Cut(strings.TrimSpace(pair), "=")
		tokens[domain] = token
	}
	hosts := map[string]schema.Host{}
	for _, h := range a.cfg.Schemas.Foreign {
		domain, url, _ := strings.Cut(h, "=")
		hosts[domain] = schema.Host{URL: url, Token: tokens[domain]}
	}
	return schema.NewForeign(a.guardedClient(), a.log, schema.ForeignConfig{
		Hosts: hosts, MaxEntries: a.cfg.Schemas.MaxEntries, MaxBytes: int64(a.cfg.Schemas.MaxBytes), Kept: kept,
	})
}

// spans returns what exports spans, nil if nothing does. It sends what is left when
// everything else has stopped.
func (a *App) spans(ctx context.Context) (*telemetry.Spans, error) {
	if a.cfg.OTLPEndpoint == "" {
		return nil, nil
	}
	spans, err := telemetry.NewSpans(ctx, a.cfg.OTLPEndpoint, a.version)
	if err != nil {
		return nil, err
	}
	a.add("spans", func(ctx context.Context) error {
		<-ctx.Done()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := spans.Close(last); err != nil {
			a.log.Warn("the last spans were not exported", "err", err)
		}
		return nil
	}, nil)
	return spans, nil
}

// guardedClient returns a client for URLs that users gave: it connects to no
// address that is not public or allowed.
func (a *App) guardedClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: netguard.New(a.cfg.AllowNet).DialContext, TLSHandshakeTimeout: 5 * time.Second, IdleConnTimeout: time.Minute,
		MaxIdleConnsPerHost: 32, ForceAttemptHTTP2: true,
	}}
}

type buckets struct{ config, secrets, schemas, identity, foreign, lanes, jobs jetstream.KeyValue }

func openBuckets(ctx context.Context, js jetstream.JetStream) (*buckets, error) {
	var b buckets
	for name, kv := range map[string]*jetstream.KeyValue{
		topology.BucketConfig: &b.config, topology.BucketSecrets: &b.secrets,
		topology.BucketSchemas: &b.schemas, topology.BucketIdentity: &b.identity,
		topology.BucketForeign: &b.foreign, topology.BucketLanes: &b.lanes, topology.BucketJobs: &b.jobs,
	} {
		var err error
		if *kv, err = js.KeyValue(ctx, name); err != nil {
			return nil, fmt.Errorf("app: open bucket %s: %w", name, err)
		}
	}
	return &b, nil
}

// sealer returns what seals secrets at rest, and whether older keys are among
// those that it opens with. The key is given, or made once beside the embedded
// server's data.
func (a *App) sealer() (s *seal.Sealer, older bool, err error) {
	if k := a.cfg.SealKey.Reveal(); k != "" {
		key, err := seal.ParseKey(k)
		if err != nil {
			return nil, false, fmt.Errorf("app: seal-key: %w", err)
		}
		old, err := seal.ParseKeys(a.cfg.SealKeyOld.Reveal())
		if err != nil {
			return nil, false, fmt.Errorf("app: seal-key-old: %w", err)
		}
		s, err := seal.New(key, old...)
		return s, len(old) > 0, err
	}
	if !a.cfg.Embedded() {
		return nil, false, errors.New("app: an external NATS server is shared, so its secrets need a key that is shared too: set POSTHORN_SEAL_KEY in every process (32 bytes in base64, for instance from `openssl rand -base64 32`)")
	}
	key, _, err := seal.LoadOrCreateKey(a.sealKeyFile())
	if err != nil {
		return nil, false, err
	}
	old, err := seal.OldKeys(a.sealKeyFile())
	if err != nil {
		return nil, false, err
	}
	s, err = seal.New(key, old...)
	return s, len(old) > 0, err
}

// sealCredentials seals what an earlier version stored in clear.
func (a *App) sealCredentials(ctx context.Context, master *api.API) error {
	n, err := master.SealCredentials(ctx)
	if err != nil && ctx.Err() == nil {
		a.log.Warn("not all header values that were stored in clear could be sealed; an edit of their subscriptions does", "sealed", n, "err", err)
	}
	if n > 0 {
		a.log.Info("header values that were stored in clear are sealed", "subscriptions", n)
	}
	<-ctx.Done()
	return nil
}

func (a *App) sealKeyFile() string { return filepath.Join(a.cfg.Data, "seal.key") }

// reseal seals anew what older keys have sealed, and forgets the keys that are
// this process's to forget.
func (a *App) reseal(ctx context.Context, master *api.API, s *seal.Sealer) error {
	n, err := master.Reseal(ctx, s)
	if err != nil {
		a.log.Error("not everything could be sealed by the new key; the older keys are still needed", "sealed", n, "err", err)
		<-ctx.Done()
		return nil
	}
	a.log.Info("everything is sealed by the new key; the older keys are not needed any more", "sealed", n)
	if a.cfg.SealKey.Reveal() == "" {
		if err := seal.ForgetOldKeys(a.sealKeyFile()); err != nil {
			a.log.Warn("the older keys are still there", "err", err)
		}
	}
	<-ctx.Done()
	return nil
}

// adminKey makes sure that there is a key for the Master API.
func (a *App) adminKey(ctx context.Context, kv jetstream.KeyValue) error {
	path := ""
	if a.cfg.Embedded() {
		path = filepath.Join(a.cfg.Data, "admin.key")
	}
	key, created, err := identity.EnsureAdminKey(ctx, kv, a.cfg.AdminKey.Reveal(), path)
	if errors.Is(err, identity.ErrKeyElsewhere) {
		a.Facts.KeyNote = err.Error()
		return nil
	}
	if err != nil {
		return err
	}
	if created {
		a.Facts.AdminKey = key
		if err := a.wait(ctx); err != nil {
			return err
		}
	}
	if a.cfg.AdminKey.Reveal() != "" { // which is kept nowhere
		a.Facts.KeyNote = "the one that was given (POSTHORN_ADMIN_KEY)"
		return nil
	}
	a.Facts.KeyFile = path
	return nil
}

// tellVersion returns what tells the subscribers of a schema of its new version.
// The version is stored; that its event is not does not undo it.
func (a *App) tellVersion(cat *catalog.Catalog, own broker.Own) func(context.Context, *posthornv1.Schema, []string) {
	return func(ctx context.Context, s *posthornv1.Schema, changes []string) {
		if !cat.Flag(settings.VersionUpdates) {
			return
		}
		ev, key := broker.VersionUpdate(s, changes)
		if _, err := own.Accept(ctx, wire.ToEvent(ev), key); err != nil {
			a.log.Error("the subscribers of a schema are not told of its new version", "type", s.GetType(), "version", s.GetVersion(), "err", err)
		}
	}
}

// tellDisabled returns what tells of a subscription that the platform has disabled,
// because its endpoint said that it is gone. It is disabled also if that fails.
func (a *App) tellDisabled(herald *alerts.Publisher) func(context.Context, *posthornv1.Subscription, time.Time) {
	return func(ctx context.Context, spec *posthornv1.Subscription, at time.Time) {
		s, err := subscription.Compile(spec, nil)
		if err == nil {
			err = herald.Disabled(ctx, s, "gone", at)
		}
		if err != nil {
			a.log.Error("nobody is told that a subscription was disabled", "subscription", spec.GetName(), "err", err)
		}
	}
}

// status is what Ping answers with.
func (a *App) status(ctx context.Context) (map[string]error, string) {
	return a.health.Ready(ctx), a.version
}

func callerName(ctx context.Context) string {
	id, _ := api.IdentityOf(ctx)
	return id.Name
}
