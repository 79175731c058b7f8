package schema

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/pkg/bucket"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/pattern"
	"github.com/posthornhq/posthorn/pkg/rawjson"
)

// Config holds what may be tuned. The zero value is usable.
type Config struct {
	// PageSize is how many schemas [Registry.List] returns when asked for no
	// number. Default 100; at most 1,000 are returned.
	PageSize int
	// Foreign knows the schemas of other registries. Default: there are none.
	Foreign Elsewhere
}

// Elsewhere knows the schemas of types that other registries keep. It is
// satisfied by [*Foreign].
type Elsewhere interface {
	// Lookup returns a version of a type's schema, 0 for the newest, nil if the
	// type is not foreign or has no such schema.
	Lookup(typ string, version int) (*Schema, error)
	// Get returns a version and the numbers of all there are. The error is of
	// kind [errs.NotFound] if the type is not foreign or has none.
	Get(ctx context.Context, typ string, version int) (Record, []int, error)
}

const (
	defaultPage = 100
	maxPage     = 1_000
)

// stores is how often one Store tries again because somebody else stored first,
// and pause is what it waits before another try at most.
const (
	stores = 50
	pause  = 20 * time.Millisecond
)

// A Registry keeps the versions of all schemas. It is safe for concurrent use,
// by any number of processes on one bucket.
type Registry struct {
	kv      jetstream.KeyValue
	records *bucket.Bucket[Record]
	commit  func(context.Context) error
	log     *slog.Logger
	cfg     Config
	mirror  *mirror
}

// NewRegistry returns the registry whose state is in kv. What is stored is
// answered when commit has returned, which may be nil.
func NewRegistry(kv jetstream.KeyValue, commit func(context.Context) error, log *slog.Logger, cfg Config) (*Registry, error) {
	if kv == nil || log == nil {
		return nil, errors.New("schema: a registry needs a bucket and a log")
	}
	if cfg.PageSize < 0 || cfg.PageSize > maxPage {
		return nil, fmt.Errorf("schema: page size %d is not between 0 and %d", cfg.PageSize, maxPage)
	}
	if cfg.PageSize == 0 {
		cfg.PageSize = defaultPage
	}
	if commit == nil {
		commit = func(context.Context) error { return nil }
	}
	return &Registry{
		kv: kv, records: bucket.New(kv, "", codec()), commit: commit,
		log: log, cfg: cfg, mirror: newMirror(),
	}, nil
}

// Run keeps the copy in memory until ctx is done. It returns an error only if
// it cannot go on.
func (r *Registry) Run(ctx context.Context) error {
	r.mirror.load()
	changed := func(e bucket.Entry[Record]) {
		switch {
		case e.Deleted:
			r.mirror.remove(e.Key)
		case key(e.Value.Type, e.Value.Version) != e.Key:
			r.log.Error("a schema is not what its key says and is left out", "key", e.Key, "type", e.Value.Type, "version", e.Value.Version)
		default:
			r.mirror.put(e.Value)
		}
	}
	bad := func(key string, err error) {
		r.log.Error("a stored schema cannot be read and is left out", "key", key, "err", err)
	}
	if err := r.records.Watch(ctx, changed, r.mirror.loaded, bad); err != nil {
		return fmt.Errorf("schema: %w", err)
	}
	return nil
}

// Result is what [Registry.Store] did.
type Result struct {
	// Schema is the new version, or the newest if that was the same already. In
	// a dry run it is what the new version would be.
	Schema Record
	// Created is false if the newest version was the same already.
	Created bool
	// Changes are the differences to the version before; none for the first.
	Changes []Change
}

// An Upload is a schema as somebody sends it.
type Upload struct {
	Type string
	// Kind is KindJSON, the default, or KindProto.
	Kind string
	// Definition is the text of a JSON Schema or of a proto3 file.
	Definition []byte
	// Message is the full name of the message meant. Of KindProto; may be empty if
	// there is one at the top level.
	Message string
	// DescriptorSet is a google.protobuf.FileDescriptorSet instead of a definition.
	// Of KindProto.
	DescriptorSet []byte
	// By is who sends it, empty if not known.
	By string
}

