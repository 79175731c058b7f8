package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/rawjson"
)

const (
	anyName   = "google.protobuf.Any"
	valueName = "google.protobuf.Value"
	nullName  = "google.protobuf.NullValue"
	typeURL   = "@type"
)

// ValidateContent is Validate for data of a content type: JSON, or of a protobuf
// schema the binary form as well, which is application/protobuf,
// application/x-protobuf or application/vnd.google.protobuf. A parameter "type",
// "proto" or "messageType" of those names the message; google.protobuf.Any there
// means that the data is one, with the message in it. Data of another content
// type cannot satisfy a schema, which is then its only violation.
func (s *Schema) ValidateContent(contentType string, data []byte) []event.Violation {
	switch {
	case event.IsJSON(contentType):
		return s.Validate(data)
	case s.proto == nil:
		return one("", "the data is "+cut(contentType, 100)+", the schema is for JSON")
	}
	message, ok := binaryForm(contentType)
	switch {
	case !ok:
		return one("", "the data is "+cut(contentType, 100)+", the schema is for JSON and application/protobuf")
	case message == anyName:
		return s.proto.validateAny(data)
	case message != "" && message != s.Message():
		return one("", fmt.Sprintf("the data is a %s, want %s", cut(message, 200), s.Message()))
	}
	return s.proto.validateWire(data)
}

// binaryForm returns the message that a content type of protobuf's binary form
// names, if it is one.
func binaryForm(contentType string) (message string, ok bool) {
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
		return "", false
	}
	switch media {
	case "application/protobuf", "application/x-protobuf", "application/vnd.google.protobuf":
	default:
		return "", false
	}
	for _, name := range []string{"type", "proto", "messagetype"} { // names come in lower case
		if v := params[name]; v != "" {
			return v, true
		}
	}
	return "", true
}

// validateAny says what is wrong with data as the binary form of a
// google.protobuf.Any that holds the message.
func (p *protoSchema) validateAny(data []byte) []event.Violation {
	if bad := checkWire(anypb.File_google_protobuf_any_proto.Messages().Get(0), data, maxNesting); bad != nil {
		slices.Reverse(bad.steps)
		return one(pointerTo(bad.steps), bad.text)
	}
	var url, value []byte
	for len(data) > 0 {
		num, _, n := protowire.ConsumeField(data)
		_, _, tag := protowire.ConsumeTag(data)
		switch num {
		case 1:
			url, _ = protowire.ConsumeBytes(data[tag:n])
		case 2:
			value, _ = protowire.ConsumeBytes(data[tag:n])
		}
		data = data[n:]
	}
	if found := p.wrongURL("/typeUrl", string(url)); found != nil {
		return found
	}
	return p.validateWire(value)
}

// wrongURL says whether the address in an Any is not that of the message. What
// is before the last slash makes no difference, as in protobuf.
func (p *protoSchema) wrongURL(at, url string) []event.Violation {
	if url[strings.LastIndexByte(url, '/')+1:] == string(p.message.FullName()) {
		return nil
	}
	return one(at, fmt.Sprintf("names another message than %s", p.message.FullName()))
}

// validateJSON says what is wrong with data as the JSON form of a message, or of
// a google.protobuf.Any that holds it, which "@type" tells. Unknown fields are
// violations, as in JSON a misspelled name is one.
func (p *protoSchema) validateJSON(data []byte) []event.Violation {
	if bytes.Contains(data, []byte(`"`+typeURL+`"`)) {
		if v, err := rawjson.Decode(data); err == nil {
			if url, ok := object(v)[typeURL].(string); ok && p.message.Fields().ByJSONName(typeURL) == nil {
				if found := p.wrongURL("/"+typeURL, url); found != nil {
					return found
				}
				return p.check(data, new(anypb.Any))
			}
		}
	}
	return p.check(data, dynamicpb.NewMessage(p.message))
}

func (p *protoSchema) options() protojson.UnmarshalOptions {
	return protojson.UnmarshalOptions{Resolver: p.types, RecursionLimit: maxNesting}
}

func (p *protoSchema) check(data []byte, into proto.Message) []event.Violation {
	err := p.options().Unmarshal(data, into)
	if err == nil {
		return nil
	}
	if !utf8.Valid(data) {
		return one("", "the data is not valid UTF-8")
	}
	v, bad := rawjson.Decode(data)
	if bad != nil {
		return one("", "the data is not JSON: "+syntaxError(bad))
	}
	e := explanation{schema: p}
	if _, isAny := into.(*anypb.Any); isAny {
		delete(object(v), typeURL)
	}
	e.message("", p.message, v, 1)
	if len(e.found) == 0 {
		// What a decoded value does not show.
		return one(placeOf(data, err), reasonOf(err, p.message))
	}
	slices.SortFunc(e.found, func(a, b event.Violation) int { return strings.Compare(a.Field, b.Field) })
	return slices.Clip(e.found[:min(len(e.found), MaxViolations)])
}

