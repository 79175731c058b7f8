package webhook

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/posthornhq/posthorn/pkg/destination"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// Here is the subscriber's side of the contract, checked by other people's libraries:
// nobody agrees with himself.

// delivered sends one event to a subscriber and returns what it got.
func delivered(t *testing.T, spec *posthornv1.Webhook, secrets ...string) received {
	t.Helper()
	handler, seen := record(t)
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	spec.Url = srv.URL
	m := newMessage(`{"id": 9007199254740993, "a": 1.10}`)
	m.Now = time.Now() // libraries look at the clock
	if r := send(t, newWebhook(t, newClient(t, Config{}), spec, secrets...), m); r.Verdict != destination.Accepted {
		t.Fatalf("result is %+v, want accepted", r)
	}
	return <-seen
}

func TestStandardWebhooksLibraryVerifies(t *testing.T) {
	t.Parallel()
	const older = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	private := "whsk_" + base64.StdEncoding.EncodeToString(make([]byte, ed25519.SeedSize))
	tests := []struct {
		name    string
		secrets []string // of the platform
		holds   []string // by one of which each a subscriber verifies
	}{
		{"one secret", []string{testSecret}, []string{testSecret}},
		{"two during rotation: who has the old one, and who has the new one", []string{testSecret, older}, []string{testSecret, older}},
		{"beside a key of the other kind", []string{private, testSecret}, []string{testSecret}},
	}
	formats := []posthornv1.Webhook_Format{posthornv1.Webhook_CLOUDEVENTS_BINARY, posthornv1.Webhook_CLOUDEVENTS_STRUCTURED, posthornv1.Webhook_RAW}
	for _, tt := range tests {
		for _, format := range formats {
			t.Run(tt.name+"/"+format.String(), func(t *testing.T) {
				t.Parallel()
				got := delivered(t, &posthornv1.Webhook{Format: format}, tt.secrets...)
				for _, secret := range tt.holds {
					wh, err := standardwebhooks.NewWebhook(secret)
					if err != nil {
						t.Fatal(err)
					}
					if err := wh.Verify([]byte(got.body), got.header); err != nil {
						t.Errorf("the library refuses a delivery: %v", err)
					}
					if err := wh.Verify([]byte(got.body+" "), got.header); err == nil {
						t.Error("the library takes another body")
					}
					other := got.header.Clone()
					other.Set("Webhook-Id", "ev_02")
					if err := wh.Verify([]byte(got.body), other); err == nil {
						t.Error("the library takes another ID")
					}
				}
				stranger, err := standardwebhooks.NewWebhookRaw([]byte("a key of somebody else"))
				if err != nil {
					t.Fatal(err)
				}
				if err := stranger.Verify([]byte(got.body), got.header); err == nil {
					t.Error("a key of somebody else verifies")
				}
			})
		}
	}
}

// A subscriber of v1a has the public key only, and the standard library.
func TestPublicKeyVerifies(t *testing.T) {
	t.Parallel()
	seed := []byte("0123456789abcdef0123456789abcdef")
	key := ed25519.NewKeyFromSeed(seed)
	for name, secret := range map[string]string{
		"a seed":                    "whsk_" + base64.StdEncoding.EncodeToString(seed),
		"a seed and its public key": "whsk_" + base64.StdEncoding.EncodeToString(key),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := delivered(t, &posthornv1.Webhook{}, secret, testSecret)
			signatures := strings.Fields(got.header.Get("Webhook-Signature"))
			if len(signatures) != 2 {
				t.Fatalf("there are signatures %q, want one for each key", signatures)
			}
			text, ok := strings.CutPrefix(signatures[0], "v1a,")
			signature, err := base64.StdEncoding.DecodeString(text)
			if !ok || err != nil {
				t.Fatalf("the first signature is %q, %v; want v1a and base64", signatures[0], err)
			}
			content := got.header.Get("Webhook-Id") + "." + got.header.Get("Webhook-Timestamp") + "." + got.body
			if !ed25519.Verify(key.Public().(ed25519.PublicKey), []byte(content), signature) {
				t.Error("the public key does not verify the delivery")
			}
			if ed25519.Verify(key.Public().(ed25519.PublicKey), []byte(content+" "), signature) {
				t.Error("the public key verifies another body")
			}
		})
	}
}

// The other two ways to be sure of a delivery, with the first secret: C9 and S16.
func TestHMACSigAndJWTVerify(t *testing.T) {
	t.Parallel()
	const secret, older = "hush-hush-hush", "hush-older-hush"
	got := delivered(t, &posthornv1.Webhook{JwtSignature: &posthornv1.JwtSignature{Issuer: "staging"}}, secret, older)
	if want := "SHA256 " + hex.EncodeToString(mac([]byte(secret), got.body)); got.header.Get("HMAC-SIG") != want {
		t.Errorf("HMAC-SIG is %q, want %q", got.header.Get("HMAC-SIG"), want)
	}
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(got.header.Get("X-Signature-JWT"), claims, func(*jwt.Token) (any, error) { return []byte(secret), nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithIssuer("staging"), jwt.WithSubject("orders-erp"), jwt.WithIssuedAt(), jwt.WithLeeway(time.Minute))
	if err != nil {
		t.Fatalf("the library refuses the JWT: %v", err)
	}
	sum := sha256.Sum256([]byte(got.body))
	if claims["c_hash"] != hex.EncodeToString(sum[:]) || claims["jti"] != got.header.Get("Webhook-Id") {
		t.Errorf("claims are %v, want the hash of the body and the webhook-id", claims)
	}
	if _, err := jwt.Parse(got.header.Get("X-Signature-JWT"), func(*jwt.Token) (any, error) { return []byte(older), nil }); err == nil {
		t.Error("the secret that is being rotated out verifies the JWT, which the first one signs")
	}
	if got.header.Get("Webhook-Id") == "" || got.method != http.MethodPost {
		t.Errorf("got %+v", got)
	}
}
