package schema_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/schema"
)

const foreignType = "shop.example/orders/1/created"

// rest serves a registry in the form of GET /api/v1/schemas/{type}.
func rest(r *schema.Registry) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		version, err := strconv.Atoi("0" + req.URL.Query().Get("version"))
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		rec, versions, err := r.Get(req.Context(), strings.TrimPrefix(req.URL.Path, "/api/v1/schemas/"), version)
		if err != nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		writeSchema(w, rec, versions)
	})
}

func writeSchema(w http.ResponseWriter, rec schema.Record, versions []int) {
	definition := json.RawMessage(rec.Definition)
	if !json.Valid(definition) {
		definition, _ = json.Marshal(rec.Definition) // a string never fails
	}
	_ = json.NewEncoder(w).Encode(map[string]any{ // the other side may be gone
		"schema": map[string]any{
			"type": rec.Type, "version": rec.Version, "kind": rec.Kind, "definition": definition, "createdAt": rec.CreatedAt,
			"createdBy": rec.CreatedBy, "message": rec.Message, "descriptorSet": rec.DescriptorSet, "origin": "",
		},
		"versions": versions,
	})
}

// newForeign returns what asks a server for the schemas of shop.example, and runs.
func newForeign(t *testing.T, address string, cfg schema.ForeignConfig) *schema.Foreign {
	t.Helper()
	if cfg.Hosts == nil {
		cfg.Hosts = map[string]schema.Host{"shop.example": {URL: address, Token: "s3cret"}}
	}
	// A server that answers late is not one that is gone.
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.Wait == 0 {
		cfg.Wait = 30 * time.Second
	}
	f, err := schema.NewForeign(http.DefaultClient, slog.New(slog.DiscardHandler), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v, want nil", err)
		}
	})
	return f
}

// serve answers every request with f until the test ends, and counts.
func serve(t *testing.T, f http.HandlerFunc) (address string, asked *atomic.Int32) {
	t.Helper()
	asked = new(atomic.Int32)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		f(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, asked
}

func plainSchema(w http.ResponseWriter, r *http.Request) {
	writeSchema(w, schema.Record{Type: strings.TrimPrefix(r.URL.Path, "/api/v1/schemas/"), Version: 1, Kind: schema.KindJSON, Definition: v1}, []int{1})
}

func TestAnotherPosthornsSchemasAreUsedWhenItIsGone(t *testing.T) {
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

	kv := bucketOf(t, jstest.New(t))
	// Every answer is old at once, so that each use after the first asks again.
	f := newForeign(t, server.URL, schema.ForeignConfig{TTL: time.Nanosecond, Retry: time.Nanosecond})
	ours, err := schema.NewRegistry(kv, nil, slog.New(slog.DiscardHandler), schema.Config{Foreign: f})
	if err != nil {
		t.Fatal(err)
	}
	run(t, ours)
	check := func(when string) {
		t.Helper()
		if used, found := ours.Validate(foreignType, 0, []byte(`{"id":1}`)); used != 1 || len(found) != 1 || found[0].Field != "/id" {
			t.Errorf("%s: a bad event is checked by %d with %v, want 1 and a violation at /id", when, used, found)
		}
		if used, found := ours.ValidateContent(protoType, 0, "application/protobuf", wireOf(t, `{"id":"1"}`)); used != 1 || found != nil {
			t.Errorf("%s: a protobuf event is checked by %d with %v, want 1 and none", when, used, found)
		}
		if used, found := ours.Validate("shop.example/other/1/x", 0, []byte(`{}`)); used != 0 || found != nil {
			t.Errorf("%s: a type without schema there is checked by %d with %v, want 0 and none", when, used, found)
		}
		rec, versions, err := ours.Get(t.Context(), "events://"+foreignType, 0)
		if err != nil || rec.Definition != v2 || rec.Origin != server.URL+"/api/v1/schemas/"+foreignType || len(versions) != 1 {
			t.Errorf("%s: got %+v, versions %v (%v), want their definition and where it is from", when, rec, versions, err)
		}
	}
	check("while they answer")
	server.CloseClientConnections()
	server.Close()
	for range 20 {
		check("when they are gone")
	}
	if used, found := ours.Validate("shop.example/new/1/x", 0, []byte(`{}`)); used != 0 || len(found) != 1 || !strings.Contains(found[0].Description, "does not answer") {
		t.Errorf("a type never asked for is checked by %d with %v, want a violation that says so", used, found)
	}
	if own, _, err := ours.List(t.Context(), "", 0, ""); err != nil || len(own) != 0 {
		t.Errorf("ours are %v (%v), want none: theirs are no copies", own, err)
	}
}

func TestManyWaitersAskOnce(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	address, asked := serve(t, func(w http.ResponseWriter, r *http.Request) {
		<-gate
		if r.Header.Get("Authorization") != "Bearer s3cret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		plainSchema(w, r)
	})
	f := newForeign(t, address, schema.ForeignConfig{})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if s, err := f.Lookup(foreignType, 0); err != nil || s == nil {
				t.Errorf("got %v (%v), want the schema", s, err)
			}
		})
	}
	close(gate)
	wg.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
}

