package pmap

import (
	"hash/maphash"
	"iter"
	"math/bits"
	"slices"
)

// A Map is a persistent map from K to V: a hash array mapped trie, after Bagwell,
// "Ideal Hash Trees" (2001). The zero Map is empty.
type Map[K comparable, V any] struct {
	root *node[K, V]
	size int
}

const (
	width = 6 // bits of the hash that a level takes
	mask  = 1<<width - 1
)

// A node has a slot for each set bit of used, in the order of the bits.
type node[K comparable, V any] struct {
	used  uint64
	slots []slot[K, V]
}

// A slot holds either a node of the next level or an entry.
type slot[K comparable, V any] struct {
	sub   *node[K, V]
	entry *entry[K, V]
}

// An entry is a key with its value, and the next one with the very same hash.
type entry[K comparable, V any] struct {
	hash  uint64
	key   K
	value V
	next  *entry[K, V]
}

var seed = maphash.MakeSeed()

// Len returns the number of keys.
func (m Map[K, V]) Len() int { return m.size }

// Get returns the value of key and whether there is one. It does not allocate.
func (m Map[K, V]) Get(key K) (value V, ok bool) {
	hash := maphash.Comparable(seed, key)
	n := m.root
	for level := uint(0); n != nil; level++ {
		i, ok := n.find(hash, level)
		if !ok {
			break
		}
		s := &n.slots[i]
		for e := s.entry; e != nil; e = e.next {
			if e.hash == hash && e.key == key {
				return e.value, true
			}
		}
		n = s.sub
	}
	return value, false
}

// All ranges over the keys and values, in no particular order.
func (m Map[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) { m.root.each(yield) }
}

// Set returns a map in which key has value and all else is as in m.
func (m Map[K, V]) Set(key K, value V) Map[K, V] {
	e := &entry[K, V]{hash: maphash.Comparable(seed, key), key: key, value: value}
	root, added := m.root.set(e, 0)
	if added {
		m.size++
	}
	m.root = root
	return m
}

// Delete returns a map without key in which all else is as in m.
func (m Map[K, V]) Delete(key K) Map[K, V] {
	root, deleted := m.root.delete(maphash.Comparable(seed, key), key, 0)
	if deleted {
		m.size--
		m.root = root
	}
	return m
}

// find returns where the slot for hash is or would be.
func (n *node[K, V]) find(hash uint64, level uint) (i int, ok bool) {
	bit := bitOf(hash, level)
	return bits.OnesCount64(n.used & (bit - 1)), n.used&bit != 0
}

func bitOf(hash uint64, level uint) uint64 { return 1 << (hash >> (level * width) & mask) }

func (n *node[K, V]) each(yield func(K, V) bool) bool {
	if n == nil {
		return true
	}
	for i := range n.slots {
		for e := n.slots[i].entry; e != nil; e = e.next {
			if !yield(e.key, e.value) {
				return false
			}
		}
		if !n.slots[i].sub.each(yield) {
			return false
		}
	}
	return true
}

func (n *node[K, V]) set(e *entry[K, V], level uint) (changed *node[K, V], added bool) {
	if n == nil {
		return &node[K, V]{used: bitOf(e.hash, level), slots: []slot[K, V]{{entry: e}}}, true
	}
	i, ok := n.find(e.hash, level)
	if !ok {
		return &node[K, V]{
			used:  n.used | bitOf(e.hash, level),
			slots: slices.Insert(slices.Clip(n.slots), i, slot[K, V]{entry: e}),
		}, true
	}
	var s slot[K, V]
	switch old := n.slots[i]; {
	case old.sub != nil:
		s.sub, added = old.sub.set(e, level+1)
	case old.entry.hash == e.hash:
		rest, had := old.entry.without(e.key)
		e.next = rest
		s.entry, added = e, !had
	default:
		// The hashes differ, so some level below tells the two apart.
		var sub *node[K, V]
		sub, _ = sub.set(old.entry, level+1)
		s.sub, added = sub.set(e, level+1)
	}
	return n.replace(i, s), added
}

func (n *node[K, V]) delete(hash uint64, key K, level uint) (changed *node[K, V], deleted bool) {
	if n == nil {
		return nil, false
	}
	i, ok := n.find(hash, level)
	if !ok {
		return n, false
	}
	s := n.slots[i]
	if s.sub != nil {
		s.sub, deleted = s.sub.delete(hash, key, level+1)
	} else if s.entry.hash == hash {
		s.entry, deleted = s.entry.without(key)
	}
	switch {
	case !deleted:
		return n, false
	case s.sub != nil || s.entry != nil:
		return n.replace(i, s), true
	case len(n.slots) == 1:
		return nil, true
	}
	return &node[K, V]{
		used:  n.used &^ bitOf(hash, level),
		slots: slices.Concat(n.slots[:i], n.slots[i+1:]),
	}, true
}

// replace returns a copy of n with s as slot i.
func (n *node[K, V]) replace(i int, s slot[K, V]) *node[K, V] {
	slots := slices.Clone(n.slots)
	slots[i] = s
	return &node[K, V]{used: n.used, slots: slots}
}

// without returns the chain of entries that begins with e, less the one of key.
func (e *entry[K, V]) without(key K) (rest *entry[K, V], had bool) {
	if e == nil {
		return nil, false
	}
	if e.key == key {
		return e.next, true
	}
	next, had := e.next.without(key)
	if !had {
		return e, false
	}
	return &entry[K, V]{hash: e.hash, key: e.key, value: e.value, next: next}, true
}
