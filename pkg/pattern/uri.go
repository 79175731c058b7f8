package pattern

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	scheme = "events://"
	// DefaultNamespace is the namespace of URIs that have none.
	DefaultNamespace = "_"
	// MaxLevels is how many words a namespace may have.
	MaxLevels = 128
	// maxURI is the length of the longest URI in bytes. What is to be an event's
	// type must be shorter, see [MaxLength].
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
	const most = 100
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return fmt.Errorf("URI %q %s", s, fmt.Sprintf(format, args...))
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

// ParseType returns an event type in the one form that it is stored, matched and
// answered in: of a URI the short one, see [URI.Type], in whatever form it came. It
// returns an error about what is no type, see [ValidType].
//
// A type is a URI if events:// stands before it, or if its first word has a dot, as a
// domain has, and its last but one is a number, as a version is; it must then be a
// whole one. All others are somebody else's names, as CloudEvents have them, and stay as
// they are.
func ParseType(s string) (string, error) {
	if looksLikeURI(s) {
		u, err := ParseURI(s)
		if err != nil {
			return "", fmt.Errorf("%w; a type of a domain and a version is an event URI, domain/namespace…/version/event", err)
		}
		s = u.Type()
	}
	return s, ValidType(s)
}

func looksLikeURI(s string) bool {
	if strings.HasPrefix(s, scheme) {
		return true
	}
	first, rest, _ := strings.Cut(s, "/")
	last := strings.LastIndexByte(rest, '/')
	if last < 0 || strings.IndexByte(first, '.') < 0 {
		return false
	}
	version := rest[strings.LastIndexByte(rest[:last], '/')+1 : last]
	return version != "" && strings.Trim(version, "0123456789") == ""
}

// Normal returns a type or a pattern of types in the form of [ParseType] if it is a
// URI, and else as it is. It refuses nothing: it is for what was stored already,
// and for names that are only looked for. Of what is in that form, as all types of
// events are, it looks at two words at most.
func Normal(s string) string {
	if !oddlySpelled(s) {
		return s
	}
	if n, err := normal(s); err == nil {
		return n
	}
	return s
}

// NormalPrefix is [Normal] for what types begin with.
func NormalPrefix(s string) string {
	rest, long := strings.CutPrefix(s, scheme)
	first, behind, cut := strings.Cut(rest, "/")
	if !cut || !long && !strings.Contains(first, ".") {
		return rest
	}
	domain, _, err := host(first, long)
	if err != nil {
		return s
	}
	if inside, found := strings.CutPrefix(behind, DefaultNamespace+"/"); found {
		// What follows in the default namespace is a version. Otherwise it is a
		// namespace of several words, of which this is the first.
		version, _, _ := strings.Cut(inside, "/")
		if _, err := strconv.Atoi(version); err == nil || version == "" {
			behind = inside
		}
	}
	return domain + "/" + behind
}

// oddlySpelled reports whether s may be a URI in another form than the normal one.
func oddlySpelled(s string) bool {
	slash := strings.IndexByte(s, '/')
	if slash < 0 {
		return false
	}
	if strings.HasPrefix(s, scheme) {
		return true
	}
	dot := false
	for i := range slash {
		switch c := s[i]; {
		case c == '.':
			dot = true
		case c >= 'A' && c <= 'Z':
			return strings.IndexByte(s[:slash], '.') >= 0
		}
	}
	return dot && strings.HasPrefix(s[slash+1:], DefaultNamespace+"/")
}

// normal returns a URI, or a pattern of URIs, in the short form.
func normal(s string) (string, error) {
	u, err := ParseURI(s)
	if err == nil {
		return u.Type(), nil
	}
	rest, long := strings.CutPrefix(s, scheme)
	words := strings.Split(rest, "/")
	if len(words) < 2 || !slices.ContainsFunc(words, isWildcard) {
		return "", err
	}
	domain, _, err := host(words[0], long)
	if err != nil {
		return "", badURI(s, "%v", err)
	}
	words[0] = domain
	// With more words it is the first of a namespace, and behind "#" nobody knows.
	if len(words) == 4 && words[1] == DefaultNamespace && !slices.ContainsFunc(words, isMany) {
		words = slices.Delete(words, 1, 2)
	}
	return strings.Join(words, "/"), nil
}

func isWildcard(word string) bool { return word == one || isMany(word) }

func isMany(word string) bool { return word == many || word == ">" }

// Valid says what is wrong with a pattern that somebody writes, if anything: that
// [Parse] cannot read it, or that no type could match it.
func Valid(s string) error {
	p, err := Parse(s)
	if err != nil || p.form != uri || len(p.words) == 0 || !strings.Contains(p.words[0], ".") {
		return err
	}
	last := len(p.words) - 1
	switch {
	case !slices.ContainsFunc(p.words[:last], isWildcard) && !isMany(p.words[last]) && looksLikeURI(strings.Join(p.words, "/")):
		if _, err := ParseURI(strings.Join(p.words, "/")); err != nil {
			return fmt.Errorf("%w; a pattern of a domain and a version is one of event URIs, domain/namespace…/version/event", err)
		}
	case p.words[1] == DefaultNamespace && slices.ContainsFunc(p.words, isMany):
		return fmt.Errorf("pattern %q: types leave the namespace %s out; %s/*/* stands for those in it", s, DefaultNamespace, p.words[0])
	}
	return nil
}
