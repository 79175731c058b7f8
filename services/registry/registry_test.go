package registry_test

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/schema"
	"github.com/posthornhq/posthorn/pkg/wire"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
	"github.com/posthornhq/posthorn/services/registry"
)

const order = `{"type":"object","required":["id"],"properties":{"id":{"type":"string"},"total":{"type":"number"}}}`

// dial returns a client of a registry on a real server. ready says whether the
// registry keeps its copy in memory.
func dial(t *testing.T, ready bool) posthornv1.SchemaRegistryClient {
	t.Helper()
	js := jstest.WithTopology(t, topology.Config{})
	kv, err := js.KeyValue(t.Context(), topology.BucketSchemas)
	if err != nil {
		t.Fatal(err)
	}
	r, err := schema.NewRegistry(kv, nil, slog.New(slog.DiscardHandler), schema.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if ready {
		start(t, r)
	}
	s, err := registry.New(r, r, registry.Config{Caller: func(context.Context) string { return "ada" }})
	if err != nil {
		t.Fatal(err)
	}
	l := bufconn.Listen(1 << 20)
	g := grpc.NewServer()
	posthornv1.RegisterSchemaRegistryServer(g, s)
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	cc, err := grpc.NewClient("passthrough:registry", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cc.Close(); err != nil {
			t.Error(err)
		}
	})
	return posthornv1.NewSchemaRegistryClient(cc)
}

func start(t *testing.T, r *schema.Registry) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !r.Ready() {
		select {
		case <-tick.C:
		case err := <-done:
			t.Fatalf("Run ended with %v before it was ready", err)
		}
	}
}

func TestASchemaIsStoredReadListedAndUsed(t *testing.T) {
	t.Parallel()
	c := dial(t, true)
	stored, err := c.StoreSchema(t.Context(), &posthornv1.StoreSchemaRequest{Type: "order.created", Definition: order})
	if err != nil {
		t.Fatal(err)
	}
	if s := stored.GetSchema(); !stored.GetCreated() || s.GetVersion() != 1 || s.GetCreatedBy() != "ada" || s.GetKind() != posthornv1.Schema_JSON_SCHEMA || s.GetCreatedAt() == nil {
		t.Errorf("stored %v, want version 1, created by ada as JSON_SCHEMA", stored)
	}
	got, err := c.GetSchema(t.Context(), &posthornv1.GetSchemaRequest{Type: "order.created"})
	if err != nil {
		t.Fatal(err)
	}
	if got.GetSchema().GetDefinition() != order || len(got.GetVersions()) != 1 {
		t.Errorf("got %v, want the definition as it came and one version", got)
	}
	page, err := c.GetSchemaList(t.Context(), &posthornv1.GetSchemaListRequest{Prefix: "order."})
	if err != nil {
		t.Fatal(err)
	}
	if len(page.GetItems()) != 1 || page.GetNextCursor() != "" {
		t.Errorf("listed %v, want one schema and no further page", page)
	}

	bad, err := c.ValidateEventForSchema(t.Context(), &posthornv1.ValidateEventForSchemaRequest{Type: "order.created", Data: []byte(`{"id":"1","total":"x"}`)})
	if err != nil {
		t.Fatal(err)
	}
	if bad.GetValid() || bad.GetVersion() != 1 || len(bad.GetViolations()) != 1 || bad.GetViolations()[0].GetField() != "/total" {
		t.Errorf("validated as %v, want version 1 and one violation at /total", bad)
	}
	free, err := c.ValidateEventForSchema(t.Context(), &posthornv1.ValidateEventForSchemaRequest{Type: "other", Data: []byte(`1`)})
	if err != nil {
		t.Fatal(err)
	}
	if !free.GetValid() || free.GetVersion() != 0 {
		t.Errorf("a type without schema is %v, want valid by version 0", free)
	}
	plain, err := c.ValidateEventForSchema(t.Context(), &posthornv1.ValidateEventForSchemaRequest{Type: "order.created", DataContentType: "text/plain", Data: []byte(`x`)})
	if err != nil {
		t.Fatal(err)
	}
	if plain.GetValid() {
		t.Errorf("text is %v, want invalid", plain)
	}
}

