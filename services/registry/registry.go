package registry

import (
	"context"
	"errors"
	"math"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/schema"
	"github.com/posthornhq/posthorn/pkg/wire"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// Keeper keeps the versions of schemas. It is satisfied by [*schema.Registry].
type Keeper interface {
	// Store adds a version if it is compatible with the newest.
	Store(ctx context.Context, u schema.Upload, dryRun bool) (schema.Result, error)
	// Get returns a version, 0 for the newest, and the numbers of all.
	Get(ctx context.Context, typ string, version int) (schema.Record, []int, error)
	// List returns the newest version of each type.
	List(ctx context.Context, prefix string, limit int, cursor string) ([]schema.Record, string, error)
}

// Validator checks data against the schemas. It is satisfied by [*schema.Registry].
type Validator interface {
	// Ready reports whether all schemas are known.
	Ready() bool
	// ValidateContent says what is wrong with data of a content type, and by
	// which version.
	ValidateContent(typ string, version int, contentType string, data []byte) (used int, violations []event.Violation)
}

// Config holds what may be set. The zero value is usable.
type Config struct {
	// Caller names who makes a request, for the record of who stored a version.
	// Default: nobody is named.
	Caller func(context.Context) string
	// Stored is told of each new version. Default: nobody is told.
	Stored func(ctx context.Context, s *posthornv1.Schema, changes []string)
}

// Server implements SchemaRegistry.
type Server struct {
	posthornv1.UnimplementedSchemaRegistryServer
	keeper    Keeper
	validator Validator
	cfg       Config
}

var _ posthornv1.SchemaRegistryServer = (*Server)(nil)

// New returns a Server on a keeper and a validator, which usually are one.
func New(k Keeper, v Validator, cfg Config) (*Server, error) {
	if k == nil || v == nil {
		return nil, errors.New("registry: a keeper and a validator are needed")
	}
	if cfg.Caller == nil {
		cfg.Caller = func(context.Context) string { return "" }
	}
	if cfg.Stored == nil {
		cfg.Stored = func(context.Context, *posthornv1.Schema, []string) {}
	}
	return &Server{keeper: k, validator: v, cfg: cfg}, nil
}

// GetSchema returns one version, or the newest.
func (s *Server) GetSchema(ctx context.Context, in *posthornv1.GetSchemaRequest) (*posthornv1.GetSchemaResponse, error) {
	if in.GetVersion() < 0 {
		return nil, wire.Status(errs.Field("version", "is negative"))
	}
	rec, numbers, err := s.keeper.Get(ctx, in.GetType(), int(in.GetVersion()))
	if err != nil {
		return nil, wire.Status(err)
	}
	out := &posthornv1.GetSchemaResponse{Schema: message(rec)}
	for _, n := range numbers {
		out.Versions = append(out.Versions, number(n))
	}
	return out, nil
}

// GetSchemaList returns the newest version of each type, without descriptors: a
// page of them could be more than a message may be.
func (s *Server) GetSchemaList(ctx context.Context, in *posthornv1.GetSchemaListRequest) (*posthornv1.GetSchemaListResponse, error) {
	records, next, err := s.keeper.List(ctx, in.GetPrefix(), int(in.GetLimit()), in.GetCursor())
	if err != nil {
		return nil, wire.Status(err)
	}
	out := &posthornv1.GetSchemaListResponse{NextCursor: next}
	for _, rec := range records {
		rec.DescriptorSet = nil
		out.Items = append(out.Items, message(rec))
	}
	return out, nil
}

// StoreSchema adds a version, numbered automatically, if it is compatible with
// the newest.
func (s *Server) StoreSchema(ctx context.Context, in *posthornv1.StoreSchemaRequest) (*posthornv1.StoreSchemaResponse, error) {
	u := schema.Upload{
		Type: in.GetType(), Definition: []byte(in.GetDefinition()), Message: in.GetMessage(),
		DescriptorSet: in.GetDescriptorSet(), By: s.cfg.Caller(ctx),
	}
	switch in.GetKind() {
	case posthornv1.Schema_KIND_UNSPECIFIED, posthornv1.Schema_JSON_SCHEMA:
		u.Kind = schema.KindJSON
	case posthornv1.Schema_PROTOBUF:
		u.Kind = schema.KindProto
	default:
		return nil, wire.Status(errs.Field("kind", "%d is not a kind of schema that is known; JSON_SCHEMA and PROTOBUF are", in.GetKind()))
	}
	res, err := s.keeper.Store(ctx, u, in.GetDryRun())
	if err != nil {
		return nil, wire.Status(err)
	}
	out := &posthornv1.StoreSchemaResponse{Schema: message(res.Schema), Created: res.Created}
	for _, c := range res.Changes {
		out.Changes = append(out.Changes, c.Text)
	}
	if out.GetCreated() && !in.GetDryRun() {
		s.cfg.Stored(ctx, out.GetSchema(), out.GetChanges())
	}
	return out, nil
}

// ValidateEventForSchema says what is wrong with an event's data.
func (s *Server) ValidateEventForSchema(_ context.Context, in *posthornv1.ValidateEventForSchemaRequest) (*posthornv1.ValidateEventForSchemaResponse, error) {
	switch {
	case in.GetType() == "":
		return nil, wire.Status(errs.Field("type", "is required"))
	case in.GetVersion() < 0:
		return nil, wire.Status(errs.Field("version", "is negative"))
	case !s.validator.Ready():
		return nil, wire.Status(errs.New(errs.Unavailable, "the schemas are still being read; try again"))
	}
	used, found := s.validator.ValidateContent(in.GetType(), int(in.GetVersion()), in.GetDataContentType(), in.GetData())
	if used == 0 && in.GetVersion() > 0 {
		return nil, wire.Status(errs.New(errs.NotFound, "the schema of %s has no version %d", in.GetType(), in.GetVersion()))
	}
	out := &posthornv1.ValidateEventForSchemaResponse{Valid: len(found) == 0, Version: number(used)}
	for _, v := range found {
		out.Violations = append(out.Violations, &posthornv1.Violation{Field: v.Field, Description: v.Description})
	}
	return out, nil
}

func message(r schema.Record) *posthornv1.Schema {
	return &posthornv1.Schema{
		Type: r.Type, Version: number(r.Version), Kind: posthornv1.Schema_Kind(posthornv1.Schema_Kind_value[r.Kind]),
		Definition: r.Definition, CreatedAt: wire.Timestamp(r.CreatedAt), CreatedBy: r.CreatedBy,
		Message: r.Message, DescriptorSet: r.DescriptorSet, Origin: r.Origin,
	}
}

// number returns a version as it is on the wire.
func number(n int) int32 { return int32(min(n, math.MaxInt32)) }