// reasonOf says in words without the data what the library did not like.
func reasonOf(err error, m protoreflect.MessageDescriptor) string {
	text := err.Error()
	switch {
	case strings.Contains(text, "duplicate "):
		return "is there twice"
	case strings.Contains(text, "recursion depth"):
		return fmt.Sprintf("nests deeper than %d", maxNesting)
	}
	return fmt.Sprintf("is not %s in its JSON form", m.FullName())
}

// placeOf returns the JSON pointer to where an error of the library is, "" if it
// does not tell. Its errors hold "(line 1:2)" and no more.
func placeOf(data []byte, err error) string {
	_, at, ok := strings.Cut(err.Error(), "(line ")
	if !ok {
		return ""
	}
	var line, column int
	if _, err := fmt.Sscanf(at, "%d:%d", &line, &column); err != nil {
		return ""
	}
	start := 0
	for ; line > 1; line-- {
		n := bytes.IndexByte(data[start:], '\n')
		if n < 0 {
			return ""
		}
		start += n + 1
	}
	for ; column > 1 && start < len(data); column-- {
		_, n := utf8.DecodeRune(data[start:])
		start += n
	}
	found, _ := placeIn(json.NewDecoder(bytes.NewReader(data)), int64(start), "")
	return found
}

// placeIn returns the JSON pointer to what is at an offset of JSON text, which
// begins at place and which d has yet to read.
func placeIn(d *json.Decoder, offset int64, place string) (string, bool) {
	t, err := d.Token()
	if err != nil {
		return "", false
	}
	if d.InputOffset() > offset {
		return place, true
	}
	switch t {
	case json.Delim('{'):
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return "", false
			}
			below := pointer(place, cut(fmt.Sprint(name), 200))
			if d.InputOffset() > offset {
				return below, true
			}
			if found, ok := placeIn(d, offset, below); ok {
				return found, true
			}
		}
	case json.Delim('['):
		for i := 0; d.More(); i++ {
			if found, ok := placeIn(d, offset, pointer(place, strconv.Itoa(i))); ok {
				return found, true
			}
		}
	default:
		return "", false
	}
	_, err = d.Token() // the end of the object or array
	return place, err == nil && d.InputOffset() > offset
}

// explanation collects what is wrong with a decoded value. The library stops at
// the first error and says a line and a column; publishers are helped by all,
// and by fields.
type explanation struct {
	schema *protoSchema
	found  []event.Violation
}

func (e *explanation) put(at, format string, args ...any) {
	e.found = append(e.found, event.Violation{Field: at, Description: fmt.Sprintf(format, args...)})
}

func (e *explanation) message(at string, m protoreflect.MessageDescriptor, v any, depth int) {
	if depth > maxNesting {
		e.put(at, "nests deeper than %d", maxNesting)
		return
	}
	if m.FullName().Parent() == reserved && wellKnown(m.ParentFile().Path()) != nil {
		e.builtIn(at, m, v)
		return
	}
	all, ok := v.(map[string]any)
	if !ok {
		e.put(at, "got %s, want object (%s)", typeName(v), m.FullName())
		return
	}
	oneofs := map[protoreflect.FullName]string{}
	given := map[protoreflect.FieldNumber]bool{}
	for _, name := range keys(all, nil) {
		if len(e.found) >= collected {
			return
		}
		below := pointer(at, cut(name, 200))
		fd := m.Fields().ByJSONName(name)
		if fd == nil {
			fd = m.Fields().ByTextName(name)
		}
		switch {
		case fd == nil:
			e.put(below, "property %q is not a field of %s", cut(name, 200), m.FullName())
			continue
		case given[fd.Number()]:
			e.put(below, "is there twice, under two names")
			continue
		}
		given[fd.Number()] = true
		if all[name] == nil && !takesNull(fd) {
			continue
		}
		if o := fd.ContainingOneof(); o != nil && !o.IsSynthetic() {
			if other, taken := oneofs[o.FullName()]; taken {
				e.put(below, "cannot be set beside %q: they are alternatives (oneof %s)", other, o.Name())
				continue
			}
			oneofs[o.FullName()] = name
		}
		e.field(below, fd, all[name], depth)
	}
}

