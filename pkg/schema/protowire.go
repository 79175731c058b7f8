package schema

import (
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/posthornhq/posthorn/pkg/event"
)

// wireProblem is the first thing that is wrong with a message in binary form.
type wireProblem struct {
	steps []string // from the inside out
	text  string
}

func wrongWire(format string, args ...any) *wireProblem {
	return &wireProblem{text: fmt.Sprintf(format, args...)}
}

// validateWire says what is wrong with data as the binary form of a message.
//
// It reads the bytes where they are and builds no message: a repeated message of
// two bytes becomes some hundred in memory. It also is stricter than parsers,
// to whom a known field of another wire type is an unknown one, so that nearly
// all that is short would pass. Unknown fields are accepted, as they are how a
// newer publisher speaks.
func (p *protoSchema) validateWire(data []byte) []event.Violation {
	bad := checkWire(p.message, data, maxNesting)
	if bad == nil {
		return nil
	}
	slices.Reverse(bad.steps)
	return one(pointerTo(bad.steps), bad.text)
}

func checkWire(m protoreflect.MessageDescriptor, data []byte, depth int) *wireProblem {
	if depth == 0 {
		return wrongWire("nests deeper than %d", maxNesting)
	}
	fields := m.Fields()
	for at := 0; at < len(data); {
		num, typ, n := protowire.ConsumeTag(data[at:])
		if n < 0 || num > protowire.MaxValidNumber {
			return wrongWire("is not protobuf in binary form, or cut off, at byte %d", at)
		}
		value := data[at+n:]
		size := protowire.ConsumeFieldValue(num, typ, value)
		fd := fields.ByNumber(num)
		switch {
		case size < 0 && fd == nil:
			return wrongWire("is not protobuf in binary form, or cut off, in field %d at byte %d", num, at)
		case fd == nil:
		case size < 0:
			return within(wrongWire("is cut off, or not what protobuf has in binary form"), fd, data[:at], nil)
		default:
			if bad := checkField(fd, typ, value[:size], depth); bad != nil {
				return within(bad, fd, data[:at], value[:size])
			}
		}
		at += n + size
	}
	return nil
}

// checkField checks the value of one field, which is whole.
func checkField(fd protoreflect.FieldDescriptor, typ protowire.Type, value []byte, depth int) *wireProblem {
	want := wireType(fd.Kind())
	if typ == protowire.BytesType && want != protowire.BytesType && fd.IsList() {
		packed, _ := protowire.ConsumeBytes(value)
		return checkPacked(want, packed)
	}
	if typ != want {
		return wrongWire("is %s in binary form, want %s", wireName(typ), kindName(fd))
	}
	switch fd.Kind() {
	case protoreflect.StringKind:
		text, _ := protowire.ConsumeBytes(value)
		if !utf8.Valid(text) {
			return wrongWire("is not valid UTF-8, want %s", kindName(fd))
		}
	case protoreflect.MessageKind:
		inner, _ := protowire.ConsumeBytes(value)
		return checkWire(fd.Message(), inner, depth-1)
	}
	return nil
}

func checkPacked(want protowire.Type, packed []byte) *wireProblem {
	for len(packed) > 0 {
		n := protowire.ConsumeFieldValue(1, want, packed)
		if n < 0 {
			return wrongWire("has packed values that are cut off")
		}
		packed = packed[n:]
	}
	return nil
}

// within adds the step to a field to where a problem is: before is the message
// up to the field.
func within(bad *wireProblem, fd protoreflect.FieldDescriptor, before, value []byte) *wireProblem {
	switch {
	case fd.IsMap():
		// An entry is a message with the fields key and value.
		if n := len(bad.steps); n > 0 && value != nil {
			bad.steps[n-1] = entryKey(fd, value)
		}
	case fd.IsList():
		i := 0
		for len(before) > 0 {
			num, _, n := protowire.ConsumeField(before)
			if n < 0 {
				break
			}
			if num == fd.Number() {
				i++
			}
			before = before[n:]
		}
		bad.steps = append(bad.steps, strconv.Itoa(i))
	}
	bad.steps = append(bad.steps, fd.JSONName())
	return bad
}

// entryKey returns the key of a map's entry as it is in JSON.
func entryKey(fd protoreflect.FieldDescriptor, value []byte) string {
	entry, _ := protowire.ConsumeBytes(value)
	for len(entry) > 0 {
		num, typ, n := protowire.ConsumeField(entry)
		if n < 0 {
			break
		}
		if num == fd.MapKey().Number() {
			_, _, tag := protowire.ConsumeTag(entry)
			switch typ {
			case protowire.BytesType:
				if key, _ := protowire.ConsumeBytes(entry[tag:]); utf8.Valid(key) {
					return cut(string(key), 200)
				}
			case protowire.VarintType:
				key, _ := protowire.ConsumeVarint(entry[tag:])
				return strconv.FormatUint(key, 10)
			}
		}
		entry = entry[n:]
	}
	return "?"
}

func wireType(k protoreflect.Kind) protowire.Type {
	switch k {
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		return protowire.Fixed32Type
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		return protowire.Fixed64Type
	case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.MessageKind:
		return protowire.BytesType
	case protoreflect.GroupKind:
		return protowire.StartGroupType
	}
	return protowire.VarintType
}

func wireName(t protowire.Type) string {
	switch t {
	case protowire.VarintType:
		return "a varint"
	case protowire.Fixed32Type:
		return "four bytes"
	case protowire.Fixed64Type:
		return "eight bytes"
	case protowire.BytesType:
		return "a length with bytes"
	}
	return "a group"
}

// kindName returns the type of a field's single value as a .proto file has it.
func kindName(fd protoreflect.FieldDescriptor) string {
	switch fd.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return string(fd.Message().FullName())
	case protoreflect.EnumKind:
		return string(fd.Enum().FullName())
	}
	return fd.Kind().String()
}
