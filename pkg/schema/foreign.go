package schema

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/pattern"
)

// ForeignConfig says whose schemas are fetched, and how much of them is kept.
// The zero value fetches nothing.
type ForeignConfig struct {
	// Hosts are the other Posthorns by the domain of their URIs.
	Hosts map[string]Host
	// Open also fetches from domains that are not in Hosts, at
	// https://<domain>:<port of the URI, or 9600>. Their types are without schema
	// as long as nobody answers there.
	Open bool
	// Own are domains that are never fetched from.
	Own []string

	// MaxEntries bounds the schemas kept. Default 1,000.
	MaxEntries int
	// MaxBytes bounds their size together. Default 64 MiB.
	MaxBytes int64
	// MaxResponse bounds one answer. Default 4 MiB.
	MaxResponse int64
	// TTL is how long a schema is used before it is asked for again, behind the
	// back of the event that is validated. Default 10m.
	TTL time.Duration
	// Retry is how long nobody is asked again after an error. Default 30s.
	Retry time.Duration
	// Timeout bounds one request. Default 5s.
	Timeout time.Duration
	// Wait is how long the first event of a type waits for its schema. Default 5s.
	Wait time.Duration
	// Concurrency is how many requests are made at once. Default 4.
	Concurrency int
	// Kept is the bucket that keeps what was fetched beyond the process. nil keeps
	// it in memory only.
	Kept jetstream.KeyValue
}

// A Host is another Posthorn's Master API.
type Host struct {
	// URL is its scheme, host and port. Default https://<domain>:9600.
	URL string
	// Token is sent as a bearer token, to this host only.
	Token string
}

func (c *ForeignConfig) setDefaults() {
	setDefault(&c.MaxEntries, 1_000)
	setDefault(&c.MaxBytes, 64<<20)
	setDefault(&c.MaxResponse, 4<<20)
	setDefault(&c.TTL, 10*time.Minute)
	setDefault(&c.Retry, 30*time.Second)
	setDefault(&c.Timeout, 5*time.Second)
	setDefault(&c.Wait, 5*time.Second)
	setDefault(&c.Concurrency, 4)
}

func setDefault[T ~int | ~int64](v *T, to T) {
	if *v == 0 {
		*v = to
	}
}

// Foreign knows the schemas that other Posthorns keep: it asks them for a type's
// schema once, over GET /api/v1/schemas/{type}, and keeps the answer in memory and
// in a bucket. A schema whose registry is gone stays in use until there is no room
// for it, also after a restart.
// It is safe for concurrent use.
type Foreign struct {
	client *http.Client
	log    *slog.Logger
	cfg    ForeignConfig
	asked  chan *fetched
	// archive is nil where nothing is kept.
	archive *archive
	ready   chan struct{}

	mu    sync.Mutex
	cache cache
}

// NewForeign returns a Foreign that asks with client, which must itself keep away
// from addresses that users may not reach. Redirects are not followed. Nothing
// is fetched before [Foreign.Run].
func NewForeign(client *http.Client, log *slog.Logger, cfg ForeignConfig) (*Foreign, error) {
	if client == nil || log == nil {
		return nil, errors.New("schema: foreign schemas need a client and a log")
	}
	cfg.setDefaults()
	if min(int64(cfg.MaxEntries), cfg.MaxBytes, cfg.MaxResponse, int64(cfg.TTL), int64(cfg.Retry), int64(cfg.Timeout), int64(cfg.Wait), int64(cfg.Concurrency)) < 0 {
		return nil, errors.New("schema: a limit of foreign schemas is negative")
	}
	cfg.Hosts = maps.Clone(cfg.Hosts)
	for domain, h := range cfg.Hosts {
		if h.URL == "" {
			continue
		}
		u, err := url.Parse(h.URL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("schema: the address of %s is not http(s)://host:port", domain)
		}
	}
	own := *client
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Foreign{
		client: &own, log: log, cfg: cfg,
		asked:   make(chan *fetched, cfg.MaxEntries),
		archive: newArchive(cfg.Kept), ready: make(chan struct{}),
		cache: newCache(cfg.MaxEntries, cfg.MaxBytes),
	}, nil
}

// Ready is closed when what was kept before has been read, or cannot be.
func (f *Foreign) Ready() <-chan struct{} { return f.ready }

