package recording_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/interceptor"
	"github.com/posthornhq/posthorn/pkg/recording"
	"github.com/posthornhq/posthorn/pkg/stream"
)

func newRecorder(t *testing.T, cfg recording.Config) (*recording.Recorder, *recording.Reader) {
	t.Helper()
	js := jstest.WithTopology(t, topology.Config{})
	pub, err := stream.New(js.Conn())
	if err != nil {
		t.Fatal(err)
	}
	r, err := recording.New(pub, slog.New(slog.DiscardHandler), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
	return r, recording.NewReader(js)
}

func last(t *testing.T, r *recording.Reader, source string, n int) []recording.Request {
	t.Helper()
	got, err := r.Last(t.Context(), source, n)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// A flood of refused requests neither fills the disk nor pushes out the others.
func TestTheLastOfEachSourceAreKept(t *testing.T) {
	t.Parallel()
	r, reader := newRecorder(t, recording.Config{})
	begin := time.Now().UTC().Truncate(time.Millisecond)
	taken := &recording.Request{
		Source: "shop", Context: "default", Policy: "p", At: begin, Method: "POST", Path: "/events/shop", Query: []string{"key"},
		Header: map[string]string{"X-Key": "(stripped)"}, Cookies: []string{"sid"}, Client: netip.MustParseAddr("2001:db8::1"), Size: 7, Answered: 202,
		Decisions: []interceptor.Decision{{ID: "a", Settings: "b", Outcome: "ok", Detail: "c"}},
	}
	r.Offer(taken)
	until(t, func() bool { return len(last(t, reader, "shop", 1)) == 1 })
	for i := range 50 {
		r.Offer(&recording.Request{Source: "shop", At: begin.Add(time.Duration(i+1) * time.Second), Answered: 401})
	}
	r.Offer(&recording.Request{Source: "other", At: begin, Answered: 202})
	until(t, func() bool { return len(last(t, reader, "other", 1)) == 1 })

	all := last(t, reader, "shop", recording.Most)
	if len(all) != topology.RequestsPerSource+1 {
		t.Fatalf("%d are kept, want %d that were refused and the one that was taken", len(all), topology.RequestsPerSource)
	}
	if got := all[0].At; !got.Equal(begin.Add(50 * time.Second)) {
		t.Errorf("the first is of %v, want the newest, of %v", got, begin.Add(50*time.Second))
	}
	if diff := cmp.Diff(*taken, all[len(all)-1], cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("what is read differs from what was written (-want +got):\n%s", diff)
	}
	if got := last(t, reader, "shop", 3); len(got) != 3 {
		t.Errorf("asked for 3, got %d", len(got))
	}
	if got := last(t, reader, "nobody", 3); len(got) != 0 {
		t.Errorf("a source without requests has %d", len(got))
	}
}

func until(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	end := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("it did not happen within 30s")
		}
	}
}

func TestFewOfManyAreDue(t *testing.T) {
	t.Parallel()
	enabled := true
	r, _ := newRecorder(t, recording.Config{PerSecond: 10, Enabled: func() bool { return enabled }})
	now := time.Now()
	count := func(source string, refused bool, from, to time.Duration) (n int) {
		for at := from; at < to; at += time.Millisecond {
			if r.Due(source, refused, now.Add(at)) {
				n++
			}
		}
		return n
	}
	if got := count("shop", false, 0, 3*time.Second); got != 3 {
		t.Errorf("of 1,000 a second that are taken %d are due in 3 seconds, want 3", got)
	}
	if got := count("shop", true, 3*time.Second, 4*time.Second); got != 5 {
		t.Errorf("of those that are refused %d are due in a second, want 5", got)
	}
	n := 0
	for i := range 1000 {
		if r.Due(fmt.Sprint(i), false, now.Add(10*time.Second)) {
			n++
		}
	}
	if n != 20 {
		t.Errorf("of 1,000 sources at once %d are due, want the burst of 20", n)
	}
	enabled = false
	if count("off", false, 20*time.Second, 22*time.Second) != 0 {
		t.Error("requests are due although nothing is to be recorded")
	}
}

func TestOfferingNeverWaits(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	pub, err := stream.New(js.Conn())
	if err != nil {
		t.Fatal(err)
	}
	r, err := recording.New(pub, slog.New(slog.DiscardHandler), recording.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for range 10_000 { // and nobody writes
		r.Offer(&recording.Request{Source: "shop"})
	}
}

// What may be a credential is not kept, whether or not anybody knows it to be one.
func TestStrip(t *testing.T) {
	t.Parallel()
	h := http.Header{}
	for _, line := range []string{
		"Authorization: Bearer hush", "X-Api-Key: hush", "X-Hub-Signature-256: sha256=hush", "Stripe-Signature: hush", "Proxy-Authorization: Basic hush",
		"access_token: hush", "X-Anything: hush", "User-Agent: curl/8", "Content-Type: application/json", "X-Forwarded-For: 192.0.2.1",
		"Accept: hush-because-the-policy-reads-it", "X-Empty: ", "Cookie: sid=hush; theme=hush; sid=hush2; none=",
	} {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	kept, cookies := recording.Strip(h, func(name string) bool { return name == "Accept" })
	want := map[string]string{
		"Authorization": "Bearer (stripped)", "X-Api-Key": "(stripped)", "X-Hub-Signature-256": "(stripped)", "Stripe-Signature": "(stripped)",
		"Proxy-Authorization": "(stripped)", "Access_token": "(stripped)", "X-Anything": "(stripped)", "User-Agent": "curl/8",
		"Content-Type": "application/json", "X-Forwarded-For": "192.0.2.1", "Accept": "(stripped)", "X-Empty": "",
	}
	if diff := cmp.Diff(want, kept); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"sid", "theme"}, cookies); diff != "" {
		t.Errorf("cookies (-want +got):\n%s", diff)
	}
	nobody := func(string) bool { return false }
	for _, value := range []string{"hush", "hush two", "Secret hush", "Bearer-ish hush"} {
		if kept, _ := recording.Strip(http.Header{"Authorization": {value}}, nobody); kept["Authorization"] != "(stripped)" {
			t.Errorf("of Authorization %q %q is kept", value, kept["Authorization"])
		}
	}
	if diff := cmp.Diff([]string{"key", "topic"}, recording.Query("topic=a&key=hush&hush-alone&none=&%zz=1")); diff != "" {
		t.Errorf("query (-want +got):\n%s", diff)
	}
	many := http.Header{}
	for i := range 1000 {
		many.Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 10_000))
	}
	many.Set("User-Agent", strings.Repeat("ü", 10_000))
	if kept, _ := recording.Strip(many, nobody); len(kept) > 64 || len(kept["User-Agent"]) > 256 {
		t.Errorf("%d headers are kept, of one %d bytes", len(kept), len(kept["User-Agent"]))
	}
}

func BenchmarkNotDue(b *testing.B) {
	r, err := recording.New(new(stream.Publisher), slog.New(slog.DiscardHandler), recording.Config{})
	if err != nil {
		b.Fatal(err)
	}
	now := time.Now()
	for b.Loop() {
		r.Due("shop", false, now)
	}
}
