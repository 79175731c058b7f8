package schema_test

import (
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/posthornhq/posthorn/pkg/schema"
)

// What compiles as JSON Schema equals itself and can be used.
func FuzzCompile(f *testing.F) {
	for _, s := range []string{v1, v2, benchSchema, `true`, `{"$ref":"#"}`, `{"$defs":{"a":{"$id":"a"}},"$ref":"a"}`, `{"pattern":"(a|b){2,3}"}`, `{"maximum":1e400,"enum":[1,"1",null]}`} {
		f.Add([]byte(s), []byte(`{"id":"1","total":2}`))
	}
	f.Fuzz(func(t *testing.T, definition, data []byte) {
		s, err := schema.Compile("t", 1, definition)
		if err != nil {
			return
		}
		if n := len(s.Validate(data)); n > schema.MaxViolations {
			t.Errorf("%d violations, want at most %d", n, schema.MaxViolations)
		}
		if got := schema.Compatible(definition, definition); got != nil {
			t.Errorf("%q differs from itself: %v", definition, got)
		}
	})
}

// What compiles as .proto text comes to descriptors that compile to the same.
func FuzzCompileProtoText(f *testing.F) {
	for _, s := range []string{orderProto, `syntax = "proto3"; message A { oneof o { A a = 1; } reserved 2 to max; }`, `syntax = "proto2"; message A { required group G = 1 {} }`,
		`edition = "2023"; message A {}`, `syntax = "proto3"; option java_package = "a" "b"; message A { optional int32 a = 1 [deprecated = true]; }`,
		`syntax = "proto3"; import public "google/protobuf/any.proto"; service S { rpc R(google.protobuf.Any) returns (stream A); } message A {}`,
		`syntax = "proto3"; import weak "a.proto";`, `syntax = "proto3"; extend A { string a = 1; } message A {}`, "syntax = \"proto3\"; /* message A { */ message B { string a = 0x1; }"} {
		f.Add([]byte(s), []byte(`{"id":"1"}`))
	}
	f.Fuzz(func(t *testing.T, text, data []byte) {
		s, err := schema.CompileProtoText(t.Context(), "t", 1, text, "")
		if err != nil {
			return
		}
		again, err := schema.CompileProto("t", 1, s.DescriptorSet(), s.Message())
		if err != nil {
			t.Fatalf("%q compiles, and its descriptors do not: %v", text, err)
		}
		use(t, s, again, data)
	})
}

func FuzzCompileProto(f *testing.F) {
	f.Add(descriptorsOf(f, orderProto), "shop.Order", []byte(`{"id":"1"}`))
	f.Add(descriptorsOf(f, `syntax = "proto3"; message A { map<string, A> a = 1; optional bool b = 2; oneof o { bytes c = 3; } }`), "", []byte(`{"a":{"x":{}}}`))
	f.Add(setOf(f, file(f, "a.proto", `{"package":"google","messageType":[{"name":"protobuf","nestedType":[{"name":"Any"}]}]}`)), "", []byte(`{}`))
	f.Add(setOf(f, file(f, "a.proto", `{"messageType":[{"name":"A","options":{"messageSetWireFormat":true}}]}`)), "A", []byte(`{}`))
	f.Fuzz(func(t *testing.T, set []byte, message string, data []byte) {
		s, err := schema.CompileProto("t", 1, set, message)
		if err != nil {
			return
		}
		again, err := schema.CompileProto("t", 1, s.DescriptorSet(), s.Message())
		if err != nil {
			t.Fatalf("what compiles does not when it is written again: %v", err)
		}
		use(t, s, again, data)
	})
}

// use validates data in all forms and compares a schema with itself.
func use(t *testing.T, s, again *schema.Schema, data []byte) {
	t.Helper()
	for _, c := range schema.CompatibleProto(s, again) {
		if c.Breaking {
			t.Errorf("a schema differs from itself: %v", c)
		}
	}
	for _, contentType := range []string{"", "application/protobuf", "application/protobuf;type=google.protobuf.Any"} {
		if n := len(s.ValidateContent(contentType, data)); n > schema.MaxViolations {
			t.Errorf("%q has %d violations, want at most %d", contentType, n, schema.MaxViolations)
		}
	}
}

// What we accept in binary form, the library must be able to read; and what is
// written from JSON that we accept, we must accept.
func FuzzValidateProto(f *testing.F) {
	s := compileProto(f, orderProto, "")
	m := orderDescriptor(f)
	for _, data := range []string{`{}`, `{"id":"1","items":[{"sku":"a"}],"labels":{"a":1}}`, `{"parent":{"parent":{"numbers":[1,2]}},"places":{"7":{}},"createdAt":"2026-01-02T03:04:05Z"}`} {
		f.Add([]byte(data))
		f.Add(wireOf(f, data))
	}
	f.Add([]byte("\xf5\x92\x8d\x8f00000")) // a number beyond those of fields
	f.Fuzz(func(t *testing.T, data []byte) {
		if s.ValidateContent("application/protobuf", data) == nil {
			if err := proto.Unmarshal(data, dynamicpb.NewMessage(m)); err != nil {
				t.Errorf("%q is accepted, and cannot be read: %v", data, err)
			}
		}
		in := dynamicpb.NewMessage(m)
		if protojson.Unmarshal(data, in) == nil && s.Validate(data) == nil {
			b, err := proto.Marshal(in)
			if err != nil {
				t.Fatal(err)
			}
			if found := s.ValidateContent("application/x-protobuf", b); found != nil {
				t.Errorf("%q is accepted as JSON, and in binary form has %v", data, found)
			}
		}
	})
}
