package telemetry_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/posthornhq/posthorn/pkg/telemetry"
)

func TestNewLogger(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, level, format string
		want                string // of a debug and a warn line, what is written
		wantErr             string
	}{
		{"defaults are info and text", "", "", `level=WARN msg=w`, ""},
		{"debug shows all", "debug", "text", `level=DEBUG msg=d level=WARN msg=w`, ""},
		{"json", "info", "json", `{"level":"WARN","msg":"w"}`, ""},
		{"error hides warnings", "error", "json", ``, ""},
		{"unknown level lists the choices", "verbose", "text", ``, `log level "verbose" is none of debug, info, warn, error`},
		{"unknown format lists the choices", "info", "xml", ``, `log format "xml" is none of text, json`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			log, err := telemetry.NewLogger(&out, tt.level, tt.format)
			if tt.wantErr != "" {
				if err == nil || !strings.HasSuffix(err.Error(), tt.wantErr) {
					t.Fatalf("error is %v, want one that ends in %q", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			log.Debug("d")
			log.Warn("w")
			if got := withoutTime(out.String()); got != tt.want {
				t.Errorf("logged %q, want %q", got, tt.want)
			}
		})
	}
}

// withoutTime joins log lines, each without its timestamp.
func withoutTime(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "{") {
			_, rest, _ := strings.Cut(line, ",")
			line = "{" + rest
		} else {
			_, line, _ = strings.Cut(line, " ")
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, " ")
}
