package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"

	"github.com/posthornhq/posthorn/pkg/config"
	"github.com/posthornhq/posthorn/pkg/queue"
	"github.com/posthornhq/posthorn/pkg/slowbody"
	"github.com/posthornhq/posthorn/pkg/telemetry"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
	"github.com/posthornhq/posthorn/services/api"
	"github.com/posthornhq/posthorn/services/dispatcher"
	"github.com/posthornhq/posthorn/services/registry"
)

// maxMessage is the largest gRPC message: a batch of events.
const maxMessage = 64 << 20

// listen takes an address, so that a taken one is an error of the start.
func (a *App) listen(ctx context.Context, what, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("app: %s cannot listen on %s: %w; stop who does, or give another address", what, addr, err)
	}
	return l, nil
}

// serveHTTP adds a door that serves h on addr. A stop lets requests finish.
func (a *App) serveHTTP(ctx context.Context, what, addr string, h http.Handler) error {
	l, err := a.listen(ctx, what, addr)
	if err != nil {
		return err
	}
	tlsConfig, err := a.serverTLS(false)
	if err != nil {
		return err
	}
	if tlsConfig != nil {
		l = tls.NewListener(l, tlsConfig)
	}
	srv := &http.Server{
		Handler: slowbody.Handler(h), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
	a.log.Debug("listening", "what", what, "address", l.Addr().String())
	a.doors = append(a.doors, part{name: what, run: func(ctx context.Context) error {
		ended := make(chan error, 1)
		go func() { ended <- srv.Serve(l) }()
		select {
		case err := <-ended:
			return fmt.Errorf("serve %s: %w", addr, err)
		case <-ctx.Done():
		}
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.cfg.ShutdownTimeout)
		defer cancel()
		if err := srv.Shutdown(stop); err != nil {
			return errors.Join(err, srv.Close())
		}
		return nil
	}})
	return nil
}

// serveGRPC adds a door that serves gRPC on addr, with health and reflection.
// A caller needs a token. Where own says that the port is for the platform's own
// processes too, a certificate will do, if callers must show one.
func (a *App) serveGRPC(ctx context.Context, what, addr string, auth api.Authenticator, own bool, register func(*grpc.Server)) error {
	l, err := a.listen(ctx, what, addr)
	if err != nil {
		return err
	}
	if own && a.mutual(true) {
		auth = api.Internal(auth)
	}
	opts, err := a.serverCredentials(own)
	if err != nil {
		return err
	}
	opts = append(opts,
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(4096),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		// Who vanishes must not be handed deliveries for long.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.ChainUnaryInterceptor(api.UnaryAuth(auth)),
		grpc.ChainStreamInterceptor(api.StreamAuth(auth)),
	)
	srv := grpc.NewServer(opts...)
	register(srv)
	checks := health.NewServer()
	for name := range srv.GetServiceInfo() {
		checks.SetServingStatus(name, grpc_health_v1.HealthCheckResponse_SERVING)
	}
	grpc_health_v1.RegisterHealthServer(srv, checks)
	reflection.Register(srv)
	a.addGRPC(what+" gRPC", addr, l, srv)
	return nil
}

// addGRPC adds a door that serves srv. A stop lets calls finish; streams have no
// end of their own, so they get a while.
func (a *App) addGRPC(name, addr string, l net.Listener, srv *grpc.Server) {
	a.doors = append(a.doors, part{name: name, run: func(ctx context.Context) error {
		ended := make(chan error, 1)
		go func() { ended <- srv.Serve(l) }()
		select {
		case err := <-ended:
			return fmt.Errorf("serve %s: %w", addr, err)
		case <-ctx.Done():
		}
		stopped := make(chan struct{})
		go func() {
			srv.GracefulStop()
			close(stopped)
		}()
		select {
		case <-stopped:
		case <-time.After(5 * time.Second):
			srv.Stop()
		}
		return nil
	}})
}

// dialOwn returns a connection for the platform's own calls to its broker in another
// process, which it makes by the admin key.
func (a *App) dialOwn(addr string) (*grpc.ClientConn, error) {
	key := a.cfg.AdminKey.Reveal()
	if key == "" {
		if !a.mutual(true) {
			return nil, fmt.Errorf("app: the broker at %s is another process, which asks who calls: set POSTHORN_ADMIN_KEY to what the other processes have, or give all of them TLS with a client-ca", addr)
		}
		return a.dial(addr)
	}
	return a.dial(addr, grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if md, _ := metadata.FromOutgoingContext(ctx); len(md.Get("authorization")) == 0 {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	}))
}

