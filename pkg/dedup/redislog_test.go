package dedup

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestTheRedisLibraryWritesToTheLog(t *testing.T) {
	t.Parallel()
	for level, want := range map[slog.Level]string{slog.LevelInfo: "", slog.LevelDebug: `"text":"pool: dial 127.0.0.1:1"`} {
		var out bytes.Buffer
		redisLog{slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: level}))}.Printf(t.Context(), "pool: dial %s", "127.0.0.1:1")
		if got := out.String(); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("at level %v it writes %q, want %s", level, got, want)
		}
	}
}
