package source

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/signature"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

const formType = "Content-Type: application/x-www-form-urlencoded"

// at returns the request as it came at a time in Unix seconds.
func (r *Request) at(unix int64) *Request {
	r.Now = time.Unix(unix, 0)
	return r
}

// called returns the request as it came to a URL.
func (r *Request) called(rawURL string) *Request {
	u, err := url.Parse(rawURL)
	if err != nil {
		panic(err) // the test's own
	}
	r.Scheme, r.Host, r.Path, r.RawQuery = u.Scheme, u.Host, u.EscapedPath(), u.RawQuery
	return r
}

const (
	stripeSecret   = "whsec_test_secret"
	slackSecret    = "8f742231b10e8888abcd99yyyzzz85a5"
	standardSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	twilioToken    = "12345"
	slackVector    = `token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c`
	twilioVector   = `CallSid=CA1234567890ABCDE&Caller=%2B14158675309&Digits=1234&From=%2B14158675309&To=%2B18005551212`
	twilioURL      = "https://mycompany.com/myapp.php?foo=1&bar=2"
	twilioSum      = "RSOYDt4T1cUTdK1PDd93/VVr8B8="
)

func fromStripe(body string, headers ...string) *Request {
	return request(body, append(headers, "Stripe-Signature: "+signature.SignStripe([]byte(stripeSecret), now, []byte(body)))...)
}

func fromSlack(body string, headers ...string) *Request {
	ts := strconv.FormatInt(now.Unix(), 10)
	return request(body, append(headers, "X-Slack-Request-Timestamp: "+ts,
		"X-Slack-Signature: "+signature.Slack.Sign([]byte(slackSecret), []byte("v0:"+ts+":"+body)))...)
}

func fromShopify(body string, headers ...string) *Request {
	return request(body, append(headers, "X-Shopify-Hmac-SHA256: "+signature.Shopify.Sign([]byte("hush"), []byte(body)))...)
}

func fromStandard(t testing.TB, secret, prefix, body string, headers ...string) *Request {
	t.Helper()
	key, err := signature.ParseStandardSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	sig := signature.SignStandard(nil, []signature.StandardKey{key}, "msg_1", now, []byte(body))
	return request(body, append(headers, prefix+"-id: msg_1", prefix+"-timestamp: "+strconv.FormatInt(now.Unix(), 10),
		prefix+"-signature: "+string(sig))...)
}

func fromTwilio(form string) *Request {
	values, err := url.ParseQuery(form)
	if err != nil {
		panic(err) // the test's own
	}
	return request(form, formType, "X-Twilio-Signature: "+signature.SignTwilio([]byte(twilioToken), twilioURL, values)).called(twilioURL)
}

// fromTwilioJSON returns a request whose URL has the hash of its body.
func fromTwilioJSON(body string, headers ...string) *Request {
	sum := sha256.Sum256([]byte(body))
	u := "https://mycompany.com/events/calls?bodySHA256=" + hex.EncodeToString(sum[:])
	return request(body, append(headers, "X-Twilio-Signature: "+signature.SignTwilio([]byte(twilioToken), u, nil))...).called(u)
}

func ed25519Pair() (private, public string) {
	priv := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	return "whsk_" + base64.StdEncoding.EncodeToString(priv), "whpk_" + base64.StdEncoding.EncodeToString(priv[32:])
}

// A way is one that requests are verified in.
type way struct {
	name    string
	spec    *posthornv1.Source
	secret  string
	wrong   string // another secret of the same form; "" for the secret and "x"
	request func() *Request
	header  string // that the secret or signature is in; "" for the body
	// signed says that the signature covers the body.
	signed bool
	detail string // in the receipt
}