const orderProto = `syntax = "proto3"; package shop; message Order { string id = 1; double total = 2; }`

func TestAProtobufSchemaIsStoredReadAndUsed(t *testing.T) {
	t.Parallel()
	c := dial(t, true)
	stored, err := c.StoreSchema(t.Context(), &posthornv1.StoreSchemaRequest{Type: "order.created", Kind: posthornv1.Schema_PROTOBUF, Definition: orderProto})
	if err != nil {
		t.Fatal(err)
	}
	s := stored.GetSchema()
	if !stored.GetCreated() || s.GetKind() != posthornv1.Schema_PROTOBUF || s.GetMessage() != "shop.Order" || s.GetDefinition() != orderProto || len(s.GetDescriptorSet()) == 0 {
		t.Errorf("stored %v, want version 1 of shop.Order with text and descriptors", stored)
	}
	again, err := c.StoreSchema(t.Context(), &posthornv1.StoreSchemaRequest{
		Type: "order.created", Kind: posthornv1.Schema_PROTOBUF, DescriptorSet: s.GetDescriptorSet(), Message: "shop.Order",
	})
	if err != nil {
		t.Fatal(err)
	}
	if again.GetCreated() {
		t.Errorf("its descriptors are stored as %v, want nothing new", again)
	}
	page, err := c.GetSchemaList(t.Context(), &posthornv1.GetSchemaListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(page.GetItems()) != 1 || page.GetItems()[0].GetMessage() != "shop.Order" || len(page.GetItems()[0].GetDescriptorSet()) != 0 {
		t.Errorf("listed %v, want it without descriptors", page)
	}

	tests := []struct {
		name, contentType, data, field string
		valid                          bool
	}{
		{"JSON", "", `{"id":"1","total":2}`, "", true},
		{"wrong JSON", "application/json", `{"id":1}`, "/id", false},
		{"binary", "application/protobuf", "\x0a\x011", "", true},
		{"wrong binary", "application/protobuf", "\x08\x01", "/id", false},
		{"an Any", "application/protobuf;type=google.protobuf.Any", "\x0a\x0ca/shop.Order\x12\x03\x0a\x011", "", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := c.ValidateEventForSchema(t.Context(), &posthornv1.ValidateEventForSchemaRequest{Type: "order.created", DataContentType: tt.contentType, Data: []byte(tt.data)})
			if err != nil {
				t.Fatal(err)
			}
			if got.GetValid() != tt.valid || got.GetVersion() != 1 || !tt.valid && got.GetViolations()[0].GetField() != tt.field {
				t.Errorf("validated as %v, want valid %v by version 1, and what is wrong at %q", got, tt.valid, tt.field)
			}
		})
	}
}

func TestErrorsOfUploadsNameTheField(t *testing.T) {
	t.Parallel()
	c := dial(t, true)
	tests := []struct {
		name  string
		in    *posthornv1.StoreSchemaRequest
		field string
	}{
		{"no schema", &posthornv1.StoreSchemaRequest{Kind: posthornv1.Schema_PROTOBUF}, "definition"},
		{"no .proto file", &posthornv1.StoreSchemaRequest{Kind: posthornv1.Schema_PROTOBUF, Definition: `{}`}, "definition"},
		{"no descriptors", &posthornv1.StoreSchemaRequest{Kind: posthornv1.Schema_PROTOBUF, DescriptorSet: []byte("x")}, "descriptorSet"},
		{"no such message", &posthornv1.StoreSchemaRequest{Kind: posthornv1.Schema_PROTOBUF, Definition: orderProto, Message: "shop.Item"}, "message"},
		{"a message of a JSON Schema", &posthornv1.StoreSchemaRequest{Definition: `{}`, Message: "shop.Order"}, "message"},
		{"an unknown kind", &posthornv1.StoreSchemaRequest{Kind: 7, Definition: `{}`}, "kind"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.in.Type = "order.created"
			_, err := c.StoreSchema(t.Context(), tt.in)
			found := errs.ViolationsOf(wire.Error(err))
			if status.Code(err) != codes.InvalidArgument || len(found) != 1 || found[0].Field != tt.field {
				t.Errorf("answered %v with %v, want it invalid at %s", err, found, tt.field)
			}
		})
	}
}

