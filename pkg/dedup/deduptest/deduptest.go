package deduptest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/dedup"
)

const (
	hour = time.Hour
	// patience is how long an expiry is waited for: a backend may be late by a
	// second or two, and the machine be busy.
	patience = time.Minute
)

// Run runs the suite on claims that no one else uses, which may be one for all
// of its tests: each has keys of its own.
func Run(t *testing.T, claims dedup.Claims) {
	t.Helper()
	for _, tt := range []struct {
		name string
		test func(*testing.T, dedup.Claims)
	}{
		{"the first claim is fresh", firstIsFresh},
		{"the second claimant sees the first", secondSeesFirst},
		{"of a hundred claimants at once one is fresh", oneOfManyIsFresh},
		{"a crash between claim and work is finished", crashIsFinished},
		{"done is seen by all", doneIsSeen},
		{"done needs no claim", doneWithoutClaim},
		{"a claim expires", claimExpires},
		{"done expires", doneExpires},
		{"done replaces the claim's time to live", doneShortensTTL},
		{"of many takeovers one wins", oneTakeoverWins},
		{"a takeover of what changed fails", takeoverOfChanged},
		{"a released key is free", releaseFrees},
		{"only the owner of an undone claim releases it", releaseIsTheOwners},
		{"hostile keys are kept apart", hostileKeys},
		{"a wrong owner or time to live is refused", wrongArguments},
		{"a cancelled context ends the call", cancelledContext},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.test(t, claims)
		})
	}
}

func claim(t *testing.T, c dedup.Claims, key, owner string) dedup.Claim {
	t.Helper()
	got, err := c.Claim(t.Context(), key, owner, hour)
	if err != nil {
		t.Fatalf("claim %.80q for %s: %v", key, owner, err)
	}
	return got
}

func done(t *testing.T, c dedup.Claims, key, owner string, ttl time.Duration) {
	t.Helper()
	if err := c.Done(t.Context(), key, owner, ttl); err != nil {
		t.Fatalf("mark %.80q as done by %s: %v", key, owner, err)
	}
}

func release(t *testing.T, c dedup.Claims, key, owner string) {
	t.Helper()
	if err := c.Release(t.Context(), key, owner); err != nil {
		t.Fatalf("release %.80q of %s: %v", key, owner, err)
	}
}

// want compares what callers act on.
func want(t *testing.T, got dedup.Claim, owner string, done, fresh bool) {
	t.Helper()
	if got.Owner != owner || got.Done != done || got.Fresh != fresh {
		t.Errorf("claim is of %q, done %v, fresh %v; want %q, %v, %v", got.Owner, got.Done, got.Fresh, owner, done, fresh)
	}
}

func firstIsFresh(t *testing.T, c dedup.Claims) {
	want(t, claim(t, c, "ingest:first:k", "ev_1"), "ev_1", false, true)
}

func secondSeesFirst(t *testing.T, c dedup.Claims) {
	claim(t, c, "ingest:second:k", "ev_1")
	want(t, claim(t, c, "ingest:second:k", "ev_2"), "ev_1", false, false)
	want(t, claim(t, c, "ingest:second:other", "ev_2"), "ev_2", false, true)
}

func oneOfManyIsFresh(t *testing.T, c dedup.Claims) {
	const n = 100
	got := make([]dedup.Claim, n)
	atOnce(t, n, func(i int) (err error) {
		got[i], err = c.Claim(t.Context(), "ingest:many:k", fmt.Sprintf("ev_%d", i), hour)
		return err
	})
	fresh := 0
	for i, g := range got {
		if g.Fresh {
			fresh++
		}
		if g.Owner != got[0].Owner || g.Fresh != (g.Owner == fmt.Sprintf("ev_%d", i)) {
			t.Errorf("claimant ev_%d is told owner %s, fresh %v; ev_0 is told %s", i, g.Owner, g.Fresh, got[0].Owner)
		}
	}
	if fresh != 1 {
		t.Errorf("%d of %d claims are fresh, want 1", fresh, n)
	}
}

// The broker claims for an event ID and dies before it stores the event. The
// publisher tries again, and the same ID is to be used.
func crashIsFinished(t *testing.T, c dedup.Claims) {
	claim(t, c, "ingest:crash:k", "ev_1")

	again := claim(t, c, "ingest:crash:k", "ev_2")
	want(t, again, "ev_1", false, false)
	done(t, c, "ingest:crash:k", again.Owner, hour)
	want(t, claim(t, c, "ingest:crash:k", "ev_3"), "ev_1", true, false)

	// A delivery that comes again to its own owner.
	claim(t, c, "delivery:ev_1:crash:1", "17")
	want(t, claim(t, c, "delivery:ev_1:crash:1", "17"), "17", false, false)
}

