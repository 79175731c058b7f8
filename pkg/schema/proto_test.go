package schema_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/schema"
)

const orderProto = `syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/any.proto";
enum State { STATE_UNSPECIFIED = 0; PAID = 1; }
message Order {
  string id = 1;
  double total = 2;
  repeated Item items = 3;
  map<string, int32> labels = 4;
  State state = 5;
  google.protobuf.Timestamp created_at = 6;
  oneof by { string card = 7; string iban = 8; }
  google.protobuf.Value extra = 9;
  google.protobuf.Any more = 10;
  bytes raw = 11;
  Order parent = 12;
  repeated int64 numbers = 13;
  map<int32, Item> places = 14;
  message Item { string sku = 1; int32 quantity = 2; bool gift = 3; }
}
`

func compileProto(t testing.TB, text, message string) *schema.Schema {
	t.Helper()
	s, err := schema.CompileProtoText(t.Context(), "order.created", 1, []byte(text), message)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// setOf returns a descriptor set of proto3 files, as protoc would write it.
func setOf(t testing.TB, files ...*descriptorpb.FileDescriptorProto) []byte {
	t.Helper()
	b, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: files})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// file reads a file's descriptor from its JSON form, with what all have.
func file(t testing.TB, name, rest string) *descriptorpb.FileDescriptorProto {
	t.Helper()
	f := &descriptorpb.FileDescriptorProto{Name: proto.String(name), Syntax: proto.String("proto3")}
	var more descriptorpb.FileDescriptorProto
	if err := protojson.Unmarshal([]byte(rest), &more); err != nil {
		t.Fatal(err)
	}
	proto.Merge(f, &more)
	return f
}

func TestCompileProtoTextRefuses(t *testing.T) {
	t.Parallel()
	const head = `syntax = "proto3"; `
	tests := []struct {
		name, text, message, says string
		kind                      errs.Kind
	}{
		{"nothing", ``, "", "proto2", errs.Invalid},
		{"what is no .proto file", "syntax = \"proto3\";\nmessage {", "", "line 2, column 9", errs.Invalid},
		{"proto2", `syntax = "proto2"; message A { optional string a = 1; }`, "", "is proto2; only proto3", errs.Invalid},
		{"no syntax, which is proto2", `message A { optional string a = 1; }`, "", "is proto2; only proto3", errs.Invalid},
		{"editions", `edition = "2023"; message A { string a = 1; }`, "", "uses editions; only proto3", errs.Invalid},
		{"an import from the file system", head + `import "/etc/passwd"; message A {}`, "", "only the well-known types", errs.Invalid},
		{"an import from the network", head + `import "http://127.0.0.1/a.proto"; message A {}`, "", "only the well-known types", errs.Invalid},
		{"an import of itself", head + `import "schema.proto"; message A {}`, "", "cycle", errs.Invalid},
		{"descriptors, for options of its own", head + `import "google/protobuf/descriptor.proto"; message A {}`, "", "only the well-known types", errs.Invalid},
		{"a type that is not there", head + `message A { B b = 1; }`, "", "unknown type B", errs.Invalid},
		{"a number twice", head + `message A { string a = 1; string b = 1; }`, "", "tag 1", errs.Invalid},
		{"no message", head + `enum E { A = 0; }`, "", "declares no message", errs.Invalid},
		{"two messages and no name", head + `message A {} message B {}`, "", "2 messages at its top level: A, B", errs.Invalid},
		{"a name that is not there", head + `package p; message A {}`, "p.B", "declares no message p.B; at its top level are: p.A", errs.Invalid},
		{"a name of what is imported", head + `import "google/protobuf/any.proto"; message A {}`, "google.protobuf.Any", "declares no message", errs.Invalid},
		{"the names that are built in", head + `package google.protobuf; message Timestamp {}`, "", "built in", errs.Invalid},
		{"the names that are built in, by nesting", head + `package google; message protobuf { message Timestamp {} }`, "", "built in", errs.Invalid},
		{"bytes that are no text", "\xff", "", "UTF-8", errs.Invalid},
		{"deep messages", head + strings.Repeat("message A { ", 60) + strings.Repeat("}", 60), "", "nesting depth", errs.Invalid},
		{"very deep messages", head + strings.Repeat("message A { ", 50_000), "", "nests deeper", errs.Invalid},
		{"very deep options", head + `option (a) = ` + strings.Repeat("{a:", 200_000), "", "nests deeper", errs.Invalid},
		{"very many words", head + strings.Repeat(";", 1_000_000), "", "words and signs", errs.Invalid},
		{"very many messages", head + manyMessages(1_500), "A0", "more than 1000 messages", errs.Invalid},
		{"a huge text", head + `// ` + strings.Repeat("a", schema.MaxDefinition), "", "at most 1048576", errs.TooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			_, err := schema.CompileProtoText(t.Context(), "order.created", 1, []byte(tt.text), tt.message)
			if err == nil || errs.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v (%v), want kind %v saying %q", err, errs.KindOf(err), tt.kind, tt.says)
			}
			if took := time.Since(began); took > 3*time.Minute {
				t.Errorf("refused after %v, want at once", took)
			}
		})
	}
}

