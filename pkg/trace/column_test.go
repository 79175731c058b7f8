package trace

import (
	"hash/maphash"
	"strconv"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// Kinds of which there is nothing any more are forgotten, and the others stay what
// they are.
func TestKindsThatAreGoneAreForgotten(t *testing.T) {
	t.Parallel()
	c := newColumn(nil, "X", ">", maphash.MakeSeed(), 2*chunkSize, func(*jetstream.RawStreamMsg) (string, string, bool) { return "", "", false })
	kind := func(seq uint64) string { return strconv.FormatUint(seq/2, 10) } // two of each
	for seq := uint64(chunkSize); seq < 4*chunkSize; seq++ {
		c.put(seq, seq, kind(seq), int64(seq))
	}
	c.chunks, c.base = c.chunks[1:], c.base+1
	c.forget()
	if got, want := len(c.kinds), 1+2*chunkSize/2; got != want || len(c.byKind) != want-1 {
		t.Errorf("%d kinds, %d of them by name, are left, want %d", got, len(c.byKind), want)
	}
	c.put(4*chunkSize, 0, kind(2*chunkSize), 1)
	c.put(4*chunkSize+1, 0, "new", 1)
	for seq := uint64(2 * chunkSize); seq < 4*chunkSize; seq++ {
		if got := c.kinds[c.chunk(seq / chunkSize).kinds[seq%chunkSize]]; got != kind(seq) {
			t.Fatalf("%d is of kind %q, want %q", seq, got, kind(seq))
		}
	}
	last := c.chunk(4)
	if a, b := c.kinds[last.kinds[0]], c.kinds[last.kinds[1]]; a != kind(2*chunkSize) || b != "new" {
		t.Errorf("the newest are %q and %q", a, b)
	}
	before := len(c.kinds)
	if c.forget(); len(c.kinds) != before {
		t.Errorf("%d kinds became %d although all are in use", before, len(c.kinds))
	}
}
