package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/policy"
	"github.com/posthornhq/posthorn/pkg/rawjson"
	"github.com/posthornhq/posthorn/pkg/slowbody"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// RESTConfig holds what may be tuned. The zero value is usable.
type RESTConfig struct {
	// MaxEventBytes is the largest data of one event. Default 8 MiB.
	MaxEventBytes int64
	// MaxBatchBytes is the largest body of a batch. Default 32 MiB, and never
	// less than one event needs.
	MaxBatchBytes int64
	// MaxBatchEvents is how many events a batch may have. Default 1000.
	MaxBatchEvents int
	// Version is the platform's, for the OpenAPI document. Default "v1".
	Version string
}

const (
	// maxResource is the largest body of a resource, in bytes.
	maxResource = 1 << 20
	// envelope is what a publish may have beside its data, in bytes.
	envelope = 64 << 10
)

// A handler is the Master API over REST. Most of it is generated; what carries
// data or schemas, which must pass as the bytes that came, is by hand.
type handler struct {
	mux      *runtime.ServeMux
	auth     Authenticator
	log      *slog.Logger
	cfg      RESTConfig
	document []byte // OpenAPI, JSON
	routes   routes

	events  posthornv1.EventServiceClient
	schemas posthornv1.SchemaRegistryClient
	pulled  posthornv1.DeliveriesClient
	// raw are the operations by hand, by their names in the document.
	raw map[string]func(w http.ResponseWriter, r *http.Request) error
}

// NewHandler returns the Master API over REST, for all paths below /api/. It calls
// the servers through conn: a [Local], or a connection to the process that has
// them. With auth callers are known before their requests are read; nil leaves it
// to the other side of conn.
func NewHandler(ctx context.Context, conn grpc.ClientConnInterface, auth Authenticator, log *slog.Logger, cfg RESTConfig) (http.Handler, error) {
	cfg.MaxEventBytes = cmp.Or(cfg.MaxEventBytes, 8<<20)
	cfg.MaxBatchBytes = max(cmp.Or(cfg.MaxBatchBytes, 32<<20), cfg.bodyLimit())
	cfg.MaxBatchEvents = cmp.Or(cfg.MaxBatchEvents, 1000)
	cfg.Version = cmp.Or(cfg.Version, "v1")
	h := &handler{
		auth:    auth,
		log:     log,
		cfg:     cfg,
		events:  posthornv1.NewEventServiceClient(conn),
		schemas: posthornv1.NewSchemaRegistryClient(conn),
		pulled:  posthornv1.NewDeliveriesClient(conn),
	}
	h.raw = map[string]func(http.ResponseWriter, *http.Request) error{
		"PublishEvent":           h.publish,
		"PublishEvents":          h.publishBatch,
		"GetEvent":               h.getEvent,
		"Fetch":                  h.fetch,
		"GetSchemaList":          h.listSchemas,
		"GetSchema":              h.getSchema,
		"StoreSchema":            h.storeSchema,
		"ValidateEventForSchema": h.validate,
	}
	var err error
	if h.document, h.routes, err = openAPI(cfg.Version); err != nil {
		return nil, err
	}
	h.mux, err = newMux(ctx, conn)
	return h, err
}

// bodyLimit is the largest body of one event: base64 takes four bytes for three.
func (c *RESTConfig) bodyLimit() int64 { return c.MaxEventBytes/3*4 + 4 + envelope }

