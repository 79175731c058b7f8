package bucket

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/stream"
)

// A Codec turns values into bytes that a person can read, and back.
type Codec[T any] struct {
	Encode func(T) ([]byte, error)
	Decode func([]byte) (T, error)
}

// JSON returns the codec of encoding/json.
func JSON[T any]() Codec[T] {
	return Codec[T]{
		Encode: func(v T) ([]byte, error) { return json.Marshal(v) },
		Decode: func(b []byte) (v T, err error) { err = json.Unmarshal(b, &v); return v, err },
	}
}

// Proto returns the codec of protobuf's JSON form. Fields that this version
// does not know are kept out rather than refused, so that a newer process may
// share the bucket.
func Proto[T proto.Message](fresh func() T) Codec[T] {
	return Codec[T]{
		Encode: func(v T) ([]byte, error) {
			b, err := protojson.Marshal(v)
			if err != nil {
				return nil, err
			}
			// protojson varies its white space on purpose; what is stored should not.
			var out bytes.Buffer
			err = json.Compact(&out, b)
			return out.Bytes(), err
		},
		Decode: func(b []byte) (T, error) {
			v := fresh()
			err := protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, v)
			return v, err
		},
	}
}

// Raw returns the codec of values that are bytes already.
func Raw() Codec[[]byte] {
	return Codec[[]byte]{
		Encode: func(b []byte) ([]byte, error) { return b, nil },
		Decode: func(b []byte) ([]byte, error) { return b, nil },
	}
}

// A Bucket holds values of type T below a prefix of a KV bucket.
type Bucket[T any] struct {
	kv     jetstream.KeyValue
	prefix string
	codec  Codec[T]
}

// New returns the keys of kv that begin with prefix, which is empty or ends
// with a dot.
func New[T any](kv jetstream.KeyValue, prefix string, codec Codec[T]) *Bucket[T] {
	return &Bucket[T]{kv: kv, prefix: prefix, codec: codec}
}

// An Entry is a key's value.
type Entry[T any] struct {
	Key      string // without the prefix
	Value    T
	Revision uint64
	At       time.Time // when it was written
	Deleted  bool      // the key is gone; Value is zero
}

// maxKey bounds a key with its prefix, in bytes. A key is part of a subject, and of
// the subjects of requests about it: the server ends the connection of whoever sends
// it a line of more than 4 KiB, and with it all that this process has under way.
const maxKey = 2048

// possible reports whether a key can be one. What cannot need not be asked for, and
// must not be: a wildcard would be answered with other keys.
func (b *Bucket[T]) possible(key string) bool {
	if key == "" || len(b.prefix)+len(key) > maxKey || key[0] == '.' && b.prefix == "" || key[len(key)-1] == '.' {
		return false
	}
	for i := range len(key) {
		c := key[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '/', c == '_', c == '=':
		case c == '.' && (i == 0 || key[i-1] != '.'):
		default:
			return false
		}
	}
	return true
}

// impossible is the error for a value that is to be written under what can be no key.
func impossible(key string) error {
	if len(key) > maxKey {
		return errs.New(errs.Invalid, "a key of %d bytes is too long; at most %d are allowed", len(key), maxKey)
	}
	return errs.New(errs.Invalid, "%q can be no key: letters, digits and - / _ = are allowed, and single dots between them", key)
}

func missing(key string) error {
	const most = 128 // what is longer helps nobody
	if len(key) > most {
		key = key[:most] + "…"
	}
	return errs.New(errs.NotFound, "%s does not exist", strings.ToValidUTF8(key, "\uFFFD"))
}

// Get returns the newest value of key. The error is of kind [errs.NotFound] if
// there is none.
func (b *Bucket[T]) Get(ctx context.Context, key string) (Entry[T], error) {
	if !b.possible(key) {
		return Entry[T]{}, missing(key)
	}
	e, err := b.kv.Get(ctx, b.prefix+key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return Entry[T]{}, missing(key)
	}
	if err != nil {
		return Entry[T]{}, b.failed("get", key, err)
	}
	return b.entry(e)
}

// History returns what a key's values were, newest first, as far back as the
// bucket keeps them. It is empty for a key that never was.
func (b *Bucket[T]) History(ctx context.Context, key string) ([]Entry[T], error) {
	if !b.possible(key) {
		return nil, nil
	}
	all, err := b.kv.History(ctx, b.prefix+key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, b.failed("history of", key, err)
	}
	out := make([]Entry[T], 0, len(all))
	for _, e := range slices.Backward(all) {
		entry, err := b.entry(e)
		if err != nil {
			return nil, err
		}
		out = append(out, entry)
	}
	return out, nil
}

// Create writes a value whose key must not be there yet and returns its
// revision. The error is of kind [errs.Conflict] if the key is there, and of all
// that write [errs.Invalid] if it can be none.
func (b *Bucket[T]) Create(ctx context.Context, key string, v T) (uint64, error) {
	if !b.possible(key) {
		return 0, impossible(key)
	}
	data, err := b.codec.Encode(v)
	if err != nil {
		return 0, fmt.Errorf("bucket: encode %s%s: %w", b.prefix, key, err)
	}
	rev, err := b.kv.Create(ctx, b.prefix+key, data)
	if errors.Is(err, jetstream.ErrKeyExists) {
		return 0, errs.New(errs.Conflict, "%s exists already", key)
	}
	if err != nil {
		return 0, b.failed("create", key, err)
	}
	return rev, nil
}

