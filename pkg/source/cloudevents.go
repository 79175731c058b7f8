package source

import (
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/pattern"
	"github.com/posthornhq/posthorn/pkg/rawjson"
)

// Media types of CloudEvents over HTTP, before the format ("+json"). The one is
// a prefix of the other.
const (
	mediaCloudEvents = "application/cloudevents"
	mediaBatch       = "application/cloudevents-batch"
)

// maxEvents is how many events one request may hold.
const maxEvents = 20_000

var errTooMany = errs.New(errs.TooLarge, "more than %d events in one request; send them in several", maxEvents).Because("too-large")

// cloudEvents takes CloudEvents 1.0 by the HTTP protocol binding: binary,
// structured, or a batch. Who may send is for the policy to say.
type cloudEvents struct{}

func (cloudEvents) verify(*Request) (string, error) { return "", nil }

func (cloudEvents) parse(r *Request) (Batch, error) { return parseCloudEvents(r) }

func parseCloudEvents(r *Request) (Batch, error) {
	contentType := mediaType(r.Header.Get("Content-Type"))
	switch {
	case hasPrefixFold(contentType, mediaBatch):
		if !strings.EqualFold(contentType, mediaBatch+"+json") {
			return Batch{}, unknownFormat(contentType)
		}
		return parseBatch(r.Body)
	case hasPrefixFold(contentType, mediaCloudEvents):
		if !strings.EqualFold(contentType, mediaCloudEvents+"+json") {
			return Batch{}, unknownFormat(contentType)
		}
		if !rawjson.Valid(r.Body) {
			return Batch{}, malformed("the body is not valid JSON")
		}
		return one(parseStructured(r.Body, -1))
	}
	return one(parseBinary(r))
}

func one(in Incoming, err error) (Batch, error) {
	if err != nil {
		return Batch{}, err
	}
	return Batch{Events: []Incoming{in}}, nil
}

func unknownFormat(contentType string) error {
	return malformedField("Content-Type", "%q is not known; of the formats of CloudEvents only JSON is (%s+json, %s+json)",
		contentType, mediaCloudEvents, mediaBatch)
}

// parseBatch takes all events of a batch or none.
func parseBatch(body []byte) (Batch, error) {
	if !rawjson.Valid(body) {
		return Batch{}, malformed("the body is not valid JSON")
	}
	if !rawjson.Begins(body, '[') {
		return Batch{}, malformed("a batch of CloudEvents is a JSON array")
	}
	var b Batch
	for n, raw := range rawjson.Elements(body) {
		if n == maxEvents {
			return Batch{}, errTooMany
		}
		in, err := parseStructured(raw, n)
		if err != nil {
			return Batch{}, err
		}
		b.Events = append(b.Events, in)
	}
	return b, nil
}

// parseStructured reads an event in the JSON format; index is its place in a
// batch, or -1.
func parseStructured(doc []byte, index int) (Incoming, error) {
	a := attributes{index: index}
	if doc = doc[rawjson.SkipBlank(doc, 0):]; !rawjson.Begins(doc, '{') {
		return Incoming{}, a.error("", "a CloudEvent is a JSON object")
	}
	var data, base64Data []byte
	for name, value := range rawjson.Members(doc) {
		var err error
		switch {
		case rawjson.IsNull(value): // means absent
		case string(name) == "data":
			err = a.once(&data, "data", value)
		case string(name) == "data_base64":
			err = a.once(&base64Data, "data_base64", value)
		default:
			err = a.setJSON(string(name), value)
		}
		if err != nil {
			return Incoming{}, err
		}
	}
	if data != nil && base64Data != nil {
		return Incoming{}, a.error("data_base64", "an event has data or data_base64, not both")
	}
	if err := a.setData(data, base64Data); err != nil {
		return Incoming{}, err
	}
	return a.incoming()
}

// parseBinary reads an event whose attributes are headers and whose data is the body.
func parseBinary(r *Request) (Incoming, error) {
	a := attributes{index: -1, prefix: "ce-"}
	for header, values := range r.Header {
		if !hasPrefixFold(header, "ce-") {
			continue
		}
		name := strings.ToLower(header[len("ce-"):])
		if name == "datacontenttype" {
			return Incoming{}, a.error(name, "in binary mode Content-Type says this")
		}
		if len(values) > 1 {
			return Incoming{}, a.error(name, "the header is there more than once")
		}
		value, ok := decodeHeader(strings.Join(values, ""))
		if !ok {
			return Incoming{}, a.error(name, "the value is not valid UTF-8 once percent-decoded")
		}
		if err := a.set(name, value); err != nil {
			return Incoming{}, err
		}
	}
	if a.specversion == "" && a.ev.ExternalID == "" && a.ev.Type == "" {
		return Incoming{}, malformed("the request is not a CloudEvent: it has neither ce- headers nor content type %s+json", mediaCloudEvents)
	}
	plain, err := plainEvent(r)
	if err != nil {
		return Incoming{}, err
	}
	a.ev.DataContentType, a.ev.Data = plain.DataContentType, plain.Data
	return a.incoming()
}

// attributes gathers an event from what its publisher wrote, in any order.
type attributes struct {
	ev          event.Event
	specversion string
	time        string
	index       int    // in a batch, or -1
	prefix      string // before the attributes' names, in errors
}

// error returns a malformed error that names an attribute, and the event in a batch.
func (a *attributes) error(name, format string, args ...any) error {
	field := a.prefix + name
	if a.index >= 0 {
		field = "[" + strconv.Itoa(a.index) + "]"
		if name != "" {
			field += "." + name
		}
	}
	if field == "" {
		return malformed(format, args...)
	}
	return malformedField(field, format, args...)
}

