package api

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/posthornhq/posthorn/pkg/errs"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// Limits of a page.
const (
	DefaultLimit = 50
	MaxLimit     = 1000
)

// Orders of lists of resources.
const (
	newestFirst = "created desc"
	oldestFirst = "created asc"
	byName      = "name asc"
	byNameDown  = "name desc"
)

// pageLimit returns the number of items that a request wants.
func pageLimit(limit int32) (int, error) {
	if limit == 0 {
		return DefaultLimit, nil
	}
	if limit < 1 || limit > MaxLimit {
		return 0, errs.Field("limit", "is %d, must be 1 to %d", limit, MaxLimit)
	}
	return int(limit), nil
}

// A cursor is the place in a list after which the next page begins: that of
// the last item shown, so that what is added or deleted meanwhile neither
// repeats nor hides another item.
type cursor struct {
	Order   string `json:"o"`
	Search  string `json:"s,omitempty"`
	Created int64  `json:"c,omitempty"` // nanoseconds
	Name    string `json:"n"`
}

func (c cursor) String() string {
	b, err := json.Marshal(c)
	if err != nil {
		return "" // strings and a number always encode
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseCursor(s string) (c cursor, err error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return c, errs.Field("cursor", "is not one that a list has answered with")
	}
	return c, nil
}

// A listRequest is what the lists of all kinds take.
type listRequest interface {
	GetLimit() int32
	GetCursor() string
	GetOrderBy() string
	GetSearch() string
}

// A listed thing has a place in a list.
type listed interface {
	GetName() string
	GetMeta() *posthornv1.Meta
}

// list returns a page of resources and the cursor of the next one.
func (r *resource[T]) list(ctx context.Context, req listRequest) (items []T, next string, err error) {
	all, err := r.all(ctx)
	if err != nil {
		return nil, "", err
	}
	revisions := make(map[T]uint64, len(all))
	values := make([]T, len(all))
	for i, v := range all {
		values[i], revisions[v.value] = v.value, v.revision
	}
	page, next, err := pageOf(req, values)
	for _, v := range page {
		items = append(items, r.show(version[T]{value: v, revision: revisions[v]}))
	}
	return items, next, err
}

// pageOf returns the page of all that a request wants, and the cursor of the next.
func pageOf[T listed](req listRequest, all []T) (items []T, next string, err error) {
	limit, err := pageLimit(req.GetLimit())
	if err != nil {
		return nil, "", err
	}
	order := cmp.Or(strings.Join(strings.Fields(req.GetOrderBy()), " "), newestFirst)
	after, err := startOf(req, order)
	if err != nil {
		return nil, "", err
	}
	search := strings.ToLower(req.GetSearch())
	all = slices.DeleteFunc(all, func(v T) bool {
		return !strings.Contains(v.GetName(), search) || after != nil && compare(order, place(v), *after) <= 0
	})
	slices.SortFunc(all, func(a, b T) int { return compare(order, place(a), place(b)) })
	items = all[:min(limit, len(all))]
	if len(all) > limit {
		last := place(all[limit-1])
		last.Order, last.Search = order, req.GetSearch()
		next = last.String()
	}
	return items, next, nil
}

// startOf returns where the page begins, nil for the list's beginning.
func startOf(req listRequest, order string) (*cursor, error) {
	if !slices.Contains([]string{newestFirst, oldestFirst, byName, byNameDown}, order) {
		return nil, errs.Field("orderBy", "is %q, must be one of %q, %q, %q and %q", req.GetOrderBy(), newestFirst, oldestFirst, byName, byNameDown)
	}
	if req.GetCursor() == "" {
		return nil, nil
	}
	c, err := parseCursor(req.GetCursor())
	if err != nil {
		return nil, err
	}
	if c.Order != order || c.Search != req.GetSearch() {
		return nil, errs.Field("cursor", "is that of a list with another orderBy or search")
	}
	return &c, nil
}

func place[T listed](v T) cursor {
	c := cursor{Name: v.GetName()}
	if at := v.GetMeta().GetCreatedAt(); at != nil {
		c.Created = at.AsTime().UnixNano()
	}
	return c
}

// compare orders places. Names are unique, so no two are equal.
func compare(order string, a, b cursor) int {
	byCreation := cmp.Or(cmp.Compare(a.Created, b.Created), strings.Compare(a.Name, b.Name))
	switch order {
	case oldestFirst:
		return byCreation
	case byName:
		return strings.Compare(a.Name, b.Name)
	case byNameDown:
		return -strings.Compare(a.Name, b.Name)
	}
	return -byCreation
}

// timeRange checks a range of time, either end of which may be open.
func timeRange(from, to time.Time) error {
	if !from.IsZero() && !to.IsZero() && to.Before(from) {
		return errs.Field("to", "is before from")
	}
	return nil
}
