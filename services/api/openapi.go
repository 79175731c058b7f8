package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/proto"
)

// An object is a part of the OpenAPI document.
type object = map[string]any

// openAPI completes the generated document with what protobuf cannot say, and
// returns it with the routes that it describes.
func openAPI(version string) ([]byte, routes, error) {
	var doc object
	if err := json.Unmarshal(proto.OpenAPI, &doc); err != nil {
		return nil, nil, fmt.Errorf("api: OpenAPI document: %w", err)
	}
	doc["info"] = object{
		"title": "Posthorn Master API", "version": version,
		"description": "Events, sources, subscriptions, policies, authorizations, backoffs, settings, schemas, dead letters and replays. Errors are application/problem+json (RFC 9457).",
	}
	doc["securityDefinitions"] = object{"bearer": object{
		"type": "apiKey", "in": "header", "name": "Authorization", "description": "Bearer <API key>",
	}}
	doc["security"] = []any{object{"bearer": []any{}}}
	doc["tags"] = slices.DeleteFunc(doc["tags"].([]any), func(t any) bool { return t.(object)["name"] == "EventBroker" })
	patchDefinitions(doc["definitions"].(object))
	paths := mergePaths(doc["paths"].(object))
	doc["paths"] = paths
	for _, operations := range paths {
		for method, op := range operations.(object) {
			patchOperation(method, op.(object))
		}
	}
	out, err := json.Marshal(doc)
	if err != nil {
		return nil, nil, fmt.Errorf("api: OpenAPI document: %w", err)
	}
	return out, routesOf(paths), nil
}

// anyJSON is a schema that everything satisfies.
func anyJSON(description string) object { return object{"description": description} }

func patchDefinitions(defs object) {
	for _, name := range []string{"v1PublishEventRequest", "v1Event", "v1ValidateEventForSchemaRequest"} {
		props := defs[name].(object)["properties"].(object)
		props["data"] = anyJSON("Any JSON value. It is kept as the bytes that came.")
		props["dataBase64"] = object{"type": "string", "format": "byte", "description": "The data, instead of data, if it is not JSON; without a dataContentType it is application/octet-stream then."}
	}
	defs["v1Schema"].(object)["properties"].(object)["definition"] = anyJSON("The schema, as it came.")
	defs["SchemaRegistryStoreSchemaBody"] = anyJSON(`The schema itself, or {"schema": …} around it.`)
	delete(defs, "rpcStatus")
	delete(defs, "protobufAny")
	text := object{"type": "string"}
	defs["Problem"] = object{
		"type": "object", "description": "An error (RFC 9457).",
		"properties": object{
			"type": text, "title": text, "status": object{"type": "integer"}, "detail": text, "instance": text,
			"violations": object{"type": "array", "items": object{"$ref": "#/definitions/v1Violation"}},
		},
	}
}

// mergePaths brings methods together whose paths differ in a parameter's name only.
func mergePaths(paths object) object {
	dotted := regexp.MustCompile(`\{\w+\.(\w+)\}`)
	merged := make(object, len(paths))
	for path, operations := range paths {
		to := dotted.ReplaceAllString(path, "{$1}")
		if merged[to] == nil {
			merged[to] = make(object)
		}
		for method, op := range operations.(object) {
			for _, p := range parametersOf(op.(object)) {
				if name := p["name"].(string); p["in"] == "path" {
					p["name"] = name[strings.LastIndexByte(name, '.')+1:]
				}
			}
			merged[to].(object)[method] = op
		}
	}
	return merged
}

func parametersOf(op object) []object {
	list, _ := op["parameters"].([]any)
	all := make([]object, len(list))
	for i, p := range list {
		all[i] = p.(object)
	}
	return all
}

func patchOperation(method string, op object) {
	id := op["operationId"].(string)
	responses := op["responses"].(object)
	responses["default"] = object{
		"description": "An error, as application/problem+json.", "schema": object{"$ref": "#/definitions/Problem"},
	}
	ok := responses["200"]
	answer := func(status, description string) {
		delete(responses, "200")
		ok.(object)["description"] = description
		responses[status] = ok
	}
	header := func(in, name, description string) {
		list, _ := op["parameters"].([]any)
		op["parameters"] = append(list, object{"name": name, "in": in, "required": false, "type": "string", "description": description})
	}
	switch {
	case strings.HasPrefix(id, "Create"):
		answer("201", "Created.")
	case strings.HasPrefix(id, "Publish"):
		answer("202", "Stored; it will be delivered.")
	case strings.HasPrefix(id, "Delete") && id != "DeleteDeadLetters":
		delete(ok.(object), "schema")
		answer("204", "Deleted.")
	}
	switch {
	case id == "PublishEvent":
		header("header", "Idempotency-Key", "The same as idempotencyKey in the body.")
	case id == "StoreSchema":
		header("query", "dryRun", "true: only check, store nothing.")
	case strings.HasPrefix(id, "DeleteDeadLetter"):
	case method == "put" || method == "delete":
		header("header", "If-Match", "The ETag of what is to be replaced or deleted.")
		if method == "put" {
			header("header", "If-None-Match", "*: only make it, replace nothing.")
		}
	}
}

// A route is a method of a path, as the document has it.
type route struct {
	method, operation string
	path              *regexp.Regexp
	query             []string // the parameters that it takes
}

type routes []*route

// parameter is one in the template of a path.
var parameter = regexp.MustCompile(`\\\{\w+\\\}`)

func routesOf(paths object) routes {
	var all routes
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		for method, o := range paths[path].(object) {
			op := o.(object)
			rt := &route{method: strings.ToUpper(method), operation: op["operationId"].(string)}
			word := `[^/:]+`
			for _, p := range parametersOf(op) {
				switch p["in"] {
				case "path":
					if p["pattern"] != nil {
						word = `.+` // an event type, which may have slashes
					}
				case "query":
					rt.query = append(rt.query, p["name"].(string))
				}
			}
			rt.path = regexp.MustCompile("^" + parameter.ReplaceAllLiteralString(regexp.QuoteMeta(path), word) + "$")
			all = append(all, rt)
		}
	}
	// Where the load is, is looked at first.
	i := slices.IndexFunc(all, func(rt *route) bool { return rt.operation == "PublishEvent" })
	all[0], all[i] = all[i], all[0]
	return all
}

// find returns the route of a request, or the methods that its path has.
func (rs routes) find(method, path string) (found *route, allowed []string) {
	for _, rt := range rs {
		if !rt.path.MatchString(path) {
			continue
		}
		if rt.method == method {
			return rt, nil
		}
		allowed = append(allowed, rt.method)
	}
	slices.Sort(allowed)
	return nil, allowed
}

// checkQuery refuses parameters that a route does not take: a filter that is
// misspelt would let everything through.
func (rt *route) checkQuery(r *http.Request) error {
	if r.URL.RawQuery == "" {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(r.URL.Query())) {
		if !slices.Contains(rt.query, name) {
			if len(rt.query) == 0 {
				return errs.Field(name, "there is no such parameter; this path takes none")
			}
			return errs.Field(name, "there is no such parameter; this path takes %s", strings.Join(rt.query, ", "))
		}
	}
	return nil
}
