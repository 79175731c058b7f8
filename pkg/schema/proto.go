package schema

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/apipb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/sourcecontextpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/typepb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/posthornhq/posthorn/pkg/errs"
)

// What a protobuf schema may be, beside [MaxDefinition].
const (
	// MaxDescriptors is the size in bytes of a descriptor set, without source
	// positions. In base64 it fits beside its text into what a NATS server takes.
	MaxDescriptors = 512 << 10

	maxFiles    = 50
	maxMessages = 1_000
	maxFields   = 10_000 // members of enums included
	maxNesting  = 100    // of messages, in data and in what describes them
)

// The request's fields that a wrong protobuf schema is reported for, beside field.
const (
	setField     = "descriptorSet"
	messageField = "message"
)

// reserved is the package of what is built in. Its names mean special forms of
// JSON, so nobody else may use them.
const reserved = "google.protobuf"

// wellKnown returns what a schema may import, by path. It is the whole list:
// there is no other place from which a file could come.
func wellKnown(path string) protoreflect.FileDescriptor {
	switch path {
	case "google/protobuf/any.proto":
		return anypb.File_google_protobuf_any_proto
	case "google/protobuf/api.proto":
		return apipb.File_google_protobuf_api_proto
	case "google/protobuf/duration.proto":
		return durationpb.File_google_protobuf_duration_proto
	case "google/protobuf/empty.proto":
		return emptypb.File_google_protobuf_empty_proto
	case "google/protobuf/field_mask.proto":
		return fieldmaskpb.File_google_protobuf_field_mask_proto
	case "google/protobuf/source_context.proto":
		return sourcecontextpb.File_google_protobuf_source_context_proto
	case "google/protobuf/struct.proto":
		return structpb.File_google_protobuf_struct_proto
	case "google/protobuf/timestamp.proto":
		return timestamppb.File_google_protobuf_timestamp_proto
	case "google/protobuf/type.proto":
		return typepb.File_google_protobuf_type_proto
	case "google/protobuf/wrappers.proto":
		return wrapperspb.File_google_protobuf_wrappers_proto
	}
	return nil
}

// protoSchema is a compiled message of a descriptor set.
type protoSchema struct {
	message protoreflect.MessageDescriptor
	own     []protoreflect.FileDescriptor // without what is built in, by path
	types   resolver
	set     []byte // canonical: what is built in included, dependencies first
}

// Message returns the full name of the message that the data must be, "" of a
// JSON Schema.
func (s *Schema) Message() string {
	if s.proto == nil {
		return ""
	}
	return string(s.proto.message.FullName())
}

// DescriptorSet returns a google.protobuf.FileDescriptorSet with all that the
// message needs, nil of a JSON Schema. It must not be changed.
func (s *Schema) DescriptorSet() []byte {
	if s.proto == nil {
		return nil
	}
	return s.proto.set
}

// CompileProto returns the schema that a google.protobuf.FileDescriptorSet and
// the full name of one of its messages are. message may be empty if the files
// that no other imports have one message between them.
//
// The set must have all that its files import, except what is built in, which
// replaces what the set has of it. Errors are as of [Compile].
func CompileProto(typ string, version int, set []byte, message string) (*Schema, error) {
	if len(set) > MaxDefinition {
		return nil, errs.New(errs.TooLarge, "the schema's descriptor set is %d bytes, at most %d are allowed", len(set), MaxDefinition)
	}
	var in descriptorpb.FileDescriptorSet
	if err := (proto.UnmarshalOptions{RecursionLimit: maxNesting}).Unmarshal(set, &in); err != nil {
		return nil, errs.Field(setField, "is not a google.protobuf.FileDescriptorSet")
	}
	return compileFiles(typ, version, setField, in.GetFile(), message)
}