func manyMessages(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "message A%d {}\n", i)
	}
	return b.String()
}

func TestCompileProtoRefusesWhatIsInconsistent(t *testing.T) {
	t.Parallel()
	message := `{"messageType":[{"name":"A"}]}`
	proto2 := file(t, "a.proto", message)
	proto2.Syntax = proto.String("proto2")
	many := make([]*descriptorpb.FileDescriptorProto, 60)
	for i := range many {
		many[i] = file(t, fmt.Sprintf("%d.proto", i), fmt.Sprintf(`{"messageType":[{"name":"A%d"}]}`, i))
	}
	tests := []struct {
		name string
		set  []byte
		says string
	}{
		{"what is none", []byte("rubbish"), "is not a google.protobuf.FileDescriptorSet"},
		{"an empty one", nil, "has no file"},
		{"proto2", setOf(t, proto2), "a.proto is proto2"},
		{"a missing import", setOf(t, file(t, "a.proto", `{"dependency":["b.proto"],"messageType":[{"name":"A"}]}`)), `imports "b.proto", which is not in the set`},
		{"imports in a circle", setOf(t, file(t, "a.proto", `{"dependency":["b.proto"]}`), file(t, "b.proto", `{"dependency":["a.proto"]}`)), "inconsistent"},
		{"a file twice", setOf(t, file(t, "a.proto", message), file(t, "a.proto", message)), "inconsistent"},
		{"a message twice", setOf(t, file(t, "a.proto", message), file(t, "b.proto", message)), "inconsistent"},
		{"a type that is not there", setOf(t, file(t, "a.proto", `{"messageType":[{"name":"A","field":[{"name":"b","number":1,"type":"TYPE_MESSAGE","typeName":".B","label":"LABEL_OPTIONAL"}]}]}`)), "inconsistent"},
		{"a field without type", setOf(t, file(t, "a.proto", `{"messageType":[{"name":"A","field":[{"name":"b","number":1}]}]}`)), "inconsistent"},
		{"a required field", setOf(t, file(t, "a.proto", `{"messageType":[{"name":"A","field":[{"name":"b","number":1,"type":"TYPE_STRING","label":"LABEL_REQUIRED"}]}]}`)), "inconsistent"},
		{"an extension", setOf(t, file(t, "a.proto", `{"messageType":[{"name":"A","extension":[{"name":"x","number":100}]}]}`)), "extensions"},
		{"another timestamp", setOf(t, file(t, "a.proto", `{"package":"google.protobuf","messageType":[{"name":"Timestamp"}]}`)), "built in"},
		{"very many files", setOf(t, many...), "60 files"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := schema.CompileProto("order.created", 1, tt.set, "")
			if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v (%v), want it invalid, saying %q", err, errs.KindOf(err), tt.says)
			}
		})
	}
}

func TestASetMayHaveSeveralFilesAndItsOwnCopyOfWhatIsBuiltIn(t *testing.T) {
	t.Parallel()
	wrong := file(t, "google/protobuf/timestamp.proto", `{"package":"google.protobuf","messageType":[{"name":"Timestamp"}]}`)
	set := setOf(t, wrong,
		file(t, "item.proto", `{"package":"shop","messageType":[{"name":"Item","field":[{"name":"sku","number":1,"type":"TYPE_STRING","label":"LABEL_OPTIONAL"}]}]}`),
		file(t, "order.proto", `{"package":"shop","dependency":["item.proto","google/protobuf/timestamp.proto"],"messageType":[{"name":"Order","field":[
			{"name":"item","number":1,"type":"TYPE_MESSAGE","typeName":".shop.Item","label":"LABEL_OPTIONAL"},
			{"name":"at","number":2,"type":"TYPE_MESSAGE","typeName":".google.protobuf.Timestamp","label":"LABEL_OPTIONAL"}]}]}`))
	s, err := schema.CompileProto("order.created", 1, set, "")
	if err != nil {
		t.Fatal(err)
	}
	if s.Message() != "shop.Order" {
		t.Errorf("the message is %s, want shop.Order, which no other file imports", s.Message())
	}
	if got := s.Validate([]byte(`{"item":{"sku":"a"},"at":"2026-01-02T03:04:05Z"}`)); got != nil {
		t.Errorf("violations %v, want none", got)
	}
}

