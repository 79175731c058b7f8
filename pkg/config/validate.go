package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// maxPayloadThreshold leaves room for an event's attributes beside its data in
// one NATS message, which the server limits to 1 MiB.
const maxPayloadThreshold = 768 * KiB

// Validate returns all that is wrong with the configuration, or nil.
func (c *Config) Validate() error {
	v := validator{Config: c}
	v.checkRoles()
	v.checkAddresses()
	v.checkNATS()
	v.checkTLS()
	if u, err := url.Parse(v.OTLPEndpoint); v.OTLPEndpoint != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		v.wrong("otlp-endpoint", "it is not a URL such as http://127.0.0.1:4318/v1/traces")
	}
	v.checkLimits()
	if len(v.problems) > 0 {
		return fmt.Errorf("config: %w", errors.Join(v.problems...))
	}
	return nil
}

type validator struct {
	*Config
	problems []error
}

// wrong notes a problem with the setting key, and where it was written.
func (v *validator) wrong(key, format string, args ...any) {
	name := key
	if where, ok := v.origins[key]; ok {
		name = where
	}
	v.problems = append(v.problems, fmt.Errorf("%s: %s", name, fmt.Sprintf(format, args...)))
}

// explicit reports whether somebody wrote the setting somewhere.
func (v *validator) explicit(key string) bool {
	_, ok := v.origins[key]
	return ok
}

func (v *validator) checkRoles() {
	if len(v.Roles) == 0 {
		v.wrong("role", "a process needs at least one of %s", format(reflect.ValueOf(AllRoles())))
	}
	seen := Roles{}
	for _, r := range v.Roles {
		if seen.Has(r) {
			v.wrong("role", "%s is named twice", r)
		}
		seen = append(seen, r)
	}
	if v.Data == "" {
		v.wrong("data", "a directory must be named")
	}
}

// checkAddresses tells addresses to listen on from those of other processes.
func (v *validator) checkAddresses() {
	taken := map[string]string{}
	for _, a := range []struct {
		key, addr string
		here      bool
	}{
		{"http", v.HTTP, v.Roles.Has(Gateway)},
		{"grpc", v.GRPC, v.Roles.Has(Gateway)},
		{"api-http", v.APIHTTP, v.Roles.Has(API)},
		{"api-grpc", v.APIGRPC, v.Roles.Has(API)},
		{"broker", v.Broker, v.Roles.Has(Broker)},
		{"registry", v.Registry, v.Roles.Has(Registry)},
		{"dispatcher", v.Dispatcher, v.Roles.Has(Dispatcher)},
		{"metrics", v.Metrics, true},
		{"nats-listen", v.NATSListen, v.Embedded()},
	} {
		host, port, err := net.SplitHostPort(a.addr)
		n, portErr := strconv.ParseUint(port, 10, 16)
		switch {
		case err != nil || portErr != nil:
			v.wrong(a.key, "%q is not an address such as 127.0.0.1:9600", a.addr)
		case a.here && n != 0: // port 0 is any that is free
			if other, ok := taken[a.addr]; ok {
				v.wrong(a.key, "%s is already the address of %s", a.addr, other)
			}
			taken[a.addr] = a.key
		case !a.here && a.key != "nats-listen" && v.explicit(a.key):
			// The role is elsewhere, and this is where it is called.
			if ip := net.ParseIP(host); host == "" || n == 0 || ip != nil && ip.IsUnspecified() {
				v.wrong(a.key, "%s can be listened on but not called, and this process does not have the role", a.addr)
			}
		}
	}
}

func (v *validator) checkTLS() {
	switch t := v.TLS; {
	case t.Cert != "" && v.Demo:
		v.wrong("demo", "the demo shows itself without TLS; leave tls.cert out")
	case t.Cert == "" && t.Key != "":
		v.wrong("tls.key", "a key is of no use without tls.cert")
	case t.Cert != "" && t.Key == "":
		v.wrong("tls.cert", "a certificate is of no use without tls.key")
	case t.Cert == "" && t.ClientCA != "":
		v.wrong("tls.client-ca", "clients are asked for certificates over TLS only; set tls.cert and tls.key")
	case t.ClientCA == "" && t.ClientAuth == AllClients:
		v.wrong("tls.client-auth", "nobody could show a certificate that is known; set tls.client-ca")
	}
}

