package identity

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/posthornhq/posthorn/pkg/bucket"
)

// follow watches the bucket until ctx is done.
func (d *Directory) follow(ctx context.Context) {
	for {
		d.mu.Lock()
		d.seen = make(map[string]struct{})
		d.mu.Unlock()
		err := d.all.Watch(ctx, d.changed, d.caughtUp, func(string, error) {})
		if ctx.Err() != nil {
			return
		}
		d.log.Warn("watch of users and keys ended; it begins anew", "err", err)
		timer := time.NewTimer(d.cfg.RetryAfter)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// changed applies what the watch saw.
func (d *Directory) changed(e bucket.Entry[[]byte]) {
	if err := d.apply(e.Key, e.Revision, e.Value, e.Deleted); err != nil {
		d.log.Warn("a record of users and keys cannot be read; nobody is let in by it", "key", e.Key, "err", err)
	}
}

// caughtUp forgets what was not there any more when the watch began anew.
func (d *Directory) caughtUp() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name := range d.revisions {
		if _, ok := d.seen[name]; !ok {
			d.forget(name)
		}
	}
	d.seen = nil
	select {
	case <-d.ready:
	default:
		close(d.ready)
	}
}

// wrote applies an edit of this process before the watch brings it.
func (d *Directory) wrote(name string, revision uint64, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return d.apply(name, revision, data, false)
}

// deleted is wrote of a deletion; revision is what was deleted.
func (d *Directory) deleted(name string, revision uint64) {
	// Without data nothing is decoded, and nothing can go wrong.
	_ = d.apply(name, revision, nil, true)
}

// apply takes over what the bucket has below name, unless it has taken over
// something newer. A record that cannot be decoded counts as deleted.
func (d *Directory) apply(name string, revision uint64, data []byte, deleted bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.seen != nil {
		d.seen[name] = struct{}{}
	}
	have := d.revisions[name]
	if revision < have || revision == have && !deleted {
		return nil
	}
	d.revisions[name] = revision
	if deleted {
		d.forget(name)
		return nil
	}
	if err := d.remember(name, data); err != nil {
		d.forget(name)
		return err
	}
	return nil
}

// forget drops a record from the mirror. The caller holds mu.
func (d *Directory) forget(name string) {
	switch prefix, rest := split(name); prefix {
	case keysPrefix:
		if k := d.byName[rest]; k != nil {
			delete(d.byHash, k.hash)
			delete(d.byName, rest)
			delete(d.uses, rest)
		}
	case usersPrefix:
		delete(d.people, rest)
	case ringKey:
		clear(d.verifiers)
	}
}

// remember puts a record into the mirror. The caller holds mu.
func (d *Directory) remember(name string, data []byte) error {
	switch prefix, rest := split(name); prefix {
	case keysPrefix:
		return d.rememberKey(rest, data)
	case usedPrefix:
		var rec usedRecord
		if err := json.Unmarshal(data, &rec); err != nil {
			return err
		}
		d.useOf(rest).saw(rec.At.Unix() / 60)
	case usersPrefix:
		var rec userRecord
		if err := json.Unmarshal(data, &rec); err != nil {
			return err
		}
		if rec.Generation == "" {
			return errors.New("no generation")
		}
		d.people[rest] = person{generation: rec.Generation, disabled: rec.Disabled}
	case ringKey:
		var rec ringRecord
		if err := json.Unmarshal(data, &rec); err != nil {
			return err
		}
		verifiers, err := rec.verifiers()
		if err != nil {
			return err
		}
		d.verifiers = verifiers
	}
	return nil
}

func (d *Directory) rememberKey(name string, data []byte) error {
	var rec keyRecord
	if err := json.Unmarshal(data, &rec); err != nil {
		return err
	}
	sum, err := hex.DecodeString(rec.SHA256)
	if err != nil || len(sum) != sha256.Size {
		return errors.New("no SHA-256")
	}
	k := &key{
		hash: [sha256.Size]byte(sum),
		id:   Identity{Name: name, Roles: slices.Clip(rec.Roles), Kind: KindKey},
		use:  d.useOf(name),
	}
	if name == adminName {
		k.id.Kind = KindAdmin
	}
	if rec.ExpiresAt != nil {
		k.expires = *rec.ExpiresAt
	}
	if old := d.byName[name]; old != nil {
		delete(d.byHash, old.hash)
	}
	d.byName[name], d.byHash[k.hash] = k, k
	return nil
}

func (d *Directory) useOf(name string) *lastUse {
	u := d.uses[name]
	if u == nil {
		u = new(lastUse)
		d.uses[name] = u
	}
	return u
}

// split returns a prefix with its dot, or the whole name where there is none.
func split(name string) (prefix, rest string) {
	prefix, rest, ok := strings.Cut(name, ".")
	if ok {
		prefix += "."
	}
	return prefix, rest
}