func doneIsSeen(t *testing.T, c dedup.Claims) {
	claim(t, c, "delivery:ev_1:done:1", "17")
	done(t, c, "delivery:ev_1:done:1", "17", hour)
	for _, owner := range []string{"17", "18"} {
		got := claim(t, c, "delivery:ev_1:done:1", owner)
		want(t, got, "17", true, false)
		if got.Mine(owner) {
			t.Errorf("%s may work on what is done", owner)
		}
	}
}

func doneWithoutClaim(t *testing.T, c dedup.Claims) {
	done(t, c, "delivery:ev_1:unclaimed:1", "17", hour)
	want(t, claim(t, c, "delivery:ev_1:unclaimed:1", "18"), "17", true, false)
}

func claimExpires(t *testing.T, c dedup.Claims) {
	begun := time.Now()
	if _, err := c.Claim(t.Context(), "ingest:expires:k", "ev_1", time.Second); err != nil {
		t.Fatal(err)
	}
	got := claim(t, c, "ingest:expires:k", "ev_2")
	if got.Owner == "ev_2" && time.Since(begun) >= time.Second {
		want(t, got, "ev_2", false, true) // it took that long to ask
		return
	}
	want(t, got, "ev_1", false, false)
	awaitFree(t, c, "ingest:expires:k", "ev_2")
}

func doneExpires(t *testing.T, c dedup.Claims) {
	claim(t, c, "ingest:done-expires:k", "ev_1")
	done(t, c, "ingest:done-expires:k", "ev_1", time.Second)
	awaitFree(t, c, "ingest:done-expires:k", "ev_2")
}

func doneShortensTTL(t *testing.T, c dedup.Claims) {
	if _, err := c.Claim(t.Context(), "ingest:longer:k", "ev_1", time.Second); err != nil {
		t.Fatal(err)
	}
	done(t, c, "ingest:longer:k", "ev_1", hour)
	// Another claim of a second tells when the first would have expired.
	if _, err := c.Claim(t.Context(), "ingest:longer:clock", "ev_1", time.Second); err != nil {
		t.Fatal(err)
	}
	awaitFree(t, c, "ingest:longer:clock", "ev_2")
	want(t, claim(t, c, "ingest:longer:k", "ev_2"), "ev_1", true, false)
}

// awaitFree claims until owner gets the key.
func awaitFree(t *testing.T, c dedup.Claims, key, owner string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		if got := claim(t, c, key, owner); got.Owner == owner {
			want(t, got, owner, false, true)
			return
		}
	}
	t.Errorf("%q is still taken after %s, want it free after a second", key, patience)
}

func oneTakeoverWins(t *testing.T, c dedup.Claims) {
	const n = 50
	claim(t, c, "ingest:takeover:k", "ev_old")
	old := claim(t, c, "ingest:takeover:k", "ev_new")
	won := make([]bool, n)
	atOnce(t, n, func(i int) (err error) {
		won[i], err = c.Takeover(t.Context(), "ingest:takeover:k", old, fmt.Sprintf("ev_%d", i), hour)
		return err
	})
	winner, winners := "", 0
	for i, w := range won {
		if w {
			winner = fmt.Sprintf("ev_%d", i)
			winners++
		}
	}
	if winners != 1 {
		t.Fatalf("%d of %d takeovers won, want 1", winners, n)
	}
	want(t, claim(t, c, "ingest:takeover:k", "ev_late"), winner, false, false)
}

func takeoverOfChanged(t *testing.T, c dedup.Claims) {
	tests := []struct {
		name   string
		change func(t *testing.T, key string)
	}{
		{"done", func(t *testing.T, key string) { done(t, c, key, "ev_1", hour) }},
		{"released", func(t *testing.T, key string) { release(t, c, key, "ev_1") }},
		{"another's", func(t *testing.T, key string) {
			release(t, c, key, "ev_1")
			claim(t, c, key, "ev_3")
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			key := "ingest:changed:" + tt.name
			old := claim(t, c, key, "ev_1")
			tt.change(t, key)
			if won, err := c.Takeover(t.Context(), key, old, "ev_2", hour); won || err != nil {
				t.Errorf("takeover gives %v, %v, want false, nil", won, err)
			}
			if got := claim(t, c, key, "ev_4"); got.Owner == "ev_2" {
				t.Errorf("claim is of %q, who was told that it had not won", got.Owner)
			}
		})
	}
}

