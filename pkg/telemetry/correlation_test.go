package telemetry_test

import (
	"strings"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/telemetry"
)

func TestNewCorrelationID(t *testing.T) {
	t.Parallel()
	now := time.Unix(0x5f9a1b2c, 999)
	for _, service := range []string{telemetry.Gateway, telemetry.Broker, telemetry.API, telemetry.Consumer, telemetry.Registry} {
		id := telemetry.NewCorrelationID(service, now)
		if want := service + ".1-5f9a1b2c-"; !strings.HasPrefix(id, want) {
			t.Errorf("ID is %q, want one that begins with %q", id, want)
		}
		if err := telemetry.ParseCorrelation(id); err != nil {
			t.Errorf("own ID is not valid: %v", err)
		}
		if other := telemetry.NewCorrelationID(service, now); other == id {
			t.Errorf("two IDs of one moment are both %q", id)
		}
	}
}

func TestParseCorrelation(t *testing.T) {
	t.Parallel()
	const tail = ".1-5f9a1b2c-0123456789abcdef01234567"
	tests := []struct {
		name, id string
		want     string // what the error says; empty means valid
	}{
		{"our own", "gw" + tail, ""},
		{"received from outside", "ext.api" + tail, ""},
		{"empty", "", "is not [ext.]"},
		{"marked as external twice", "ext.ext.api" + tail, "service is none of"},
		{"unknown service", "db" + tail, "service is none of"},
		{"another version", "gw.2-5f9a1b2c-0123456789abcdef01234567", "is not [ext.]"},
		{"short time", "gw.1-5f9a1b2-0123456789abcdef01234567", "time is not"},
		{"upper-case time", "gw.1-5F9A1B2C-0123456789abcdef01234567", "time is not"},
		{"short random part", "gw.1-5f9a1b2c-0123456789abcdef0123456", "random part is not"},
		{"long random part", "gw" + tail + "8", "random part is not"},
		{"no random part", "gw.1-5f9a1b2c", "random part is not"},
		{"something after it", "gw" + tail + "-x", "random part is not"},
		{"a line break", "gw.1-5f9a1b2c-0123456789abcdef0123456\n", "random part is not"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := telemetry.ParseCorrelation(tt.id)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("%q gives %v, want it to be valid", tt.id, err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("%q gives %v, want an error with %q", tt.id, err, tt.want)
			}
		})
	}
}

func TestExternalMarksOnce(t *testing.T) {
	t.Parallel()
	id := telemetry.NewCorrelationID(telemetry.API, time.Now())
	once := telemetry.External(id)
	if want := "ext." + id; once != want {
		t.Errorf("External(%q) is %q, want %q", id, once, want)
	}
	if twice := telemetry.External(once); twice != once {
		t.Errorf("External(%q) is %q, want it unchanged", once, twice)
	}
}

// Allocations are counted by a test, because a benchmark fails nobody. A
// correlation ID costs one; the race detector makes it two.
func TestAllocationsForEachEvent(t *testing.T) {
	now := time.Now()
	header := traceHeader("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "")
	parent, _ := telemetry.Extract(header)
	tests := []struct {
		name string
		f    func()
		want float64
	}{
		{"NewCorrelationID", func() { telemetry.NewCorrelationID(telemetry.Gateway, now) }, 2},
		{"Extract of a valid context", func() { telemetry.Extract(header) }, 0},
		{"Extract of none", func() { telemetry.Extract(nil) }, 1},
		{"Child", func() { telemetry.Child(parent) }, 1},
	}
	for _, tt := range tests {
		if got := testing.AllocsPerRun(100, tt.f); got > tt.want {
			t.Errorf("%s allocates %v times, want at most %v", tt.name, got, tt.want)
		}
	}
}

func BenchmarkNewCorrelationID(b *testing.B) {
	b.ReportAllocs()
	now := time.Now()
	for b.Loop() {
		telemetry.NewCorrelationID(telemetry.Gateway, now)
	}
}
