package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version may be set by the linker: -ldflags "-X main.version=1.2.3".
var version string

// buildVersion returns the version that was linked in, or else the module's.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show what this binary was built from",
		Args:  args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			info := struct {
				Version  string `json:"version"`
				Revision string `json:"revision,omitempty"`
				Time     string `json:"time,omitempty"`
				Modified bool   `json:"modified,omitempty"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{Version: buildVersion(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			if build, ok := debug.ReadBuildInfo(); ok {
				for _, s := range build.Settings {
					switch s.Key {
					case "vcs.revision":
						info.Revision = s.Value
					case "vcs.time":
						info.Time = s.Value
					case "vcs.modified":
						info.Modified = s.Value == "true"
					}
				}
			}
			doc, err := marshal(info)
			if err != nil {
				return err
			}
			return a.show(doc, func(t *table) {
				t.row("posthorn " + info.Version)
				if info.Revision != "" {
					changed := ""
					if info.Modified {
						changed = ", with changes"
					}
					t.row("revision " + info.Revision + " of " + info.Time + changed)
				}
				t.row(info.Go + " " + info.Platform)
			})
		},
	}
}
