package api

import (
	"context"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/posthornhq/posthorn/pkg/audit"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/identity"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// Kinds of what is in bucket identity, for the record of changes.
const (
	kindUsers       = "users"
	kindKeys        = "keys"
	kindSigningKeys = "signing-keys"
)

// accounts is what the three servers of identities share.
type accounts struct {
	edge
	dir *identity.Directory
	api *API
}

// record writes a change down. It is made; that it could not be recorded does not
// undo it.
func (s accounts) record(ctx context.Context, kind, name, action string, before, after proto.Message) {
	c := audit.Change{Kind: kind, Name: name, Action: action, Who: caller(ctx), At: time.Now()}
	if before != nil {
		c.Before = document(before)
	}
	if after != nil {
		c.After = document(after)
	}
	if after != nil {
		c.Fields = changedFields(before, after)
	}
	if err := s.api.deps.Audit.Record(ctx, c); err != nil {
		s.log.ErrorContext(ctx, "a change could not be recorded", "kind", kind, "name", name, "action", action, "who", c.Who, "err", err)
	}
}

// expected returns the revision that If-Match names, 0 for any.
func expected(ctx context.Context) (uint64, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	want := strings.TrimSpace(strings.Join(md.Get(metaIfMatch), ","))
	if want == "" || want == "*" {
		return 0, nil
	}
	n, err := strconv.ParseUint(strings.Trim(strings.TrimPrefix(want, "W/"), `"`), 10, 64)
	if err != nil || n == 0 {
		return 0, errs.New(errs.Stale, "If-Match %s is no etag of this resource; read it again and repeat the edit", want)
	}
	return n, nil
}

func sendETagOf(ctx context.Context, m *posthornv1.Meta) {
	if n, err := strconv.ParseUint(m.GetEtag(), 10, 64); err == nil {
		sendETag(ctx, n)
	}
}

func me(ctx context.Context) identity.Identity {
	id, _ := IdentityOf(ctx)
	return id
}

type accountServer struct {
	posthornv1.UnimplementedAccountServiceServer
	accounts
}

func (s accountServer) WhoAmI(ctx context.Context, _ *posthornv1.WhoAmIRequest) (*posthornv1.WhoAmIResponse, error) {
	id, ok := IdentityOf(ctx)
	if !ok {
		return nil, s.status(ctx, errs.New(errs.Unauthenticated, "nobody was asked for: %s", howToAuthenticate))
	}
	return &posthornv1.WhoAmIResponse{Name: id.Name, Roles: id.Roles}, nil
}

func (s accountServer) SignIn(ctx context.Context, req *posthornv1.SignInRequest) (*posthornv1.SignInResponse, error) {
	session, err := s.dir.SignIn(ctx, req.GetName(), req.GetPassword())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return &posthornv1.SignInResponse{Token: session.Token, ExpiresAt: timestamppb.New(session.Expires), Roles: session.Roles}, nil
}

func (s accountServer) GetSigningKeys(ctx context.Context, _ *posthornv1.GetSigningKeysRequest) (*posthornv1.GetSigningKeysResponse, error) {
	keys, err := s.dir.JWKS(ctx)
	return &posthornv1.GetSigningKeysResponse{Keys: keys}, s.status(ctx, err)
}

func (s accountServer) RotateSigningKey(ctx context.Context, _ *posthornv1.RotateSigningKeyRequest) (*posthornv1.GetSigningKeysResponse, error) {
	if err := s.dir.RotateSigningKey(ctx); err != nil {
		return nil, s.status(ctx, err)
	}
	s.record(ctx, kindSigningKeys, "current", audit.Rotated, nil, nil)
	return s.GetSigningKeys(ctx, nil)
}

type userServer struct {
	posthornv1.UnimplementedUserServiceServer
	accounts
}

func (s userServer) ListUsers(ctx context.Context, req *posthornv1.ListUsersRequest) (*posthornv1.ListUsersResponse, error) {
	all, err := s.dir.ListUsers(ctx)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	items, next, err := pageOf(req, all)
	return &posthornv1.ListUsersResponse{Items: items, NextCursor: next}, s.status(ctx, err)
}

func (s userServer) GetUser(ctx context.Context, req *posthornv1.GetUserRequest) (*posthornv1.User, error) {
	out, err := s.dir.GetUser(ctx, req.GetName())
	sendETagOf(ctx, out.GetMeta())
	return out, s.status(ctx, err)
}

func (s userServer) CreateUser(ctx context.Context, req *posthornv1.CreateUserRequest) (*posthornv1.User, error) {
	out, err := s.dir.CreateUser(ctx, req.GetUser(), me(ctx))
	if err != nil {
		return nil, s.status(ctx, err)
	}
	s.record(ctx, kindUsers, out.GetName(), audit.Created, nil, out)
	sendETagOf(ctx, out.GetMeta())
	return out, nil
}

func (s userServer) PutUser(ctx context.Context, req *posthornv1.PutUserRequest) (*posthornv1.User, error) {
	revision, err := expected(ctx)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	// For the record only; what is replaced is decided by the directory.
	before, err := s.dir.GetUser(ctx, req.GetUser().GetName())
	if err != nil && errs.KindOf(err) != errs.NotFound {
		return nil, s.status(ctx, err)
	}
	out, err := s.putUser(ctx, req.GetUser(), before, revision)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	if before == nil {
		s.record(ctx, kindUsers, out.GetName(), audit.Created, nil, out)
	} else {
		s.record(ctx, kindUsers, out.GetName(), audit.Updated, before, out)
	}
	sendETagOf(ctx, out.GetMeta())
	return out, nil
}

func (s userServer) putUser(ctx context.Context, u, before *posthornv1.User, revision uint64) (*posthornv1.User, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if len(md.Get(metaIfNoneMatch)) == 0 {
		return s.dir.PutUser(ctx, u, revision, me(ctx))
	}
	if before != nil {
		at, _ := strconv.ParseUint(before.GetMeta().GetEtag(), 10, 64) // it is a revision
		if err := checkNoneMatch(ctx, true, at); err != nil {
			return nil, err
		}
		return s.dir.PutUser(ctx, u, at, me(ctx))
	}
	return s.dir.CreateUser(ctx, u, me(ctx))
}

func (s userServer) DeleteUser(ctx context.Context, req *posthornv1.DeleteUserRequest) (*emptypb.Empty, error) {
	revision, err := expected(ctx)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	before, err := s.dir.GetUser(ctx, req.GetName()) // for the record only
	if err == nil {
		err = s.dir.DeleteUser(ctx, req.GetName(), revision, me(ctx))
	}
	if err != nil {
		return nil, s.status(ctx, err)
	}
	s.record(ctx, kindUsers, req.GetName(), audit.Deleted, before, nil)
	return &emptypb.Empty{}, nil
}

type keyServer struct {
	posthornv1.UnimplementedKeyServiceServer
	accounts
}

func (s keyServer) ListKeys(ctx context.Context, req *posthornv1.ListKeysRequest) (*posthornv1.ListKeysResponse, error) {
	all, err := s.dir.ListKeys(ctx)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	items, next, err := pageOf(req, all)
	return &posthornv1.ListKeysResponse{Items: items, NextCursor: next}, s.status(ctx, err)
}

func (s keyServer) GetKey(ctx context.Context, req *posthornv1.GetKeyRequest) (*posthornv1.ApiKey, error) {
	out, err := s.dir.GetKey(ctx, req.GetName())
	sendETagOf(ctx, out.GetMeta())
	return out, s.status(ctx, err)
}

func (s keyServer) CreateKey(ctx context.Context, req *posthornv1.CreateKeyRequest) (*posthornv1.ApiKey, error) {
	out, err := s.dir.CreateKey(ctx, req.GetKey(), me(ctx))
	if err != nil {
		return nil, s.status(ctx, err)
	}
	shown := proto.CloneOf(out)
	shown.Key = nil
	s.record(ctx, kindKeys, out.GetName(), audit.Created, nil, shown)
	sendETagOf(ctx, out.GetMeta())
	return out, nil
}

func (s keyServer) DeleteKey(ctx context.Context, req *posthornv1.DeleteKeyRequest) (*emptypb.Empty, error) {
	revision, err := expected(ctx)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	before, err := s.dir.GetKey(ctx, req.GetName()) // for the record only
	if err == nil {
		err = s.dir.DeleteKey(ctx, req.GetName(), revision, me(ctx))
	}
	if err != nil {
		return nil, s.status(ctx, err)
	}
	s.record(ctx, kindKeys, req.GetName(), audit.Deleted, before, nil)
	return &emptypb.Empty{}, nil
}