func newMux(ctx context.Context, conn grpc.ClientConnInterface) (*runtime.ServeMux, error) {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, newCodec()),
		runtime.WithIncomingHeaderMatcher(func(name string) (string, bool) {
			switch name {
			case "If-Match", "If-None-Match", "Traceparent", "Tracestate":
				return strings.ToLower(name), true
			}
			return "", false // Authorization passes anyhow
		}),
		runtime.WithOutgoingHeaderMatcher(func(name string) (string, bool) {
			return "ETag", name == metaETag
		}),
		runtime.WithErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
			var body []byte
			if sent, ok := r.Body.(*readAgain); ok {
				body = sent.all
			}
			writeError(w, r, readable(err, body))
		}),
		runtime.WithForwardResponseOption(successStatus),
		// The handler finds routes itself; what is left is a path that its patterns
		// and the generated ones read differently.
		runtime.WithRoutingErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, _ int) {
			writeError(w, r, noSuchPath(r))
		}),
		runtime.WithDisablePathLengthFallback(),
	)
	err := errors.Join(
		posthornv1.RegisterSourceServiceHandlerClient(ctx, mux, posthornv1.NewSourceServiceClient(conn)),
		posthornv1.RegisterSubscriptionServiceHandlerClient(ctx, mux, posthornv1.NewSubscriptionServiceClient(conn)),
		posthornv1.RegisterPolicyServiceHandlerClient(ctx, mux, posthornv1.NewPolicyServiceClient(conn)),
		posthornv1.RegisterAuthorizationServiceHandlerClient(ctx, mux, posthornv1.NewAuthorizationServiceClient(conn)),
		posthornv1.RegisterBackoffServiceHandlerClient(ctx, mux, posthornv1.NewBackoffServiceClient(conn)),
		posthornv1.RegisterSettingsServiceHandlerClient(ctx, mux, posthornv1.NewSettingsServiceClient(conn)),
		posthornv1.RegisterEventServiceHandlerClient(ctx, mux, posthornv1.NewEventServiceClient(conn)),
		posthornv1.RegisterDeadLetterServiceHandlerClient(ctx, mux, posthornv1.NewDeadLetterServiceClient(conn)),
		posthornv1.RegisterReplaysHandlerClient(ctx, mux, posthornv1.NewReplaysClient(conn)),
		posthornv1.RegisterLanesHandlerClient(ctx, mux, posthornv1.NewLanesClient(conn)),
		posthornv1.RegisterDeliveriesHandlerClient(ctx, mux, posthornv1.NewDeliveriesClient(conn)),
		posthornv1.RegisterAuditServiceHandlerClient(ctx, mux, posthornv1.NewAuditServiceClient(conn)),
		posthornv1.RegisterAccountServiceHandlerClient(ctx, mux, posthornv1.NewAccountServiceClient(conn)),
		posthornv1.RegisterUserServiceHandlerClient(ctx, mux, posthornv1.NewUserServiceClient(conn)),
		posthornv1.RegisterKeyServiceHandlerClient(ctx, mux, posthornv1.NewKeyServiceClient(conn)),
	)
	if err != nil {
		return nil, fmt.Errorf("api: register handlers: %w", err)
	}
	return mux, nil
}

func noSuchPath(r *http.Request) error {
	return errs.New(errs.NotFound, "there is no %s; /api/openapi.json lists what there is", r.URL.Path)
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/api/openapi.json" {
		h.serveDocument(w, r)
		return
	}
	rt, allowed := h.routes.find(r.Method, r.URL.Path)
	if rt == nil || !public[rt.operation] {
		var err error
		if r, err = h.authenticate(r); err != nil {
			h.fail(w, r, err)
			return
		}
	}
	switch {
	case rt == nil && len(allowed) == 0:
		writeError(w, r, noSuchPath(r))
		return
	case rt == nil:
		writeNotAllowed(w, r, strings.Join(allowed, ", "))
		return
	}
	if err := rt.checkQuery(r); err != nil {
		writeError(w, r, err)
		return
	}
	if raw, ok := h.raw[rt.operation]; ok {
		if err := raw(w, r); err != nil {
			h.fail(w, r, err)
		}
		return
	}
	if err := prepareBody(w, r, rt); err != nil {
		writeError(w, r, err)
		return
	}
	h.mux.ServeHTTP(w, r)
}

// public are the operations that need no token.
var public = map[string]bool{"SignIn": true, "GetSigningKeys": true}

// fail answers with err. What did not come from the servers, who log for
// themselves, and is not for clients, is logged here.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	if _, remote := status.FromError(err); !remote {
		if kind := errs.KindOf(err); kind == errs.Internal || kind == errs.Unavailable {
			h.log.ErrorContext(r.Context(), "a request failed", "method", r.Method, "path", r.URL.Path, "kind", kind.String(), "err", err)
		}
	}
	writeError(w, r, err)
}

func writeNotAllowed(w http.ResponseWriter, r *http.Request, allow string) {
	w.Header().Set("Allow", allow)
	writeProblem(w, r, problem{Status: http.StatusMethodNotAllowed, Detail: "this path takes " + allow}, "method")
}

func (h *handler) serveDocument(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		writeNotAllowed(w, r, "GET, HEAD")
		return
	}
	writeJSON(w, http.StatusOK, h.document)
}

// authenticate returns r with the caller's identity in its context; the same r
// with an error.
func (h *handler) authenticate(r *http.Request) (*http.Request, error) {
	if h.auth == nil {
		return r, nil
	}
	token, err := parseAuthorization(r.Header.Values("Authorization"))
	if err != nil {
		return r, err
	}
	id, err := h.auth.Authenticate(r.Context(), token)
	if err != nil {
		return r, err
	}
	return r.WithContext(withIdentity(r.Context(), id)), nil
}

