package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/posthornhq/posthorn/pkg/config"
	"github.com/posthornhq/posthorn/pkg/telemetry"
	platform "github.com/posthornhq/posthorn/services/app"
)

// configFlags adds the platform's settings to a command, and --config.
func configFlags(cmd *cobra.Command) (load func() (*config.Config, error)) {
	flags := config.Flags()
	cmd.Flags().AddFlagSet(flags)
	file := cmd.Flags().String("config", "", "settings in YAML (POSTHORN_CONFIG; default ./posthorn.yaml if it is there)")
	return func() (*config.Config, error) {
		set := pflag.NewFlagSet("settings", pflag.ContinueOnError)
		flags.VisitAll(func(f *pflag.Flag) { set.AddFlag(cmd.Flags().Lookup(f.Name)) })
		environ := os.Environ()
		cfg, err := config.Load(set, environ, config.File(*file, environ))
		if err != nil {
			return nil, usageError{err: err}
		}
		return cfg, nil
	}
}

func newServe(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the platform, or some of its roles",
		Long: `Run the platform on this machine: all roles and an embedded NATS server in one process,
with everything it keeps below --data. With --nats-url and --role, run some of the roles
against a NATS cluster.

SIGTERM or Ctrl-C stops it: attempts in flight are finished, nothing new is begun. A
second signal ends it at once; what was answered is safe then, too.`,
		Args: args(cobra.NoArgs),
	}
	load := configFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		if cfg.Demo {
			if !cmd.Flags().Changed("log-level") && os.Getenv("POSTHORN_LOG_LEVEL") == "" {
				cfg.LogLevel = slog.LevelWarn // what happens is shown on the standard output
			}
			// What it makes there (sources, subscriptions to an endpoint that ends with
			// it, a schema) is not to be found in the way by who goes on from it.
			if !cmd.Flags().Changed("data") && os.Getenv("POSTHORN_DATA") == "" {
				cfg.Data = "./posthorn-demo"
			}
			// The demo's subscriber is on this machine.
			cfg.AllowNet = append(cfg.AllowNet, netip.MustParsePrefix("127.0.0.0/8"))
		}
		log, err := telemetry.NewLogger(a.stderr, strings.ToLower(cfg.LogLevel.String()), string(cfg.LogFormat))
		if err != nil {
			return err
		}
		return a.serve(cmd.Context(), cfg, log)
	}
	return cmd
}

func (a *app) serve(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	p, err := platform.New(ctx, cfg, log, buildVersion())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-p.Ready():
		case <-ctx.Done():
			return
		}
		greet(a.stdout, cfg, &p.Facts)
		if cfg.Demo {
			if err := a.demo(ctx, cfg, &p.Facts); err != nil && ctx.Err() == nil {
				log.Error("the demo ended", "err", err)
			}
		}
	})
	err = p.Run(ctx)
	cancel()
	wg.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// greet tells a person where everything is and what to do next.
func greet(w io.Writer, cfg *config.Config, f *platform.Facts) {
	out := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
	scheme := "http"
	if cfg.TLS.Cert != "" {
		scheme = "https"
	}
	out("Posthorn is ready: %s", strings.Trim(fmt.Sprint(cfg.Roles), "[]"))
	if cfg.Roles.Has(config.Gateway) {
		out("  publish and manage  %s://%s  (events at /events/<source>, Master API at /api/v1)", scheme, cfg.HTTP)
	}
	if cfg.Roles.Has(config.Broker) {
		out("  EventBroker (gRPC)  %s", cfg.Broker)
	}
	out("  metrics and health  %s://%s/metrics  /healthz  /readyz", scheme, cfg.Metrics)
	if f.NATS != "" {
		out("  NATS                %s  (try: nats --server %s stream report)", f.NATS, f.NATS)
		out("  room for events     %.1f GiB in %s, durability %s", float64(f.Limit)/(1<<30), cfg.Data, cfg.Durability)
	}
	if f.Unclean {
		out("  the last stop was not clean: %d routed events are looked at again; what was delivered is known", f.LookedBack)
	}
	switch {
	case f.KeyNote != "":
		out("  admin API key       %s", f.KeyNote)
	case f.AdminKey != "":
		out("  admin API key       %s", f.AdminKey)
		if f.KeyFile != "" {
			out("                      shown this once, and kept in %s", f.KeyFile)
		}
	case f.KeyFile != "":
		out("  admin API key       in %s", f.KeyFile)
	}
	if !cfg.Demo {
		out("Next: posthorn subscription apply -f subscription.yaml, then posthorn publish --type order.placed --data '{\"id\":1}'")
		out("      (posthorn serve --demo shows the whole way with three events)")
	}
}
