package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/posthornhq/posthorn/pkg/errs"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// typeOf returns the event type in a path, whose slashes may come escaped or not.
func typeOf(r *http.Request) string { return strings.TrimPrefix(r.URL.Path, "/api/v1/schemas/") }

// getSchema serves GET /api/v1/schemas/{type}.
func (h *handler) getSchema(w http.ResponseWriter, r *http.Request) error {
	req := &posthornv1.GetSchemaRequest{Type: typeOf(r)}
	if v := r.URL.Query().Get("version"); v != "" {
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil || n < 0 {
			return errs.Field("version", "%q is not a version's number", v)
		}
		req.Version = int32(n)
	}
	res, err := h.schemas.GetSchema(outgoingContext(r), req)
	if err != nil {
		return err
	}
	return writeWithDefinition(w, res, res.GetSchema())
}

// listSchemas serves GET /api/v1/schemas.
func (h *handler) listSchemas(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	req := &posthornv1.GetSchemaListRequest{Prefix: query.Get("prefix"), Cursor: query.Get("cursor")}
	if v := query.Get("limit"); v != "" {
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil {
			return errs.Field("limit", "%q is not a number", v)
		}
		req.Limit = int32(n)
	}
	res, err := h.schemas.GetSchemaList(outgoingContext(r), req)
	if err != nil {
		return err
	}
	out := []byte(`{"items":[`)
	for i, s := range res.GetItems() {
		if i > 0 {
			out = append(out, ',')
		}
		one, err := withDefinition(s, s)
		if err != nil {
			return err
		}
		out = append(out, one...)
	}
	out = fmt.Appendf(out, "],\"nextCursor\":%s}\n", quote(res.GetNextCursor()))
	writeJSON(w, http.StatusOK, out)
	return nil
}

// storeSchema serves PUT /api/v1/schemas/{type}. The body is the schema itself,
// or {"schema":…} around it: "schema" alone is no keyword of JSON Schema. A
// protobuf schema is {"kind":"PROTOBUF","definition":"syntax = …","message":"…"}, or
// has a descriptorSet in base64 in place of the definition; "kind" is no keyword either.
func (h *handler) storeSchema(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r, maxResource)
	if err != nil {
		return err
	}
	if err := checkJSON(body); err != nil {
		return err
	}
	req, err := storeRequest(body)
	if err != nil {
		return err
	}
	req.Type = typeOf(r)
	if v := r.URL.Query().Get("dryRun"); v != "" {
		if req.DryRun, err = strconv.ParseBool(v); err != nil {
			return errs.Field("dryRun", "%q is neither true nor false", v)
		}
	}
	res, err := h.schemas.StoreSchema(outgoingContext(r), req)
	if err != nil {
		return err
	}
	return writeWithDefinition(w, res, res.GetSchema())
}

func storeRequest(body []byte) (*posthornv1.StoreSchemaRequest, error) {
	schema := unwrapSchema(body)
	var head struct{ Kind string }
	// What is no object has no kind; the registry says what is wrong with it.
	plain := json.Unmarshal(schema, &head) != nil || head.Kind == ""
	if plain {
		return &posthornv1.StoreSchemaRequest{Definition: string(schema)}, nil
	}
	req := new(posthornv1.StoreSchemaRequest)
	var set struct {
		DescriptorSet []byte
		Definition    json.RawMessage
	}
	if err := json.Unmarshal(schema, &set); err != nil {
		return nil, errs.Field("descriptorSet", "is not base64")
	}
	err := members(schema, "", func(name, value []byte) (err error) {
		switch string(name) {
		case "kind":
			kind, known := posthornv1.Schema_Kind_value[head.Kind]
			if !known || kind == 0 {
				return errs.Field("kind", "%q is neither JSON_SCHEMA nor PROTOBUF", head.Kind)
			}
			req.Kind = posthornv1.Schema_Kind(kind)
		case "definition":
			if req.Definition, err = stringValue("definition", value); err != nil && value[0] == '{' {
				req.Definition, err = string(value), nil // a JSON Schema as the JSON that it is
			}
		case "message":
			req.Message, err = stringValue("message", value)
		case "descriptorSet":
			req.DescriptorSet = set.DescriptorSet
		default:
			return unknown("", name)
		}
		return err
	})
	return req, err
}

func unwrapSchema(body []byte) []byte {
	trimmed := bytes.TrimSpace(body)
	if trimmed[0] != '{' {
		return trimmed // true and false are schemas too; the registry says what it takes
	}
	var inner []byte
	n := 0
	err := members(trimmed, "", func(name, value []byte) error {
		n++
		if string(name) == "schema" {
			inner = value
		}
		return nil
	})
	if err == nil && n == 1 && inner != nil {
		return inner
	}
	return trimmed
}

// validate serves POST /api/v1/schemas:validate.
func (h *handler) validate(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r, h.cfg.bodyLimit())
	if err != nil {
		return err
	}
	if err := checkJSON(body); err != nil {
		return err
	}
	req := new(posthornv1.ValidateEventForSchemaRequest)
	var data payload
	err = members(body, "", func(name, value []byte) (err error) {
		if data.take(name, value) {
			return nil
		}
		switch string(name) {
		case "type":
			req.Type, err = stringValue("type", value)
		case "dataContentType":
			req.DataContentType, err = stringValue("dataContentType", value)
		case "version":
			if err := json.Unmarshal(value, &req.Version); err != nil || req.Version < 0 {
				return errs.Field("version", "%s is not a version's number", value)
			}
		default:
			return unknown("", name)
		}
		return err
	})
	if err != nil {
		return err
	}
	if req.Data, err = data.bytes(req.DataContentType, h.cfg.MaxEventBytes); err != nil {
		return err
	}
	res, err := h.schemas.ValidateEventForSchema(outgoingContext(r), req)
	if err != nil {
		return err
	}
	out, err := newCodec().Marshal(res)
	if err != nil {
		return fmt.Errorf("api: encode verdict: %w", err)
	}
	writeJSON(w, http.StatusOK, append(out, '\n'))
	return nil
}

func writeWithDefinition(w http.ResponseWriter, m proto.Message, s *posthornv1.Schema) error {
	out, err := withDefinition(m, s)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, append(out, '\n'))
	return nil
}

// withDefinition encodes m, which is or holds s, with the schema's text as the
// JSON that it is rather than in a string.
func withDefinition(m proto.Message, s *posthornv1.Schema) ([]byte, error) {
	definition := []byte(s.GetDefinition())
	if !json.Valid(definition) {
		definition = quote(s.GetDefinition())
	}
	m = proto.Clone(m) // the schema may be the registry's own
	switch m := m.(type) {
	case *posthornv1.Schema:
		m.Definition = ""
	case *posthornv1.GetSchemaResponse:
		if m.Schema != nil {
			m.Schema.Definition = ""
		}
	case *posthornv1.StoreSchemaResponse:
		if m.Schema != nil {
			m.Schema.Definition = ""
		}
	}
	out, err := newCodec().Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("api: encode schema: %w", err)
	}
	// Quotes inside of strings are escaped, so this is the field and nothing else.
	return bytes.Replace(out, []byte(`"definition":""`), append([]byte(`"definition":`), definition...), 1), nil
}
