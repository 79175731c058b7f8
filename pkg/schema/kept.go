package schema

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/pkg/bucket"
	"github.com/posthornhq/posthorn/pkg/pattern"
)

// loadTimeout bounds the reading of what is kept. Without it there is still the
// other registry.
const loadTimeout = 20 * time.Second

// A kept answer is what another registry said, as it is in the bucket.
type kept struct {
	Type    string `json:"type"`
	Port    int    `json:"port,omitempty"`    // of the URI, where the type is nobody's who is named
	Version int    `json:"version,omitempty"` // that was asked for; 0 is the newest
	Origin  string `json:"origin"`
	// Answer is compressed, and read again as if it had just come.
	Answer []byte `json:"answer"`
}

func (k fetchKey) bucketKey() string {
	sum := sha256.Sum256([]byte(k.uri.Type() + " " + strconv.Itoa(k.uri.Port) + " " + strconv.Itoa(k.version)))
	return hex.EncodeToString(sum[:16])
}

// An archive keeps answers beyond the process. A nil archive keeps nothing.
type archive struct{ kv *bucket.Bucket[kept] }

func newArchive(kv jetstream.KeyValue) *archive {
	if kv == nil {
		return nil
	}
	return &archive{bucket.New(kv, "", bucket.JSON[kept]())}
}

func (a *archive) put(ctx context.Context, k fetchKey, origin string, body []byte) error {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(body); err != nil {
		return fmt.Errorf("schema: compress %s: %w", k.uri.Type(), err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("schema: compress %s: %w", k.uri.Type(), err)
	}
	_, err := a.kv.Put(ctx, k.bucketKey(), kept{Type: k.uri.Type(), Port: k.uri.Port, Version: k.version, Origin: origin, Answer: packed.Bytes()})
	return err
}

// load returns what is kept, oldest first.
func (a *archive) load(ctx context.Context) ([]kept, error) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	entries, err := a.kv.List(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b bucket.Entry[kept]) int { return a.At.Compare(b.At) })
	all := make([]kept, len(entries))
	for i, e := range entries {
		all[i] = e.Value
	}
	return all, nil
}

// unpack returns an answer as it came, if it is not larger than limit.
func (k *kept) unpack(limit int64) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(k.Answer))
	if err != nil {
		return nil, fmt.Errorf("schema: unpack %s: %w", k.Type, err)
	}
	body, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("schema: unpack %s: %w", k.Type, err)
	}
	if int64(len(body)) > limit {
		return nil, fmt.Errorf("schema: unpack %s: it is larger than %d bytes", k.Type, limit)
	}
	return body, nil
}

// remember takes what is kept into the cache. Each is used at once, and asked for
// again when it is.
func (f *Foreign) remember(ctx context.Context) {
	if f.archive == nil {
		return
	}
	all, err := f.archive.load(ctx)
	if err != nil {
		if ctx.Err() == nil {
			f.log.Warn("foreign schemas that are kept cannot be read; they are fetched again", "err", err)
		}
		return
	}
	for i := range all {
		if err := f.rememberOne(&all[i]); err != nil {
			f.log.Warn("a foreign schema that is kept cannot be used; it is fetched again", "type", all[i].Type, "err", err)
		}
	}
	f.forget(ctx)
}

func (f *Foreign) rememberOne(k *kept) error {
	u, err := pattern.ParseURI(k.Type)
	if err != nil {
		return err
	}
	u.Port = k.Port
	if _, named := f.cfg.Hosts[u.Domain]; named != (k.Port == 0) && named || !named && !f.cfg.Open || slices.Contains(f.cfg.Own, u.Domain) {
		return nil // nobody's any more who may be asked
	}
	body, err := k.unpack(f.cfg.MaxResponse)
	if err != nil {
		return err
	}
	key := fetchKey{u, k.Version}
	a, err := read(body, key)
	if err != nil {
		return err
	}
	a.record.Origin = k.Origin
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.cache.get(key)
	if e.answer() != nil {
		return nil // somebody was faster, and asked
	}
	e.kept = sha256.Sum256(body)
	f.cache.put(e, a, int64(len(body)))
	return nil
}

// keep writes an answer down, unless it is the one that is kept.
func (f *Foreign) keep(ctx context.Context, e *fetched, origin string, body []byte) {
	sum := sha256.Sum256(body)
	if f.archive == nil || e.kept == sum {
		return
	}
	if err := f.archive.put(ctx, e.key, origin, body); err != nil {
		if ctx.Err() == nil {
			f.log.Warn("a foreign schema is not kept; after a restart it is fetched again", "type", e.key.uri.Type(), "err", err)
		}
		return
	}
	e.kept = sum
}

// unkeep deletes an answer that its registry has taken back.
func (f *Foreign) unkeep(ctx context.Context, e *fetched) {
	if f.archive == nil || e.kept == [32]byte{} {
		return
	}
	if err := f.archive.kv.Delete(ctx, e.key.bucketKey(), 0); err != nil {
		if ctx.Err() == nil {
			f.log.Warn("a foreign schema that its registry has no more stays kept", "type", e.key.uri.Type(), "err", err)
		}
		return
	}
	e.kept = [32]byte{}
}

// forget deletes what has left the cache from what is kept.
func (f *Foreign) forget(ctx context.Context) {
	f.mu.Lock()
	gone := f.cache.gone
	f.cache.gone = nil
	f.mu.Unlock()
	if f.archive == nil {
		return
	}
	for _, k := range gone {
		f.mu.Lock()
		_, back := f.cache.entries[k]
		f.mu.Unlock()
		if back {
			continue
		}
		if err := f.archive.kv.Delete(ctx, k.bucketKey(), 0); err != nil && ctx.Err() == nil {
			f.log.Warn("a foreign schema that has left the cache stays kept", "type", k.uri.Type(), "err", err)
		}
	}
}
