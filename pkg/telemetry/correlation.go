package telemetry

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// The services that correlation IDs name (C18).
const (
	Gateway  = "gw"
	Broker   = "eb"
	API      = "api"
	Consumer = "ec"
	Registry = "reg"
)

const (
	externalPrefix = "ext."
	// correlationVersion stands between service and time. The rest has the form
	// of an AWS X-Ray trace ID, which is where version 1 comes from.
	correlationVersion = ".1-"
	timeDigits         = 8
	randomDigits       = 24
	correlationTail    = len(correlationVersion) + timeDigits + 1 + randomDigits
	longestService     = len(Registry)
)

// NewCorrelationID returns "<service>.1-<8 hex time>-<24 hex random>": the time
// in Unix seconds and 96 bits that nobody can guess. Service is one of the
// constants above and is not checked.
func NewCorrelationID(service string, now time.Time) string {
	var random [randomDigits / 2]byte
	rand.Read(random[:]) // never fails: it ends the process instead

	seconds := uint32(now.Unix())
	stamp := [timeDigits / 2]byte{byte(seconds >> 24), byte(seconds >> 16), byte(seconds >> 8), byte(seconds)}

	var buf [longestService + correlationTail]byte
	id := append(buf[:0], service...)
	id = append(id, correlationVersion...)
	id = hex.AppendEncode(id, stamp[:])
	id = append(id, '-')
	id = hex.AppendEncode(id, random[:])
	return string(id)
}

// ParseCorrelation returns nil if s is a correlation ID, and otherwise an error
// that says what is wrong with it. Digits are lower-case, as we write them.
func ParseCorrelation(s string) error {
	service, rest, ok := strings.Cut(strings.TrimPrefix(s, externalPrefix), correlationVersion)
	if !ok {
		return fmt.Errorf("telemetry: correlation ID %.80q is not [ext.]<service>.1-<time>-<random>", s)
	}
	switch service {
	case Gateway, Broker, API, Consumer, Registry:
	default:
		return fmt.Errorf("telemetry: correlation ID %.80q: service is none of %s, %s, %s, %s, %s",
			s, Gateway, Broker, API, Consumer, Registry)
	}
	stamp, random, _ := strings.Cut(rest, "-")
	if len(stamp) != timeDigits || !isHex(stamp) {
		return fmt.Errorf("telemetry: correlation ID %.80q: time is not %d lower-case hex digits", s, timeDigits)
	}
	if len(random) != randomDigits || !isHex(random) {
		return fmt.Errorf("telemetry: correlation ID %.80q: random part is not %d lower-case hex digits", s, randomDigits)
	}
	return nil
}

// External marks an ID as received from outside: it gets the prefix "ext.",
// unless it has it.
func External(id string) string {
	if strings.HasPrefix(id, externalPrefix) {
		return id
	}
	return externalPrefix + id
}

// isHex reports whether s is lower-case hex digits only.
func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
