package schema

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// CompatibleProto compares two protobuf schemas, which [CompileProto] or
// [CompileProtoText] returned, and returns what changed, by full names. The new
// one is compatible if nothing is Breaking.
//
// The rules: a new field, message or enum is compatible. A removed field,
// message or enum is breaking, and so is a field that changed its type, number,
// cardinality (singular, repeated, map), JSON name or oneof, and any new, removed
// or renumbered member of an enum. Services, options and comments mean nothing.
func CompatibleProto(old, next *Schema) []Change {
	if old.proto == nil || next.proto == nil {
		return []Change{{Breaking: true, Text: "one of the two is not a protobuf schema, so they cannot be compared"}}
	}
	return compatibleProto(old.proto, next.proto)
}

func compareProtoRecords(newest, want Record) (same bool, changes []Change, err error) {
	old, err := newest.compile()
	if err != nil {
		return false, nil, fmt.Errorf("schema: version %d of %s: %w", newest.Version, newest.Type, err)
	}
	next, err := want.compile()
	if err != nil {
		return false, nil, err
	}
	if old.Message() == next.Message() && slices.EqualFunc(old.proto.own, next.proto.own, sameFile) {
		return true, nil, nil
	}
	return false, compatibleProto(old.proto, next.proto), nil
}

func sameFile(a, b protoreflect.FileDescriptor) bool {
	return proto.Equal(protodesc.ToFileDescriptorProto(a), protodesc.ToFileDescriptorProto(b))
}

// protoComparison compares what has the same full name.
type protoComparison struct{ changes []Change }

func (c *protoComparison) breaking(d protoreflect.FullName, format string, args ...any) {
	c.changes = append(c.changes, Change{Breaking: true, Pointer: string(d), Text: fmt.Sprintf(format, args...)})
}

func (c *protoComparison) allowed(d protoreflect.FullName, format string, args ...any) {
	c.changes = append(c.changes, Change{Pointer: string(d), Text: fmt.Sprintf(format, args...)})
}

func compatibleProto(old, next *protoSchema) []Change {
	c := &protoComparison{}
	if was, is := old.message.FullName(), next.message.FullName(); was != is {
		c.breaking(is, "the message of the data changed from %s to %s", was, is)
	}
	before, enumsBefore := declared(old.own)
	after, enumsAfter := declared(next.own)
	for name, m := range before {
		if n, has := after[name]; has {
			c.fields(m, n)
		} else {
			c.breaking(name, "message %s was removed", name)
		}
	}
	for name := range after {
		if _, had := before[name]; !had {
			c.allowed(name, "message %s was added", name)
		}
	}
	for name, e := range enumsBefore {
		if n, has := enumsAfter[name]; has {
			c.members(e, n)
		} else {
			c.breaking(name, "enum %s was removed", name)
		}
	}
	for name := range enumsAfter {
		if _, had := enumsBefore[name]; !had {
			c.allowed(name, "enum %s was added", name)
		}
	}
	slices.SortFunc(c.changes, func(a, b Change) int {
		if n := strings.Compare(a.Pointer, b.Pointer); n != 0 {
			return n
		}
		return strings.Compare(a.Text, b.Text)
	})
	if len(c.changes) == 0 {
		c.allowed("", "no more changed than names of files, order, options or services")
	}
	return c.changes
}

// declared returns the messages and enums of files by full name.
func declared(files []protoreflect.FileDescriptor) (map[protoreflect.FullName]protoreflect.MessageDescriptor, map[protoreflect.FullName]protoreflect.EnumDescriptor) {
	messages := map[protoreflect.FullName]protoreflect.MessageDescriptor{}
	enums := map[protoreflect.FullName]protoreflect.EnumDescriptor{}
	add := func(all protoreflect.EnumDescriptors) {
		for i := range all.Len() {
			enums[all.Get(i).FullName()] = all.Get(i)
		}
	}
	for _, f := range files {
		add(f.Enums())
		eachMessage(f.Messages(), func(m protoreflect.MessageDescriptor) {
			messages[m.FullName()] = m
			add(m.Enums())
		})
	}
	return messages, enums
}

func (c *protoComparison) fields(old, next protoreflect.MessageDescriptor) {
	renamed := map[protoreflect.Name]bool{}
	for i := range old.Fields().Len() {
		was := old.Fields().Get(i)
		if is := next.Fields().ByName(was.Name()); is != nil {
			c.field(was, is)
			continue
		}
		other := next.Fields().ByNumber(was.Number())
		if other != nil && old.Fields().ByName(other.Name()) == nil {
			renamed[other.Name()] = true
			c.breaking(was.FullName(), "field %q of %s was renamed to %q", was.Name(), old.FullName(), other.Name())
			continue
		}
		c.breaking(was.FullName(), "field %q of %s was removed", was.Name(), old.FullName())
	}
	for i := range next.Fields().Len() {
		is := next.Fields().Get(i)
		if old.Fields().ByName(is.Name()) == nil && !renamed[is.Name()] {
			c.allowed(is.FullName(), "field %q of %s was added", is.Name(), old.FullName())
		}
	}
}

func (c *protoComparison) field(old, next protoreflect.FieldDescriptor) {
	name := next.FullName()
	changed := func(what, was, is string) {
		if was != is {
			c.breaking(name, "field %q of %s changed its %s from %s to %s", next.Name(), next.Parent().FullName(), what, was, is)
		}
	}
	changed("number", fmt.Sprint(old.Number()), fmt.Sprint(next.Number()))
	changed("cardinality", cardinality(old), cardinality(next))
	if cardinality(old) == cardinality(next) {
		changed("type", fieldType(old), fieldType(next))
	}
	changed("JSON name", fmt.Sprintf("%q", old.JSONName()), fmt.Sprintf("%q", next.JSONName()))
	changed("oneof", oneofOf(old), oneofOf(next))
	if cardinality(old) == "singular" && cardinality(next) == "singular" && oneofOf(old) == oneofOf(next) && old.HasPresence() != next.HasPresence() {
		c.allowed(name, "field %q of %s changed whether it tells absent from zero", next.Name(), next.Parent().FullName())
	}
}

func cardinality(fd protoreflect.FieldDescriptor) string {
	switch {
	case fd.IsMap():
		return "map"
	case fd.IsList():
		return "repeated"
	}
	return "singular"
}

func fieldType(fd protoreflect.FieldDescriptor) string {
	if fd.IsMap() {
		return fmt.Sprintf("map<%s, %s>", kindName(fd.MapKey()), kindName(fd.MapValue()))
	}
	return kindName(fd)
}

func oneofOf(fd protoreflect.FieldDescriptor) string {
	if o := fd.ContainingOneof(); o != nil && !o.IsSynthetic() {
		return string(o.Name())
	}
	return "none"
}

func (c *protoComparison) members(old, next protoreflect.EnumDescriptor) {
	for i := range old.Values().Len() {
		was := old.Values().Get(i)
		switch is := next.Values().ByName(was.Name()); {
		case is == nil:
			c.breaking(old.FullName(), "enum %s lost the member %s", old.FullName(), was.Name())
		case is.Number() != was.Number():
			c.breaking(old.FullName(), "member %s of enum %s changed its number from %d to %d", was.Name(), old.FullName(), was.Number(), is.Number())
		}
	}
	for i := range next.Values().Len() {
		if is := next.Values().Get(i); old.Values().ByName(is.Name()) == nil {
			c.breaking(old.FullName(), "enum %s got the new member %s", old.FullName(), is.Name())
		}
	}
}