func ways(t testing.TB) []way {
	private, public := ed25519Pair()
	of := func(kind posthornv1.Source_Kind) *posthornv1.Source {
		return &posthornv1.Source{Kind: kind, Type: "configured"}
	}
	header := of(posthornv1.Source_HEADER)
	header.Header = &posthornv1.HeaderSettings{Name: "X-Token", Prefix: "Token "}
	field := of(posthornv1.Source_JSON_FIELD)
	field.JsonField = &posthornv1.JsonFieldSettings{Pointer: "/auth/0"}
	return []way{
		{"Stripe, the vector", of(posthornv1.Source_STRIPE), stripeSecret, "", func() *Request {
			return request(`{"id":"evt_test"}`, "Stripe-Signature: t=1614556800,v1=8d7e36959f35255aff1c2cc6a906fedf5d8f34dc74004f274f68dbde50ff6d16").at(1614556800)
		}, "Stripe-Signature", true, "stripe hmac-sha256"},
		{"Slack, the vector", of(posthornv1.Source_SLACK), slackSecret, "", func() *Request {
			return request(slackVector, formType, "X-Slack-Request-Timestamp: 1531420618",
				"X-Slack-Signature: v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503").at(1531420618)
		}, "X-Slack-Signature", true, "slack hmac-sha256"},
		{"Shopify, the vector", of(posthornv1.Source_SHOPIFY), "hush", "", func() *Request {
			return request(`{"id":1}`, "X-Shopify-Topic: orders/create", "X-Shopify-Hmac-SHA256: VnKUjZsLuN5iZWjn5EntcBVCF9kMN43LglzCE1/GSeY=")
		}, "X-Shopify-Hmac-SHA256", true, "shopify hmac-sha256"},
		{"Standard Webhooks, the vector", of(posthornv1.Source_STANDARD_WEBHOOKS), standardSecret[6:], "whsec_aGVsbG8=", func() *Request {
			return request(`{"test": 2432232314}`, "webhook-id: msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp: 1614265330",
				"webhook-signature: v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=").at(1614265330)
		}, "webhook-signature", true, "standard webhooks"},
		{"Svix", of(posthornv1.Source_STANDARD_WEBHOOKS), standardSecret, "whsec_aGVsbG8=", func() *Request {
			return fromStandard(t, standardSecret, "svix", `{}`)
		}, "svix-signature", true, "standard webhooks"},
		{"Standard Webhooks with ed25519", of(posthornv1.Source_STANDARD_WEBHOOKS), public, "whpk_" + base64.StdEncoding.EncodeToString(make([]byte, 32)),
			func() *Request { return fromStandard(t, private, "webhook", `{}`) }, "webhook-signature", true, "standard webhooks"},
		{"Twilio, the vector", of(posthornv1.Source_TWILIO), twilioToken, "", func() *Request {
			return request(twilioVector, formType, "X-Twilio-Signature: "+twilioSum).called(twilioURL)
		}, "X-Twilio-Signature", true, "twilio hmac-sha1"},
		{"Twilio with JSON", of(posthornv1.Source_TWILIO), twilioToken, "", func() *Request { return fromTwilioJSON(`{}`) },
			"X-Twilio-Signature", true, "twilio hmac-sha1"},
		{"GitLab with a secret token", of(posthornv1.Source_GITLAB), "glsecret", "", func() *Request {
			return request(`{}`, "X-Gitlab-Event: Push Hook", "X-Gitlab-Token: glsecret")
		}, "X-Gitlab-Token", false, "gitlab"},
		{"GitLab with a signing token", of(posthornv1.Source_GITLAB), standardSecret, "whsec_aGVsbG8=", func() *Request {
			return fromStandard(t, standardSecret, "webhook", `{}`, "X-Gitlab-Event: Push Hook")
		}, "webhook-signature", true, "gitlab"},
		{"a header", header, "s3cret", "", func() *Request { return request(`{}`, "X-Token: Token s3cret") }, "X-Token", false, "header X-Token"},
		{"a JSON field", field, "s3cret", "", func() *Request { return request(`{"auth":["s3cret"]}`) }, "", false, "JSON field /auth/0"},
	}
}

func TestWaysToVerify(t *testing.T) {
	t.Parallel()
	for _, w := range ways(t) {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			wrong := w.wrong
			if wrong == "" {
				wrong = w.secret + "x"
			}
			// During a rotation both secrets are live, whichever the publisher has.
			for i, secrets := range [][]string{{w.secret}, {w.secret, wrong}, {wrong, w.secret}} {
				b, err := compile(t, w.spec, secrets...).Receive(w.request())
				if err != nil || len(b.Events) != 1 {
					t.Fatalf("with secrets %d: %d events, error %v; want one event", i, len(b.Events), err)
				}
				if !strings.HasPrefix(b.Steps[0].Detail, w.detail) {
					t.Errorf("receipt says %q, want it to begin with %q", b.Steps[0].Detail, w.detail)
				}
			}
			b, err := compile(t, w.spec, wrong).Receive(w.request())
			refused(t, b, err, errs.Unauthenticated, "signature", "")
			if strings.Contains(err.Error(), w.secret) || strings.Contains(b.Steps[0].Detail, wrong) {
				t.Errorf("the refusal shows a secret: %v", err)
			}

			s := compile(t, w.spec, w.secret)
			if w.signed {
				r := w.request()
				r.Body = append(r.Body, ' ')
				b, err = s.Receive(r)
				refused(t, b, err, errs.Unauthenticated, "signature", "")
			}
			if w.header == "" {
				return
			}
			for _, change := range []func(http.Header){
				func(h http.Header) { h.Del(w.header) },
				func(h http.Header) { h.Set(w.header, "") },
				func(h http.Header) { h.Set(w.header, "x") },
				func(h http.Header) { h.Set(w.header, h.Get(w.header)[1:]) },
				func(h http.Header) { h.Set(w.header, h.Get(w.header)+"x") },
				func(h http.Header) { h.Set(w.header, strings.Repeat(",v1=00 v1,AA==", 1000)) },
			} {
				r := w.request()
				change(r.Header)
				b, err := s.Receive(r)
				refused(t, b, err, errs.Unauthenticated, "signature", "")
			}
		})
	}
}