func (v *validator) checkNATS() {
	if v.Embedded() {
		if v.NATSCreds != "" {
			v.wrong("nats-creds", "credentials are for nats-url, which is not set")
		}
		if v.Store.Replicas > 1 {
			v.wrong("store.replicas", "the embedded server is one, and %d replicas need as many; set nats-url", v.Store.Replicas)
		}
	} else {
		if v.explicit("nats-listen") {
			v.wrong("nats-listen", "it is the embedded server's, and with nats-url there is none; set one or the other")
		}
		if v.Durability == Fsync && v.explicit("durability") {
			v.wrong("durability", "fsync cannot be promised for the servers of nats-url: their sync_interval and replicas decide; "+
				"set sync_interval there and leave durability out")
		}
		v.checkURLs("nats-url", v.NATSURL, "nats", "tls", "ws", "wss")
	}
	if v.RedisURL != "" {
		v.checkURLs("redis-url", v.RedisURL, "redis", "rediss", "unix")
	} else if v.Dedup.OnRedisDown == KV && v.explicit("dedup.on-redis-down") {
		v.wrong("dedup.on-redis-down", "there is no Redis that could be down; set redis-url")
	}
}

func (v *validator) checkURLs(key string, u URL, schemes ...string) {
	for part := range strings.SplitSeq(u.Reveal(), ",") {
		// What is wrong is not quoted: url.Error would, password and all.
		parsed, err := url.Parse(strings.TrimSpace(part))
		if err != nil || parsed.Host == "" && parsed.Scheme != "unix" {
			v.wrong(key, "%s is not a URL such as %s://host", u, schemes[0])
			return
		}
		known := false
		for _, s := range schemes {
			known = known || parsed.Scheme == s
		}
		if !known {
			v.wrong(key, "scheme %s is none of %s", parsed.Scheme, strings.Join(schemes, ", "))
		}
	}
}

func (v *validator) checkLimits() {
	for _, d := range []struct {
		key string
		d   time.Duration
	}{
		{"store.max-age", v.Store.MaxAge},
		{"attempts.max-age", v.Attempts.MaxAge},
		{"dead-letters.max-age", v.DeadLetters.MaxAge},
		{"rejections.max-age", v.Rejections.MaxAge},
		{"dedup.window", v.Dedup.Window},
		{"dedup.done-ttl", v.Dedup.DoneTTL},
		{"shutdown-timeout", v.ShutdownTimeout},
	} {
		// A second is also the least that JetStream expires by.
		if d.d < time.Second {
			v.wrong(d.key, "%s is under a second", formatDuration(d.d))
		}
	}
	for _, b := range []struct {
		key string
		b   Bytes
	}{
		{"store.max-bytes", v.Store.MaxBytes},
		{"deliveries.max-bytes", v.Deliveries.MaxBytes},
		{"attempts.max-bytes", v.Attempts.MaxBytes},
		{"dead-letters.max-bytes", v.DeadLetters.MaxBytes},
		{"rejections.max-bytes", v.Rejections.MaxBytes},
	} {
		if b.b < 0 || b.b > 0 && b.b < MiB {
			v.wrong(b.key, "%s is under 1MiB; 0 is a share of the free disk", b.b)
		}
	}
	if v.MaxEventBytes < 1 {
		v.wrong("max-event-bytes", "%s leaves room for no event", v.MaxEventBytes)
	}
	if t := v.Store.PayloadThreshold; t < 0 || t > maxPayloadThreshold {
		v.wrong("store.payload-threshold", "%s is not between 0 and %s, the most that fits a message beside the event's attributes", t, maxPayloadThreshold)
	}
	if r := v.Store.Replicas; r < 1 || r > 5 {
		v.wrong("store.replicas", "%d is not between 1 and 5, the limits of JetStream", r)
	}
	if v.Schemas.MaxEntries < 1 {
		v.wrong("schemas.max-entries", "%d leaves room for no schema", v.Schemas.MaxEntries)
	}
	if v.Schemas.MaxBytes < MiB {
		v.wrong("schemas.max-bytes", "%s is under 1MiB", v.Schemas.MaxBytes)
	}
	for _, h := range v.Schemas.Foreign {
		domain, where, ok := strings.Cut(h, "=")
		if u, err := url.Parse(where); !ok || domain == "" || err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			v.wrong("schemas.foreign", "%q is not <domain>=<URL>, for instance partner.example=https://partner.example:9600", h)
		}
	}
	if v.Dispatch.ProbeInterval <= 0 {
		v.wrong("dispatch.probe-interval", "%v is no wait", v.Dispatch.ProbeInterval)
	}
	if v.Dispatch.Concurrency < 1 {
		v.wrong("dispatch.concurrency", "%d leaves no attempt to be made", v.Dispatch.Concurrency)
	}
}
