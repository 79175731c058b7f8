package api

import (
	"context"
	"encoding/json"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/posthornhq/posthorn/pkg/audit"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/subscription"
	"github.com/posthornhq/posthorn/pkg/wire"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// document is a stored resource for the record of its changes. Secrets are not in
// what is stored, but for headers that an earlier version stored in clear.
func document(m proto.Message) json.RawMessage {
	if s, ok := m.(*posthornv1.Subscription); ok {
		s = proto.CloneOf(s)
		subscription.ClearSecrets(s)
		m = s
	}
	doc, err := protojson.Marshal(m)
	if err != nil {
		return nil // what is stored has been encoded before
	}
	return doc
}

// versions returns what a resource was, newest first.
func (r *resource[T]) versions(ctx context.Context, name string) ([]version[T], error) {
	entries, err := r.values.History(ctx, name)
	if err != nil {
		return nil, err
	}
	var out []version[T]
	for _, e := range entries {
		if !e.Deleted {
			out = append(out, version[T]{value: e.Value, revision: e.Revision})
		}
	}
	if len(out) == 0 {
		return nil, r.notFound(name)
	}
	return out, nil
}

// revert makes an old version the newest. Secrets are not kept by version: those
// that are stored now are used, as far as they belong to what comes back.
func (r *resource[T]) revert(ctx context.Context, name, etag string) (T, error) {
	var none T
	if etag == "" {
		return none, errs.Field("version", "is required; the list of versions has their etags")
	}
	all, err := r.versions(ctx, name)
	if err != nil {
		return none, err
	}
	for _, v := range all {
		if etagOf(v.revision) == etag {
			return r.replace(ctx, v.value)
		}
	}
	return none, errs.New(errs.NotFound, "%s %q has no version %q (any more); the last 16 are kept", r.noun, name, etag)
}

func (s policyServer) ListPolicyVersions(ctx context.Context, req *posthornv1.ListPolicyVersionsRequest) (*posthornv1.ListPolicyVersionsResponse, error) {
	all, err := s.r.versions(ctx, req.GetName())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	out := &posthornv1.ListPolicyVersionsResponse{}
	for _, v := range all {
		out.Items = append(out.Items, s.r.show(v))
	}
	return out, nil
}

func (s policyServer) RevertPolicy(ctx context.Context, req *posthornv1.RevertPolicyRequest) (*posthornv1.Policy, error) {
	out, err := s.r.revert(ctx, req.GetName(), req.GetVersion())
	return out, s.status(ctx, err)
}

// Changes is the record of who changed what.
type Changes interface {
	// List returns a page, newest first, and the cursor of the next.
	List(ctx context.Context, q audit.Query) ([]audit.Change, string, error)
}

type auditServer struct {
	posthornv1.UnimplementedAuditServiceServer
	edge
	changes Changes
}

func (s auditServer) ListChanges(ctx context.Context, req *posthornv1.ListChangesRequest) (*posthornv1.ListChangesResponse, error) {
	q := audit.Query{Kind: req.GetKind(), Name: req.GetName(), Who: req.GetWho(), Before: req.GetCursor()}
	var err error
	if q.Limit, err = pageLimit(req.GetLimit()); err != nil {
		return nil, s.status(ctx, err)
	}
	if q.From, q.To, err = between(req.GetFrom(), req.GetTo()); err != nil {
		return nil, s.status(ctx, err)
	}
	found, next, err := s.changes.List(ctx, q)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	out := &posthornv1.ListChangesResponse{NextCursor: next}
	for i := range found {
		c := &found[i]
		out.Items = append(out.Items, &posthornv1.Change{
			Id: c.ID, At: wire.Timestamp(c.At), Who: c.Who, Kind: c.Kind, Name: c.Name, Action: c.Action, Fields: c.Fields,
			Before: string(c.Before), After: string(c.After),
		})
	}
	return out, nil
}
