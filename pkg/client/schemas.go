package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// PutSchema stores a JSON Schema as the next version of the event type's, if it
// is compatible with the newest. Created is false if the newest is the same.
func (c *Client) PutSchema(ctx context.Context, eventType string, schema []byte) (*posthornv1.StoreSchemaResponse, error) {
	return c.storeSchema(ctx, eventType, schema, nil)
}

// CheckSchema answers as PutSchema would, and stores nothing.
func (c *Client) CheckSchema(ctx context.Context, eventType string, schema []byte) (*posthornv1.StoreSchemaResponse, error) {
	return c.storeSchema(ctx, eventType, schema, url.Values{"dryRun": {"true"}})
}

// PutProtoSchema stores a message of a .proto file as the type's next version.
// message is its full name, and may be empty if the file has one only.
func (c *Client) PutProtoSchema(ctx context.Context, eventType, text, message string, dryRun bool) (*posthornv1.StoreSchemaResponse, error) {
	schema, err := json.Marshal(map[string]string{"kind": "PROTOBUF", "definition": text, "message": message})
	if err != nil {
		return nil, fmt.Errorf("client: schema %s: %w", eventType, err)
	}
	var query url.Values
	if dryRun {
		query = url.Values{"dryRun": {"true"}}
	}
	return c.storeSchema(ctx, eventType, schema, query)
}

func (c *Client) storeSchema(ctx context.Context, eventType string, schema []byte, query url.Values) (*posthornv1.StoreSchemaResponse, error) {
	if !json.Valid(schema) {
		return nil, errors.New("client: the schema is not JSON")
	}
	// Wrapped, so that no keyword of the schema can be taken for the wrapping.
	body := append(append([]byte(`{"schema":`), schema...), '}')
	out := new(posthornv1.StoreSchemaResponse)
	in := call{method: http.MethodPut, path: schemaPath(eventType), query: query, body: body, repeat: always}
	return out, c.withSchema(ctx, in, out, func(s *posthornv1.Schema) { out.Schema = s })
}

// GetSchema returns a version of an event type's schema, 0 for the newest, and
// what versions there are. Its definition is JSON text.
func (c *Client) GetSchema(ctx context.Context, eventType string, version int) (*posthornv1.GetSchemaResponse, error) {
	query := url.Values{}
	if version != 0 {
		query.Set("version", strconv.Itoa(version))
	}
	out := new(posthornv1.GetSchemaResponse)
	in := call{method: http.MethodGet, path: schemaPath(eventType), query: query, repeat: always}
	return out, c.withSchema(ctx, in, out, func(s *posthornv1.Schema) { out.Schema = s })
}

// withSchema makes a call that is answered with a message around a schema.
func (c *Client) withSchema(ctx context.Context, in call, out proto.Message, set func(*posthornv1.Schema)) error {
	ans, err := c.do(ctx, in)
	if err != nil {
		return err
	}
	err = decodeAround(ans.body, out, "schema", "", func(raw, _ json.RawMessage) error {
		s, err := parseSchema(raw)
		if err == nil {
			set(s)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("client: answer of %s %s: %w", in.method, in.path, err)
	}
	return nil
}

// ListSchemas yields the newest version of the schema of each type that begins
// with prefix.
func (c *Client) ListSchemas(ctx context.Context, prefix string) iter.Seq2[*posthornv1.Schema, error] {
	query := url.Values{}
	setIf(query, "prefix", prefix)
	return pages(ctx, c, "/api/v1/schemas", query, parseSchema)
}

// ValidateData says what is wrong with data as that of an event type, by a
// version of its schema, 0 for the newest. A type without a schema takes anything.
func (c *Client) ValidateData(ctx context.Context, eventType string, version int, data []byte) (*posthornv1.ValidateEventForSchemaResponse, error) {
	if !json.Valid(data) {
		return nil, errNotJSON
	}
	head, err := json.Marshal(map[string]any{"type": eventType, "version": version})
	if err != nil {
		return nil, fmt.Errorf("client: validate: %w", err)
	}
	body := append(append(append(head[:len(head)-1], `,"data":`...), data...), '}')
	out := new(posthornv1.ValidateEventForSchemaResponse)
	return out, c.into(ctx, call{method: http.MethodPost, path: "/api/v1/schemas:validate", body: body, repeat: always}, out)
}

// schemaPath leaves the slashes of a Certes URI as they are.
func schemaPath(eventType string) string {
	words := strings.Split(eventType, "/")
	for i, w := range words {
		words[i] = url.PathEscape(w)
	}
	return "/api/v1/schemas/" + strings.Join(words, "/")
}

// parseSchema reads a schema whose definition is JSON itself, or a string with
// the text of it.
func parseSchema(raw json.RawMessage) (*posthornv1.Schema, error) {
	s := new(posthornv1.Schema)
	err := decodeAround(raw, s, "definition", "", func(def, _ json.RawMessage) error {
		if len(def) > 0 && def[0] == '"' {
			return json.Unmarshal(def, &s.Definition)
		}
		s.Definition = string(def)
		return nil
	})
	return s, err
}
