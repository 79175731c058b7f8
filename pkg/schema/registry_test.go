package schema_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/schema"
)

func bucketOf(t *testing.T, js jetstream.JetStream) jetstream.KeyValue {
	t.Helper()
	if _, err := topology.Ensure(t.Context(), js, topology.Config{}); err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(t.Context(), topology.BucketSchemas)
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

func newRegistry(t *testing.T, kv jetstream.KeyValue, commit func(context.Context) error) *schema.Registry {
	t.Helper()
	r, err := schema.NewRegistry(kv, commit, slog.New(slog.DiscardHandler), schema.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// run runs r until the test ends and returns when it is ready.
func run(t *testing.T, r *schema.Registry) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v, want nil", err)
		}
	})
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !r.Ready() {
		<-tick.C
	}
}

func store(t *testing.T, r *schema.Registry, typ, definition string) schema.Result {
	t.Helper()
	res, err := r.Store(t.Context(), schema.Upload{Type: typ, Definition: []byte(definition), By: "ada"}, false)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

const (
	v1 = `{"type":"object", "required":["id"],"properties":{"id":{"type":"string"}}}`
	v2 = `{"type":"object","required":["id"],"properties":{"id":{"type":"string"},"total":{"type":"number"}}}`
)

func TestVersionsAreNumberedAndChecked(t *testing.T) {
	t.Parallel()
	kv := bucketOf(t, jstest.New(t))
	r := newRegistry(t, kv, nil)

	first := store(t, r, "order.created", v1)
	if !first.Created || first.Schema.Version != 1 || first.Schema.CreatedBy != "ada" || len(first.Changes) != 0 {
		t.Errorf("the first is %+v, want version 1, created by ada, without changes", first)
	}
	again := store(t, r, "order.created", ` {"required":["id"],"properties":{"id":{"type":"string"}},"type":"object"}`+"\n")
	if again.Created || again.Schema.Version != 1 || again.Schema.Definition != v1 {
		t.Errorf("the same again is %+v, want version 1 as it was", again)
	}
	dry, err := r.Store(t.Context(), schema.Upload{Type: "order.created", Definition: []byte(v2), By: "ada"}, true)
	if err != nil {
		t.Fatal(err)
	}
	if !dry.Created || dry.Schema.Version != 2 || len(dry.Changes) != 1 {
		t.Errorf("the dry run is %+v, want version 2 with one change", dry)
	}
	second := store(t, r, "order.created", v2)
	if !second.Created || second.Schema.Version != 2 {
		t.Errorf("the second is %+v, want version 2, which the dry run did not take", second)
	}

	_, err = r.Store(t.Context(), schema.Upload{Type: "order.created", Definition: []byte(v1), By: "ada"}, false)
	if errs.KindOf(err) != errs.Conflict || !strings.Contains(errs.MessageOf(err), `property "total" was removed`) {
		t.Errorf("going back: %v, want a conflict that names the property", err)
	}
	if v := errs.ViolationsOf(err); len(v) != 1 || v[0].Field != "/properties/total" {
		t.Errorf("going back has violations %v, want one at /properties/total", v)
	}

	// A type that is the beginning of another has versions of its own.
	if other := store(t, r, "order", v1); other.Schema.Version != 1 {
		t.Errorf("the first of order is version %d, want 1", other.Schema.Version)
	}
	got, numbers, err := r.Get(t.Context(), "order.created", 0)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(second.Schema, got); diff != "" || !slices.Equal(numbers, []int{1, 2}) {
		t.Errorf("got versions %v, want 1 and 2; newest (-want +got):\n%s", numbers, diff)
	}
	old, _, err := r.Get(t.Context(), "order.created", 1)
	if err != nil || old.Definition != v1 {
		t.Errorf("version 1 is %q (%v), want the text as it came, %q", old.Definition, err, v1)
	}
	for _, c := range []struct {
		typ     string
		version int
		want    errs.Kind
	}{{"order.created", 3, errs.NotFound}, {"nothing", 0, errs.NotFound}, {"a..b", 0, errs.Invalid}} {
		if _, _, err := r.Get(t.Context(), c.typ, c.version); errs.KindOf(err) != c.want {
			t.Errorf("get %s %d: %v, want kind %v", c.typ, c.version, err, c.want)
		}
	}
	if _, err := r.Store(t.Context(), schema.Upload{Type: "a b", Definition: []byte(v1), By: ""}, false); errs.KindOf(err) != errs.Invalid {
		t.Errorf("stored a schema of %q: %v, want it invalid", "a b", err)
	}
}

func TestTypesBecomeKeysThatCanBeRead(t *testing.T) {
	t.Parallel()
	kv := bucketOf(t, jstest.New(t))
	r := newRegistry(t, kv, nil)
	tests := []struct{ typ, key string }{
		{"order.created", "order.created.1"},
		{"order", "order.1"},
		{"order.1", "order.1.1"},
		{"community.certes.dev/github/1/push", "community=2Ecertes=2Edev.github.1.push.1"},
		{"community.certes.dev/github/2/push", "community=2Ecertes=2Edev.github.2.push.1"},
		{"shop/1", "shop=2F.1.1"},
		{"a=2Eb.c", "a=3D2Eb.c.1"},
		{"a%b", "a=25b.1"},
		{"größe", "gr=C3=B6=C3=9Fe.1"},
	}
	for _, tt := range tests {
		store(t, r, tt.typ, v1)
		if _, err := kv.Get(t.Context(), tt.key); err != nil {
			t.Errorf("%s is not at %s: %v", tt.typ, tt.key, err)
		}
		if got, _, err := r.Get(t.Context(), tt.typ, 0); err != nil || got.Type != tt.typ {
			t.Errorf("got %q (%v), want %q", got.Type, err, tt.typ)
		}
	}
	e, err := kv.Get(t.Context(), "order.created.1")
	if err != nil {
		t.Fatal(err)
	}
	if s := string(e.Value()); !strings.Contains(s, `"definition":`+v1) {
		t.Errorf("stored %s, want the definition readable in it", s)
	}
}

func TestStoringAtOnceMakesNoGapAndLosesNothing(t *testing.T) {
	t.Parallel()
	kv := bucketOf(t, jstest.New(t))
	const writers = 8
	var wg sync.WaitGroup
	versions := make([]int, writers)
	failed := make([]error, writers)
	for i := range writers {
		r := newRegistry(t, kv, nil)
		wg.Go(func() {
			// Descriptions, so that each is compatible with each.
			res, err := r.Store(t.Context(), schema.Upload{Type: "order.created", Definition: fmt.Appendf(nil, `{"description":"%d"}`, i), By: ""}, false)
			versions[i], failed[i] = res.Schema.Version, err
		})
	}
	wg.Wait()
	for _, err := range failed {
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(versions)
	if want := []int{1, 2, 3, 4, 5, 6, 7, 8}; !slices.Equal(versions, want) {
		t.Errorf("stored as versions %v, want %v", versions, want)
	}
	got, err := newRegistry(t, kv, nil).Versions(t.Context(), "order.created")
	if err != nil || len(got) != writers {
		t.Errorf("there are versions %v (%v), want %d", got, err, writers)
	}
}

func TestTwoProcessesSeeEachOthersSchemas(t *testing.T) {
	t.Parallel()
	kv := bucketOf(t, jstest.New(t))
	a, b := newRegistry(t, kv, nil), newRegistry(t, kv, nil)
	run(t, a)
	run(t, b)
	store(t, a, "order.created", v1)
	// Who has stored may publish at once.
	if used, _ := a.Validate("order.created", 0, []byte(`{"id":"1"}`)); used != 1 {
		t.Errorf("who stored validates by version %d, want 1", used)
	}
	if err := b.Wait(within(t, 10*time.Second), "order.created", 1); err != nil {
		t.Fatal(err)
	}
	if used, found := b.Validate("order.created", 0, []byte(`{}`)); used != 1 || len(found) != 1 {
		t.Errorf("the other validates by version %d with %v, want 1 and one violation", used, found)
	}
	store(t, b, "order.created", v2)
	if err := a.Wait(within(t, 10*time.Second), "order.created", 2); err != nil {
		t.Fatal(err)
	}
	if used, found := a.Validate("order.created", 0, []byte(`{"id":"1","total":"x"}`)); used != 2 || len(found) != 1 {
		t.Errorf("the newest is version %d with %v, want 2 and one violation", used, found)
	}
	if used, found := a.Validate("order.created", 1, []byte(`{"id":"1","total":"x"}`)); used != 1 || found != nil {
		t.Errorf("version 1 is used as %d with %v, want 1 and none", used, found)
	}
	if used, found := a.Validate("order.created", 3, []byte(`{}`)); used != 0 || len(found) != 1 {
		t.Errorf("version 3 is used as %d with %v, want 0 and one violation", used, found)
	}
	if used, found := a.Validate("other", 0, []byte(`not JSON`)); used != 0 || found != nil {
		t.Errorf("a type without schema is checked by %d with %v, want 0 and none", used, found)
	}
	if err := a.Wait(within(t, 20*time.Millisecond), "other", 1); err == nil {
		t.Error("waiting for what never comes returned nil, want an error")
	}
}

func TestVersionsOutliveARestart(t *testing.T) {
	t.Parallel()
	s := jstest.Start(t, t.TempDir())
	kv := bucketOf(t, jstest.Connect(t, s))
	first := newRegistry(t, kv, nil)
	store(t, first, "order.created", v1)
	store(t, first, "order.created", v2)

	next := newRegistry(t, bucketOf(t, jstest.Connect(t, s)), nil)
	if next.Ready() {
		t.Error("a registry is ready before it runs, want it to know that it knows nothing")
	}
	run(t, next)
	if used, _ := next.Validate("order.created", 0, []byte(`{"id":"1"}`)); used != 2 {
		t.Errorf("after the restart version %d is used, want 2", used)
	}
	if again := store(t, next, "order.created", v2); again.Created || again.Schema.Version != 2 {
		t.Errorf("storing the newest after the restart gives %+v, want version 2 as it was", again)
	}
}

func TestNothingIsAnsweredBeforeItIsSafe(t *testing.T) {
	t.Parallel()
	kv := bucketOf(t, jstest.New(t))
	broken := errs.New(errs.Unavailable, "the disk is gone")
	calls := 0
	r := newRegistry(t, kv, func(context.Context) error { calls++; return broken })
	if _, err := r.Store(t.Context(), schema.Upload{Type: "order.created", Definition: []byte(v1), By: ""}, false); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("stored without commit: %v, want the commit's error", err)
	}
	// It is there now, but who stored it does not know, and asks again.
	if _, err := r.Store(t.Context(), schema.Upload{Type: "order.created", Definition: []byte(v1), By: ""}, false); errs.KindOf(err) != errs.Unavailable || calls != 2 {
		t.Errorf("storing again: %v after %d commits, want it committed too", err, calls)
	}
	if _, err := r.Store(t.Context(), schema.Upload{Type: "order.created", Definition: []byte(v2), By: ""}, true); err != nil || calls != 2 {
		t.Errorf("the dry run: %v after %d commits, want no error and no commit", err, calls)
	}
}

func TestListGoesThroughAllTypesByPages(t *testing.T) {
	t.Parallel()
	kv := bucketOf(t, jstest.New(t))
	r := newRegistry(t, kv, nil)
	for i := range 5 {
		store(t, r, fmt.Sprintf("order.%d", i), v1)
	}
	store(t, r, "order.2", v2)
	store(t, r, "user", v1)
	mirrored := newRegistry(t, kv, nil)
	run(t, mirrored)
	for name, r := range map[string]*schema.Registry{"from the bucket": r, "from memory": mirrored} {
		var got []string
		cursor := ""
		for {
			page, next, err := r.List(t.Context(), "order.", 2, cursor)
			if err != nil {
				t.Fatal(err)
			}
			for _, rec := range page {
				got = append(got, fmt.Sprintf("%s %d", rec.Type, rec.Version))
			}
			if cursor = next; next == "" {
				break
			}
		}
		want := []string{"order.0 1", "order.1 1", "order.2 2", "order.3 1", "order.4 1"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// Operators have the nats CLI, and may make mistakes with it.
func TestWhatSomebodyElsePutsIntoTheBucketBreaksOnlyItself(t *testing.T) {
	t.Parallel()
	kv := bucketOf(t, jstest.New(t))
	r := newRegistry(t, kv, nil)
	for key, value := range map[string]string{
		"rubbish.1":    `rubbish`,
		"order.paid.1": `{"type":"other","version":1,"kind":"JSON_SCHEMA","definition":{}}`,
		"broken.1":     `{"type":"broken","version":1,"kind":"JSON_SCHEMA","definition":{"$ref":"http://127.0.0.1:1/"}}`,
	} {
		if _, err := kv.Put(t.Context(), key, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	store(t, r, "order.created", v1)
	run(t, r)
	if used, found := r.Validate("order.created", 0, []byte(`{"id":"1"}`)); used != 1 || found != nil {
		t.Errorf("a good schema is used as %d with %v, want 1 and none", used, found)
	}
	if used, found := r.Validate("broken", 0, []byte(`{}`)); used != 1 || len(found) != 1 || !strings.Contains(found[0].Description, "cannot be used") {
		t.Errorf("a broken schema is used as %d with %v, want 1 and a violation that says so", used, found)
	}
	if err := kv.Delete(t.Context(), "broken.1"); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ctx := within(t, 10*time.Second); ; {
		if used, _ := r.Validate("broken", 0, []byte(`{}`)); used == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("a deleted version is still used, want it gone")
		}
	}
}

func TestOnlyJSONIsValidated(t *testing.T) {
	t.Parallel()
	kv := bucketOf(t, jstest.New(t))
	r := newRegistry(t, kv, nil)
	run(t, r)
	store(t, r, "order.created", v1)
	tests := []struct {
		contentType string
		valid       bool
	}{
		{"", true},
		{"application/json", true},
		{"Application/JSON; charset=utf-8", true},
		{"application/cloudevents+json", true},
		{"application/json; broken=", true},
		{"text/plain", false},
		{"application/jsonp", false},
	}
	for _, tt := range tests {
		used, found := r.ValidateContent("order.created", 0, tt.contentType, []byte(`{"id":"1"}`))
		if used != 1 || (len(found) == 0) != tt.valid {
			t.Errorf("%q is used as %d with %v, want 1 and valid %v", tt.contentType, used, found, tt.valid)
		}
	}
	if used, found := r.ValidateContent("other", 0, "text/plain", []byte(`x`)); used != 0 || found != nil {
		t.Errorf("text of a type without schema is checked by %d with %v, want 0 and none", used, found)
	}
}

// The largest definition must fit through the server that we start.
func TestTheLargestDefinitionCanBeStored(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, bucketOf(t, jstest.New(t)), nil)
	definition := `{"title":"` + strings.Repeat("a", schema.MaxDefinition-12) + `"}`
	if res := store(t, r, "order.created", definition); len(res.Schema.Definition) != schema.MaxDefinition {
		t.Errorf("stored %d bytes, want %d", len(res.Schema.Definition), schema.MaxDefinition)
	}
}

func TestATypeHasOneSchemaHoweverItsURIIsWritten(t *testing.T) {
	t.Parallel()
	kv := bucketOf(t, jstest.New(t))
	r := newRegistry(t, kv, nil)
	for i, typ := range []string{"events://Shop.Example:9600/_/1/placed", "shop.example/_/1/placed", "shop.example/1/placed", "events://shop.example/1/placed"} {
		res := store(t, r, typ, v1)
		if res.Schema.Type != "shop.example/1/placed" || res.Schema.Version != 1 || res.Created != (i == 0) {
			t.Errorf("%s is stored as %s, version %d, created %v; want one version of shop.example/1/placed", typ, res.Schema.Type, res.Schema.Version, res.Created)
		}
		got, _, err := r.Get(t.Context(), typ, 1)
		if err != nil || got.Type != "shop.example/1/placed" {
			t.Errorf("%s is got as %s (%v), want shop.example/1/placed", typ, got.Type, err)
		}
		if used, found := r.Validate(typ, 0, []byte(`{}`)); used != 1 || len(found) != 1 {
			t.Errorf("%s is validated by version %d with %v, want version 1 and a violation", typ, used, found)
		}
		if all, _, err := r.List(t.Context(), strings.TrimSuffix(typ, "placed"), 0, ""); err != nil || len(all) != 1 {
			t.Errorf("listed by %s are %v (%v), want the one", typ, all, err)
		}
	}
	for _, typ := range []string{"shop.example/0/x", "shop.example/../1/x", "shop.example/" + strings.Repeat("a/", 129) + "1/x"} {
		if _, err := r.Store(t.Context(), schema.Upload{Type: typ, Definition: []byte(v1)}, false); errs.KindOf(err) != errs.Invalid {
			t.Errorf("storing %.40s gives %v, want it invalid", typ, err)
		}
		if _, _, err := r.Get(t.Context(), typ, 0); errs.KindOf(err) != errs.Invalid {
			t.Errorf("getting %.40s gives %v, want it invalid", typ, err)
		}
	}
}

// Types were once left as they came.
func TestSchemasStoredUnderAnotherFormOfTheURIAreFoundAndUsed(t *testing.T) {
	t.Parallel()
	kv := bucketOf(t, jstest.New(t))
	put := func(key, typ string, version int) {
		t.Helper()
		value := fmt.Sprintf(`{"type":%q,"version":%d,"kind":"JSON_SCHEMA","definition":%s}`, typ, version, v1)
		if _, err := kv.Put(t.Context(), key, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	put("shop=2Eexample._.1.x.1", "shop.example/_/1/x", 1)
	put("shop=2Eexample._.1.x.2", "shop.example/_/1/x", 2)
	put("shop=2Eexample.0.x.1", "shop.example/0/x", 1)
	r := newRegistry(t, kv, nil)
	run(t, r)
	for _, typ := range []string{"shop.example/_/1/x", "shop.example/0/x"} {
		if got, _, err := r.Get(t.Context(), typ, 0); err != nil || got.Type != typ {
			t.Errorf("%s is got as %s (%v), want it as it was stored", typ, got.Type, err)
		}
	}
	if used, found := r.Validate("shop.example/1/x", 0, []byte(`{}`)); used != 2 || len(found) != 1 {
		t.Errorf("an event is validated by version %d with %v, want version 2 and a violation", used, found)
	}
	store(t, r, "shop.example/_/1/x", v2)
	if used, _ := r.Validate("shop.example/1/x", 0, []byte(`{}`)); used != 1 {
		t.Errorf("an event is validated by version %d, want 1 of the type's normal form", used)
	}
	if got, numbers, err := r.Get(t.Context(), "shop.example/_/1/x", 2); err != nil || got.Type != "shop.example/_/1/x" || len(numbers) != 2 {
		t.Errorf("version 2 is got as %s with versions %v (%v), want that of the old form", got.Type, numbers, err)
	}
}