func releaseFrees(t *testing.T, c dedup.Claims) {
	for i := range 3 { // a key is released again and again
		owner := fmt.Sprintf("ev_%d", i)
		want(t, claim(t, c, "ingest:release:k", owner), owner, false, true)
		release(t, c, "ingest:release:k", owner)
	}
	release(t, c, "ingest:release:never-claimed", "ev_1")
	want(t, claim(t, c, "ingest:release:never-claimed", "ev_2"), "ev_2", false, true)

	// Of those who find it free at once, one gets it.
	const n = 20
	got := make([]dedup.Claim, n)
	atOnce(t, n, func(i int) (err error) {
		got[i], err = c.Claim(t.Context(), "ingest:release:k", fmt.Sprintf("ev_1%d", i), hour)
		return err
	})
	fresh := 0
	for _, g := range got {
		if g.Fresh {
			fresh++
		}
	}
	if fresh != 1 {
		t.Errorf("%d of %d claims on a released key are fresh, want 1", fresh, n)
	}
}

func releaseIsTheOwners(t *testing.T, c dedup.Claims) {
	claim(t, c, "ingest:keep:k", "ev_1")
	release(t, c, "ingest:keep:k", "ev_2")
	want(t, claim(t, c, "ingest:keep:k", "ev_3"), "ev_1", false, false)

	done(t, c, "ingest:keep:k", "ev_1", hour)
	release(t, c, "ingest:keep:k", "ev_1")
	want(t, claim(t, c, "ingest:keep:k", "ev_3"), "ev_1", true, false)
}

// Publishers choose a part of the key, and may choose what NATS, Redis or our
// own escaping have a meaning for.
func hostileKeys(t *testing.T, c dedup.Claims) {
	long := strings.Repeat("x", 199)
	keys := []string{
		"", " ", ".", "..", ":", "::", "a:b", "a.b", "a=3Ab", "a=2Eb", "a==b", ":a", "a:", "a::b", "a:.b", "a.:b",
		"*", ">", "a.*", "a.>", "$JS.API.>", "a b", "a\tb", "a\r\nb", "a\x00b", "a\x00", "\xff\xfe", "ключ", "🔑", "{a}", "done x",
		"=", "==", "=3A", "A", "a", "/", "//", "a/b", "a\\b", `"`, "'; DROP TABLE dedup; --",
		long, long + "y", long + "yz", long + "yy", strings.Repeat("x", 100_000), strings.Repeat(":", 300), strings.Repeat("é", 150),
		strings.Repeat("*", 200), strings.Repeat("*", 201),
	}
	for i, key := range keys {
		want(t, claim(t, c, key, fmt.Sprintf("ev_%d", i)), fmt.Sprintf("ev_%d", i), false, true)
	}
	for i, key := range keys {
		want(t, claim(t, c, key, "ev_later"), fmt.Sprintf("ev_%d", i), false, false)
	}
}

func wrongArguments(t *testing.T, c dedup.Claims) {
	for _, owner := range []string{"", "a b", "done x", "a\nb", "\x00", strings.Repeat("x", 129)} {
		if _, err := c.Claim(t.Context(), "ingest:wrong:k", owner, hour); err == nil {
			t.Errorf("owner %.20q may claim, want an error", owner)
		}
		if err := c.Done(t.Context(), "ingest:wrong:k", owner, hour); err == nil {
			t.Errorf("owner %.20q may mark as done, want an error", owner)
		}
	}
	for _, ttl := range []time.Duration{0, -1, time.Millisecond} {
		if _, err := c.Claim(t.Context(), "ingest:wrong:k", "ev_1", ttl); err == nil {
			t.Errorf("a claim may be made for %s, want an error", ttl)
		}
	}
	want(t, claim(t, c, "ingest:wrong:k", "ev_2"), "ev_2", false, true)
}

func cancelledContext(t *testing.T, c dedup.Claims) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.Claim(ctx, "ingest:cancelled:k", "ev_1", hour)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("claim gives %v, want %v", err, context.Canceled)
	}
	if err := c.Done(ctx, "ingest:cancelled:k", "ev_1", hour); !errors.Is(err, context.Canceled) {
		t.Errorf("done gives %v, want %v", err, context.Canceled)
	}
	if err := c.Release(ctx, "ingest:cancelled:k", "ev_1"); !errors.Is(err, context.Canceled) {
		t.Errorf("release gives %v, want %v", err, context.Canceled)
	}
	if _, err := c.Takeover(ctx, "ingest:cancelled:k", dedup.Claim{Owner: "x"}, "ev_1", hour); !errors.Is(err, context.Canceled) {
		t.Errorf("takeover gives %v, want %v", err, context.Canceled)
	}
}

// atOnce calls f from n goroutines that start together.
func atOnce(t *testing.T, n int, f func(i int) error) {
	t.Helper()
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			if err := f(i); err != nil {
				t.Error(err)
			}
		})
	}
	close(start)
	wg.Wait()
}
