package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/config"
	platform "github.com/posthornhq/posthorn/services/app"
)

func newTopology(a *app) *cobra.Command {
	return group(&cobra.Command{Use: "topology", Short: "The streams and buckets in JetStream"},
		newTopologyPrint(a), newTopologyDiff(a), newTopologyApply(a))
}

func newTopologyPrint(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Show every stream and bucket as the settings want it",
		Long: `Show every stream and bucket as the settings want it. With -o json the streams' configurations
are what "nats stream add --config" accepts, one array of them all.`,
		Args: args(cobra.NoArgs),
	}
	load := configFlags(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		assets := topology.Assets(platform.TopologyConfig(cfg, freeDisk(cfg)))
		streams := make([]jetstream.StreamConfig, len(assets))
		for i := range assets {
			streams[i] = assets[i].Stream
		}
		doc, err := json.Marshal(streams)
		if err != nil {
			return fmt.Errorf("show the topology: %w", err)
		}
		return a.show(doc, func(t *table) {
			t.row("NAME", "SUBJECTS", "RETENTION", "AGE", "LIMIT", "WRITER", "READERS")
			for _, s := range assets {
				age := "-"
				if s.Stream.MaxAge > 0 {
					age = s.Stream.MaxAge.String()
				}
				t.row(s.Stream.Name, fmt.Sprint(s.Stream.Subjects), s.Stream.Retention.String(), age,
					config.Bytes(s.Stream.MaxBytes).String(), s.Writer, s.Readers)
			}
		})
	}
	return cmd
}

func newTopologyDiff(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff",
		Short: "Show how the server's streams and buckets differ from the settings",
		Args:  args(cobra.NoArgs),
	}
	cmd.RunE = a.onServer(cmd, func(cmd *cobra.Command, js jetstream.JetStream, c topology.Config) error {
		diffs, err := topology.Diff(cmd.Context(), js, c)
		if err != nil {
			return err
		}
		return a.showDifferences(diffs, "nothing differs")
	})
	return cmd
}

func newTopologyApply(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Create and widen streams and buckets; never shrink or delete",
		Args:  args(cobra.NoArgs),
	}
	cmd.RunE = a.onServer(cmd, func(cmd *cobra.Command, js jetstream.JetStream, c topology.Config) error {
		done, err := topology.Ensure(cmd.Context(), js, c)
		if err != nil && len(done) == 0 {
			return err // that there is nothing to do would be said of what was refused
		}
		if sErr := a.showDifferences(done, "nothing to do"); err == nil {
			err = sErr
		}
		return err
	})
	return cmd
}

// onServer runs f on the NATS server that the settings name: the external one,
// or the embedded one of a serve that runs.
func (a *app) onServer(cmd *cobra.Command, f func(*cobra.Command, jetstream.JetStream, topology.Config) error) func(*cobra.Command, []string) error {
	load := configFlags(cmd)
	return func(cmd *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		url := cfg.NATSURL.Reveal()
		if url == "" {
			url = "nats://" + cfg.NATSListen
		}
		opts := []nats.Option{nats.Name("posthorn topology"), nats.Timeout(3 * time.Second)}
		if cfg.NATSCreds != "" {
			opts = append(opts, nats.UserCredentials(cfg.NATSCreds))
		}
		nc, err := nats.Connect(url, opts...)
		if err != nil {
			return fmt.Errorf("connect to NATS at %s: %w; is `posthorn serve` running, or is --nats-url right?", config.URL(url), err)
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			return fmt.Errorf("connect to JetStream: %w", err)
		}
		return f(cmd, js, platform.TopologyConfig(cfg, freeDisk(cfg)))
	}
}

func (a *app) showDifferences(diffs []topology.Difference, none string) error {
	if diffs == nil {
		diffs = []topology.Difference{}
	}
	doc, err := json.Marshal(diffs)
	if err != nil {
		return fmt.Errorf("show the differences: %w", err)
	}
	return a.show(doc, func(t *table) {
		if len(diffs) == 0 {
			t.row(none)
			return
		}
		t.row("VERDICT", "ASSET", "FIELD", "HAVE", "WANT")
		for _, d := range diffs {
			t.row(string(d.Verdict), d.Asset, d.Field, d.Have, d.Want)
		}
	})
}

// freeDisk is what the shares are of; 0, the default budget, where it is not known.
func freeDisk(cfg *config.Config) int64 {
	if !cfg.Embedded() {
		return 0
	}
	if _, err := os.Stat(cfg.Data); err != nil {
		return 0
	}
	free, err := platform.FreeDisk(cfg.Data)
	if err != nil {
		return 0
	}
	return free
}