func (a *attributes) once(dst *[]byte, name string, value []byte) error {
	if *dst != nil {
		return a.error(name, "is there more than once")
	}
	*dst = value
	return nil
}

// setJSON is set for a value in JSON. Extensions may be whole numbers and
// booleans, which are kept as they are written.
func (a *attributes) setJSON(name string, raw []byte) error {
	if s, ok := text(raw); ok {
		return a.set(name, s)
	}
	if a.field(name) != nil {
		return a.error(name, "is not a string")
	}
	if !isInteger(raw) && string(raw) != "true" && string(raw) != "false" {
		return a.error(name, "is neither a string, a whole number nor a boolean")
	}
	return a.set(name, string(raw))
}

// set takes an attribute. One that is there twice is refused: who reads the
// first and who reads the last would see different events.
func (a *attributes) set(name, value string) error {
	if !validAttributeName(name) {
		return a.error(name, "is not the name of an attribute, which has lower-case letters and digits only")
	}
	if !cleanText(value) {
		return a.error(name, "is longer than %d bytes or has control characters", maxText)
	}
	if dst := a.field(name); dst != nil {
		switch {
		case value == "":
			return a.error(name, "is empty")
		case *dst != "":
			return a.error(name, "is there more than once")
		}
		*dst = value
		return nil
	}
	if _, twice := a.ev.Extensions[name]; twice {
		return a.error(name, "is there more than once")
	}
	if a.ev.Extensions == nil {
		a.ev.Extensions = make(map[string]string)
	}
	a.ev.Extensions[name] = value
	return nil
}

// field returns where a context attribute of the specification is kept, or nil
// for an extension.
func (a *attributes) field(name string) *string {
	switch name {
	case "id":
		return &a.ev.ExternalID
	case "source":
		return &a.ev.ExternalSource
	case "specversion":
		return &a.specversion
	case "type":
		return &a.ev.Type
	case "subject":
		return &a.ev.Subject
	case "time":
		return &a.time
	case "dataschema":
		return &a.ev.DataSchema
	case "datacontenttype":
		return &a.ev.DataContentType
	}
	return nil
}

// validAttributeName says whether name may be an attribute's. That of the data
// may not: the JSON format could not tell them apart.
func validAttributeName(name string) bool {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return name != "" && name != "data"
}

// setData takes the data of the JSON format, of which at most one is not nil.
func (a *attributes) setData(data, base64Data []byte) error {
	if base64Data != nil {
		s, ok := text(base64Data)
		raw, err := base64.StdEncoding.DecodeString(s)
		if !ok || err != nil {
			return a.error("data_base64", "is not a string in base64")
		}
		a.ev.Data = raw
		if a.ev.DataContentType == "" && !rawjson.Valid(raw) {
			// No content type means JSON to everybody who reads the event later.
			a.ev.DataContentType = "application/octet-stream"
		}
		if checkData(a.ev.DataContentType, raw) != nil {
			return a.error("data_base64", "is not valid JSON, as datacontenttype says")
		}
		return nil
	}
	a.ev.Data = data
	if !event.IsJSON(a.ev.DataContentType) {
		// What is not JSON stands in the document as a string of text.
		if s, ok := text(data); ok {
			a.ev.Data = []byte(s)
		}
	}
	return nil
}

// incoming returns the event once all attributes are set. Its key is source and
// id with a NUL between them, which neither can contain.
func (a *attributes) incoming() (Incoming, error) {
	for _, name := range []string{"specversion", "id", "source", "type"} {
		if *a.field(name) == "" {
			return Incoming{}, a.error(name, "is required")
		}
	}
	if a.specversion != "1.0" {
		return Incoming{}, a.error("specversion", "is %q; only 1.0 is known", a.specversion)
	}
	if a.time != "" {
		t, err := parseTime(a.time)
		if err != nil {
			return Incoming{}, a.error("time", "%q is not a time as in RFC 3339", a.time)
		}
		a.ev.Time = t
	}
	var err error
	if a.ev.Type, err = pattern.ParseType(a.ev.Type); err != nil {
		return Incoming{}, a.error("type", "%v", err)
	}
	return Incoming{Event: a.ev, Key: a.ev.ExternalSource + "\x00" + a.ev.ExternalID}, nil
}

var errYear = errors.New("the year has not four digits")

// parseTime reads a time of RFC 3339, whose letters may be of either case. One
// that UTC moves into another millennium is refused: in JSON it has no form.
func parseTime(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, strings.ToUpper(s))
	if t = t.UTC(); err == nil && (t.Year() < 0 || t.Year() > 9999) {
		err = errYear
	}
	return t, err
}

// decodeHeader reads an attribute's value from a header: unquoted if it is in
// double quotes, then percent-decoded once, which must leave valid UTF-8. A
// percent sign that no two hex digits follow stands for itself, as some
// publishers encode nothing.
func decodeHeader(s string) (string, bool) {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = unquoteHeader(s[1 : len(s)-1])
	}
	if strings.IndexByte(s, '%') < 0 {
		return s, utf8.ValidString(s)
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if b, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				out = append(out, byte(b))
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out), utf8.Valid(out)
}

// unquoteHeader resolves the backslashes of a quoted-string of RFC 9110.
func unquoteHeader(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		out = append(out, s[i])
	}
	return string(out)
}