func TestProtoValidatesJSON(t *testing.T) {
	t.Parallel()
	s := compileProto(t, orderProto, "")
	deep := strings.Repeat(`{"parent":`, 150) + `{}` + strings.Repeat(`}`, 150)
	tests := []struct {
		name, data string
		want       []event.Violation
	}{
		{"all fields", `{"id":"1","total":1.5,"items":[{"sku":"a","quantity":2,"gift":true}],"labels":{"a":1},"state":"PAID","createdAt":"2026-01-02T03:04:05Z",
			"card":"x","extra":{"any":["thing",null]},"raw":"aGk=","parent":{"id":"0"},"numbers":["9007199254740993",1],"places":{"7":{"sku":"b"}}}`, nil},
		{"names as in the file, and null", `{"created_at":"2026-01-02T03:04:05Z","id":null,"extra":null}`, nil},
		{"an Any", `{"@type":"type.googleapis.com/shop.Order","id":"1"}`, nil},
		{"an Any inside", `{"more":{"@type":"x/shop.Order.Item","sku":"a"}}`, nil},
		{"a well-known Any inside", `{"more":{"@type":"x/google.protobuf.Duration","value":"1s"}}`, nil},
		{"an Any of another message", `{"@type":"type.googleapis.com/shop.Order.Item","sku":"1"}`, []event.Violation{{Field: "/@type", Description: "names another message than shop.Order"}}},
		{"an Any with a wrong field", `{"@type":"a/shop.Order","id":1}`, []event.Violation{{Field: "/id", Description: "got number, want string"}}},
		{"an Any inside that is not known", `{"more":{"@type":"x/other.Message"}}`, []event.Violation{{Field: "/more", Description: "is not a google.protobuf.Any with a message of the schema that its @type names"}}},
		{"an unknown field", `{"items":[{},{"skew":"secret"}]}`, []event.Violation{{Field: "/items/1/skew", Description: `property "skew" is not a field of shop.Order.Item`}}},
		{"several wrong fields", `{"total":"secret","items":[{"quantity":1.5}],"state":"UNPAID"}`, []event.Violation{
			{Field: "/items/0/quantity", Description: "is a number that is none of int32's"},
			{Field: "/state", Description: `must be one of "STATE_UNSPECIFIED", "PAID"`},
			{Field: "/total", Description: "got string, want double"}}},
		{"a number beyond its type", `{"labels":{"a/b":4294967296}}`, []event.Violation{{Field: "/labels/a~1b", Description: "is a number that is none of int32's"}}},
		{"a wrong key", `{"places":{"x":{"sku":1}}}`, []event.Violation{
			{Field: "/places/x", Description: "is not a key that the map can have, want int32"},
			{Field: "/places/x/sku", Description: "got number, want string"}}},
		{"a wrong time", `{"createdAt":"yesterday"}`, []event.Violation{{Field: "/createdAt", Description: "is not a google.protobuf.Timestamp in its JSON form"}}},
		{"two alternatives", `{"card":"a","iban":"b"}`, []event.Violation{{Field: "/iban", Description: `cannot be set beside "card": they are alternatives (oneof by)`}}},
		{"a field under both names", `{"createdAt":null,"created_at":null}`, []event.Violation{{Field: "/created_at", Description: "is there twice, under two names"}}},
		{"a field twice", "{\"items\":[{\"sku\":\"a\"},{\"sku\":\"ä\",\n \"sku\":\"b\"}]}", []event.Violation{{Field: "/items/1/sku", Description: "is there twice"}}},
		{"no list", `{"items":{}}`, []event.Violation{{Field: "/items", Description: "got object, want array"}}},
		{"no map", `{"labels":[]}`, []event.Violation{{Field: "/labels", Description: "got array, want object (a map)"}}},
		{"null in a list", `{"items":[null]}`, []event.Violation{{Field: "/items/0", Description: "got null, want shop.Order.Item"}}},
		{"what is no base64", `{"raw":"!"}`, []event.Violation{{Field: "/raw", Description: "is not base64, want bytes"}}},
		{"no object", `[1]`, []event.Violation{{Field: "", Description: "got array, want object (shop.Order)"}}},
		{"no JSON", `{"id":`, []event.Violation{{Field: "", Description: "the data is not JSON: it ends too early"}}},
		{"bytes that are no text", "{\"id\":\"\xff\"}", []event.Violation{{Field: "", Description: "the data is not valid UTF-8"}}},
		{"a recursive message, too deep", deep, []event.Violation{{Field: strings.Repeat("/parent", 100), Description: "nests deeper than 100"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, s.Validate([]byte(tt.data))); diff != "" {
				t.Errorf("violations of %s (-want +got):\n%s", tt.data, diff)
			}
		})
	}
}

