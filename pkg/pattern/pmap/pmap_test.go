package pmap

import (
	"maps"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Every version must stay as it was, whatever is made of it later, also when
// two versions are made of the same one.
func TestMapAgreesWithPlainMapsInEveryVersion(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))

	type version struct {
		got  Map[string, int]
		want map[string]int
	}
	versions := []version{{}}
	for step := range 3000 {
		base := versions[len(versions)-1]
		if step%10 == 0 {
			base = versions[rnd.IntN(len(versions))]
		}
		next := version{base.got, maps.Clone(base.want)}
		if next.want == nil {
			next.want = map[string]int{}
		}
		key := strconv.Itoa(rnd.IntN(300))
		if rnd.IntN(3) == 0 {
			next.got = next.got.Delete(key)
			delete(next.want, key)
		} else {
			next.got = next.got.Set(key, step)
			next.want[key] = step
		}
		versions = append(versions, next)
	}
	for i, v := range versions {
		if i%50 != 0 && i != len(versions)-1 {
			continue
		}
		got := maps.Collect(v.got.All())
		if len(v.want) != 0 && !cmp.Equal(got, v.want) {
			t.Fatalf("version %d differs (-want +got):\n%s", i, cmp.Diff(v.want, got))
		}
		if v.got.Len() != len(v.want) {
			t.Fatalf("version %d has length %d, want %d", i, v.got.Len(), len(v.want))
		}
		for k := range 300 {
			key := strconv.Itoa(k)
			got, ok := v.got.Get(key)
			want, wantOK := v.want[key]
			if got != want || ok != wantOK {
				t.Fatalf("version %d: Get(%q) is %d, %t, want %d, %t", i, key, got, ok, want, wantOK)
			}
		}
	}
}

func TestDeletingEverythingLeavesNothing(t *testing.T) {
	t.Parallel()
	var m Map[int, int]
	for i := range 1000 {
		m = m.Set(i, i)
	}
	for i := range 1000 {
		m = m.Delete(i)
	}
	if m != (Map[int, int]{}) {
		t.Errorf("map is %+v, want the zero map", m)
	}
}

// Two keys with one 64-bit hash can't be found by trying, so this works below
// the functions that hash.
func TestKeysWithTheSameHashAreKeptApart(t *testing.T) {
	t.Parallel()
	const hash = 42
	var root *node[string, int]
	var added bool
	for i, key := range []string{"a", "b", "c", "b"} {
		root, added = root.set(&entry[string, int]{hash: hash, key: key, value: i}, 0)
		if want := i < 3; added != want {
			t.Errorf("set %d of %q added: %t, want %t", i, key, added, want)
		}
	}
	before := collect(root)
	if want := map[string]int{"a": 0, "b": 3, "c": 2}; !maps.Equal(before, want) {
		t.Errorf("entries are %v, want %v", before, want)
	}
	// One that differs in the last level only pushes all three down.
	deep, _ := root.set(&entry[string, int]{hash: hash | 1<<63, key: "d", value: 4}, 0)
	if got, want := collect(deep), (map[string]int{"a": 0, "b": 3, "c": 2, "d": 4}); !maps.Equal(got, want) {
		t.Errorf("entries are %v, want %v", got, want)
	}
	less, deleted := deep.delete(hash, "a", 0)
	if got, want := collect(less), (map[string]int{"b": 3, "c": 2, "d": 4}); !deleted || !maps.Equal(got, want) {
		t.Errorf("entries after deleting a are %v (deleted: %t), want %v", got, deleted, want)
	}
	if after := collect(root); !maps.Equal(after, before) {
		t.Errorf("the first map became %v, want it to stay %v", after, before)
	}
}

func collect(n *node[string, int]) map[string]int {
	m := map[string]int{}
	n.each(func(k string, v int) bool { m[k] = v; return true })
	return m
}

func BenchmarkGet(b *testing.B) {
	var m Map[string, int]
	for i := range 10_000 {
		m = m.Set("key"+strconv.Itoa(i), i)
	}
	b.ReportAllocs()
	for b.Loop() {
		m.Get("key5000")
	}
}

func BenchmarkSet(b *testing.B) {
	var m Map[string, int]
	for i := range 10_000 {
		m = m.Set("key"+strconv.Itoa(i), i)
	}
	b.ReportAllocs()
	for b.Loop() {
		m.Set("key5000", 1)
	}
}