// compile returns what an upload would be stored as, without number and date.
func (u *Upload) compile(ctx context.Context) (Record, error) {
	text := []byte(strings.Trim(string(u.Definition), " \t\r\n"))
	rec := Record{Type: u.Type, Kind: u.Kind, Definition: string(text), CreatedBy: u.By}
	switch u.Kind {
	case "", KindJSON:
		rec.Kind = KindJSON
		switch {
		case u.Message != "":
			return Record{}, errs.Field(messageField, "is of schemas of kind %s alone", KindProto)
		case len(u.DescriptorSet) > 0:
			return Record{}, errs.Field(setField, "is of schemas of kind %s alone", KindProto)
		}
		_, err := Compile(u.Type, 0, u.Definition)
		return rec, err
	case KindProto:
	default:
		return Record{}, errs.Field("kind", "%q is not a kind of schema that is known; %s and %s are", cut(u.Kind, 40), KindJSON, KindProto)
	}
	var s *Schema
	var err error
	switch {
	case len(text) > 0 && len(u.DescriptorSet) > 0:
		return Record{}, errs.Field(setField, "cannot stand beside a definition: send one of the two")
	case len(u.DescriptorSet) > 0:
		s, err = CompileProto(u.Type, 0, u.DescriptorSet, u.Message)
	case len(text) > 0:
		s, err = CompileProtoText(ctx, u.Type, 0, u.Definition, u.Message)
	default:
		return Record{}, errs.Field(field, "is required: the text of a proto3 file, or else descriptorSet")
	}
	if err != nil {
		return Record{}, err
	}
	rec.Message, rec.DescriptorSet = s.Message(), s.DescriptorSet()
	return rec, nil
}

// Store adds a version of a type's schema, numbered automatically, if it is
// compatible with the newest. If the newest has the same meaning already, as
// JSON or as descriptors, nothing is stored. With dryRun nothing is stored in
// any case.
//
// Errors are of kind [errs.Invalid] and [errs.TooLarge] for a schema that cannot
// be used, and [errs.Conflict] for one that is not compatible or of another kind
// than the newest, with the reasons as violations whose fields are what
// [Change.Pointer] is.
func (r *Registry) Store(ctx context.Context, u Upload, dryRun bool) (Result, error) {
	var err error
	if u.Type, err = pattern.ParseType(u.Type); err != nil {
		return Result{}, errs.Field("type", "%v", err)
	}
	want, err := u.compile(ctx)
	if err != nil {
		return Result{}, err
	}
	for range stores {
		res, taken, err := r.store(ctx, want, dryRun)
		if err != nil {
			return Result{}, err
		}
		if !taken {
			return r.settle(ctx, res, dryRun)
		}
		// Somebody else stored this number; look again at what is newest now.
		if err := wait(ctx, pause); err != nil {
			return Result{}, err
		}
	}
	return Result{}, errs.New(errs.Unavailable, "too many others are storing schemas of %s; try again", u.Type)
}

// settle makes sure of what was stored, or was there already: whoever stored
// that may have died before it was safe.
func (r *Registry) settle(ctx context.Context, res Result, dryRun bool) (Result, error) {
	if dryRun {
		return res, nil
	}
	if err := r.commit(ctx); err != nil {
		return Result{}, fmt.Errorf("schema: store version %d of %s: %w", res.Schema.Version, res.Schema.Type, err)
	}
	// So that who has stored can publish at once.
	r.mirror.put(res.Schema)
	return res, nil
}