// wireOf returns the binary form of an order in JSON.
func wireOf(t testing.TB, data string) []byte {
	t.Helper()
	m := dynamicpb.NewMessage(orderDescriptor(t))
	if err := protojson.Unmarshal([]byte(data), m); err != nil {
		t.Fatal(err)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// orderDescriptor returns what the registry stores of orderProto, as any reader
// of its descriptor set would have it.
func orderDescriptor(t testing.TB) protoreflect.MessageDescriptor {
	t.Helper()
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(descriptorsOf(t, orderProto), &set); err != nil {
		t.Fatal(err)
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		t.Fatal(err)
	}
	d, err := files.FindDescriptorByName("shop.Order")
	if err != nil {
		t.Fatal(err)
	}
	m, ok := d.(protoreflect.MessageDescriptor)
	if !ok {
		t.Fatalf("shop.Order is a %T, want a message", d)
	}
	return m
}

func descriptorsOf(t testing.TB, text string) []byte {
	t.Helper()
	return compileProto(t, text, "").DescriptorSet()
}

func TestProtoValidatesBinary(t *testing.T) {
	t.Parallel()
	s := compileProto(t, orderProto, "")
	good := wireOf(t, `{"id":"1","total":1,"items":[{"sku":"a","quantity":2}],"labels":{"a":1},"createdAt":"2026-01-02T03:04:05Z","numbers":[1,2,300]}`)
	text := func(num protowire.Number, v string) []byte {
		return protowire.AppendString(protowire.AppendTag(nil, num, protowire.BytesType), v)
	}
	number := func(num protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), v)
	}
	anyOf := func(url string, value []byte) []byte { return append(text(1, url), text(2, string(value))...) }
	join := func(parts ...[]byte) string {
		var out []byte
		for _, p := range parts {
			out = append(out, p...)
		}
		return string(out)
	}
	var nested []byte
	for range 150 {
		nested = text(12, string(nested))
	}
	const plain, wrapped = "application/protobuf", `application/protobuf;type=google.protobuf.Any`
	tests := []struct {
		name, contentType, data, field, says string
	}{
		{"a message", plain, string(good), "", ""},
		{"its other names", "Application/X-Protobuf", string(good), "", ""},
		{"its third name", "application/vnd.google.protobuf; charset=x", string(good), "", ""},
		{"nothing, which is an empty message", plain, "", "", ""},
		{"its name given", "application/protobuf; proto=shop.Order", string(good), "", ""},
		{"its name given, quoted", `application/protobuf; messageType="shop.Order"`, string(good), "", ""},
		{"another name given", "application/protobuf; proto=shop.Item", string(good), "", "the data is a shop.Item, want shop.Order"},
		{"an unknown field", plain, join(good, text(99, "x")), "", ""},
		{"numbers one by one", plain, join(number(13, 1), number(13, 2)), "", ""},
		{"an Any", wrapped, string(anyOf("type.googleapis.com/shop.Order", good)), "", ""},
		{"an Any by the other parameter", "application/x-protobuf; proto=google.protobuf.Any", string(anyOf("/shop.Order", good)), "", ""},
		{"an Any of something else", wrapped, string(anyOf("a/shop.Item", good)), "/typeUrl", "names another message than shop.Order"},
		{"an Any with a broken message", wrapped, string(anyOf("a/shop.Order", number(1, 1))), "/id", "is a varint in binary form, want string"},
		{"an Any that is none", wrapped, string(number(1, 1)), "/typeUrl", "is a varint"},
		{"a field of another type", plain, join(text(3, ""), text(3, string(text(2, "x")))), "/items/1/quantity", "is a length with bytes in binary form, want int32"},
		{"a map's value of another type", plain, string(text(4, join(text(1, "k"), text(2, "x")))), "/labels/k", "want int32"},
		{"a map's message of another type", plain, string(text(14, join(number(1, 7), text(2, string(number(1, 1)))))), "/places/7/sku", "want string"},
		{"text that is none", plain, string(text(1, "\xff")), "/id", "not valid UTF-8"},
		{"packed numbers cut off", plain, string(text(13, "\x80")), "/numbers/0", "cut off"},
		{"a message cut off", plain, string(good[:len(good)-1]), "/numbers/0", "cut off"},
		{"JSON", plain, `{"id":"1"}`, "", "is not protobuf in binary form"},
		{"a recursive message, too deep", plain, string(nested), strings.Repeat("/parent", 100), "nests deeper than 100"},
		{"text", "text/plain", "x", "", "the data is text/plain, the schema is for JSON and application/protobuf"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := s.ValidateContent(tt.contentType, []byte(tt.data))
			if tt.says == "" {
				if got != nil {
					t.Errorf("violations %v, want none", got)
				}
				return
			}
			if len(got) != 1 || got[0].Field != tt.field || !strings.Contains(got[0].Description, tt.says) {
				t.Errorf("violations %v, want one at %q that says %q", got, tt.field, tt.says)
			}
		})
	}
}

