package amqp

import (
	"net"
	"net/url"
	"strings"
	"unicode"

	"github.com/posthornhq/posthorn/pkg/errs"
)

// MaxShort is the length in bytes of the longest short string: of the name of an
// exchange or a queue, of a routing key, and of all properties of a message.
const MaxShort = 255

// maxURL is the length in bytes that a URL may have.
const maxURL = 2048

// The default ports.
var ports = map[string]string{"amqp": "5672", "amqps": "5671"}

// An Endpoint is a broker, and who connects to it. Endpoints that are equal may
// share a connection.
type Endpoint struct {
	TLS      bool
	Address  string // host:port
	Vhost    string
	Username string
	Password string
}

// Parse reads a URL, which has no password. A username goes before the URL's.
// Field is what an error is about; none repeats the URL, which may have a
// password all the same.
func Parse(field, text, username, password string) (Endpoint, error) {
	if text == "" {
		return Endpoint{}, errs.Field(field+".url", "is required, for instance amqps://rabbit.example/vhost")
	}
	if len(text) > maxURL {
		return Endpoint{}, errs.Field(field+".url", "is %d bytes long, at most %d are allowed", len(text), maxURL)
	}
	u, err := url.Parse(text)
	if err != nil {
		return Endpoint{}, errs.Field(field+".url", "is not a URL")
	}
	port, ok := ports[u.Scheme]
	_, secret := u.User.Password()
	switch {
	case !ok:
		return Endpoint{}, errs.Field(field+".url", "must begin with amqp:// or amqps://")
	case secret:
		return Endpoint{}, errs.Field(field+".url", "has a password, which would be seen by all who may read this; it has a place of its own")
	case u.Hostname() == "":
		return Endpoint{}, errs.Field(field+".url", "has no host")
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		// The library would read files of ours that a query names.
		return Endpoint{}, errs.Field(field+".url", "has a query or a fragment, which are not used; remove it")
	}
	if u.Port() != "" {
		port = u.Port()
	}
	if username == "" {
		username = u.User.Username()
	}
	if username == "" {
		return Endpoint{}, errs.Field(field+".username", "is required")
	}
	if err := ValidName(field+".username", username); err != nil {
		return Endpoint{}, err
	}
	vhost := strings.TrimPrefix(u.Path, "/")
	if vhost == "" {
		vhost = "/"
	}
	if err := ValidName(field+".url", vhost); err != nil {
		return Endpoint{}, err
	}
	return Endpoint{
		TLS: u.Scheme == "amqps", Address: net.JoinHostPort(u.Hostname(), port), Vhost: vhost, Username: username, Password: password,
	}, nil
}

// String returns the URL without user and password.
func (e Endpoint) String() string {
	u := url.URL{Scheme: "amqp", Host: e.Address}
	if e.TLS {
		u.Scheme = "amqps"
	}
	if e.Vhost != "/" {
		u.Path = "/" + e.Vhost
	}
	return u.String()
}

// ValidName returns an error about field unless name fits into a short string
// and has no control characters.
func ValidName(field, name string) error {
	if len(name) > MaxShort {
		return errs.Field(field, "is %d bytes long; AMQP allows %d", len(name), MaxShort)
	}
	if strings.ContainsFunc(name, unicode.IsControl) || strings.ToValidUTF8(name, "") != name {
		return errs.Field(field, "has control characters or is not UTF-8")
	}
	return nil
}