func TestWhatIsForeignIsSaidByTheConfiguration(t *testing.T) {
	t.Parallel()
	address, asked := serve(t, plainSchema)
	f := newForeign(t, address, schema.ForeignConfig{Own: []string{"ours.example"}})
	for _, typ := range []string{"order.created", "ours.example/1/x", "other.example/1/x", "shop.example/1/*", "shop.example/x", "events://ours.example/1/x"} {
		if s, err := f.Lookup(typ, 0); s != nil || err != nil {
			t.Errorf("%s is found as %v (%v), want nothing", typ, s, err)
		}
		if _, _, err := f.Get(t.Context(), typ, 0); errs.KindOf(err) != errs.NotFound {
			t.Errorf("%s: %v, want not found", typ, err)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("asked %d times, want never", n)
	}
}

func TestAWrongAnswerIsNoSchema(t *testing.T) {
	t.Parallel()
	elsewhere, reached := serve(t, plainSchema)
	tests := []struct {
		name string
		f    http.HandlerFunc
	}{
		{"an error", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }},
		{"a refusal", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere+r.URL.Path, http.StatusFound)
		}},
		{"no JSON", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) }},
		{"an endless answer", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}},
		{"another type", func(w http.ResponseWriter, _ *http.Request) {
			writeSchema(w, schema.Record{Type: "other", Version: 1, Kind: schema.KindJSON, Definition: `{}`}, nil)
		}},
		{"no version", func(w http.ResponseWriter, _ *http.Request) {
			writeSchema(w, schema.Record{Type: foreignType, Kind: schema.KindJSON, Definition: `{}`}, nil)
		}},
		{"an unknown kind", func(w http.ResponseWriter, _ *http.Request) {
			writeSchema(w, schema.Record{Type: foreignType, Version: 1, Kind: "AVRO", Definition: `{}`}, nil)
		}},
		{"a schema that does not compile", func(w http.ResponseWriter, _ *http.Request) {
			writeSchema(w, schema.Record{Type: foreignType, Version: 1, Kind: schema.KindJSON, Definition: `{"$ref":"http://127.0.0.1:1/"}`}, nil)
		}},
		{"protobuf without descriptors", func(w http.ResponseWriter, _ *http.Request) {
			writeSchema(w, schema.Record{Type: foreignType, Version: 1, Kind: schema.KindProto, Definition: orderProto, Message: "shop.Order"}, nil)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			address, asked := serve(t, tt.f)
			f := newForeign(t, address, schema.ForeignConfig{MaxResponse: 1 << 18})
			for range 3 {
				if s, err := f.Lookup(foreignType, 0); s != nil || errs.KindOf(err) != errs.Unavailable {
					t.Errorf("got %v (%v), want it unavailable", s, err)
				}
			}
			if n := asked.Load(); n != 1 {
				t.Errorf("asked %d times, want once until the pause is over", n)
			}
		})
	}
	t.Cleanup(func() {
		if n := reached.Load(); n != 0 {
			t.Errorf("the redirect was followed %d times, want never", n)
		}
	})
}

func TestAHostThatIsNotNamedMayBeMissing(t *testing.T) {
	t.Parallel()
	f := newForeign(t, "", schema.ForeignConfig{Open: true, Hosts: map[string]schema.Host{}, Timeout: 200 * time.Millisecond})
	if s, err := f.Lookup("events://127.0.0.1:1/1/x", 0); s != nil || err != nil {
		t.Errorf("got %v (%v), want no schema and no error", s, err)
	}
}

func TestTheCacheIsBounded(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		cfg  schema.ForeignConfig
	}{
		{"by number", schema.ForeignConfig{MaxEntries: 3}},
		{"by size", schema.ForeignConfig{MaxBytes: 5 << 10}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			address, asked := serve(t, plainSchema)
			f := newForeign(t, address, tt.cfg)
			look := func(i int) {
				t.Helper()
				if s, err := f.Lookup(fmt.Sprintf("shop.example/%d/x", i), 0); err != nil || s == nil {
					t.Fatalf("type %d is %v (%v), want a schema", i, s, err)
				}
			}
			for i := range 10 {
				look(i + 1)
				look(1) // what is used stays
			}
			if n := asked.Load(); n != 10 {
				t.Errorf("asked %d times, want 10", n)
			}
			look(2)
			if n := asked.Load(); n != 11 {
				t.Errorf("asked %d times for what had to go, want 11", n)
			}
		})
	}
}

func TestNewForeignRefusesAddressesThatAreMore(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"ftp://x", "x:9600", "https://u:p@x", "https://x/path", "https://x?a=b"} {
		_, err := schema.NewForeign(http.DefaultClient, slog.New(slog.DiscardHandler), schema.ForeignConfig{Hosts: map[string]schema.Host{"x": {URL: address}}})
		if err == nil {
			t.Errorf("%s is accepted, want an error", address)
		}
	}
}