// dial returns a connection to another process of the platform. It knows no key: what
// callers of ours ask for there, they ask for by their own.
func (a *App) dial(addr string, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	opts := append([]grpc.DialOption{
		grpc.WithTransportCredentials(a.clientCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, PermitWithoutStream: true}),
	}, more...)
	conn, err := grpc.NewClient(addr, opts...)
	if err != nil {
		return nil, fmt.Errorf("app: dial %s: %w", addr, err)
	}
	return conn, nil
}

// masterAPI serves the Master API where this process has it, and returns its
// REST form for the gateway.
func (a *App) masterAPI(ctx context.Context, master *api.API, schemas *registry.Server, pulls *dispatcher.PullServer, auth api.Authenticator) (http.Handler, error) {
	cfg, roles := a.cfg, a.cfg.Roles
	rest := api.RESTConfig{MaxEventBytes: int64(cfg.MaxEventBytes)}
	if !roles.Has(config.API) {
		if !roles.Has(config.Gateway) {
			return nil, nil
		}
		conn, err := a.dial(cfg.APIGRPC)
		if err != nil {
			return nil, err
		}
		if err := a.serveForwarder(ctx, cfg.GRPC, conn); err != nil {
			return nil, err
		}
		return api.NewHandler(ctx, conn, nil, a.log, rest)
	}
	local := api.NewLocal(api.UnaryAuth(auth))
	register := func(r grpc.ServiceRegistrar) {
		master.Register(r)
		posthornv1.RegisterSchemaRegistryServer(r, schemas)
		pulls.Register(r)
	}
	register(local)
	handler, err := api.NewHandler(ctx, local, auth, a.log, rest)
	if err != nil {
		return nil, err
	}
	if err := a.serveHTTP(ctx, "api", cfg.APIHTTP, handler); err != nil {
		return nil, err
	}
	if err := a.serveGRPC(ctx, "api", cfg.APIGRPC, auth, false, func(s *grpc.Server) { register(s) }); err != nil {
		return nil, err
	}
	if roles.Has(config.Gateway) {
		if err := a.serveGRPC(ctx, "gateway", cfg.GRPC, auth, false, func(s *grpc.Server) { register(s) }); err != nil {
			return nil, err
		}
	}
	return handler, nil
}

// front is what the gateway's port serves: the Master API below /api/, all else
// is the gateway's own.
func front(gw, rest http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api/") || r.URL.Path == "/api" {
			rest.ServeHTTP(w, r)
			return
		}
		gw.ServeHTTP(w, r)
	})
}

func (a *App) serveMetrics(ctx context.Context) error {
	return a.serveHTTP(ctx, "metrics", a.cfg.Metrics, telemetry.Handler(a.reg, a.health, a.cfg.Pprof))
}

// depthEvery is how often the queue's depth is looked up.
const depthEvery = 5 * time.Second

// watchDepth keeps the metrics of the queue's depth and age.
func watchDepth(ctx context.Context, q *queue.Queue, reg prometheus.Registerer, log *slog.Logger) error {
	depth := prometheus.NewGauge(prometheus.GaugeOpts{Name: "posthorn_queue_depth", Help: "Deliveries that wait or are being tried."})
	bytes := prometheus.NewGauge(prometheus.GaugeOpts{Name: "posthorn_queue_bytes", Help: "Bytes that they take."})
	age := prometheus.NewGauge(prometheus.GaugeOpts{Name: "posthorn_queue_oldest_seconds", Help: "Age of the oldest delivery that waits or is being tried."})
	reg.MustRegister(depth, bytes, age)
	tick := time.NewTicker(depthEvery)
	defer tick.Stop()
	for {
		d, err := q.Depth(ctx)
		if err != nil && ctx.Err() == nil {
			log.Warn("the queue's depth is not known", "err", err)
		}
		if err == nil {
			depth.Set(float64(d.Messages))
			bytes.Set(float64(d.Bytes))
			age.Set(0)
			if !d.Oldest.IsZero() {
				age.Set(time.Since(d.Oldest).Seconds())
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
