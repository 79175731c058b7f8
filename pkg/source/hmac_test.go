package source

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/signature"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func hmacSource(s *posthornv1.HmacSettings) *posthornv1.Source {
	return &posthornv1.Source{Kind: posthornv1.Source_HMAC, Type: "configured", Hmac: s}
}

// The vectors of providers show that the settings can express their schemes.
func TestHMACVectors(t *testing.T) {
	t.Parallel()
	const slackBody = `token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J`
	slack := signature.Scheme{}.Sign([]byte("k"), []byte("1531420618."+slackBody))
	sha512 := signature.Scheme{Algorithm: signature.SHA512, Encoding: signature.Base64, Prefix: "v1,"}
	tests := []struct {
		name     string
		settings *posthornv1.HmacSettings
		secret   string
		now      time.Time
		request  *Request
	}{
		{"defaults", nil, "hush", now,
			request(`{"id":1}`, "X-Signature: 5672948d9b0bb8de626568e7e449ed70154217d90c378dcb825cc2135fc649e6")},
		{"GitHub", &posthornv1.HmacSettings{Header: "X-Hub-Signature-256", Prefix: "sha256="}, githubSecret, now,
			request("Hello, World!", "Content-Type: text/plain",
				"X-Hub-Signature-256: sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17")},
		{"Shopify", &posthornv1.HmacSettings{Header: "X-Shopify-Hmac-SHA256", Encoding: posthornv1.HmacSettings_BASE64}, "hush", now,
			request(`{"id":1}`, "X-Shopify-Hmac-SHA256: VnKUjZsLuN5iZWjn5EntcBVCF9kMN43LglzCE1/GSeY=")},
		{"Certes", &posthornv1.HmacSettings{Header: "HMAC-SIG", Prefix: "SHA256 "}, "hush", now,
			request(`{"id":1}`, "HMAC-SIG: SHA256 5672948d9b0bb8de626568e7e449ed70154217d90c378dcb825cc2135fc649e6")},
		{"Stripe's content, in headers of its own",
			&posthornv1.HmacSettings{Header: "X-Sig", TimestampHeader: "X-Time"}, "whsec_test_secret", time.Unix(1614556800, 0),
			request(`{"id":"evt_test"}`, "X-Time: 1614556800",
				"X-Sig: 8d7e36959f35255aff1c2cc6a906fedf5d8f34dc74004f274f68dbde50ff6d16")},
		{"a form with a timestamp", &posthornv1.HmacSettings{TimestampHeader: "X-Time"}, "k", time.Unix(1531420618, 0),
			request(slackBody, "X-Time: 1531420618", "X-Signature: "+slack, "Content-Type: application/x-www-form-urlencoded")},
		{"SHA-512", &posthornv1.HmacSettings{Algorithm: posthornv1.HmacSettings_SHA512, Encoding: posthornv1.HmacSettings_BASE64, Prefix: "v1,"},
			"k", now, request(`{}`, "X-Signature: "+sha512.Sign([]byte("k"), []byte(`{}`)))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.request.Now = tt.now
			if got := receive(t, compile(t, hmacSource(tt.settings), "new", tt.secret), tt.request); len(got) != 1 {
				t.Fatalf("%d events, want 1", len(got))
			}
			b, err := compile(t, hmacSource(tt.settings), "wrong").Receive(tt.request)
			refused(t, b, err, errs.Unauthenticated, "signature", "does not match")
			tt.request.Body[0] ^= 1
			b, err = compile(t, hmacSource(tt.settings), tt.secret).Receive(tt.request)
			refused(t, b, err, errs.Unauthenticated, "signature", "does not match")
		})
	}
}

