package pattern

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/posthornhq/posthorn/pkg/errs"
)

// MaxLength is the length in bytes that a type, or a pattern of types, may have.
// It is room for an event URI of 128 levels (C11), and with everything escaped the
// subject is still shorter than the 4 KiB that NATS allows. AMQP allows a routing
// key 255.
const MaxLength = 1024

// maxName is the length of the longest name.
const maxName = 63

// ValidType says what is wrong with an event type, if anything: it must be
// valid UTF-8 of 1 to [MaxLength] bytes, without control characters and blanks,
// and none of its words may be empty or a wildcard of patterns: no subscription
// could ask for such a type and no other.
func ValidType(t string) error {
	if err := validText("type", t); err != nil {
		return err
	}
	if err := validWords("type", t); err != nil {
		return err
	}
	if !strings.ContainsAny(t, "*#>") { // hardly ever there, and this is asked of each event
		return nil
	}
	sep := separator(t)
	for pos := 0; pos <= len(t); {
		var word string
		word, pos = wordAt(t, pos, sep)
		if word == one || word == many || word == ">" {
			return fmt.Errorf("type %q: %s is a wildcard, which only patterns may have", t, word)
		}
	}
	return nil
}

// validText checks what types and patterns have in common; what says which it is.
func validText(what, s string) error {
	switch {
	case s == "":
		return fmt.Errorf("%s is empty", what)
	case len(s) > MaxLength:
		return fmt.Errorf("%s is %d bytes long, at most %d are allowed", what, len(s), MaxLength)
	case !utf8.ValidString(s):
		return fmt.Errorf("%s %q is not valid UTF-8", what, s)
	}
	for _, r := range s {
		if unicode.IsControl(r) || unicode.IsSpace(r) {
			return fmt.Errorf("%s %q contains %U; blanks and control characters are not allowed", what, s, r)
		}
	}
	return nil
}

func validWords(what, s string) error {
	sep := separator(s)
	for pos, n := 0, 1; pos <= len(s); n++ {
		word, next := wordAt(s, pos, sep)
		if word == "" {
			return fmt.Errorf("%s %q: word %d is empty; words are separated by single %q", what, s, n, string(sep))
		}
		pos = next
	}
	return nil
}

// ValidName returns an error about field unless name is one that sources,
// subscriptions, policies and contexts may have: [a-z0-9][a-z0-9-]{0,62}. Such
// a name is a single NATS token, a path segment and a DNS label as it stands.
func ValidName(field, name string) error {
	if name == "" {
		return errs.Field(field, "is required")
	}
	if len(name) > maxName {
		return errs.Field(field, "is %d characters long, at most %d are allowed", len(name), maxName)
	}
	for i := range len(name) {
		c := name[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' && i > 0 {
			continue
		}
		return errs.Field(field, "%q is not a name: lower-case letters, digits and, not at the beginning, hyphens are allowed", name)
	}
	return nil
}

// EncodeType returns a valid type as NATS subject tokens, one for each word:
//
//	order.created                       order.created
//	community.certes.dev/github/1/push  community%2Ecertes%2Edev.github.1.push
//	shop/1/created                      shop%2F.1.created
//
// Inside a word dots, asterisks, greater-than signs, percent signs and a
// leading dollar sign are percent-escaped. What tells the forms apart is the first
// token. A URI's has an escaped dot, as its first word is a domain; if that
// word has none, then the slash after it is kept, escaped, at the end of the
// token. A dotted type's has neither, as its words have no dots or slashes.
//
// Of text that is no valid type, at least nothing that is blank or a wildcard
// to NATS gets through.
func EncodeType(t string) string {
	return string(AppendType(make([]byte, 0, len(t)+16), t))
}

// AppendType appends what [EncodeType] returns to dst.
func AppendType(dst []byte, t string) []byte {
	slash := strings.IndexByte(t, '/')
	uri := slash >= 0
	keepSlash := uri && strings.IndexByte(t[:slash], '.') < 0
	begin := true // of a word
	for i := range len(t) {
		c := t[i]
		switch {
		case c == '/':
			if keepSlash {
				dst = append(dst, "%2F"...)
				keepSlash = false
			}
			dst = append(dst, '.')
			begin = true
			continue
		case c == '.' && !uri:
			dst = append(dst, '.')
			begin = true
			continue
		case c == '.', c == '*', c == '>', c == '%', c <= ' ', c == 0x7f, c == '$' && begin:
			const hex = "0123456789ABCDEF"
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		default:
			dst = append(dst, c)
		}
		begin = false
	}
	return dst
}

// DecodeType is the inverse of [EncodeType]. It returns an error unless tokens
// is exactly what EncodeType makes of some valid type.
func DecodeType(tokens string) (string, error) {
	first, _, _ := strings.Cut(tokens, ".")
	kept := strings.HasSuffix(first, "%2F")
	sep := byte('.')
	if kept || strings.Contains(first, "%2E") {
		sep = '/'
	}

	t := make([]byte, 0, len(tokens))
	for i := 0; i < len(tokens); i++ {
		switch c := tokens[i]; {
		case c == '.':
			t = append(t, sep)
		case kept && i == len(first)-len("%2F"):
			i = len(first) - 1 // the dot behind it becomes this slash
		case c == '%':
			b, ok := unhex(tokens[i+1:])
			if !ok {
				return "", fmt.Errorf("pattern: decode type %q: %% without two hexadecimal digits at byte %d", tokens, i)
			}
			t = append(t, b)
			i += 2
		default:
			t = append(t, c)
		}
	}

	typ := string(t)
	if err := ValidType(typ); err != nil {
		return "", fmt.Errorf("pattern: decode type %q: %w", tokens, err)
	}
	// One type, one subject: whoever wrote another form did not use EncodeType,
	// and would not be found by those who do.
	if EncodeType(typ) != tokens {
		return "", fmt.Errorf("pattern: decode type %q: type %q is not written so", tokens, typ)
	}
	return typ, nil
}

// unhex reads the two hexadecimal digits that s begins with.
func unhex(s string) (byte, bool) {
	if len(s) < 2 {
		return 0, false
	}
	var b byte
	for i := range 2 {
		c := s[i]
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		b = b<<4 | c
	}
	return b, true
}

// separator returns what separates the words of a type or pattern.
func separator(s string) byte {
	if strings.IndexByte(s, '/') >= 0 {
		return '/'
	}
	return '.'
}

// wordAt returns the word of s that begins at pos and where the next one does,
// which is beyond the end of s if there is none.
func wordAt(s string, pos int, sep byte) (word string, next int) {
	if end := strings.IndexByte(s[pos:], sep); end >= 0 {
		return s[pos : pos+end], pos + end + 1
	}
	return s[pos:], len(s) + 1
}