// compileFiles compiles descriptors; in is the request's field that they came in.
func compileFiles(typ string, version int, in string, files []*descriptorpb.FileDescriptorProto, message string) (*Schema, error) {
	all, err := completed(in, files)
	if err != nil {
		return nil, err
	}
	linked, err := protodesc.NewFiles(&descriptorpb.FileDescriptorSet{File: all})
	if err != nil {
		return nil, errs.Field(in, "is inconsistent: %s", cut(strings.TrimPrefix(err.Error(), "proto: "), 400))
	}
	p := &protoSchema{types: resolver{files: linked}}
	for _, f := range all {
		if wellKnown(f.GetName()) != nil {
			continue
		}
		d, err := linked.FindFileByPath(f.GetName())
		if err != nil {
			return nil, fmt.Errorf("schema: compile schema of %s: %w", typ, err)
		}
		if err := checkNames(in, d); err != nil {
			return nil, err
		}
		p.own = append(p.own, d)
	}
	if p.message, err = chosen(p.own, message); err != nil {
		return nil, err
	}
	if p.set, err = (proto.MarshalOptions{Deterministic: true}).Marshal(&descriptorpb.FileDescriptorSet{File: all}); err != nil {
		return nil, errs.Field(in, "cannot be written again: %v", err)
	}
	if len(p.set) > MaxDescriptors {
		return nil, errs.New(errs.TooLarge, "the schema's descriptors are %d bytes, at most %d are allowed", len(p.set), MaxDescriptors)
	}
	return &Schema{typ: typ, version: version, proto: p}, nil
}

// completed checks the files of a set one by one and returns them without
// source positions, in order of their paths, behind what is built in of their imports.
func completed(in string, files []*descriptorpb.FileDescriptorProto) ([]*descriptorpb.FileDescriptorProto, error) {
	if len(files) > maxFiles {
		return nil, errs.Field(in, "has %d files, at most %d are allowed", len(files), maxFiles)
	}
	var own []*descriptorpb.FileDescriptorProto
	var builtin, paths []string
	for _, f := range files {
		if wellKnown(f.GetName()) == nil {
			own = append(own, f)
			paths = append(paths, f.GetName())
		}
	}
	if len(own) == 0 {
		return nil, errs.Field(in, "has no file")
	}
	var n counts
	for _, f := range own {
		if err := checkFile(in, f, &n); err != nil {
			return nil, err
		}
		f.SourceCodeInfo = nil
		for _, path := range f.GetDependency() {
			switch {
			case wellKnown(path) != nil:
				builtin = withImports(builtin, wellKnown(path))
			case !slices.Contains(paths, path):
				return nil, errs.Field(in, "%s imports %q, which is not in the set; built in are the well-known types in google/protobuf/ alone", cut(f.GetName(), 200), cut(path, 200))
			}
		}
	}
	slices.SortFunc(own, func(a, b *descriptorpb.FileDescriptorProto) int { return strings.Compare(a.GetName(), b.GetName()) })
	slices.Sort(builtin)
	var out []*descriptorpb.FileDescriptorProto
	for _, path := range slices.Compact(builtin) {
		out = append(out, protodesc.ToFileDescriptorProto(wellKnown(path)))
	}
	return append(out, own...), nil
}

func withImports(paths []string, f protoreflect.FileDescriptor) []string {
	paths = append(paths, f.Path())
	for i := range f.Imports().Len() {
		paths = withImports(paths, f.Imports().Get(i).FileDescriptor)
	}
	return paths
}

// checkFile refuses what is not proto3, or too much.
func checkFile(in string, f *descriptorpb.FileDescriptorProto, n *counts) error {
	name := cut(f.GetName(), 200)
	switch {
	case f.GetSyntax() == "" || f.GetSyntax() == "proto2":
		return errs.Field(in, "%s is proto2; only proto3 is accepted: begin the file with syntax = \"proto3\";", name)
	case f.GetSyntax() != "proto3":
		return errs.Field(in, "%s uses %s; only proto3 is accepted", name, cut(f.GetSyntax(), 40))
	case len(f.GetExtension()) > 0:
		return errs.Field(in, "%s has extensions, which are not accepted", name)
	}
	n.fields += members(f.GetEnumType())
	for _, m := range f.GetMessageType() {
		n.message(m)
	}
	switch {
	case n.extensions:
		return errs.Field(in, "%s has extensions, which are not accepted", name)
	case n.messages > maxMessages:
		return errs.Field(in, "has more than %d messages", maxMessages)
	case n.fields > maxFields:
		return errs.Field(in, "has more than %d fields and members of enums", maxFields)
	}
	return nil
}

// counts are of all files together.
type counts struct {
	messages, fields int
	extensions       bool
}

// message counts m and what is in it. What was read nests no deeper than maxNesting.
func (n *counts) message(m *descriptorpb.DescriptorProto) {
	n.messages++
	n.fields += len(m.GetField()) + members(m.GetEnumType())
	n.extensions = n.extensions || len(m.GetExtension()) > 0
	for _, in := range m.GetNestedType() {
		n.message(in)
	}
}

