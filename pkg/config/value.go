package config

import (
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Role is a part of the platform that a process can run alone.
type Role string

// The roles, in the order in which an event meets them.
const (
	Gateway    Role = "gateway"
	Broker     Role = "broker"
	Registry   Role = "registry"
	API        Role = "api"
	Dispatcher Role = "dispatcher"
)

// AllRoles returns every role there is.
func AllRoles() Roles { return Roles{Gateway, Broker, Registry, API, Dispatcher} }

// Roles are those of one process.
type Roles []Role

// Has reports whether r is among them.
func (rs Roles) Has(r Role) bool { return slices.Contains(rs, r) }

// Durability is what a publisher may rely on once it is answered.
type Durability string

const (
	Fsync Durability = "fsync" // the disk has the event: it survives power loss
	Flush Durability = "flush" // the operating system has it: it survives kill -9
)

// LogFormat is how log lines are written.
type LogFormat string

const (
	Text LogFormat = "text" // for people
	JSON LogFormat = "json" // for machines, an object a line
)

// OnRedisDown is what deliveries do while Redis does not answer. They never go
// out without a claim.
type OnRedisDown string

const (
	Wait OnRedisDown = "wait" // until it does
	KV   OnRedisDown = "kv"   // claim in JetStream meanwhile
)

// ClientAuth says which clients must show a certificate.
type ClientAuth string

const (
	Internal   ClientAuth = "internal" // at the ports that only the platform's processes call
	AllClients ClientAuth = "all"      // everywhere
)

// choices are the values of settings that have but a few.
var choices = map[reflect.Type][]string{
	reflect.TypeFor[Role]():        {string(Gateway), string(Broker), string(Registry), string(API), string(Dispatcher)},
	reflect.TypeFor[Durability]():  {string(Fsync), string(Flush)},
	reflect.TypeFor[LogFormat]():   {string(Text), string(JSON)},
	reflect.TypeFor[ClientAuth]():  {string(Internal), string(AllClients)},
	reflect.TypeFor[OnRedisDown](): {string(Wait), string(KV)},
}

// Bytes is a size. It is written as a number with a unit: "8MiB", "1GB", "512".
type Bytes int64

// Sizes to multiply.
const (
	KiB Bytes = 1 << (10 * (iota + 1))
	MiB
	GiB
	TiB
)

// units of ParseBytes. Longest first, because "B" ends them all.
var units = []struct {
	name string
	size Bytes
}{
	{"KiB", KiB}, {"MiB", MiB}, {"GiB", GiB}, {"TiB", TiB},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// ParseBytes reads a size, which may have a fraction: "1.5GiB".
func ParseBytes(s string) (Bytes, error) {
	number, unit := strings.TrimSpace(s), Bytes(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, unit = strings.TrimSpace(rest), u.size
			break
		}
	}
	// Whole numbers do not pass through a float, which cannot hold them all.
	if n, err := strconv.ParseInt(number, 10, 64); err == nil {
		if n < 0 || n > math.MaxInt64/int64(unit) {
			return 0, fmt.Errorf("%q is out of range", s)
		}
		return Bytes(n) * unit, nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(f) {
		return 0, fmt.Errorf("%q is not a size such as 512KiB, 8MiB or 20GB", s)
	}
	if size := f * float64(unit); size >= 0 && size < math.MaxInt64 {
		return Bytes(size), nil
	}
	return 0, fmt.Errorf("%q is out of range", s)
}

// String returns the size in the largest unit that divides it.
func (b Bytes) String() string {
	for _, u := range []struct {
		name string
		size Bytes
	}{{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}} {
		if b != 0 && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// parseDuration is [time.ParseDuration] that also knows days ("14d", "1d12h"),
// because that is how people speak of retention. A day is 24 hours.
func parseDuration(s string) (time.Duration, error) {
	var days time.Duration
	rest := s
	if n, after, ok := strings.Cut(s, "d"); ok {
		count, err := strconv.ParseUint(n, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("%q is not a duration such as 14d, 336h or 30s", s)
		}
		days, rest = time.Duration(count)*24*time.Hour, after
	}
	if rest == "" && days >= 0 && s != "" {
		return days, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration such as 14d, 336h or 30s", s)
	}
	return days + d, nil
}

// formatDuration leaves out the zeros that [time.Duration.String] ends with.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// parsePrefix reads a network in CIDR notation, or one address.
func parsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.Prefix(addr.BitLen())
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a network such as 10.0.0.0/8", s)
	}
	return p.Masked(), nil
}

// mask is what is printed in the place of a secret.
const mask = "***"

// A Secret prints as "***". The text itself is for [Secret.Reveal] alone.
type Secret string

// Reveal returns the text. Hand it to what needs it, and to nothing that prints.
func (s Secret) Reveal() string { return string(s) }

// String returns "***", or nothing if there is no secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return mask
}

// GoString is String for %#v.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// LogValue is String for slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText is String for encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// A URL, or several separated by commas, may carry a password. It prints
// without; the whole is for [URL.Reveal].
type URL string

// Reveal returns the whole. Hand it to what connects, and to nothing that prints.
func (u URL) Reveal() string { return string(u) }

// String returns the URL with its password, and a user that may be a token,
// replaced by "***".
func (u URL) String() string {
	if u == "" {
		return ""
	}
	parts := strings.Split(string(u), ",")
	for i, part := range parts {
		parts[i] = maskURL(strings.TrimSpace(part))
	}
	return strings.Join(parts, ",")
}

func maskURL(s string) string {
	parsed, err := url.Parse(s)
	if err != nil {
		return mask // whatever it is, it was meant to hold a password perhaps
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		if strings.Contains(s, "@") {
			return mask
		}
		return s
	}
	if parsed.User != nil {
		_, host, _ := strings.Cut(rest, "@")
		user := mask
		if _, has := parsed.User.Password(); has {
			user = parsed.User.Username() + ":" + mask
		}
		rest = user + "@" + host
	}
	// A query may say password=…, as Redis URLs do.
	if parsed.RawQuery != "" {
		before, _, _ := strings.Cut(rest, "?")
		rest = before + "?" + mask
	}
	return scheme + "://" + rest
}

// GoString is String for %#v.
func (u URL) GoString() string { return strconv.Quote(u.String()) }

// LogValue is String for slog.
func (u URL) LogValue() slog.Value { return slog.StringValue(u.String()) }

// MarshalText is String for encoders.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }
