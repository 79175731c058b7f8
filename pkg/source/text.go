package source

import (
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/pattern"
)

// maxText is the length in bytes that an ID, a source, a subject or another
// name in a request may have. They travel in headers and in keys.
const maxText = 2048

// malformed returns the error for a request that is not understood.
func malformed(format string, args ...any) error {
	return errs.New(errs.Invalid, format, args...).Because("malformed")
}

// malformedField is malformed for one field of the request.
func malformedField(field, format string, args ...any) error {
	return errs.Field(field, format, args...).Because("malformed")
}

// unverified returns the error for a request whose sender is not known.
func unverified(format string, args ...any) error {
	return errs.New(errs.Unauthenticated, format, args...).Because("signature")
}

// cleanText says whether s may become an attribute: valid UTF-8 without control
// characters, as CloudEvents has it, and not too long.
func cleanText(s string) bool {
	return len(s) <= maxText && utf8.ValidString(s) && strings.IndexFunc(s, unicode.IsControl) < 0
}

// headerText returns a header's value, "" if it is missing.
func headerText(h http.Header, name string) (string, error) {
	v := h.Get(name)
	if !cleanText(v) {
		return "", malformedField(name, "the header is longer than %d bytes, not UTF-8, or has control characters", maxText)
	}
	return v, nil
}

// checkType returns t, in its normal form, if events may have it as their type.
// Field is where it came from.
func checkType(field, t string) (string, error) {
	t, err := pattern.ParseType(t)
	if err != nil {
		return "", malformedField(field, "%v", err)
	}
	return t, nil
}

// fallbackType is the type of an event that names none: the topic in the path,
// or else what the source's settings say.
func fallbackType(r *Request, configured string) (string, error) {
	switch {
	case r.Topic != "":
		return checkType("topic", r.Topic)
	case configured != "":
		return configured, nil
	}
	return "", malformed("the event has no type: put it in the path, as in /events/<source>/order.created, or set the type of the source")
}

// word makes one word of a type out of a publisher's name for something:
// whatever is not a letter, digit, hyphen or underscore becomes an underscore.
func word(s string) string {
	odd := func(r rune) bool { return r >= utf8.RuneSelf || r != '_' && r != '-' && !isAlphanumeric(byte(r)) }
	if strings.IndexFunc(s, odd) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		if odd(r) {
			return '_'
		}
		return r
	}, s)
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
