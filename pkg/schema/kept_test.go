package schema_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/schema"
)

func foreignBucket(t *testing.T) jetstream.KeyValue {
	t.Helper()
	kv, err := jstest.WithTopology(t, topology.Config{}).KeyValue(t.Context(), topology.BucketForeign)
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

func kept(t *testing.T, kv jetstream.KeyValue) int {
	t.Helper()
	keys, err := kv.Keys(t.Context())
	if err != nil && !strings.Contains(err.Error(), "no keys found") {
		t.Fatal(err)
	}
	return len(keys)
}

func keeps(t *testing.T, kv jetstream.KeyValue, typ string) bool {
	t.Helper()
	l, err := kv.ListKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for key := range l.Keys() {
		e, err := kv.Get(t.Context(), key)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue // it has just had to go
		}
		if err != nil {
			t.Fatal(err)
		}
		found = found || strings.Contains(string(e.Value()), strconv.Quote(typ))
	}
	return found
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	end := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within 30s: %s", what)
		}
	}
}

// C12: what was fetched is there after a restart, even if the other platform is not.
func TestForeignSchemasOutliveARestart(t *testing.T) {
	t.Parallel()
	theirs := newRegistry(t, bucketOf(t, jstest.New(t)), nil)
	run(t, theirs)
	store(t, theirs, foreignType, v2)
	const protoType = "shop.example/orders/2/created"
	if _, err := theirs.Store(t.Context(), schema.Upload{Type: protoType, Kind: schema.KindProto, Definition: []byte(orderProto)}, false); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(rest(theirs))
	defer server.Close()
	kv := foreignBucket(t)
	check := func(when string, f *schema.Foreign) {
		t.Helper()
		<-f.Ready()
		ours, err := schema.NewRegistry(bucketOf(t, jstest.New(t)), nil, slog.New(slog.DiscardHandler), schema.Config{Foreign: f})
		if err != nil {
			t.Fatal(err)
		}
		run(t, ours)
		if used, found := ours.Validate(foreignType, 0, []byte(`{"id":1}`)); used != 1 || len(found) != 1 || found[0].Field != "/id" {
			t.Errorf("%s: a bad event is checked by %d with %v, want 1 and a violation at /id", when, used, found)
		}
		if used, found := ours.ValidateContent(protoType, 0, "application/protobuf", wireOf(t, `{"id":"1"}`)); used != 1 || found != nil {
			t.Errorf("%s: a protobuf event is checked by %d with %v, want 1 and none", when, used, found)
		}
		if rec, versions, err := ours.Get(t.Context(), foreignType, 0); err != nil || rec.Definition != v2 || rec.Origin != server.URL+"/api/v1/schemas/"+foreignType || len(versions) != 1 {
			t.Errorf("%s: got %+v, versions %v (%v), want their definition and where it is from", when, rec, versions, err)
		}
	}
	check("while they answer", newForeign(t, server.URL, schema.ForeignConfig{Kept: kv}))
	eventually(t, "both are kept", func() bool { return kept(t, kv) == 2 })
	server.CloseClientConnections()
	server.Close()
	check("after a restart, when they are gone", newForeign(t, server.URL, schema.ForeignConfig{Kept: kv}))

	// Without the domain in the configuration nothing of it is used.
	other := newForeign(t, "", schema.ForeignConfig{Kept: kv, Hosts: map[string]schema.Host{"other.example": {}}})
	<-other.Ready()
	if _, _, err := other.Get(t.Context(), foreignType, 0); errs.KindOf(err) != errs.NotFound {
		t.Errorf("a schema of a domain that is configured no more is answered with %v, want that there is none", err)
	}
}

// What has no room in the cache is not kept either, and a restart with less room
// keeps the newest.
func TestWhatIsKeptIsBounded(t *testing.T) {
	t.Parallel()
	address, _ := serve(t, plainSchema)
	kv := foreignBucket(t)
	typ := func(i int) string { return fmt.Sprintf("shop.example/1/t%d", i) }
	f := newForeign(t, address, schema.ForeignConfig{Kept: kv, MaxEntries: 5})
	<-f.Ready()
	for i := range 20 {
		if _, _, err := f.Get(t.Context(), typ(i), 0); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "five are kept", func() bool { return kept(t, kv) == 5 })
	// Alone, so that it is kept last.
	if _, _, err := f.Get(t.Context(), typ(20), 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "five are kept, the newest with them", func() bool { return kept(t, kv) == 5 && keeps(t, kv, typ(20)) })

	gone, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	less := newForeign(t, gone, schema.ForeignConfig{Kept: kv, MaxEntries: 2})
	<-less.Ready()
	if n := kept(t, kv); n != 2 {
		t.Errorf("with room for two %d are kept", n)
	}
	if _, _, err := less.Get(t.Context(), typ(20), 0); err != nil {
		t.Errorf("the newest cannot be used: %v", err)
	}
	none := newForeign(t, gone, schema.ForeignConfig{Kept: kv, MaxBytes: 1})
	<-none.Ready()
	if n := kept(t, kv); n != 0 {
		t.Errorf("with room for one byte %d are kept", n)
	}
}

// A schema that its registry has no more, and what cannot be read, are not used.
func TestWhatIsKeptIsNotTrusted(t *testing.T) {
	t.Parallel()
	kv := foreignBucket(t)
	gate := make(chan bool)
	address, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if <-gate {
			plainSchema(w, r)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	})
	f := newForeign(t, address, schema.ForeignConfig{Kept: kv, TTL: time.Nanosecond})
	<-f.Ready()
	go func() { gate <- true }()
	if _, _, err := f.Get(t.Context(), foreignType, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is kept", func() bool { return kept(t, kv) == 1 })
	eventually(t, "it is kept no more", func() bool {
		if _, _, err := f.Get(t.Context(), foreignType, 0); errs.KindOf(err) != errs.NotFound {
			select {
			case gate <- false:
			default:
			}
		}
		return kept(t, kv) == 0
	})
	close(gate) // whoever still asks is told that there is none

	for key, value := range map[string]string{
		"a": `{"type":"shop.example/1/a","answer":"AAAA"}`, "b": `{"type":"no uri","answer":""}`,
		"c": `{"type":"shop.example/1/c","answer":"H4sIAAAAAAAA/6uuBQBDv6ajAgAAAA=="}`, // {}
	} {
		if _, err := kv.Put(t.Context(), key, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	again := newForeign(t, address, schema.ForeignConfig{Kept: kv})
	<-again.Ready()
	for _, typ := range []string{"shop.example/1/a", "shop.example/1/c"} {
		if _, _, err := again.Get(t.Context(), typ, 0); errs.KindOf(err) != errs.NotFound {
			t.Errorf("%s is answered with %v, want what its registry says", typ, err)
		}
	}
}
