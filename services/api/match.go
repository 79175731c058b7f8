package api

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/posthornhq/posthorn/pkg/errs"
)

// Metadata, which over REST are the headers of these names.
const (
	metaIfMatch     = "if-match"
	metaIfNoneMatch = "if-none-match"
	metaETag        = "etag"
)

// etagOf returns the entity tag of a revision, without the quotes of HTTP.
func etagOf(revision uint64) string { return strconv.FormatUint(revision, 10) }

// sendETag puts the quoted tag into the answer's header. Outside of a call,
// where the platform edits for itself, there is none.
func sendETag(ctx context.Context, revision uint64) {
	if grpc.ServerTransportStreamFromContext(ctx) == nil {
		return
	}
	// It fails only if the header has been sent, which unary calls do at the end.
	_ = grpc.SetHeader(ctx, metadata.Pairs(metaETag, `"`+etagOf(revision)+`"`))
}

// checkMatch holds a request's If-Match against what is there (RFC 9110, 13.1.1).
// It is a list of tags, "*" for whatever there is, or missing. Tags may come
// without quotes, and weakened, as proxies that compress make them: ours name
// one revision all the same.
func checkMatch(ctx context.Context, exists bool, revision uint64) error {
	md, _ := metadata.FromIncomingContext(ctx)
	want := strings.TrimSpace(strings.Join(md.Get(metaIfMatch), ","))
	if want == "" {
		return nil
	}
	if !exists {
		return errs.New(errs.Stale, "it does not exist, so If-Match %s cannot be", want)
	}
	if want == "*" {
		return nil
	}
	for tag := range strings.SplitSeq(want, ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
		if strings.Trim(tag, `"`) == etagOf(revision) {
			return nil
		}
	}
	return errs.New(errs.Stale, `it was changed by somebody else: its etag is "%d", If-Match says %s; read it again and repeat the edit`, revision, want)
}

// checkNoneMatch holds a request's If-None-Match against what is there (RFC 9110,
// 13.1.2): with "*" a PUT makes what is not there, and replaces nothing.
func checkNoneMatch(ctx context.Context, exists bool, revision uint64) error {
	md, _ := metadata.FromIncomingContext(ctx)
	not := strings.TrimSpace(strings.Join(md.Get(metaIfNoneMatch), ","))
	if not == "" || !exists {
		return nil
	}
	if not == "*" {
		return errs.New(errs.Stale, "it exists, and If-None-Match: * makes what does not; leave that out to replace it")
	}
	for tag := range strings.SplitSeq(not, ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
		if strings.Trim(tag, `"`) == etagOf(revision) {
			return errs.New(errs.Stale, `its etag is "%d", which If-None-Match excludes`, revision)
		}
	}
	return nil
}

// lastRevision returns the newest revision of a bucket: that of a deletion is
// not told to who deletes.
func lastRevision(ctx context.Context, kv jetstream.KeyValue) (uint64, error) {
	status, err := kv.Status(ctx)
	if err != nil {
		return 0, fmt.Errorf("api: status of %s: %w", kv.Bucket(), err)
	}
	s, ok := status.(*jetstream.KeyValueBucketStatus)
	if !ok {
		return 0, fmt.Errorf("api: status of %s is a %T", kv.Bucket(), status)
	}
	return s.StreamInfo().State.LastSeq, nil
}

// changedFields returns the paths of the fields that differ, sorted. before may
// be nil. Lists and maps are one field; what the platform sets is not looked at.
func changedFields(before, after proto.Message) []string {
	var paths []string
	var old protoreflect.Message
	if before != nil {
		old = before.ProtoReflect()
	} else {
		old = after.ProtoReflect().Type().Zero()
	}
	diffFields("", old, after.ProtoReflect(), &paths)
	slices.Sort(paths)
	return paths
}

func diffFields(prefix string, a, b protoreflect.Message, paths *[]string) {
	fields := b.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if prefix == "" && (f.Name() == "meta" || f.Name() == "secret_count" || f.Name() == "credential_count") || a.Has(f) == b.Has(f) && (!b.Has(f) || a.Get(f).Equal(b.Get(f))) {
			continue
		}
		path := prefix + f.JSONName()
		// What is neither a message of ours nor in both is one change.
		if f.Message() == nil || f.IsList() || f.IsMap() || f.Message().ParentFile().Package() == "google.protobuf" {
			*paths = append(*paths, path)
			continue
		}
		diffFields(path+".", a.Get(f).Message(), b.Get(f).Message(), paths)
	}
}