// prepareBody reads a body for the generated code, which would take the name of
// the path without looking at the one in the body.
func prepareBody(w http.ResponseWriter, r *http.Request, rt *route) error {
	if r.Method != http.MethodPut && r.Method != http.MethodPost {
		return nil
	}
	body, err := readBody(w, r, maxResource)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(body)) == 0 {
		body = []byte("{}")
	}
	if err := checkJSON(body); err != nil {
		return err
	}
	err = members(body, "", func(name, value []byte) error {
		if string(name) != "name" || r.Method != http.MethodPut {
			return nil
		}
		inBody, err := stringValue("name", value)
		if inPath := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]; err == nil && inBody != "" && inBody != inPath {
			return errs.Field("name", "is %q, but the path says %q", inBody, inPath)
		}
		return err
	})
	if err == nil {
		err = checkPolicy(body, rt)
	}
	r.Body = &readAgain{Reader: bytes.NewReader(body), all: body}
	r.ContentLength = int64(len(body))
	return err
}

// readAgain is a body that has been read. What is wrong with it is told by where in all
// of it that is.
type readAgain struct {
	*bytes.Reader
	all []byte
}

func (*readAgain) Close() error { return nil }

// checkPolicy refuses what only a policy's text says, and not its message.
func checkPolicy(body []byte, rt *route) error {
	switch rt.operation {
	case "CreatePolicy", "PutPolicy":
		return policy.ValidDocument(body, "")
	case "SimulatePolicy":
		for name, value := range rawjson.Members(body) {
			if string(name) == "draft" {
				return policy.ValidDocument(value, "draft.")
			}
		}
	}
	return nil
}

// readBody reads a body of at most limit bytes.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	buf := bytes.NewBuffer(make([]byte, 0, max(r.ContentLength, 0)+bytes.MinRead))
	_, err := buf.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	if _, over := errors.AsType[*http.MaxBytesError](err); over {
		return nil, tooLarge(limit)
	}
	if slowbody.TooSlow(err) {
		return nil, errTooSlow
	}
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "the body could not be read to its end")
	}
	return buf.Bytes(), nil
}

var errTooSlow = errs.New(errs.Invalid, "the body came too slowly; nothing of it was taken").Because("too-slow")

func tooLarge(limit int64) error {
	return errs.New(errs.TooLarge, "the body is larger than %d bytes", limit)
}

// successStatus gives an answer the status of its method.
func successStatus(ctx context.Context, w http.ResponseWriter, m proto.Message) error {
	method, _ := runtime.RPCMethod(ctx)
	_, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	switch {
	case strings.HasPrefix(name, "Create"):
		pattern, _ := runtime.HTTPPathPattern(ctx)
		if named, ok := m.(interface{ GetName() string }); ok {
			w.Header().Set("Location", pattern+"/"+named.GetName())
		}
		w.WriteHeader(http.StatusCreated)
	case strings.HasPrefix(name, "Delete") && isEmpty(m):
		w.Header().Del("Content-Type")
		w.WriteHeader(http.StatusNoContent)
	}
	return nil
}

func isEmpty(m proto.Message) bool {
	_, nothing := m.(*emptypb.Empty)
	return nothing
}

// A codec is proto3's JSON form as the Master API has it: defaults are shown, so
// that lists always have items and nobody needs to know what false or 0 is left
// out of; unknown fields are refused; white space, which protojson varies on
// purpose, is none.
type codec struct{ runtime.JSONPb }

func newCodec() *codec {
	return &codec{runtime.JSONPb{
		MarshalOptions:   protojson.MarshalOptions{EmitDefaultValues: true},
		UnmarshalOptions: protojson.UnmarshalOptions{},
	}}
}

func (c *codec) Marshal(v any) ([]byte, error) {
	if _, nothing := v.(*emptypb.Empty); nothing {
		return nil, nil
	}
	b, err := c.JSONPb.Marshal(v)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	out.Grow(len(b))
	if err := json.Compact(&out, b); err != nil {
		return nil, err
	}
	return withoutEmpty(out.Bytes(), "secrets", "[]"), nil
}

// withoutEmpty takes a field out of compact JSON wherever its value is empty: for
// secrets, which are write-only, it would say that there are none. Quotes inside
// of strings are escaped, so the text cannot be part of one. Another field follows.
func withoutEmpty(compact []byte, field, empty string) []byte {
	return bytes.ReplaceAll(compact, []byte(`"`+field+`":`+empty+`,`), nil)
}

func (c *codec) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		return c.Unmarshal(b, v) // which refuses what follows the value, as a json.Decoder does not
	})
}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // whoever is gone does not miss it
}
