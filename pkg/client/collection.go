package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// A Resource is a named thing that the platform is configured with: a
// *posthornv1.Source, Subscription, Policy, Authorization, BackoffOverride or User.
type Resource interface {
	proto.Message
	GetName() string
	GetMeta() *posthornv1.Meta
}

// A Change is what [Collection.Ensure] did.
type Change string

const (
	Created    Change = "created"
	Configured Change = "configured"
	Unchanged  Change = "unchanged"
)

// ListOptions narrows a list. The zero value lists everything.
type ListOptions struct {
	// OrderBy is "created desc" (the default), "created asc", "name asc" or "name desc".
	OrderBy string
	// Search is part of the name, in any case.
	Search string
}

var errNoName = errors.New("client: a resource without a name")

// A Collection holds the resources of one kind.
type Collection[T Resource] struct {
	c    *Client
	path string
	make func() T
}

func newCollection[T Resource](c *Client, name string, empty func() T) *Collection[T] {
	return &Collection[T]{c: c, path: "/api/v1/" + name, make: empty}
}

// List yields the resources, fetching page after page. It ends with an error
// where a page cannot be had.
func (r *Collection[T]) List(ctx context.Context, opts ListOptions) iter.Seq2[T, error] {
	query := url.Values{}
	setIf(query, "orderBy", opts.OrderBy)
	setIf(query, "search", opts.Search)
	return pages(ctx, r.c, r.path, query, parser(r.make))
}

// Get returns the resource with the name; see [IsNotFound]. Its meta has the
// etag that Put compares.
func (r *Collection[T]) Get(ctx context.Context, name string) (T, error) {
	if name == "" {
		var none T
		return none, errNoName // the empty name would be the whole collection
	}
	return r.send(ctx, call{method: http.MethodGet, path: r.path + "/" + url.PathEscape(name), repeat: always})
}

// Create adds a resource and returns it as it was stored, with its secret if one
// was made for it. A taken name is an [*Error] of status 409.
func (r *Collection[T]) Create(ctx context.Context, v T) (T, error) {
	return r.write(ctx, v, call{method: http.MethodPost, path: r.path})
}

// Put creates the resource or replaces it. If v has an etag in its meta, only
// the version with that etag is replaced; another one is an [*Error] of status 412.
func (r *Collection[T]) Put(ctx context.Context, v T) (T, error) {
	if v.GetName() == "" {
		var none T
		return none, errNoName
	}
	in := call{method: http.MethodPut, path: r.path + "/" + url.PathEscape(v.GetName()), etag: v.GetMeta().GetEtag(), repeat: always}
	if in.etag != "" {
		in.repeat = refused // a repeat of one that was done would find its own etag changed
	}
	return r.write(ctx, v, in)
}

// Delete removes the resource with the name.
func (r *Collection[T]) Delete(ctx context.Context, name string) error {
	if name == "" {
		return errNoName
	}
	ans, err := r.c.do(ctx, call{method: http.MethodDelete, path: r.path + "/" + url.PathEscape(name), repeat: always})
	if IsNotFound(err) && ans.tries > 1 {
		return nil // it was the try before, whose answer got lost
	}
	return err
}

// Ensure brings the resource with v's name to what v says and returns it as it
// is then. What the platform sets itself is not compared, and a field that v
// leaves empty means its default. Nothing is written if nothing differs; secrets
// cannot be read back, so a v with secrets is always written.
func (r *Collection[T]) Ensure(ctx context.Context, v T) (T, Change, error) {
	var none T
	if v.GetName() == "" {
		return none, "", errNoName
	}
	// Somebody else may create or change it between our read and our write; then
	// we look again, as often as is plausible.
	for n := 0; ; n++ {
		got, change, err := r.ensureOnce(ctx, v)
		if err == nil {
			return got, change, nil
		}
		if n == 2 || !hasStatus(err, http.StatusConflict, http.StatusPreconditionFailed) {
			return none, "", err
		}
	}
}

func (r *Collection[T]) ensureOnce(ctx context.Context, v T) (T, Change, error) {
	have, err := r.Get(ctx, v.GetName())
	if IsNotFound(err) {
		got, err := r.Create(ctx, v)
		return got, Created, err
	}
	if err != nil {
		return have, "", err
	}
	if !hasSecrets(v) && proto.Equal(canonical(have), canonical(v)) {
		return have, Unchanged, nil
	}
	want := settable(v)
	setMeta(want, &posthornv1.Meta{Etag: have.GetMeta().GetEtag()})
	got, err := r.Put(ctx, want.(T))
	if err != nil {
		return got, "", err
	}
	if etag := got.GetMeta().GetEtag(); etag != "" && etag == have.GetMeta().GetEtag() {
		return got, Unchanged, nil
	}
	return got, Configured, nil
}

// EnsureSubscriptions brings the subscriptions to what subs say, in order, and
// returns them as they are then. It is meant to be called whenever a receiver
// starts: only what differs is written. One that had to be created has in its
// secrets what its deliveries are signed with; the platform does not show it again.
func (c *Client) EnsureSubscriptions(ctx context.Context, subs ...*posthornv1.Subscription) ([]*posthornv1.Subscription, error) {
	ensured := make([]*posthornv1.Subscription, 0, len(subs))
	for _, s := range subs {
		got, _, err := c.Subscriptions.Ensure(ctx, s)
		if err != nil {
			return ensured, fmt.Errorf("client: subscription %s: %w", s.GetName(), err)
		}
		ensured = append(ensured, got)
	}
	return ensured, nil
}

func (r *Collection[T]) write(ctx context.Context, v T, in call) (T, error) {
	body, err := protojson.Marshal(settable(v))
	if err != nil {
		var none T
		return none, fmt.Errorf("client: %s %s: %w", in.method, in.path, err)
	}
	in.body = body
	return r.send(ctx, in)
}

func (r *Collection[T]) send(ctx context.Context, in call) (T, error) {
	out := r.make()
	err := r.c.into(ctx, in, out)
	if err != nil {
		var none T
		return none, err
	}
	return out, nil
}

// into makes the call and decodes its answer.
func (c *Client) into(ctx context.Context, in call, out proto.Message) error {
	ans, err := c.do(ctx, in)
	if err != nil {
		return err
	}
	if err := decode.Unmarshal(ans.body, out); err != nil {
		return fmt.Errorf("client: answer of %s %s: %w", in.method, in.path, err)
	}
	return nil
}

// decode lets a newer platform answer with fields that this client does not know.
var decode = protojson.UnmarshalOptions{DiscardUnknown: true}
