package store

import (
	"sync"

	"github.com/posthornhq/posthorn/pkg/event"
)

// cache holds recent events in two generations: when the young one is full, it
// becomes the old one, and what the old one held is forgotten. There is no list
// to keep in order, so a look-up is one map access under a lock held briefly.
type cache struct {
	limit int // bytes of each generation

	mu         sync.Mutex
	young, old map[string]*event.Event
	size       int
}

// overhead is what an event costs beside its data, roughly.
const overhead = 1024

func newCache(bytes int) *cache {
	return &cache{limit: bytes / 2, young: map[string]*event.Event{}}
}

func (c *cache) put(e *event.Event) {
	n := len(e.Data) + overhead
	if n > c.limit {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.size+n > c.limit {
		c.old, c.young, c.size = c.young, make(map[string]*event.Event, len(c.young)), 0
	}
	c.young[e.ID] = e
	c.size += n
}

func (c *cache) get(id string) *event.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.young[id]; e != nil {
		return e
	}
	return c.old[id]
}
