package schema

import (
	lru "container/list"
	"sync/atomic"
	"time"

	"github.com/posthornhq/posthorn/pkg/pattern"
)

// fetchKey is what one request to another registry is about.
type fetchKey struct {
	uri     pattern.URI
	version int
}

// answer is what another registry said: a schema, or an error.
type answer struct {
	record   Record
	versions []int
	schema   *Schema
	err      error
}

// fetched is what is kept of one key. Whoever has one may go on with it when it
// has left the cache.
type fetched struct {
	key   fetchKey
	first chan struct{} // closed with the first answer
	last  atomic.Pointer[answer]

	// The rest belongs to the cache's lock.
	due     time.Time // when to ask again
	asked   bool      // somebody does
	size    int64
	element *lru.Element

	// kept is the hash of the answer that is in the bucket; that of whoever asks.
	kept [32]byte
}

// answer returns the last answer, nil if there was none yet.
func (e *fetched) answer() *answer { return e.last.Load() }

// overhead is what an entry takes beside its schema, roughly.
const overhead = 1 << 10

// cache keeps what was used last, within a number and a size. Its caller locks.
type cache struct {
	maxEntries int
	maxBytes   int64
	bytes      int64
	entries    map[fetchKey]*fetched
	used       *lru.List  // of *fetched, last used first
	gone       []fetchKey // answers that had to go, for who keeps them
}

func newCache(maxEntries int, maxBytes int64) cache {
	return cache{maxEntries: maxEntries, maxBytes: maxBytes, entries: map[fetchKey]*fetched{}, used: lru.New()}
}

// get returns the entry of a key, a new one if there is none.
func (c *cache) get(k fetchKey) *fetched {
	if e, has := c.entries[k]; has {
		c.used.MoveToFront(e.element)
		return e
	}
	e := &fetched{key: k, first: make(chan struct{}), size: overhead}
	e.element = c.used.PushFront(e)
	c.entries[k] = e
	c.bytes += e.size
	c.shrink(e)
	return e
}

// put keeps an answer of a size in bytes and wakes who waits for the first.
func (c *cache) put(e *fetched, a *answer, size int64) {
	if e.last.Swap(a) == nil {
		close(e.first)
	}
	if c.entries[e.key] != e {
		return // it had to go while it was fetched
	}
	c.bytes += overhead + size - e.size
	e.size = overhead + size
	c.shrink(nil)
}

// shrink drops what was not used for longest, but keep.
func (c *cache) shrink(keep *fetched) {
	for len(c.entries) > c.maxEntries || c.bytes > c.maxBytes {
		last := c.used.Back()
		if last == nil || last.Value == keep {
			return
		}
		e, ok := c.used.Remove(last).(*fetched)
		if !ok {
			return
		}
		delete(c.entries, e.key)
		if e.answer() != nil {
			c.gone = append(c.gone, e.key)
		}
		c.bytes -= e.size
	}
}