func TestASchemaOfJSONTakesNoBinary(t *testing.T) {
	t.Parallel()
	if got := compile(t, `{}`).ValidateContent("application/protobuf", []byte("x")); len(got) != 1 {
		t.Errorf("violations %v, want one", got)
	}
}

func TestProtoViolationsAreBoundedAndFast(t *testing.T) {
	t.Parallel()
	s := compileProto(t, orderProto, "")
	data := `{"numbers":[` + strings.Repeat(`"x",`, 200_000) + `1]}`
	began := time.Now()
	if got := s.Validate([]byte(data)); len(got) != schema.MaxViolations {
		t.Errorf("%d violations, want %d", len(got), schema.MaxViolations)
	}
	if took := time.Since(began); took > 3*time.Minute {
		t.Errorf("took %v, want less", took)
	}
}

func TestProtoVersionsAreNumberedAndChecked(t *testing.T) {
	t.Parallel()
	kv := bucketOf(t, jstest.New(t))
	r := newRegistry(t, kv, nil)
	put := func(u schema.Upload) (schema.Result, error) {
		u.Type = "order.created"
		return r.Store(t.Context(), u, false)
	}
	first, err := put(schema.Upload{Kind: schema.KindProto, Definition: []byte(orderProto), By: "ada"})
	if err != nil {
		t.Fatal(err)
	}
	if got := first.Schema; !first.Created || got.Version != 1 || got.Message != "shop.Order" || got.Kind != schema.KindProto || got.Definition != strings.TrimSpace(orderProto) || len(got.DescriptorSet) == 0 {
		t.Errorf("the first is %+v, want version 1 of shop.Order with text and descriptors", first)
	}
	again, err := put(schema.Upload{Kind: schema.KindProto, Definition: []byte("// a remark\n" + orderProto), Message: "shop.Order"})
	if err != nil {
		t.Fatal(err)
	}
	bySet, err := put(schema.Upload{Kind: schema.KindProto, DescriptorSet: first.Schema.DescriptorSet, Message: "shop.Order"})
	if err != nil {
		t.Fatal(err)
	}
	if again.Created || bySet.Created {
		t.Errorf("the same again is created %v as text and %v as descriptors, want neither", again.Created, bySet.Created)
	}
	second, err := put(schema.Upload{Kind: schema.KindProto, Definition: []byte(strings.Replace(orderProto, "bytes raw", "string note = 20; bytes raw", 1))})
	if err != nil {
		t.Fatal(err)
	}
	if second.Schema.Version != 2 || len(second.Changes) != 1 || second.Changes[0].Text != `field "note" of shop.Order was added` {
		t.Errorf("the second is %+v, want version 2 with one change", second)
	}
	_, err = put(schema.Upload{Kind: schema.KindProto, Definition: []byte(orderProto)})
	if v := errs.ViolationsOf(err); errs.KindOf(err) != errs.Conflict || len(v) != 1 || v[0].Field != "shop.Order.note" {
		t.Errorf("going back: %v, want a conflict at shop.Order.note", err)
	}
	_, err = put(schema.Upload{Definition: []byte(`{}`)})
	if errs.KindOf(err) != errs.Conflict || !strings.Contains(err.Error(), "the kind changed from PROTOBUF to JSON_SCHEMA") {
		t.Errorf("a JSON Schema after protobuf: %v, want a conflict that says so", err)
	}

	// Another process reads back what was stored, and validates by it.
	next := newRegistry(t, kv, nil)
	run(t, next)
	got, numbers, err := next.Get(t.Context(), "order.created", 1)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first.Schema, got); diff != "" || len(numbers) != 2 {
		t.Errorf("versions %v; read back (-want +got):\n%s", numbers, diff)
	}
	if used, found := next.ValidateContent("order.created", 0, "application/protobuf", wireOf(t, `{"id":"1"}`)); used != 2 || found != nil {
		t.Errorf("binary data is checked by %d with %v, want 2 and none", used, found)
	}
	if used, found := next.Validate("order.created", 1, []byte(`{"note":"x"}`)); used != 1 || len(found) != 1 || found[0].Field != "/note" {
		t.Errorf("a field of version 2 is checked by %d with %v, want 1 and a violation at /note", used, found)
	}
	var raw struct{ Definition string }
	e, err := kv.Get(t.Context(), "order.created.1")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(e.Value(), &raw); err != nil || !strings.HasPrefix(raw.Definition, "syntax") {
		t.Errorf("stored as %.200s (%v), want JSON that can be read", e.Value(), err)
	}
}