// An empty secret makes signatures that anybody can make too.
func TestEmptySecretsFailClosed(t *testing.T) {
	t.Parallel()
	for _, w := range ways(t) {
		for _, secrets := range [][]string{nil, {""}, {w.secret, ""}} {
			w.spec.Name = "test"
			if _, err := Compile(w.spec, secrets); errs.KindOf(err) != errs.Invalid {
				t.Errorf("%s compiles with secrets %q: %v", w.name, secrets, err)
			}
		}
		// Not even if one got past validation.
		k, err := newKind(w.spec, [][]byte{{}})
		if err != nil {
			continue // keys of Standard Webhooks are not even read
		}
		r := w.request()
		r.Header.Set("Stripe-Signature", signature.SignStripe(nil, r.Now, r.Body))
		r.Header.Set("X-Slack-Signature", signature.Slack.Sign(nil, []byte("v0:"+r.Header.Get("X-Slack-Request-Timestamp")+":"), r.Body))
		r.Header.Set("X-Shopify-Hmac-SHA256", signature.Shopify.Sign(nil, r.Body))
		r.Header.Set("X-Token", "Token ")
		if detail, err := k.verify(r); err == nil {
			t.Errorf("%s verifies with an empty secret: %s", w.name, detail)
		}
	}
}

func TestStaleTimestamps(t *testing.T) {
	t.Parallel()
	private, public := ed25519Pair()
	tests := []struct {
		name    string
		kind    posthornv1.Source_Kind
		secret  string
		request *Request
	}{
		{"Stripe", posthornv1.Source_STRIPE, stripeSecret, fromStripe(`{"type":"a"}`)},
		{"Slack", posthornv1.Source_SLACK, slackSecret, fromSlack(`{"type":"a"}`)},
		{"Standard Webhooks", posthornv1.Source_STANDARD_WEBHOOKS, standardSecret, fromStandard(t, standardSecret, "webhook", `{"type":"a"}`)},
		{"ed25519", posthornv1.Source_STANDARD_WEBHOOKS, public, fromStandard(t, private, "webhook", `{"type":"a"}`)},
		{"Svix", posthornv1.Source_STANDARD_WEBHOOKS, standardSecret, fromStandard(t, standardSecret, "svix", `{"type":"a"}`)},
		{"GitLab", posthornv1.Source_GITLAB, standardSecret, fromStandard(t, standardSecret, "webhook", `{}`, "X-Gitlab-Event: Job Hook")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := compile(t, &posthornv1.Source{Kind: tt.kind}, tt.secret)
			for _, age := range []time.Duration{0, 300 * time.Second, -300 * time.Second} {
				tt.request.Now = now.Add(age)
				if b, err := s.Receive(tt.request); err != nil || len(b.Events) != 1 {
					t.Errorf("%v old: %d events, error %v; want one event", age, len(b.Events), err)
				}
			}
			for _, age := range []time.Duration{301 * time.Second, -301 * time.Second, 24 * time.Hour} {
				tt.request.Now = now.Add(age)
				b, err := s.Receive(tt.request)
				refused(t, b, err, errs.Unauthenticated, "signature", "within 5m0s of now")
			}
			// Who has not signed it is not told.
			other := map[bool]string{true: "whsec_aGVsbG8=", false: "other"}[strings.HasPrefix(tt.secret, "wh")]
			b, err := compile(t, &posthornv1.Source{Kind: tt.kind}, other).Receive(tt.request)
			refused(t, b, err, errs.Unauthenticated, "signature", "does not match")
		})
	}
}

// oneEvent fails the test unless the request becomes the event and key.
func oneEvent(t *testing.T, s *Source, r *Request, want event.Event, key string) {
	t.Helper()
	if want.Data == nil {
		want.Data = r.Body
	}
	if want.DataContentType == "" {
		want.DataContentType = r.Header.Get("Content-Type")
	}
	diff(t, receive(t, s, r), []Incoming{{Event: want, Key: key}})
}

func signTwilio(rawURL string, form url.Values) string {
	return signature.SignTwilio([]byte(twilioToken), rawURL, form)
}