// store tries once. It reports whether the number was taken in the meantime.
func (r *Registry) store(ctx context.Context, want Record, dryRun bool) (res Result, taken bool, err error) {
	numbers, err := r.Versions(ctx, want.Type)
	if err != nil {
		return Result{}, false, err
	}
	want.Version = 1
	if n := len(numbers); n > 0 {
		newest, err := r.records.Get(ctx, key(want.Type, numbers[n-1]))
		if err != nil {
			return Result{}, false, fmt.Errorf("schema: newest of %s: %w", want.Type, err)
		}
		same, changes, err := compareRecords(newest.Value, want)
		if err != nil {
			return Result{}, false, err
		}
		if same {
			return Result{Schema: newest.Value}, false, nil
		}
		if err := conflict(newest.Value, changes); err != nil {
			return Result{}, false, err
		}
		res.Changes = changes
		want.Version = newest.Value.Version + 1
	}
	// Milliseconds are what people and protobuf's JSON read well.
	want.CreatedAt = time.Now().UTC().Truncate(time.Millisecond)
	res.Schema, res.Created = want, true
	if dryRun {
		return res, false, nil
	}
	_, err = r.records.Create(ctx, key(want.Type, want.Version), want)
	switch {
	case err == nil:
		return res, false, nil
	case errs.KindOf(err) == errs.Conflict:
		return Result{}, true, nil
	case errors.Is(err, nats.ErrMaxPayload):
		return Result{}, false, errs.Wrap(err, errs.TooLarge, "the schema's definition is larger than the NATS server takes (max_payload)")
	}
	return Result{}, false, fmt.Errorf("schema: store version %d of %s: %w", want.Version, want.Type, err)
}

func compareRecords(newest, want Record) (same bool, changes []Change, err error) {
	if newest.Kind != want.Kind {
		text := fmt.Sprintf("the kind changed from %s to %s", newest.Kind, want.Kind)
		return false, []Change{{Breaking: true, Pointer: "kind", Text: text}}, nil
	}
	if want.Kind == KindProto {
		return compareProtoRecords(newest, want)
	}
	old, err := rawjson.Decode([]byte(newest.Definition))
	if err != nil {
		return false, nil, fmt.Errorf("schema: version %d of %s: %w", newest.Version, newest.Type, err)
	}
	next, err := rawjson.Decode([]byte(want.Definition))
	if err != nil {
		return false, nil, errs.Field(field, "is not JSON: %v", err)
	}
	if equal(old, next) {
		return true, nil, nil
	}
	return false, compatible(old, next), nil
}

// conflict returns the error for changes of which some are breaking.
func conflict(newest Record, changes []Change) error {
	const most = 5 // in the message; the violations have more
	var reasons []string
	var found []event.Violation
	for _, c := range changes {
		if !c.Breaking {
			continue
		}
		reasons = append(reasons, c.Text)
		if len(found) < MaxViolations {
			found = append(found, event.Violation{Field: c.Pointer, Description: c.Text})
		}
	}
	if len(reasons) == 0 {
		return nil
	}
	more := ""
	if len(reasons) > most {
		more = fmt.Sprintf(" and %d more", len(reasons)-most)
		reasons = reasons[:most]
	}
	return errs.New(errs.Conflict, "the schema is not compatible with version %d of %s: %s%s; store it under a new type, whose subscribers expect it",
		newest.Version, newest.Type, strings.Join(reasons, "; "), more).Because("incompatible").With(found...)
}

