package source

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/signature"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// compile returns a source named "test" that is otherwise as in spec.
func compile(t testing.TB, spec *posthornv1.Source, secrets ...string) *Source {
	t.Helper()
	spec = proto.CloneOf(spec) // tests that run at once may share it
	spec.Name = "test"
	s, err := Compile(spec, secrets)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// request returns one with headers given as "Name: value".
func request(body string, headers ...string) *Request {
	r := &Request{Method: http.MethodPost, Header: http.Header{}, Body: []byte(body), Now: now}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	return r
}

func (r *Request) to(topic string) *Request {
	r.Topic = topic
	return r
}

// receive returns the events of a request that must be accepted.
func receive(t testing.TB, s *Source, r *Request) []Incoming {
	t.Helper()
	b, err := s.Receive(r)
	if err != nil {
		t.Fatalf("refused: %v", err)
	}
	return b.Events
}

// refused fails the test unless err is of the kind and reason and says what.
func refused(t testing.TB, b Batch, err error, kind errs.Kind, reason, what string) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted as %+v, want %v saying %q", b.Events, kind, what)
	}
	if errs.KindOf(err) != kind || errs.ReasonOf(err) != reason {
		t.Errorf("refused as %v (%s), want %v (%s)", errs.KindOf(err), errs.ReasonOf(err), kind, reason)
	}
	if !strings.Contains(errs.MessageOf(err), what) {
		t.Errorf("refused with %q, want it to say %q", errs.MessageOf(err), what)
	}
	if len(b.Events) != 0 {
		t.Errorf("refused, but with %d events; want none", len(b.Events))
	}
}

func diff(t testing.TB, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestCompiledSourceKeepsNoSecretInItsSpec(t *testing.T) {
	t.Parallel()
	spec := &posthornv1.Source{Kind: posthornv1.Source_GITHUB, Secrets: []string{"written"}}
	s := compile(t, spec, "s3cret")
	if got := s.Spec().GetSecrets(); len(got) != 0 {
		t.Errorf("spec has secrets %q, want none", got)
	}
	diff(t, spec.GetSecrets(), []string{"written"}) // the caller's own is as it was
}

func TestDefaultsOfASource(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		spec    *posthornv1.Source
		secrets []string
		context string
		mode    posthornv1.Source_SchemaMode
	}{
		{"generic", &posthornv1.Source{Kind: posthornv1.Source_GENERIC}, nil, "default", posthornv1.Source_REJECT},
		{"auth0", &posthornv1.Source{Kind: posthornv1.Source_AUTH0}, []string{"x"}, "default", posthornv1.Source_WARN},
		{"auth0, strict", &posthornv1.Source{Kind: posthornv1.Source_AUTH0, SchemaMode: posthornv1.Source_REJECT}, []string{"x"},
			"default", posthornv1.Source_REJECT},
		{"in a context, off", &posthornv1.Source{Kind: posthornv1.Source_GENERIC, Context: "testing", SchemaMode: posthornv1.Source_OFF}, nil,
			"testing", posthornv1.Source_OFF},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := compile(t, tt.spec, tt.secrets...)
			if s.Context() != tt.context || s.SchemaMode() != tt.mode || s.Name() != "test" {
				t.Errorf("source is %s in %s with %v, want test in %s with %v", s.Name(), s.Context(), s.SchemaMode(), tt.context, tt.mode)
			}
		})
	}
}

func TestCompileRefusesAnEmptySecret(t *testing.T) {
	t.Parallel()
	for _, kind := range []posthornv1.Source_Kind{posthornv1.Source_GITHUB, posthornv1.Source_AUTH0, posthornv1.Source_HMAC} {
		for _, secrets := range [][]string{nil, {""}, {"one", ""}} {
			if _, err := Compile(&posthornv1.Source{Name: "test", Kind: kind}, secrets); errs.KindOf(err) != errs.Invalid {
				t.Errorf("%v with secrets %q: error is %v, want one that is invalid", kind, secrets, err)
			}
		}
	}
}