// Put writes a value, whatever is there, and returns its revision.
func (b *Bucket[T]) Put(ctx context.Context, key string, v T) (uint64, error) {
	if !b.possible(key) {
		return 0, impossible(key)
	}
	data, err := b.codec.Encode(v)
	if err != nil {
		return 0, fmt.Errorf("bucket: encode %s%s: %w", b.prefix, key, err)
	}
	rev, err := b.kv.Put(ctx, b.prefix+key, data)
	if err != nil {
		return 0, b.failed("put", key, err)
	}
	return rev, nil
}

// Update writes a value if the key's revision is still last, and returns the
// new one. The error is of kind [errs.Stale] if it is not.
func (b *Bucket[T]) Update(ctx context.Context, key string, v T, last uint64) (uint64, error) {
	if !b.possible(key) {
		return 0, impossible(key)
	}
	data, err := b.codec.Encode(v)
	if err != nil {
		return 0, fmt.Errorf("bucket: encode %s%s: %w", b.prefix, key, err)
	}
	rev, err := b.kv.Update(ctx, b.prefix+key, data, last)
	if wrongRevision(err) {
		return 0, errs.New(errs.Stale, "%s was changed by somebody else; read it again and repeat the edit", key)
	}
	if err != nil {
		return 0, b.failed("update", key, err)
	}
	return rev, nil
}

// Delete removes a key if its revision is still last; 0 is any. The error is of kind
// [errs.NotFound] if there can be no such key.
func (b *Bucket[T]) Delete(ctx context.Context, key string, last uint64) error {
	if !b.possible(key) {
		return missing(key)
	}
	var opts []jetstream.KVDeleteOpt
	if last > 0 {
		opts = append(opts, jetstream.LastRevision(last))
	}
	err := b.kv.Delete(ctx, b.prefix+key, opts...)
	if wrongRevision(err) {
		return errs.New(errs.Stale, "%s was changed by somebody else; read it again and repeat", key)
	}
	if err != nil {
		return b.failed("delete", key, err)
	}
	return nil
}

// List returns all values, in no particular order.
func (b *Bucket[T]) List(ctx context.Context) ([]Entry[T], error) {
	w, err := b.kv.Watch(ctx, b.prefix+">", jetstream.IgnoreDeletes())
	if err != nil {
		return nil, b.failed("list", "", err)
	}
	var all []Entry[T]
	for {
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), w.Stop())
		case e, ok := <-w.Updates():
			if !ok {
				return nil, b.failed("list", "", errWatchEnded)
			}
			if e == nil { // all that was there has been seen
				return all, w.Stop()
			}
			entry, err := b.entry(e)
			if err != nil {
				return nil, errors.Join(err, w.Stop())
			}
			all = append(all, entry)
		}
	}
}

var errWatchEnded = errors.New("the watch ended")

// Watch calls changed with every key's newest value, then synced, and from then
// on changed with every change, until ctx is done. Calls come one after another.
// A value that cannot be decoded is given to bad, and the watch goes on.
func (b *Bucket[T]) Watch(ctx context.Context, changed func(Entry[T]), synced func(), bad func(key string, err error)) error {
	w, err := b.kv.Watch(ctx, b.prefix+">")
	if err != nil {
		return b.failed("watch", "", err)
	}
	for {
		select {
		case <-ctx.Done():
			// The connection may be gone already, and then so is the watch.
			_ = w.Stop()
			return nil
		case e, ok := <-w.Updates():
			if !ok && over(ctx) {
				return nil // it ends with ctx, too
			}
			if !ok {
				return b.failed("watch", "", errWatchEnded)
			}
			if e == nil {
				synced()
				continue
			}
			entry, err := b.entry(e)
			if err != nil {
				bad(strings.TrimPrefix(e.Key(), b.prefix), err)
				continue
			}
			changed(entry)
		}
	}
}

func over(ctx context.Context) bool { return ctx.Err() != nil }

func (b *Bucket[T]) entry(e jetstream.KeyValueEntry) (Entry[T], error) {
	out := Entry[T]{Key: strings.TrimPrefix(e.Key(), b.prefix), Revision: e.Revision(), At: e.Created()}
	if e.Operation() != jetstream.KeyValuePut {
		out.Deleted = true
		return out, nil
	}
	v, err := b.codec.Decode(e.Value())
	if err != nil {
		return out, fmt.Errorf("bucket: decode %s in %s: %w", e.Key(), e.Bucket(), err)
	}
	out.Value = v
	return out, nil
}

func (b *Bucket[T]) failed(what, key string, err error) error {
	err = stream.BucketFailed(fmt.Errorf("bucket: %s %s%s: %w", what, b.prefix, key, err))
	return errs.Wrap(err, errs.Unavailable, "the configuration store does not answer; try again later")
}

func wrongRevision(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}
