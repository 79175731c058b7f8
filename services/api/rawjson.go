package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/rawjson"
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
	if !rawjson.Begins(b, '{') {
		if at == "" {
			return errs.New(errs.Invalid, "the body must be a JSON object")
		}
		return errs.Field(at, "must be a JSON object")
	}
	var room [16][]byte
	seen := room[:0]
	for name, value := range rawjson.Members(b) {
		for _, s := range seen {
			if bytes.Equal(s, name) {
				return errs.Field(join(at, string(name)), "is there twice")
			}
		}
		seen = append(seen, name)
		if err := each(name, value); err != nil {
			return err
		}
	}
	return nil
}

// elements calls each with the values of a JSON array; see [members].
func elements(b []byte, at string, each func(i int, value []byte) error) error {
	if !rawjson.Begins(b, '[') {
		return errs.Field(at, "must be a JSON array")
	}
	for i, value := range rawjson.Elements(b) {
		if err := each(i, value); err != nil {
			return err
		}
	}
	return nil
}

// stringValue returns the text of a member, "" for null.
func stringValue(field string, value []byte) (string, error) {
	if rawjson.IsNull(value) {
		return "", nil
	}
	if value[0] != '"' {
		return "", errs.Field(field, "must be a string")
	}
	return strings.ToValidUTF8(string(rawjson.Unquote(value)), "\uFFFD"), nil
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
	case p.data == nil || event.IsJSON(contentType):
		data = p.data
	case p.data[0] == '"':
		data = rawjson.Unquote(p.data)
	default:
		return nil, errs.Field(join(p.at, "data"), "is JSON, but dataContentType says %q; send a string, or dataBase64", contentType)
	}
	if err == nil && int64(len(data)) > limit {
		return nil, errs.New(errs.TooLarge, "%s: %d bytes, at most %d are allowed", join(p.at, "data"), len(data), limit)
	}
	return data, err
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