// Run reads what is kept, and then fetches what is asked for until ctx is done. It
// may be called once.
func (f *Foreign) Run(ctx context.Context) error {
	f.remember(ctx)
	close(f.ready)
	var wg sync.WaitGroup
	for range f.cfg.Concurrency {
		wg.Go(func() {
			for {
				select {
				case e := <-f.asked:
					f.refresh(ctx, e)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	wg.Wait()
	return nil
}

// Lookup returns a version of a foreign type's schema, 0 for the newest, nil if
// the type is not foreign or has none. It waits for the first answer only, and
// at most [ForeignConfig.Wait]. The error is of kind [errs.Unavailable] if
// nothing is known, or what is known cannot be used.
func (f *Foreign) Lookup(typ string, version int) (*Schema, error) {
	e, u, ok := f.entry(typ, version)
	if !ok {
		return nil, nil
	}
	a := e.answer()
	if a == nil {
		t := time.NewTimer(f.cfg.Wait)
		defer t.Stop()
		select {
		case <-e.first:
			a = e.answer()
		case <-t.C:
			a = &answer{err: unreachable(u)}
		}
	}
	if a.err != nil && errs.KindOf(a.err) == errs.NotFound {
		return nil, nil
	}
	if _, named := f.cfg.Hosts[u.Domain]; a.err != nil && !named {
		return nil, nil
	}
	return a.schema, a.err
}

// Get returns a version of a foreign type's schema, 0 for the newest, and the
// numbers of all that its registry had. The type may be an events:// URI.
func (f *Foreign) Get(ctx context.Context, typ string, version int) (Record, []int, error) {
	e, u, ok := f.entry(typ, version)
	if !ok {
		return Record{}, nil, errs.New(errs.NotFound, "there is no schema of %s", cut(typ, 300))
	}
	t := time.NewTimer(f.cfg.Wait)
	defer t.Stop()
	select {
	case <-e.first:
	case <-t.C:
		return Record{}, nil, unreachable(u)
	case <-ctx.Done():
		return Record{}, nil, fmt.Errorf("schema: foreign schema of %s: %w", typ, context.Cause(ctx))
	}
	a := e.answer()
	return a.record, slices.Clone(a.versions), a.err
}

func unreachable(u pattern.URI) error {
	return errs.New(errs.Unavailable, "the schema registry of %s does not answer", u.Domain)
}

// entry returns what is kept of a type and has it fetched if need be. It reports
// false if the type is nobody's who may be asked.
func (f *Foreign) entry(typ string, version int) (*fetched, pattern.URI, bool) {
	// Of dotted types, most there are, this is all.
	if strings.IndexByte(typ, '/') < 0 || len(f.cfg.Hosts) == 0 && !f.cfg.Open {
		return nil, pattern.URI{}, false
	}
	u, err := pattern.ParseURI(typ)
	if err != nil || u.Event == "*" || slices.Contains(f.cfg.Own, u.Domain) {
		return nil, pattern.URI{}, false
	}
	if _, named := f.cfg.Hosts[u.Domain]; !named && !f.cfg.Open {
		return nil, pattern.URI{}, false
	} else if named {
		u.Port = 0 // the host's address says it
	}
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.cache.get(fetchKey{u, version})
	if !e.due.After(now) && !e.asked {
		select {
		case f.asked <- e:
			e.asked = true
		default: // too many are; whoever comes next asks
		}
	}
	return e, u, true
}

// refresh fetches one entry and keeps the answer.
func (f *Foreign) refresh(ctx context.Context, e *fetched) {
	a, body, err := f.fetch(ctx, e.key)
	if ctx.Err() != nil {
		return
	}
	if errs.KindOf(err) == errs.NotFound {
		f.unkeep(ctx, e)
	}
	held := f.settle(e, a, int64(len(body)), err)
	f.forget(ctx)
	if err == nil && held {
		f.keep(ctx, e, a.record.Origin, body)
		// It may have left the cache while it was being kept, and then whoever
		// deleted what had left found nothing yet.
		f.mu.Lock()
		if _, in := f.cache.entries[e.key]; !in {
			f.cache.gone = append(f.cache.gone, e.key)
		}
		f.mu.Unlock()
		f.forget(ctx)
	}
	// Not before: one goroutine at a time has to do with an entry.
	f.mu.Lock()
	defer f.mu.Unlock()
	e.asked = false
}

// settle takes what a fetch came to into the cache, and reports whether it has
// room there.
func (f *Foreign) settle(e *fetched, a *answer, size int64, err error) bool {
	if err != nil && errs.KindOf(err) != errs.NotFound {
		f.log.Warn("a foreign schema cannot be fetched", "type", e.key.uri.Type(), "domain", e.key.uri.Domain, "err", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	e.due = time.Now().Add(f.cfg.TTL)
	was := e.answer()
	switch {
	case err == nil:
		f.cache.put(e, a, size)
	case errs.KindOf(err) == errs.NotFound:
		f.cache.put(e, &answer{err: err}, 0)
	default:
		e.due = time.Now().Add(f.cfg.Retry)
		// What was known before is better than nothing, and so is that there was no
		// schema.
		if was == nil || errs.KindOf(was.err) == errs.Unavailable {
			f.cache.put(e, &answer{err: errs.Wrap(err, errs.Unavailable, "the schema registry of %s does not answer as it should", e.key.uri.Domain)}, 0)
		}
	}
	return f.cache.entries[e.key] == e
}

// restAnswer is the answer of GET /api/v1/schemas/{type}. The definition of a
// JSON Schema is the schema itself, that of a protobuf schema a string.
type restAnswer struct {
	Schema struct {
		Type          string          `json:"type"`
		Version       int             `json:"version"`
		Kind          string          `json:"kind"`
		Definition    json.RawMessage `json:"definition"`
		CreatedAt     *time.Time      `json:"createdAt"`
		CreatedBy     string          `json:"createdBy"`
		Message       string          `json:"message"`
		DescriptorSet []byte          `json:"descriptorSet"`
	} `json:"schema"`
	Versions []int `json:"versions"`
}

func (f *Foreign) fetch(ctx context.Context, k fetchKey) (*answer, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Timeout)
	defer cancel()
	req, origin, err := f.request(ctx, k)
	if err != nil {
		return nil, nil, err
	}
	res, err := f.client.Do(req)
	if err != nil {
		return nil, nil, fmt.Errorf("schema: fetch %s: %w", origin, err)
	}
	defer func() { _ = res.Body.Close() }() // nothing was written
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, nil, errs.New(errs.NotFound, "the registry of %s has no such schema of %s", k.uri.Domain, k.uri.Type())
	default:
		return nil, nil, fmt.Errorf("schema: fetch %s: answered %d", origin, res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, f.cfg.MaxResponse+1))
	if err != nil {
		return nil, nil, fmt.Errorf("schema: fetch %s: %w", origin, err)
	}
	if int64(len(body)) > f.cfg.MaxResponse {
		return nil, nil, fmt.Errorf("schema: fetch %s: the answer is larger than %d bytes", origin, f.cfg.MaxResponse)
	}
	a, err := read(body, k)
	if err != nil {
		return nil, nil, fmt.Errorf("schema: fetch %s: %w", origin, err)
	}
	a.record.Origin = origin
	return a, body, nil
}

// request returns the request for a schema, and its address.
func (f *Foreign) request(ctx context.Context, k fetchKey) (*http.Request, string, error) {
	const port = 9600
	u := &url.URL{Scheme: "https", Host: k.uri.Domain + ":" + strconv.Itoa(port)}
	if k.uri.Port != 0 {
		u.Host = k.uri.Domain + ":" + strconv.Itoa(k.uri.Port)
	}
	host := f.cfg.Hosts[k.uri.Domain]
	if host.URL != "" {
		var err error
		if u, err = url.Parse(host.URL); err != nil {
			return nil, "", fmt.Errorf("schema: address of %s: %w", k.uri.Domain, err)
		}
	}
	u.Path = "/api/v1/schemas/" + k.uri.Type()
	if k.version != 0 {
		u.RawQuery = "version=" + strconv.Itoa(k.version)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, "", fmt.Errorf("schema: fetch %s: %w", u, err)
	}
	req.Header.Set("Accept", "application/json")
	if host.Token != "" {
		req.Header.Set("Authorization", "Bearer "+host.Token)
	}
	return req, u.String(), nil
}

// read turns an answer into a schema that is ready for use, if it is the one
// that was asked for.
func read(body []byte, k fetchKey) (*answer, error) {
	var in restAnswer
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, errors.New("the answer is not JSON of a schema")
	}
	s := &in.Schema
	asked := k.uri.Type()
	switch {
	case s.Type != asked:
		return nil, fmt.Errorf("the answer is about %q", cut(s.Type, 200))
	case s.Version < 1 || k.version != 0 && s.Version != k.version:
		return nil, fmt.Errorf("the answer is version %d", s.Version)
	}
	rec := Record{
		Type: s.Type, Version: s.Version, Kind: s.Kind, Definition: string(s.Definition),
		CreatedBy: cut(s.CreatedBy, 200), Message: s.Message, DescriptorSet: s.DescriptorSet,
	}
	if s.CreatedAt != nil {
		rec.CreatedAt = *s.CreatedAt
	}
	if s.Kind == KindProto {
		rec.Definition = ""
		if err := json.Unmarshal(s.Definition, &rec.Definition); len(s.Definition) > 0 && err != nil {
			return nil, errors.New("the answer has a definition that is no text")
		}
	}
	compiled, err := rec.compile()
	if err != nil {
		return nil, fmt.Errorf("version %d cannot be used: %w", s.Version, err)
	}
	return &answer{record: rec, versions: in.Versions, schema: compiled}, nil
}

var _ Elsewhere = (*Foreign)(nil)
