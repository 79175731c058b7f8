package pattern_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/posthornhq/posthorn/pkg/pattern"
)

func TestIndexAgreesWithMatchingOneByOne(t *testing.T) {
	t.Parallel()
	rnd := newRand(t)
	type state struct {
		index    pattern.Index[int]
		patterns map[int][]pattern.Pattern
	}
	now := state{patterns: map[int][]pattern.Pattern{}}
	check := func(s state, typ string) {
		t.Helper()
		want := []int{-1}
		for v, patterns := range s.patterns {
			if slices.ContainsFunc(patterns, func(p pattern.Pattern) bool { return p.Match(typ) }) {
				want = append(want, v)
			}
		}
		got := s.index.Match(typ, []int{-1})
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("type %q finds %v, want %v, with %v", typ, got, want, s.patterns)
		}
	}
	for step := range 3000 {
		before := state{now.index, map[int][]pattern.Pattern{}}
		maps.Copy(before.patterns, now.patterns)
		v := rnd.IntN(40)
		if patterns, ok := now.patterns[v]; ok {
			now.index = now.index.Remove(v, patterns...)
			delete(now.patterns, v)
		} else {
			patterns := make([]pattern.Pattern, 1+rnd.IntN(3))
			for i := range patterns {
				patterns[i] = parse(t, randomWords(rnd, patternWords))
			}
			now.index = now.index.Add(v, patterns...)
			now.patterns[v] = patterns
		}
		if step%3 == 0 {
			check(before, randomWords(rnd, typeWords))
		}
		check(now, randomWords(rnd, typeWords))
	}
	for v, patterns := range now.patterns {
		now.index = now.index.Remove(v, patterns...)
	}
	if now.index != (pattern.Index[int]{}) {
		t.Errorf("index without values is %+v, want the zero index", now.index)
	}
}

func TestPatternsThatMeanTheSameFindTheirValueOnce(t *testing.T) {
	t.Parallel()
	patterns := []pattern.Pattern{parse(t, "a.>"), parse(t, "a.#.*"), parse(t, "a.*.#"), parse(t, "a.b"), parse(t, "#"), parse(t, ">")}
	index := pattern.Index[string]{}.Add("v", patterns...)
	if got, want := index.Match("a.b", nil), []string{"v"}; !cmp.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
	if got := index.Remove("v", patterns...).Match("a.b", nil); len(got) != 0 {
		t.Errorf("found %v after removal, want nothing", got)
	}
}

func TestRemovingWhatIsNotThereChangesNothing(t *testing.T) {
	t.Parallel()
	index := pattern.Index[string]{}.Add("v", parse(t, "a.b"))
	index = index.Remove("w", parse(t, "a.b"), parse(t, "a.c"), parse(t, "x/#"), parse(t, "#"))
	if got, want := index.Match("a.b", nil), []string{"v"}; !cmp.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}

func TestIndexMatchAllocatesNothing(t *testing.T) {
	index := manyTypes(t, 1000).Add(-1, parse(t, "#")).Add(-2, parse(t, "#.created.#"), parse(t, "*.created"))
	dst := make([]int, 0, 16)
	if allocs := testing.AllocsPerRun(100, func() { dst = index.Match("type500.created", dst[:0]) }); allocs != 0 {
		t.Errorf("Match allocates %v times, want 0", allocs)
	}
	if len(dst) != 3 {
		t.Errorf("found %v, want 500, -1 and -2", dst)
	}
}

func manyTypes(t testing.TB, n int) pattern.Index[int] {
	var index pattern.Index[int]
	for i := range n {
		index = index.Add(i, parse(t, fmt.Sprintf("type%d.created", i)))
	}
	return index
}

func BenchmarkIndexMatch10000(b *testing.B) {
	index := manyTypes(b, 10_000).Add(-1, parse(b, "#.x.#")).Add(-2, parse(b, "*.created"))
	var dst []int
	b.ReportAllocs()
	for b.Loop() {
		dst = index.Match("type5000.created", dst[:0])
	}
}

func BenchmarkIndexEdit10000(b *testing.B) {
	index := manyTypes(b, 10_000)
	p := parse(b, "type5000.created")
	b.ReportAllocs()
	for b.Loop() {
		index.Remove(5000, p).Add(5000, p)
	}
}

func BenchmarkIndexEditAmong10000OfOnePattern(b *testing.B) {
	var index pattern.Index[int]
	p := parse(b, "order.created")
	for i := range 10_000 {
		index = index.Add(i, p)
	}
	b.ReportAllocs()
	for b.Loop() {
		index.Remove(5000, p).Add(5000, p)
	}
}
