package config

import (
	"strings"
	"testing"
	"time"
)

// Names are made from keys, so two keys could come to share one.
func TestNamesAreUnambiguous(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, s := range settings() {
		for _, name := range []string{s.key, "--" + s.flag(), s.env()} {
			if other, ok := seen[name]; ok {
				t.Errorf("%s belongs to %s and to %s", name, other, s.key)
			}
			seen[name] = s.key
		}
	}
	for _, sec := range sections() {
		if other, ok := seen[sec.key]; ok {
			t.Errorf("%s is a section and the setting %s", sec.key, other)
		}
	}
	for _, name := range clientVariables {
		if key, ok := seen[name]; ok {
			t.Errorf("%s is a client's and the setting %s's", name, key)
		}
	}
}

func TestEverySettingSaysWhatItIs(t *testing.T) {
	t.Parallel()
	for _, s := range settings() {
		if s.usage == "" || strings.HasSuffix(s.key, ".") || s.key == "" {
			t.Errorf("setting %q has usage %q, want a key and a text", s.key, s.usage)
		}
		if serviceLink(s.env(), "x") {
			t.Errorf("%s would pass for a variable of Kubernetes", s.env())
		}
	}
}

func TestDurationsAreWrittenAsTheyAreRead(t *testing.T) {
	t.Parallel()
	tests := []struct {
		text string
		want time.Duration
		back string
	}{
		{"336h", 336 * time.Hour, "336h"},
		{"14d", 336 * time.Hour, "336h"},
		{"1d12h", 36 * time.Hour, "36h"},
		{"90m", 90 * time.Minute, "1h30m"},
		{"10s", 10 * time.Second, "10s"},
		{"20m", 20 * time.Minute, "20m"},
		{"10h", 10 * time.Hour, "10h"},
		{"0s", 0, "0s"},
		{"1.5s", 1500 * time.Millisecond, "1.5s"},
	}
	for _, tt := range tests {
		got, err := parseDuration(tt.text)
		if err != nil || got != tt.want {
			t.Errorf("%q is %s, %v, want %s", tt.text, got, err, tt.want)
		}
		if back := formatDuration(got); back != tt.back {
			t.Errorf("%s is written %q, want %q", tt.text, back, tt.back)
		}
	}
	for _, text := range []string{"", "14", "d", "-1d", "1dd", "1d-", "1.5d", "99999d", "h"} {
		if d, err := parseDuration(text); err == nil {
			t.Errorf("%q is %s, want an error", text, d)
		}
	}
}

func TestSizesAreWrittenAsTheyAreRead(t *testing.T) {
	t.Parallel()
	tests := []struct {
		text string
		want Bytes
		back string
	}{
		{"8MiB", 8 * MiB, "8MiB"},
		{"8 MiB", 8 * MiB, "8MiB"},
		{"1.5KiB", 1536, "1536"},
		{"20GB", 20e9, "19531250KiB"},
		{"1000", 1000, "1000"},
		{"0", 0, "0"},
		{"9007199254740993", 9007199254740993, "9007199254740993"},
		{"7B", 7, "7"},
	}
	for _, tt := range tests {
		got, err := ParseBytes(tt.text)
		if err != nil || got != tt.want {
			t.Errorf("%q is %d, %v, want %d", tt.text, got, err, tt.want)
		}
		if back := got.String(); back != tt.back {
			t.Errorf("%s is written %q, want %q", tt.text, back, tt.back)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "-1.5MiB", "8388608TiB", "1e30", "NaN", "Inf", "8 M"} {
		if b, err := ParseBytes(text); err == nil {
			t.Errorf("%q is %d, want an error", text, b)
		}
	}
}