func TestErrorsAreStatuses(t *testing.T) {
	t.Parallel()
	c := dial(t, true)
	if _, err := c.StoreSchema(t.Context(), &posthornv1.StoreSchemaRequest{Type: "order.created", Definition: order}); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		call func() error
		want codes.Code
	}{
		{"a schema that is not there", func() error {
			_, err := c.GetSchema(t.Context(), &posthornv1.GetSchemaRequest{Type: "nothing"})
			return err
		}, codes.NotFound},
		{"a version that is not there", func() error {
			_, err := c.GetSchema(t.Context(), &posthornv1.GetSchemaRequest{Type: "order.created", Version: 2})
			return err
		}, codes.NotFound},
		{"validating by a version that is not there", func() error {
			_, err := c.ValidateEventForSchema(t.Context(), &posthornv1.ValidateEventForSchemaRequest{Type: "order.created", Version: 2, Data: []byte(`{}`)})
			return err
		}, codes.NotFound},
		{"a negative version", func() error {
			_, err := c.GetSchema(t.Context(), &posthornv1.GetSchemaRequest{Type: "order.created", Version: -1})
			return err
		}, codes.InvalidArgument},
		{"a cursor of somebody else's", func() error {
			_, err := c.GetSchemaList(t.Context(), &posthornv1.GetSchemaListRequest{Cursor: "!"})
			return err
		}, codes.InvalidArgument},
		{"a kind that is not known", func() error {
			_, err := c.StoreSchema(t.Context(), &posthornv1.StoreSchemaRequest{Type: "order.created", Kind: 7, Definition: order})
			return err
		}, codes.InvalidArgument},
		{"a definition that is no schema", func() error {
			_, err := c.StoreSchema(t.Context(), &posthornv1.StoreSchemaRequest{Type: "order.created", Definition: `{"type":"objekt"}`})
			return err
		}, codes.InvalidArgument},
		{"an incompatible definition", func() error {
			_, err := c.StoreSchema(t.Context(), &posthornv1.StoreSchemaRequest{Type: "order.created", Definition: `{}`})
			return err
		}, codes.AlreadyExists},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.call(); status.Code(err) != tt.want {
				t.Errorf("answered %v, want code %v", err, tt.want)
			}
		})
	}

	_, err := c.StoreSchema(t.Context(), &posthornv1.StoreSchemaRequest{Type: "order.created", Kind: posthornv1.Schema_PROTOBUF, Definition: orderProto})
	if found := errs.ViolationsOf(wire.Error(err)); status.Code(err) != codes.AlreadyExists || len(found) != 1 || found[0].Field != "kind" {
		t.Errorf("protobuf after JSON Schema: %v with %v, want a conflict of the kind", err, found)
	}
	_, err = c.StoreSchema(t.Context(), &posthornv1.StoreSchemaRequest{Type: "order.created", Definition: `{"type":"object","required":["id"],"properties":{"id":{"type":"string"}}}`})
	found := errs.ViolationsOf(wire.Error(err))
	if len(found) != 1 || found[0].Field != "/properties/total" || found[0].Description != `property "total" was removed` {
		t.Errorf("the incompatibility came as %v, want the property that was removed", found)
	}
}

func TestWhatIsNotReadyDoesNotLetEventsPass(t *testing.T) {
	t.Parallel()
	c := dial(t, false)
	_, err := c.ValidateEventForSchema(t.Context(), &posthornv1.ValidateEventForSchemaRequest{Type: "order.created", Data: []byte(`{}`)})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("validated before the schemas were read: %v, want %v", err, codes.Unavailable)
	}
}
