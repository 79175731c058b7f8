package schema

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/posthornhq/posthorn/pkg/errs"
)

const (
	scheme = "events://"
	// DefaultNamespace is the namespace of URIs that have none.
	DefaultNamespace = "_"
	// MaxLevels is how many words a namespace may have.
	MaxLevels = 128
	// maxURI is the length of the longest URI in bytes. What is to be an event's
	// type must be shorter, see package pattern.
	maxURI = 2_000
)

// A URI names an event: events://domain[:port]/namespace…/version/event, or
// short domain/namespace…/version/event. It is read from the right, so that the
// namespace is what remains. Versions are numbers, of which each is a range of
// compatible schemas: x/1/push and x/2/push are different types.
type URI struct {
	Domain    string // in lower case
	Port      int    // 0 if not given
	Namespace string // words with slashes between them; DefaultNamespace if there is none
	Version   int    // from 1
	// Event is the event's name, or "*" for all of the version.
	Event string
}

// ParseURI reads either form of a URI. A port is accepted in the long one alone.
// Errors are of kind [errs.Invalid].
func ParseURI(s string) (URI, error) {
	rest, long := strings.CutPrefix(s, scheme)
	if len(s) > maxURI {
		return URI{}, badURI(s, "is %d bytes long, at most %d are allowed", len(s), maxURI)
	}
	words := strings.Split(rest, "/")
	if len(words) < 3 {
		return URI{}, badURI(s, "is not domain/namespace…/version/event")
	}
	for i, w := range words {
		if !isPlainWord(w) && (w != "*" || i < len(words)-1) {
			return URI{}, badURI(s, "has %q for word %d", w, i+1)
		}
	}
	u := URI{Namespace: DefaultNamespace, Event: words[len(words)-1]}
	if between := words[1 : len(words)-2]; len(between) > MaxLevels {
		return URI{}, badURI(s, "has a namespace of %d levels, at most %d are allowed", len(between), MaxLevels)
	} else if len(between) > 0 {
		u.Namespace = strings.Join(between, "/")
	}
	var err error
	if u.Domain, u.Port, err = host(words[0], long); err != nil {
		return URI{}, badURI(s, "%v", err)
	}
	version := words[len(words)-2]
	u.Version, err = strconv.Atoi(version)
	if err != nil || u.Version < 1 || u.Version > 1<<31-1 || strconv.Itoa(u.Version) != version {
		return URI{}, badURI(s, "has %q where the version's number belongs", version)
	}
	return u, nil
}

func badURI(s, format string, args ...any) error {
	return errs.Field("type", "URI %q %s", cut(s, 100), fmt.Sprintf(format, args...))
}

// host reads a domain, and a port if one is allowed.
func host(s string, withPort bool) (domain string, port int, err error) {
	domain = s
	if name, number, has := strings.Cut(s, ":"); has {
		if !withPort {
			return "", 0, fmt.Errorf("has a port, which needs %s before it", scheme)
		}
		port, err = strconv.Atoi(number)
		if err != nil || port < 1 || port > 65535 || strconv.Itoa(port) != number {
			return "", 0, fmt.Errorf("has %q for a port", number)
		}
		domain = name
	}
	domain = strings.ToLower(domain)
	if len(domain) > 253 {
		return "", 0, fmt.Errorf("has a domain of %d bytes", len(domain))
	}
	for label := range strings.SplitSeq(domain, ".") {
		if !isLabel(label) {
			return "", 0, fmt.Errorf("has %q for a domain", s)
		}
	}
	return domain, port, nil
}

func isLabel(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' && i > 0 && i < len(s)-1 {
			continue
		}
		return false
	}
	return s != "" && len(s) <= 63
}

// isPlainWord reports whether s can be a word: neither empty nor a wildcard, nor
// a step in the path of a URL, and without blanks and control characters.
func isPlainWord(s string) bool {
	switch s {
	case "", ".", "..", "*", "#", ">":
		return false
	}
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) })
}

// String returns the long form.
func (u URI) String() string {
	at := u.Domain
	if u.Port != 0 {
		at = net.JoinHostPort(u.Domain, strconv.Itoa(u.Port))
	}
	return scheme + at + strings.TrimPrefix(u.Type(), u.Domain)
}

// Type returns the short form, which is the event's type, or for the event "*" a
// pattern of types. The default namespace is left out, so that an event has one
// type however its URI was written.
func (u URI) Type() string {
	namespace := "/" + u.Namespace
	if u.Namespace == DefaultNamespace || u.Namespace == "" {
		namespace = ""
	}
	return u.Domain + namespace + "/" + strconv.Itoa(u.Version) + "/" + u.Event
}
