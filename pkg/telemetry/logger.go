package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
)

var (
	logLevels  = []string{"debug", "info", "warn", "error"}
	logFormats = []string{"text", "json"}
)

// NewLogger returns a logger that writes to w. Level is debug, info, warn or
// error, by default info; format is text or json, by default text. Any other
// value is an error that lists the choices.
func NewLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var opts slog.HandlerOptions
	switch level {
	case "debug":
		opts.Level = slog.LevelDebug
	case "", "info":
		opts.Level = slog.LevelInfo
	case "warn":
		opts.Level = slog.LevelWarn
	case "error":
		opts.Level = slog.LevelError
	default:
		return nil, fmt.Errorf("telemetry: log level %q is none of %s", level, strings.Join(logLevels, ", "))
	}
	switch format {
	case "", "text":
		return slog.New(slog.NewTextHandler(w, &opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, &opts)), nil
	}
	return nil, fmt.Errorf("telemetry: log format %q is none of %s", format, strings.Join(logFormats, ", "))
}