func members(enums []*descriptorpb.EnumDescriptorProto) int {
	n := 0
	for _, e := range enums {
		n += 1 + len(e.GetValue())
	}
	return n
}

// checkNames refuses names in the package of what is built in: the libraries go
// by names, and take a message with the name of a timestamp for one.
func checkNames(in string, f protoreflect.FileDescriptor) error {
	wrong := ""
	taken := func(d protoreflect.Descriptor) {
		if name := string(d.FullName()); name == reserved || strings.HasPrefix(name, reserved+".") {
			wrong = name
		}
	}
	eachMessage(f.Messages(), func(m protoreflect.MessageDescriptor) {
		taken(m)
		for i := range m.Enums().Len() {
			taken(m.Enums().Get(i))
		}
	})
	for i := range f.Enums().Len() {
		taken(f.Enums().Get(i))
	}
	if wrong != "" || f.Package() == reserved {
		return errs.Field(in, "%s declares %s in package google.protobuf, which is built in", cut(f.Path(), 200), cut(wrong, 200))
	}
	return nil
}

// eachMessage calls f for every message, nested ones included, except what
// stands for the entries of maps.
func eachMessage(all protoreflect.MessageDescriptors, f func(protoreflect.MessageDescriptor)) {
	for i := range all.Len() {
		m := all.Get(i)
		if m.IsMapEntry() {
			continue
		}
		f(m)
		eachMessage(m.Messages(), f)
	}
}

// chosen returns the message with a full name, or the only one if there is no name.
func chosen(own []protoreflect.FileDescriptor, name string) (protoreflect.MessageDescriptor, error) {
	imported := map[string]bool{}
	for _, f := range own {
		for i := range f.Imports().Len() {
			imported[f.Imports().Get(i).Path()] = true
		}
	}
	var top []string
	var found protoreflect.MessageDescriptor
	for _, f := range own {
		for i := range f.Messages().Len() {
			if m := f.Messages().Get(i); !imported[f.Path()] {
				top = append(top, string(m.FullName()))
				found = m
			}
		}
		if name == "" {
			continue
		}
		var named protoreflect.MessageDescriptor
		eachMessage(f.Messages(), func(m protoreflect.MessageDescriptor) {
			if string(m.FullName()) == name {
				named = m
			}
		})
		if named != nil {
			return named, nil
		}
	}
	const most = 10
	list := cut(strings.Join(top[:min(len(top), most)], ", "), 400)
	switch {
	case len(top) == 0 && name == "":
		return nil, errs.Field(messageField, "the schema declares no message at its top level, so say which is meant")
	case name != "":
		return nil, errs.Field(messageField, "the schema declares no message %s; at its top level are: %s", cut(name, 200), list)
	case len(top) > 1:
		return nil, errs.Field(messageField, "is required, as the schema has %d messages at its top level: %s", len(top), list)
	}
	return found, nil
}

// resolver finds the messages of a google.protobuf.Any in JSON: those of the
// schema, and what is built in. It satisfies what protojson and proto ask for.
type resolver struct{ files *protoregistry.Files }

func (r resolver) FindMessageByName(name protoreflect.FullName) (protoreflect.MessageType, error) {
	if d, err := r.files.FindDescriptorByName(name); err == nil {
		if m, ok := d.(protoreflect.MessageDescriptor); ok {
			return dynamicpb.NewMessageType(m), nil
		}
		return nil, protoregistry.NotFound
	}
	if name.Parent() != reserved {
		return nil, protoregistry.NotFound
	}
	t, err := protoregistry.GlobalTypes.FindMessageByName(name)
	if err != nil || wellKnown(t.Descriptor().ParentFile().Path()) == nil {
		return nil, protoregistry.NotFound
	}
	return t, nil
}

func (r resolver) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	return r.FindMessageByName(protoreflect.FullName(url[strings.LastIndexByte(url, '/')+1:]))
}

func (resolver) FindExtensionByName(protoreflect.FullName) (protoreflect.ExtensionType, error) {
	return nil, protoregistry.NotFound
}

func (resolver) FindExtensionByNumber(protoreflect.FullName, protoreflect.FieldNumber) (protoreflect.ExtensionType, error) {
	return nil, protoregistry.NotFound
}
