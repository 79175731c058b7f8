package interceptor

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// maxCredential is the longest token or client ID that is looked at, in bytes.
const maxCredential = 16 << 10

// A place says where in a request a credential is (S5, S6).
type place struct {
	header, cookie, query bool
	name                  string
	bearer                bool // a "Bearer " before the value is not part of it
}

func placeOf(l posthornv1.Interceptor_Location, name string, bearer bool) place {
	p := place{name: name, bearer: bearer}
	switch l {
	case posthornv1.Interceptor_COOKIE:
		p.cookie = true
	case posthornv1.Interceptor_HEADER:
		p.header = true
	case posthornv1.Interceptor_HEADER_OR_COOKIE:
		p.header, p.cookie = true, true
	case posthornv1.Interceptor_QUERY:
		p.query = true
	default:
		p.header, p.cookie, p.query = true, true, true
	}
	return p
}

// find returns the credentials of a request: at most one from each kind of
// place, each value once. There may be an old cookie beside a good header, so
// all of them are tried.
func (p place) find(r *Request) ([]string, *refusal) {
	found := make([]string, 0, 3)
	if p.header {
		v := r.Header.Get(p.name)
		if p.bearer {
			if token, is := cutBearer(v); is {
				v = token
			}
		}
		found = add(found, v)
	}
	if p.cookie {
		// Cookie is a method of requests alone.
		if c, err := (&http.Request{Header: r.Header}).Cookie(p.name); err == nil {
			found = add(found, c.Value)
		}
	}
	if p.query && r.RawQuery != "" {
		// What of a malformed query can be read counts; the error has the rest in it.
		values, _ := url.ParseQuery(r.RawQuery)
		found = add(found, values.Get(p.name))
	}
	if len(found) == 0 {
		return nil, unauthenticated("the request has no %s in its %s", p.name, p.where())
	}
	for _, c := range found {
		if len(c) > maxCredential {
			return nil, unauthenticated("%s is longer than %d bytes", p.name, maxCredential)
		}
	}
	return found, nil
}

func add(found []string, value string) []string {
	value = strings.TrimSpace(value)
	if value == "" || slices.Contains(found, value) {
		return found
	}
	return append(found, value)
}

// where lists the kinds of place for a person.
func (p place) where() string {
	var names []string
	if p.header {
		names = append(names, "headers")
	}
	if p.cookie {
		names = append(names, "cookies")
	}
	if p.query {
		names = append(names, "query")
	}
	return strings.Join(names, ", ")
}

// cutBearer returns what follows the scheme Bearer, spelled in any case.
func cutBearer(value string) (string, bool) {
	const scheme = "Bearer "
	if len(value) < len(scheme) || !strings.EqualFold(value[:len(scheme)], scheme) {
		return "", false
	}
	return strings.TrimSpace(value[len(scheme):]), true
}

// tryAll lets a request pass if one of its credentials does. The refusal is that of
// the first: places are tried in the order that people prefer.
func tryAll(credentials []string, try func(string) (string, *refusal)) (string, *refusal) {
	var first *refusal
	for _, c := range credentials {
		detail, no := try(c)
		if no == nil {
			return detail, nil
		}
		if first == nil {
			first = no
		}
	}
	return "", first
}
