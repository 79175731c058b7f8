package bucket_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/bucket"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/stream/streamtest"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

type item struct{ N int }

func open(t *testing.T) jetstream.KeyValue {
	t.Helper()
	kv, err := jstest.WithTopology(t, topology.Config{}).KeyValue(t.Context(), topology.BucketConfig)
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

func wantKind(t *testing.T, what string, err error, want errs.Kind) {
	t.Helper()
	if err == nil || errs.KindOf(err) != want {
		t.Errorf("%s: got error %v, want one of kind %v", what, err, want)
	}
}

func TestAValueLives(t *testing.T) {
	t.Parallel()
	b := bucket.New(open(t), "item.", bucket.JSON[item]())
	ctx := t.Context()

	_, err := b.Get(ctx, "a")
	wantKind(t, "get of nothing", err, errs.NotFound)
	_, err = b.Get(ctx, "no key at all")
	wantKind(t, "get of what can be no key", err, errs.NotFound)

	rev, err := b.Create(ctx, "a", item{1})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Create(ctx, "a", item{2})
	wantKind(t, "create of what is there", err, errs.Conflict)

	next, err := b.Update(ctx, "a", item{3}, rev)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Update(ctx, "a", item{4}, rev)
	wantKind(t, "update of an old revision", err, errs.Stale)
	wantKind(t, "delete of an old revision", b.Delete(ctx, "a", rev), errs.Stale)

	got, err := b.Get(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	want := bucket.Entry[item]{Key: "a", Value: item{3}, Revision: next}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(want, "At")); diff != "" {
		t.Errorf("get (-want +got):\n%s", diff)
	}
	if err := b.Delete(ctx, "a", next); err != nil {
		t.Fatal(err)
	}
	_, err = b.Get(ctx, "a")
	wantKind(t, "get of what is deleted", err, errs.NotFound)
	if _, err := b.Create(ctx, "a", item{5}); err != nil {
		t.Errorf("create of what was deleted: %v", err)
	}
	if _, err := b.Put(ctx, "a", item{6}); err != nil {
		t.Errorf("put: %v", err)
	}
}

func TestListHasTheKeysBelowItsPrefixAlone(t *testing.T) {
	t.Parallel()
	kv := open(t)
	b, other := bucket.New(kv, "item.", bucket.JSON[item]()), bucket.New(kv, "other.", bucket.Raw())
	got, err := b.List(t.Context())
	if err != nil || len(got) != 0 {
		t.Errorf("an empty list: got %v and error %v, want nothing", got, err)
	}
	for i := range 3 {
		if _, err := b.Put(t.Context(), fmt.Sprint(i), item{i}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Delete(t.Context(), "1", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Put(t.Context(), "x", []byte("not JSON")); err != nil {
		t.Fatal(err)
	}
	if got, err = b.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	keys := map[string]int{}
	for _, e := range got {
		keys[e.Key] = e.Value.N
	}
	if diff := cmp.Diff(map[string]int{"0": 0, "2": 2}, keys); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
}

func TestWatchSeesAllThenSaysSoThenEveryChange(t *testing.T) {
	t.Parallel()
	kv := open(t)
	b, raw := bucket.New(kv, "item.", bucket.JSON[item]()), bucket.New(kv, "item.", bucket.Raw())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range 2 {
		if _, err := b.Put(ctx, fmt.Sprint(i), item{i}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := raw.Put(ctx, "2", []byte("{")); err != nil {
		t.Fatal(err)
	}
	seen := make(chan string, 10)
	done := make(chan error, 1)
	go func() {
		done <- b.Watch(ctx,
			func(e bucket.Entry[item]) { seen <- fmt.Sprintf("%s=%d deleted=%v", e.Key, e.Value.N, e.Deleted) },
			func() { seen <- "synced" },
			func(key string, err error) {
				if err == nil {
					t.Errorf("%s is bad without an error", key)
				}
				seen <- "bad " + key
			})
	}()
	want := func(lines ...string) {
		t.Helper()
		for _, w := range lines {
			select {
			case got := <-seen:
				if got != w {
					t.Errorf("saw %q, want %q", got, w)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("nothing within 10 s, want %q", w)
			}
		}
	}
	want("0=0 deleted=false", "1=1 deleted=false", "bad 2", "synced")
	if _, err := b.Put(ctx, "2", item{22}); err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(ctx, "0", 0); err != nil {
		t.Fatal(err)
	}
	want("2=22 deleted=false", "0=0 deleted=true")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("watch: got error %v, want nil", err)
	}
}

func TestAnUndecodableValueIsAnErrorThatNamesIt(t *testing.T) {
	t.Parallel()
	kv := open(t)
	if _, err := kv.PutString(t.Context(), "item.a", "{"); err != nil {
		t.Fatal(err)
	}
	b := bucket.New(kv, "item.", bucket.JSON[item]())
	if _, err := b.Get(t.Context(), "a"); err == nil || errs.KindOf(err) != errs.Internal {
		t.Errorf("get: got error %v, want an internal one", err)
	}
	if _, err := b.List(t.Context()); err == nil {
		t.Error("list: got no error")
	}
}

func TestWithoutAConnectionTheStoreIsUnavailable(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	kv, err := js.KeyValue(t.Context(), topology.BucketConfig)
	if err != nil {
		t.Fatal(err)
	}
	b := bucket.New(kv, "item.", bucket.JSON[item]())
	before := streamtest.Failures(t)["bucket"]
	js.Conn().Close()
	_, err = b.Get(t.Context(), "a")
	wantKind(t, "get", err, errs.Unavailable)
	_, err = b.Put(t.Context(), "a", item{})
	wantKind(t, "put", err, errs.Unavailable)
	_, err = b.List(t.Context())
	wantKind(t, "list", err, errs.Unavailable)
	err = b.Watch(t.Context(), func(bucket.Entry[item]) {}, func() {}, func(string, error) {})
	wantKind(t, "watch", err, errs.Unavailable)
	if after := streamtest.Failures(t)["bucket"]; after < before+4 {
		t.Errorf("%v failures are counted, before %v, want 4 more", after, before)
	}
}

func TestProtoIgnoresWhatANewerProcessWrote(t *testing.T) {
	t.Parallel()
	c := bucket.Proto(func() *posthornv1.Source { return &posthornv1.Source{} })
	src, err := c.Decode([]byte(`{"name":"shop","fromTheFuture":[1,2]}`))
	if err != nil {
		t.Fatal(err)
	}
	a, errA := c.Encode(src)
	b, errB := c.Encode(src)
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	if string(a) != string(b) || string(a) != `{"name":"shop"}` {
		t.Errorf("encoded as %s and %s, want {\"name\":\"shop\"} twice", a, b)
	}
}

// The server ends the connection of whoever names it too long a subject, so what
// somebody asks for must not get that far.
func TestWhatCanBeNoKeyIsNotAskedFor(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	kv, err := js.KeyValue(t.Context(), topology.BucketConfig)
	if err != nil {
		t.Fatal(err)
	}
	b := bucket.New(kv, "item.", bucket.JSON[item]())
	ctx := t.Context()
	if _, err := b.Put(ctx, "there", item{1}); err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]string{
		"nothing": "", "a blank": "a b", "a line break": "a\r\nPUB x 0", "any": "*", "all": ">", "an empty word": "a..b", "a dot at the end": "a.",
		"5,000 letters": strings.Repeat("a", 5000), "100,000 letters": strings.Repeat("a", 100_000),
	} {
		_, err := b.Get(ctx, key)
		wantKind(t, name+": get", err, errs.NotFound)
		if all, err := b.History(ctx, key); err != nil || len(all) > 0 {
			t.Errorf("%s: the history has %d entries and error %v, want none", name, len(all), err)
		}
		wantKind(t, name+": delete", b.Delete(ctx, key, 0), errs.NotFound)
		_, err = b.Create(ctx, key, item{})
		wantKind(t, name+": create", err, errs.Invalid)
		_, err = b.Put(ctx, key, item{})
		wantKind(t, name+": put", err, errs.Invalid)
		_, err = b.Update(ctx, key, item{}, 1)
		wantKind(t, name+": update", err, errs.Invalid)
	}
	if js.Conn().IsClosed() {
		t.Errorf("the server ended the connection: %v", js.Conn().LastError())
	}
	if _, err := b.Get(ctx, "there"); err != nil {
		t.Errorf("what is there: %v", err)
	}
}
