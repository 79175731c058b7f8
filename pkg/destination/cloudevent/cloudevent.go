package cloudevent

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/posthornhq/posthorn/pkg/event"
)

// Time is the time attribute: when the event happened, or where the
// publisher did not say, when it was received, as CloudEvents 1.0 allows.
func Time(ev *event.Event) time.Time {
	if ev.Time.IsZero() {
		return ev.Received
	}
	return ev.Time
}

// IsExtension says whether name can be that of an extension attribute:
// lower-case letters and digits, and none of the names that the specification
// has taken.
func IsExtension(name string) bool {
	switch name {
	case "", "specversion", "id", "source", "type", "subject", "time", "dataschema", "datacontenttype", "data":
		return false
	}
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// Attributes calls each with the name and value of every attribute but data and
// datacontenttype, the value encoded for a header.
func Attributes(ev *event.Event, each func(name, value string)) {
	each("specversion", "1.0")
	each("id", Encode(ev.CloudEventID()))
	each("source", Encode(ev.CloudEventSource()))
	each("type", Encode(ev.Type))
	each("time", Time(ev).Format(time.RFC3339Nano))
	if ev.Subject != "" {
		each("subject", Encode(ev.Subject))
	}
	if ev.DataSchema != "" {
		each("dataschema", Encode(ev.DataSchema))
	}
	for name, value := range ev.Extensions {
		if IsExtension(name) {
			each(name, Encode(value))
		}
	}
}

// Encode writes an attribute as a header's value, by section 3.1.3.2 of
// the HTTP protocol binding: space, '"', '%' and all that is not printable ASCII
// are percent-encoded as UTF-8.
func Encode(s string) string {
	i := 0
	for i < len(s) && isPlain(s[i]) {
		i++
	}
	if i == len(s) {
		return s
	}
	// Receivers must refuse what is not UTF-8, however it is encoded.
	s = strings.ToValidUTF8(s, "\uFFFD")
	const hex = "0123456789ABCDEF"
	out := make([]byte, 0, len(s)+32)
	for i := range len(s) {
		if c := s[i]; isPlain(c) {
			out = append(out, c)
		} else {
			out = append(out, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(out)
}

func isPlain(c byte) bool { return c > ' ' && c < 0x7f && c != '"' && c != '%' }

// Structured writes ev in the JSON event format of CloudEvents 1.0. Data that is
// JSON stands in it as it came, byte for byte; other data as base64.
func Structured(ev *event.Event) []byte {
	size := 256 + len(ev.Data)
	embed := event.IsJSON(ev.ContentType()) && json.Valid(ev.Data) && utf8.Valid(ev.Data)
	if !embed {
		size += len(ev.Data)/3 + 4
	}
	for name, value := range ev.Extensions {
		size += len(name) + len(value) + 6
	}
	b := make([]byte, 0, size+len(ev.Type)+len(ev.Subject)+len(ev.DataSchema))

	b = append(b, `{"specversion":"1.0"`...)
	b = appendAttribute(b, "id", ev.CloudEventID())
	b = appendAttribute(b, "source", ev.CloudEventSource())
	b = appendAttribute(b, "type", ev.Type)
	b = append(b, `,"time":"`...)
	b = Time(ev).AppendFormat(b, time.RFC3339Nano)
	b = append(b, '"')
	if ev.Subject != "" {
		b = appendAttribute(b, "subject", ev.Subject)
	}
	if ev.DataSchema != "" {
		b = appendAttribute(b, "dataschema", ev.DataSchema)
	}
	for name, value := range ev.Extensions {
		// A header could carry "data_base64" no better than IsExtension lets it.
		if IsExtension(name) {
			b = appendAttribute(b, name, value)
		}
	}
	b = appendAttribute(b, "datacontenttype", ev.ContentType())
	switch {
	case len(ev.Data) == 0:
	case embed:
		b = append(b, `,"data":`...)
		b = append(b, ev.Data...)
	default:
		b = append(b, `,"data_base64":"`...)
		b = base64.StdEncoding.AppendEncode(b, ev.Data)
		b = append(b, '"')
	}
	return append(b, '}')
}

// appendAttribute appends `,"name":"value"`; name needs no escaping.
func appendAttribute(b []byte, name, value string) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':')
	for i := range len(value) {
		if c := value[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, err := json.Marshal(value)
			if err != nil {
				panic("cloudevent: a string has no JSON form: " + err.Error()) // it always has
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, value...)
	return append(b, '"')
}
