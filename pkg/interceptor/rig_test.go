package interceptor_test

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/posthornhq/posthorn/pkg/authorization"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/interceptor"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// authorizations are those of the contexts of a test.
type authorizations map[string]*authorization.Authorization

func (a authorizations) Authorization(context string) (*authorization.Authorization, bool) {
	az, ok := a[context]
	return az, ok
}

// A clock stands still unless it is moved.
type clock struct{ offset atomic.Int64 }

var epoch = time.Unix(1_800_000_000, 0)

func (c *clock) now() time.Time       { return epoch.Add(time.Duration(c.offset.Load())) }
func (c *clock) move(d time.Duration) { c.offset.Add(int64(d)) }

// authorize reads the authorization of the default context.
func authorize(t testing.TB, doc string) authorizations {
	t.Helper()
	spec := new(posthornv1.Authorization)
	if err := protojson.Unmarshal([]byte(doc), spec); err != nil {
		t.Fatal(err)
	}
	az := &authorization.Authorization{Spec: spec, ClientSecret: spec.GetOauth().GetClientSecret()}
	return authorizations{"default": az}
}

func newAsker(t testing.TB, known authorizations, c *clock, cfg interceptor.Config) *interceptor.Asker {
	t.Helper()
	cfg.Now = c.now
	a, err := interceptor.NewAsker(&http.Client{Transport: &http.Transport{}}, known, slog.New(slog.DiscardHandler), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// compile reads a flow.
func compile(t testing.TB, doc string, secrets map[string]string, a *interceptor.Asker) *interceptor.Flow {
	t.Helper()
	spec := new(posthornv1.Security)
	if err := protojson.Unmarshal([]byte(`{"flow":`+doc+`}`), spec); err != nil {
		t.Fatal(err)
	}
	f, err := interceptor.Compile(spec, secrets, a)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// request is one with headers, "Name: value" each, and a query.
func request(query string, headers ...string) *interceptor.Request {
	r := &interceptor.Request{RawQuery: query, Header: http.Header{}, Body: []byte(`{"id":1}`), Client: netip.MustParseAddr("192.0.2.1"), Now: epoch}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	return r
}

// refused checks that a flow says no in this way, and that nothing that it says
// has one of the secrets in it.
func refused(t *testing.T, f *interceptor.Flow, r *interceptor.Request, kind errs.Kind, says string, secrets ...string) {
	t.Helper()
	steps, err := f.Check(t.Context(), r)
	if err == nil {
		t.Errorf("let in with %+v, want a refusal that says %q", steps, says)
		return
	}
	if errs.KindOf(err) != kind || errs.ReasonOf(err) != interceptor.Reason || !strings.Contains(errs.MessageOf(err), says) {
		t.Errorf("got %v (%v, %s), want one of kind %v that says %q", err, errs.KindOf(err), errs.ReasonOf(err), kind, says)
	}
	text, jsonErr := json.Marshal(steps)
	if jsonErr != nil {
		t.Fatal(jsonErr)
	}
	for _, s := range secrets {
		if strings.Contains(err.Error(), s) || strings.Contains(string(text), s) {
			t.Errorf("%q is in %v or in %s", s, err, text)
		}
	}
	if last := steps[len(steps)-1]; last.Outcome != interceptor.Refused {
		t.Errorf("the last step is %+v, want it refused", last)
	}
}

func passes(t *testing.T, f *interceptor.Flow, r *interceptor.Request) {
	t.Helper()
	if _, err := f.Check(t.Context(), r); err != nil {
		t.Errorf("refused: %v", err)
	}
}

// A server is asked, and answers with what handle says; it counts.
type server struct {
	*httptest.Server
	asked atomic.Int32
	mu    sync.Mutex
	last  *http.Request
	body  string
}

func serve(t testing.TB, handle http.HandlerFunc) *server {
	t.Helper()
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.last, s.body = r, string(body)
		s.mu.Unlock()
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		handle(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) saw() (*http.Request, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, s.body
}

func form(t *testing.T, body string) url.Values {
	t.Helper()
	v, err := url.ParseQuery(body)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