// Get returns a version of a type's schema, 0 for the newest, and the numbers
// of all versions. The type may be written as an events:// URI. One that has none
// here is asked of [Config.Foreign]. The error is of kind [errs.NotFound] if there
// is none.
func (r *Registry) Get(ctx context.Context, typ string, version int) (Record, []int, error) {
	as, wrong := pattern.ParseType(typ)
	if wrong != nil {
		as = typ
		if err := pattern.ValidType(typ); err != nil {
			return Record{}, nil, errs.Field("type", "%v", wrong)
		}
	}
	numbers, err := r.Versions(ctx, as)
	if err != nil {
		return Record{}, nil, err
	}
	if as != typ && !slices.Contains(numbers, version) && (len(numbers) == 0 || version != 0) && pattern.ValidType(typ) == nil {
		// Stored when a type was left as it came.
		before, err := r.Versions(ctx, typ)
		if err != nil {
			return Record{}, nil, err
		}
		if version == 0 && len(before) > 0 || slices.Contains(before, version) {
			as, numbers = typ, before
		}
	}
	switch {
	case len(numbers) > 0:
	case wrong != nil:
		return Record{}, nil, errs.Field("type", "%v", wrong)
	case r.cfg.Foreign != nil:
		return r.cfg.Foreign.Get(ctx, typ, version) // which needs the port
	default:
		return Record{}, nil, errs.New(errs.NotFound, "there is no schema of %s", as)
	}
	typ = as
	if version == 0 {
		version = numbers[len(numbers)-1]
	}
	if !slices.Contains(numbers, version) {
		return Record{}, nil, errs.New(errs.NotFound, "the schema of %s has no version %d; the newest is %d", typ, version, numbers[len(numbers)-1])
	}
	e, err := r.records.Get(ctx, key(typ, version))
	if err != nil {
		return Record{}, nil, fmt.Errorf("schema: get version %d of %s: %w", version, typ, err)
	}
	return e.Value, numbers, nil
}

// Versions returns the numbers of a type's versions, rising; none if it has no
// schema.
func (r *Registry) Versions(ctx context.Context, typ string) ([]int, error) {
	// The last token only: "order.*" has no version of "order.created".
	l, err := r.kv.ListKeysFiltered(ctx, typeKey(typ)+".*")
	if err != nil {
		return nil, errs.Wrap(fmt.Errorf("schema: versions of %s: %w", typ, err), errs.Unavailable, "the schema store does not answer; try again later")
	}
	var out []int
	for k := range l.Keys() {
		// Keys without a version are not ours.
		if n, err := versionOf(k); err == nil {
			out = append(out, n)
		}
	}
	// The list ends early too when the caller goes away, and then it is none.
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("schema: versions of %s: %w", typ, err)
	}
	slices.Sort(out)
	return out, nil
}

// List returns the newest version of each type that begins with prefix, by
// type, in whatever form of an event URI the prefix is, and the cursor of the next page, empty on the last. A limit of 0 means
// [Config.PageSize].
func (r *Registry) List(ctx context.Context, prefix string, limit int, cursor string) ([]Record, string, error) {
	switch {
	case limit < 0:
		return nil, "", errs.Field("limit", "is negative")
	case limit == 0:
		limit = r.cfg.PageSize
	}
	limit = min(limit, maxPage)
	after, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil {
		return nil, "", errs.Field("cursor", "is not one that a list returned")
	}
	all, err := r.all(ctx)
	if err != nil {
		return nil, "", err
	}
	normal := pattern.NormalPrefix(prefix)
	all = slices.DeleteFunc(all, func(rec Record) bool {
		return !strings.HasPrefix(rec.Type, prefix) && !strings.HasPrefix(rec.Type, normal) || cursor != "" && rec.Type <= string(after)
	})
	slices.SortFunc(all, func(a, b Record) int { return strings.Compare(a.Type, b.Type) })
	if len(all) <= limit {
		return all, "", nil
	}
	all = all[:limit]
	return all, base64.RawURLEncoding.EncodeToString([]byte(all[limit-1].Type)), nil
}

// all returns the newest version of every type, from memory where it is kept.
func (r *Registry) all(ctx context.Context) ([]Record, error) {
	if r.Ready() {
		return r.mirror.newest(), nil
	}
	entries, err := r.records.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("schema: list: %w", err)
	}
	m := newMirror()
	m.load()
	for _, e := range entries {
		m.put(e.Value)
	}
	m.loaded()
	return m.newest(), nil
}

// wait returns after about d, or with an error when ctx is done before.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("schema: %w", context.Cause(ctx))
	}
}
