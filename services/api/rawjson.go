package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"mime"
	"strings"
	"time"

	"github.com/posthornhq/posthorn/pkg/errs"
)

// checkJSON says where b stops being one JSON value, if it does.
func checkJSON(b []byte) error {
	if json.Valid(b) {
		return nil
	}
	var v json.RawMessage
	err := json.Unmarshal(b, &v)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return errs.New(errs.Invalid, "the body is not JSON: at byte %d: %s", syntax.Offset, strings.TrimPrefix(syntax.Error(), "json: "))
	}
	return errs.New(errs.Invalid, "the body is not JSON")
}

// members calls each with the members of a JSON object, in order. The values are
// parts of b, as they came. b must be valid JSON. A name that comes twice is
// refused: which of the two was meant, nobody knows. at is the object's own path,
// "" for the body.
func members(b []byte, at string, each func(name, value []byte) error) error {
	i := skipSpace(b, 0)
	if b[i] != '{' {
		if at == "" {
			return errs.New(errs.Invalid, "the body must be a JSON object")
		}
		return errs.Field(at, "must be a JSON object")
	}
	var room [16][]byte
	seen := room[:0]
	for i = skipSpace(b, i+1); b[i] != '}'; {
		end := skipString(b, i)
		name, err := unquote(b[i:end])
		if err != nil {
			return err
		}
		for _, s := range seen {
			if bytes.Equal(s, name) {
				return errs.Field(join(at, string(name)), "is there twice")
			}
		}
		seen = append(seen, name)
		i = skipSpace(b, skipSpace(b, end)+1) // over the colon
		end = skipValue(b, i)
		if err := each(name, b[i:end:end]); err != nil {
			return err
		}
		if i = skipSpace(b, end); b[i] == ',' {
			i = skipSpace(b, i+1)
		}
	}
	return nil
}

// elements calls each with the values of a JSON array; see [members].
func elements(b []byte, at string, each func(i int, value []byte) error) error {
	i := skipSpace(b, 0)
	if b[i] != '[' {
		return errs.Field(at, "must be a JSON array")
	}
	i = skipSpace(b, i+1)
	for n := 0; b[i] != ']'; n++ {
		end := skipValue(b, i)
		if err := each(n, b[i:end:end]); err != nil {
			return err
		}
		if i = skipSpace(b, end); b[i] == ',' {
			i = skipSpace(b, i+1)
		}
	}
	return nil
}

// The skip functions return the index after what begins at i in valid JSON.

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

func skipString(b []byte, i int) int {
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i + 1
}

func skipValue(b []byte, i int) int {
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		depth := 0
		for {
			switch b[i] {
			case '"':
				i = skipString(b, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
			i++
			if depth == 0 {
				return i
			}
		}
	}
	for i < len(b) && strings.IndexByte(",]} \n\t\r", b[i]) < 0 {
		i++
	}
	return i
}

// unquote returns the text of a JSON string.
func unquote(quoted []byte) ([]byte, error) {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1], nil
	}
	var s string
	if err := json.Unmarshal(quoted, &s); err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "the body has a string that cannot be read")
	}
	return []byte(s), nil
}

func isNull(value []byte) bool { return string(value) == "null" }

// stringValue returns the text of a member, "" for null.
func stringValue(field string, value []byte) (string, error) {
	if isNull(value) {
		return "", nil
	}
	if value[0] != '"' {
		return "", errs.Field(field, "must be a string")
	}
	s, err := unquote(value)
	if err != nil {
		return "", err
	}
	return strings.ToValidUTF8(string(s), "\uFFFD"), nil
}

func timeValue(field string, value []byte) (time.Time, error) {
	s, err := stringValue(field, value)
	if err != nil || s == "" {
		return time.Time{}, err
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, errs.Field(field, "%q is not a time as RFC 3339 has it, such as 2026-01-02T15:04:05Z", s)
	}
	return t, nil
}

func base64Value(field string, value []byte) ([]byte, error) {
	s, err := stringValue(field, value)
	if err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, errs.Field(field, "is not base64")
	}
	return b, nil
}

// A payload is data in one of its two forms.
type payload struct {
	at            string
	data, encoded []byte
}

// take reports whether the member is data or dataBase64.
func (p *payload) take(name, value []byte) bool {
	switch string(name) {
	case "data":
		p.data = value
	case "dataBase64":
		p.encoded = value
	default:
		return false
	}
	return true
}

// bytes returns the data as it is to travel. What is said to be no kind of JSON
// may come as a string, whose text it is (as in the JSON format of CloudEvents).
func (p *payload) bytes(contentType string, limit int64) (data []byte, err error) {
	switch {
	case p.data != nil && p.encoded != nil:
		return nil, errs.Field(join(p.at, "dataBase64"), "cannot be there together with data")
	case p.encoded != nil:
		data, err = base64Value(join(p.at, "dataBase64"), p.encoded)
	case p.data == nil || isJSON(contentType):
		data = p.data
	case p.data[0] == '"':
		data, err = unquote(p.data)
	default:
		return nil, errs.Field(join(p.at, "data"), "is JSON, but dataContentType says %q; send a string, or dataBase64", contentType)
	}
	if err == nil && int64(len(data)) > limit {
		return nil, errs.New(errs.TooLarge, "%s: %d bytes, at most %d are allowed", join(p.at, "data"), len(data), limit)
	}
	return data, err
}

// isJSON reports whether a media type is a kind of JSON; none is.
func isJSON(contentType string) bool {
	if contentType == "" || contentType == "application/json" {
		return true
	}
	t, _, err := mime.ParseMediaType(contentType)
	return err == nil && (t == "application/json" || t == "text/json" || strings.HasSuffix(t, "+json"))
}

func join(at, name string) string {
	if at == "" {
		return name
	}
	return at + "." + name
}

func unknown(at string, name []byte) error {
	return errs.Field(join(at, string(name)), "there is no such field")
}
