package recording

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/posthornhq/posthorn/pkg/interceptor"
)

const (
	// maxNames bounds headers, cookies and parameters, each.
	maxNames = 64
	// maxText bounds a name, a value and a path, in bytes.
	maxText = 256
)

// harmless are the headers whose values are kept: none of them is where anybody
// sends a credential. The list says what may be kept rather than what may not,
// since a policy that is yet to be written may read any header as a key.
var harmless = map[string]bool{
	"Accept": true, "Accept-Encoding": true, "Content-Encoding": true, "Content-Type": true, "User-Agent": true,
	"Forwarded": true, "X-Forwarded-For": true, "X-Forwarded-Proto": true, "Traceparent": true,
	"Ce-Specversion": true, "Ce-Type": true, "X-Github-Event": true, "X-Gitlab-Event": true, "X-Shopify-Topic": true,
}

// schemes of Authorization that are kept beside what they are for.
var schemes = []string{"Bearer", "Basic", "Digest", "JWT"}

// Strip returns the headers that are kept of h, and the names of its cookies.
// secret reports whether a header, by its canonical name, is read as a credential.
func Strip(h http.Header, secret func(header string) bool) (kept map[string]string, cookies []string) {
	kept = make(map[string]string, len(h))
	for name, values := range h {
		if len(kept) == maxNames {
			break
		}
		if name == "Cookie" || len(name) > maxText {
			continue
		}
		var value string
		if len(values) > 0 {
			value = values[0]
		}
		switch {
		case strings.TrimSpace(value) == "":
			kept[name] = "" // as good as none, for those who check
		case harmless[name] && !secret(name):
			kept[name] = cut(value)
		case name == "Authorization":
			kept[name] = stripAuthorization(value)
		default:
			kept[name] = interceptor.Stripped
		}
	}
	for _, c := range (&http.Request{Header: http.Header{"Cookie": h["Cookie"]}}).Cookies() {
		if len(cookies) < maxNames && len(c.Name) <= maxText && strings.TrimSpace(c.Value) != "" && !slices.Contains(cookies, c.Name) {
			cookies = append(cookies, c.Name)
		}
	}
	return kept, cookies
}

func stripAuthorization(value string) string {
	scheme, _, has := strings.Cut(strings.TrimSpace(value), " ")
	if !has || !slices.ContainsFunc(schemes, func(s string) bool { return strings.EqualFold(s, scheme) }) {
		return interceptor.Stripped // what looks like a scheme may be half of a secret
	}
	return scheme + " " + interceptor.Stripped
}

// Query returns the names of the parameters in a query that have a value. One
// without may be a credential itself.
func Query(raw string) []string {
	if raw == "" {
		return nil
	}
	values, _ := url.ParseQuery(raw) // what can be read of it
	var names []string
	for name, v := range values {
		if len(names) < maxNames && len(name) <= maxText && len(v) > 0 && strings.TrimSpace(v[0]) != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Path returns what is kept of a path.
func Path(path string) string { return cut(path) }

func cut(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.ToValidUTF8(s, "")
}