func (e *explanation) field(at string, fd protoreflect.FieldDescriptor, v any, depth int) {
	switch {
	case fd.IsMap():
		all, ok := v.(map[string]any)
		if !ok {
			e.put(at, "got %s, want object (a map)", typeName(v))
			return
		}
		for _, k := range keys(all, nil) {
			below := pointer(at, cut(k, 200))
			if !isKey(fd.MapKey().Kind(), k) {
				e.put(below, "is not a key that the map can have, want %s", kindName(fd.MapKey()))
			}
			// The value of an entry, alone, is as good as in its map.
			e.single(below, fd.MapValue(), all[k], depth)
		}
	case fd.IsList():
		all, ok := v.([]any)
		if !ok {
			e.put(at, "got %s, want array", typeName(v))
			return
		}
		for i, item := range all {
			if len(e.found) >= collected {
				return
			}
			e.single(pointer(at, strconv.Itoa(i)), fd, item, depth)
		}
	default:
		e.single(at, fd, v, depth)
	}
}

// single explains one value, of a list one item.
func (e *explanation) single(at string, fd protoreflect.FieldDescriptor, v any, depth int) {
	if v == nil && !takesNull(fd) {
		e.put(at, "got null, want %s", kindName(fd))
		return
	}
	if fd.Kind() == protoreflect.MessageKind {
		e.message(at, fd.Message(), v, depth+1)
		return
	}
	if surelyFits(fd.Kind(), v) {
		return
	}
	if e.fits(fd, v) {
		return
	}
	switch {
	case fd.Kind() == protoreflect.EnumKind:
		var want []any
		for i := range fd.Enum().Values().Len() {
			want = append(want, string(fd.Enum().Values().Get(i).Name()))
		}
		e.put(at, "must be one of %s", alternatives(want))
	case fd.Kind() == protoreflect.BytesKind && typeName(v) == "string":
		e.put(at, "is not base64, want bytes")
	case typeName(v) == "number" && fd.Kind() != protoreflect.StringKind && fd.Kind() != protoreflect.BoolKind && fd.Kind() != protoreflect.BytesKind:
		e.put(at, "is a number that is none of %s's", kindName(fd))
	default:
		e.put(at, "got %s, want %s", typeName(v), kindName(fd))
	}
}

// surelyFits reports whether a value certainly fits a kind. Asking the library takes
// a hundred times as long.
func surelyFits(k protoreflect.Kind, v any) bool {
	switch v := v.(type) {
	case string:
		return k == protoreflect.StringKind
	case bool:
		return k == protoreflect.BoolKind
	case json.Number:
		switch k {
		case protoreflect.DoubleKind, protoreflect.FloatKind, protoreflect.Int32Kind, protoreflect.Int64Kind,
			protoreflect.Uint32Kind, protoreflect.Uint64Kind:
			return len(v) < 10 && strings.Trim(string(v), "0123456789") == ""
		}
	}
	return false
}

// fits asks the library whether a field may have a value, or a list an item.
func (e *explanation) fits(fd protoreflect.FieldDescriptor, v any) bool {
	m, ok := fd.Parent().(protoreflect.MessageDescriptor)
	if !ok {
		return false
	}
	if fd.IsList() {
		v = []any{v}
	}
	b, err := json.Marshal(map[string]any{fd.JSONName(): v})
	return err == nil && e.schema.options().Unmarshal(b, dynamicpb.NewMessage(m)) == nil
}

// builtIn explains a message that has a form of its own in JSON.
func (e *explanation) builtIn(at string, m protoreflect.MessageDescriptor, v any) {
	b, err := json.Marshal(v)
	if err == nil && e.schema.options().Unmarshal(b, dynamicpb.NewMessage(m)) == nil {
		return
	}
	if m.FullName() == anyName {
		e.put(at, "is not a google.protobuf.Any with a message of the schema that its @type names")
		return
	}
	e.put(at, "is not a %s in its JSON form", m.FullName())
}

func takesNull(fd protoreflect.FieldDescriptor) bool {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		return fd.Message().FullName() == valueName
	case protoreflect.EnumKind:
		return fd.Enum().FullName() == nullName
	}
	return false
}

// isKey reports whether a property's name can be the key of a map.
func isKey(k protoreflect.Kind, name string) bool {
	var err error
	switch k {
	case protoreflect.BoolKind:
		return name == "true" || name == "false"
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		_, err = strconv.ParseInt(name, 10, 32)
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		_, err = strconv.ParseInt(name, 10, 64)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		_, err = strconv.ParseUint(name, 10, 32)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		_, err = strconv.ParseUint(name, 10, 64)
	}
	return err == nil
}

// typeName returns the JSON type of a decoded value.
func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case json.Number:
		return "number"
	case []any:
		return "array"
	}
	return "object"
}