func TestUploadsThatContradictThemselvesAreRefused(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, bucketOf(t, jstest.New(t)), nil)
	tests := []struct {
		name  string
		u     schema.Upload
		field string
	}{
		{"text and descriptors", schema.Upload{Kind: schema.KindProto, Definition: []byte(orderProto), DescriptorSet: []byte("x")}, "descriptorSet"},
		{"neither", schema.Upload{Kind: schema.KindProto}, "definition"},
		{"a message of a JSON Schema", schema.Upload{Definition: []byte(`{}`), Message: "A"}, "message"},
		{"descriptors of a JSON Schema", schema.Upload{Definition: []byte(`{}`), DescriptorSet: []byte("x")}, "descriptorSet"},
		{"an unknown kind", schema.Upload{Kind: "AVRO", Definition: []byte(`{}`)}, "kind"},
		{"an unknown message", schema.Upload{Kind: schema.KindProto, Definition: []byte(orderProto), Message: "A"}, "message"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.u.Type = "order.created"
			_, err := r.Store(t.Context(), tt.u, false)
			if v := errs.ViolationsOf(err); errs.KindOf(err) != errs.Invalid || len(v) != 1 || v[0].Field != tt.field {
				t.Errorf("got %v with %v, want it invalid at %s", err, v, tt.field)
			}
		})
	}
}

func BenchmarkValidate512Proto(b *testing.B) {
	s := compileProto(b, `syntax = "proto3";
		message Order { string id = 1; Customer customer = 2; string currency = 3; double total = 4; bool paid = 5; repeated Item items = 6; string note = 7; string created_at = 8;
		message Customer { string id = 1; string name = 2; string email = 3; }
		message Item { string sku = 1; string title = 2; int32 quantity = 3; double price = 4; } }`, "")
	data := benchOrder()
	if got := s.Validate(data); got != nil {
		b.Fatal(got)
	}
	b.Run("json", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		for b.Loop() {
			s.Validate(data)
		}
	})
	b.Run("binary", func(b *testing.B) {
		s := compileProto(b, orderProto, "")
		wire := wireOf(b, `{"id":"ord_01J9Z6W2M3","total":149.97,"labels":{"a":1,"b":2},"items":[`+strings.Repeat(`{"sku":"sku-0001-a-thing-of-value","quantity":2},`, 14)+`{"sku":"x"}]}`)
		b.SetBytes(int64(len(wire)))
		b.ReportAllocs()
		for b.Loop() {
			s.ValidateContent("application/protobuf", wire)
		}
	})
}