func TestHMACTimestamp(t *testing.T) {
	t.Parallel()
	sign := func(timestamp string) *Request {
		return request(`{}`, "X-Time: "+timestamp, "X-Signature: "+signature.Scheme{}.Sign([]byte("k"), []byte(timestamp+".{}")))
	}
	moved := sign("1772366400")
	moved.Header.Set("X-Time", "1772366401")
	without := sign("1772366400")
	without.Header.Del("X-Time")
	ofBody := request(`{}`, "X-Time: 1772366400", "X-Signature: "+signature.Scheme{}.Sign([]byte("k"), []byte(`{}`)))

	tests := []struct {
		name      string
		tolerance time.Duration
		request   *Request
		want      string // "" if it is accepted
	}{
		{"now", 0, sign("1772366400"), ""},
		{"300 seconds ago", 0, sign("1772366100"), ""},
		{"301 seconds ago", 0, sign("1772366099"), "X-Time"},
		{"301 seconds ahead", 0, sign("1772366701"), "X-Time"},
		{"an hour ago, tolerated", time.Hour, sign("1772362800"), ""},
		{"a minute ago, not tolerated", 30 * time.Second, sign("1772366340"), "X-Time"},
		{"no number", 0, sign("noon"), "X-Time"},
		{"changed after signing", 0, moved, "does not match"},
		{"missing", 0, without, "no X-Time"},
		{"not covered by the signature", 0, ofBody, "does not match"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			settings := &posthornv1.HmacSettings{TimestampHeader: "X-Time"}
			if tt.tolerance > 0 {
				settings.Tolerance = durationpb.New(tt.tolerance)
			}
			b, err := compile(t, hmacSource(settings), "k").Receive(tt.request)
			if tt.want != "" {
				refused(t, b, err, errs.Unauthenticated, "signature", tt.want)
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func TestHMACIDAndType(t *testing.T) {
	t.Parallel()
	headers := &posthornv1.HmacSettings{IdHeader: "X-Id", TypeHeader: "X-Type"}
	pointers := &posthornv1.HmacSettings{IdPointer: "/meta/a~1b/1", TypePointer: "/kind"}
	both := &posthornv1.HmacSettings{IdHeader: "X-Id", IdPointer: "/id", TypeHeader: "X-Type", TypePointer: "/kind"}
	const doc = `{"kind":"order.paid","id":9007199254740993,"meta":{"a/b":[0,"m-1"]}}`

	tests := []struct {
		name     string
		settings *posthornv1.HmacSettings
		body     string
		topic    string
		headers  []string
		typ, key string
	}{
		{"headers", headers, `{}`, "topic", []string{"X-Id: 7", "X-Type: t"}, "t", "7"},
		{"headers that are missing", headers, `{}`, "topic", nil, "topic", ""},
		{"nothing but the settings", headers, `{}`, "", nil, "configured", ""},
		{"pointers", pointers, doc, "topic", nil, "order.paid", "m-1"},
		{"pointers that lead nowhere", pointers, `{"meta":{"a/b":["x"]}}`, "topic", nil, "topic", ""},
		{"pointers into a list", pointers, `[1]`, "topic", nil, "topic", ""},
		{"pointers to what is no text", pointers, `{"kind":{},"meta":{"a/b":[0,{}]}}`, "topic", nil, "topic", ""},
		{"pointers, whatever the content type", pointers, doc, "", []string{"Content-Type: text/plain"}, "order.paid", "m-1"},
		{"pointers into what is no JSON", pointers, `kind=1`, "", []string{"Content-Type: text/plain"}, "configured", ""},
		{"a header before a pointer", both, doc, "", []string{"X-Id: 7", "X-Type: t"}, "t", "7"},
		{"a pointer where the header is missing", both, doc, "", nil, "order.paid", "9007199254740993"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := request(tt.body, append(tt.headers, "X-Signature: "+signature.Scheme{}.Sign([]byte("k"), []byte(tt.body)))...).to(tt.topic)
			want := event.Event{Type: tt.typ, ExternalID: tt.key, Data: []byte(tt.body), DataContentType: r.Header.Get("Content-Type")}
			diff(t, receive(t, compile(t, hmacSource(tt.settings), "k"), r), []Incoming{{Event: want, Key: tt.key}})
		})
	}
}

func TestHMACTakesTheIdempotencyKeyIfNoIDIsConfigured(t *testing.T) {
	t.Parallel()
	r := request(`{}`, "Idempotency-Key: k-1", "X-Signature: "+signature.Scheme{}.Sign([]byte("k"), []byte(`{}`)))
	want := event.Event{Type: "configured", Data: []byte(`{}`)}
	diff(t, receive(t, compile(t, hmacSource(nil), "k"), r), []Incoming{{Event: want, Key: "k-1"}})
}

func TestHMACRefusesWhatIsMalformed(t *testing.T) {
	t.Parallel()
	settings := &posthornv1.HmacSettings{IdHeader: "X-Id", IdPointer: "/id", TypeHeader: "X-Type", TypePointer: "/kind"}
	tests := []struct {
		name, body string
		headers    []string
		want       string
	}{
		{"bad JSON", `{`, nil, "not valid JSON"},
		{"a type header that is no type", `{}`, []string{"X-Type: a..b"}, "X-Type"},
		{"a type in the body that is no type", `{"kind":"a b"}`, nil, "/kind"},
		{"an ID header that is not UTF-8", `{}`, []string{"X-Id: \xff"}, "X-Id"},
		{"an ID in the body with a control character", `{"id":"a\u0000"}`, nil, "/id"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := request(tt.body, append(tt.headers, "X-Signature: "+signature.Scheme{}.Sign([]byte("k"), []byte(tt.body)))...)
			b, err := compile(t, hmacSource(settings), "k").Receive(r)
			refused(t, b, err, errs.Invalid, "malformed", tt.want)
		})
	}
}