// The receipt is what a person reads to see how an event was checked, the
// rejection's to see why one was not taken.
func TestReceiptStep(t *testing.T) {
	t.Parallel()
	const body = `{"action":"opened"}`
	github := compile(t, &posthornv1.Source{Kind: posthornv1.Source_GITHUB}, "new", "old")
	signed := "X-Hub-Signature-256: " + signature.GitHub.Sign([]byte("old"), []byte(body))

	tests := []struct {
		name    string
		source  *Source
		request *Request
		want    []string // outcome and detail
	}{
		{"verified", github, request(body, signed, "X-GitHub-Event: issues"), []string{"ok", "github hmac-sha256, secret 2 of 2"}},
		{"verified, but malformed", github, request(body, signed), []string{"ok", "github hmac-sha256, secret 2 of 2"}},
		{"refused", github, request(body), []string{"refused", "the request has no X-Hub-Signature-256 header; set the webhook's secret at GitHub"}},
		{"nothing to verify", compile(t, &posthornv1.Source{Kind: posthornv1.Source_GENERIC, Type: "a"}), request(body), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, _ := tt.source.Receive(tt.request)
			var got []string
			for _, s := range b.Steps {
				got = append(got, s.Outcome, s.Detail)
				if s.Name != "verify" || !s.At.Equal(now) || s.Took < 0 {
					t.Errorf("step is %+v, want a verify at %v", s, now)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("receipt is %q, want %q", got, tt.want)
			}
		})
	}
}

// No refusal may give away what would have been accepted.
func TestRefusalsShowNoSecret(t *testing.T) {
	t.Parallel()
	const secret = "hush-hush"
	body := []byte(`{}`)
	expected := signature.GitHub.Sign([]byte(secret), body)
	for _, kind := range []posthornv1.Source_Kind{posthornv1.Source_GITHUB, posthornv1.Source_AUTH0, posthornv1.Source_HMAC} {
		s := compile(t, &posthornv1.Source{Kind: kind}, secret)
		for _, value := range []string{"", "wrong", "sha256=00"} {
			r := request(string(body), "X-Hub-Signature-256: "+value, "Authorization: "+value, "X-Signature: "+value)
			b, err := s.Receive(r)
			refused(t, b, err, errs.Unauthenticated, "signature", "")
			said := err.Error() + b.Steps[0].Detail
			if strings.Contains(said, secret) || strings.Contains(said, expected[7:]) {
				t.Errorf("%v: refusal of %q says %q", kind, value, said)
			}
		}
	}
}

// S15: topics are enabled per context.
func TestASourceIsInSeveralContexts(t *testing.T) {
	t.Parallel()
	src, err := Compile(&posthornv1.Source{
		Name: "shop", Kind: posthornv1.Source_GENERIC, Topics: []string{"order.created", "order.paid"},
		Contexts: []*posthornv1.SourceContext{{Context: "testing", Topics: []string{"order.created", "order.tried"}}, {Context: "staging"}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for context, topics := range map[string]map[string]bool{
		"default": {"order.created": true, "order.paid": true, "order.tried": false},
		"testing": {"order.created": true, "order.paid": false, "order.tried": true},
		"staging": {"order.created": true, "order.paid": true, "order.tried": false},
	} {
		there, ok := src.In(context)
		if !ok || there.Context() != context || there.Spec().GetContext() != context && context != "default" {
			t.Fatalf("in context %s it is %v (%t)", context, there, ok)
		}
		for topic, want := range topics {
			batch, err := there.Receive(&Request{Method: "POST", Topic: topic, Body: []byte(`{}`), Now: time.Now()})
			if got := err == nil && len(batch.Events) == 1; got != want {
				t.Errorf("topic %s in context %s is taken: %t (%v), want %t", topic, context, got, err, want)
			}
		}
	}
	if _, ok := src.In("production"); ok {
		t.Error("it is in a context that nobody put it in")
	}
}
