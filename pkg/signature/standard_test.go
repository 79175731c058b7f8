package signature

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// The vector of the Standard Webhooks specification.
const (
	vectorSecret = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	vectorID     = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	vectorTime   = "1614265330"
	vectorBody   = `{"test": 2432232314}`
	vectorSig    = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
)

var vectorNow = time.Unix(1614265330, 0)

func key(t testing.TB, s string) StandardKey {
	t.Helper()
	k, err := ParseStandardSecret(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// seeded returns the same ed25519 key pair every time.
func seeded(first byte) (private, public string) {
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = first
	priv := ed25519.NewKeyFromSeed(seed)
	return "whsk_" + base64.StdEncoding.EncodeToString(priv), "whpk_" + base64.StdEncoding.EncodeToString(priv[32:])
}

func TestSignStandardVector(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{vectorSecret, "whsec_" + vectorSecret} {
		got := string(SignStandard([]byte("x "), []StandardKey{key(t, secret)}, vectorID, vectorNow, []byte(vectorBody)))
		if got != "x "+vectorSig {
			t.Errorf("with %s appended %q, want %q", secret, got, "x "+vectorSig)
		}
	}
}

func TestSignStandardWithSeveralKeysVerifiesWithEach(t *testing.T) {
	t.Parallel()
	private, public := seeded(1)
	other := NewStandardSecret()
	keys := []StandardKey{key(t, vectorSecret), key(t, private), key(t, public), key(t, other), {}}
	sig := string(SignStandard(nil, keys, vectorID, vectorNow, []byte(vectorBody)))
	parts := strings.Split(sig, " ")
	if len(parts) != 3 || parts[0] != vectorSig || !strings.HasPrefix(parts[1], "v1a,") || !strings.HasPrefix(parts[2], "v1,") {
		t.Fatalf("signatures are %q, want the vector's, a v1a and a v1", sig)
	}
	for _, k := range []string{vectorSecret, private, public, other} {
		if err := VerifyStandard([]StandardKey{key(t, k)}, vectorID, vectorTime, sig, []byte(vectorBody), vectorNow, 0); err != nil {
			t.Errorf("with %v alone: %v", key(t, k), err)
		}
	}
}

func TestVerifyStandard(t *testing.T) {
	t.Parallel()
	private, public := seeded(1)
	_, otherPublic := seeded(2)
	asymmetric := string(SignStandard(nil, []StandardKey{key(t, private)}, vectorID, vectorNow, []byte(vectorBody)))

	tests := []struct {
		name     string
		keys     []string
		id, ts   string
		sigs     string
		body     string
		now      time.Time
		tolerate time.Duration
		want     error
	}{
		{"vector", []string{vectorSecret}, vectorID, vectorTime, vectorSig, vectorBody, vectorNow, 0, nil},
		{"second key", []string{"whsec_aGVsbG8=", vectorSecret}, vectorID, vectorTime, vectorSig, vectorBody, vectorNow, 0, nil},
		{"second signature", []string{vectorSecret}, vectorID, vectorTime, "v1,AAAA v2,zzz " + vectorSig, vectorBody, vectorNow, 0, nil},
		{"ed25519", []string{public}, vectorID, vectorTime, asymmetric, vectorBody, vectorNow, 0, nil},
		{"just old enough", []string{vectorSecret}, vectorID, vectorTime, vectorSig, vectorBody, vectorNow.Add(5 * time.Minute), 0, nil},
		{"just early enough", []string{vectorSecret}, vectorID, vectorTime, vectorSig, vectorBody, vectorNow.Add(-5 * time.Minute), 0, nil},
		{"old, but tolerated", []string{vectorSecret}, vectorID, vectorTime, vectorSig, vectorBody, vectorNow.Add(time.Hour), time.Hour, nil},

		{"another ed25519 key", []string{otherPublic}, vectorID, vectorTime, asymmetric, vectorBody, vectorNow, 0, ErrMismatch},
		{"v1a passed off as v1", []string{vectorSecret}, vectorID, vectorTime, strings.Replace(asymmetric, "v1a", "v1", 1), vectorBody, vectorNow, 0, ErrMismatch},
		{"v1 passed off as v1a", []string{public}, vectorID, vectorTime, strings.Replace(vectorSig, "v1", "v1a", 1), vectorBody, vectorNow, 0, ErrMismatch},
		{"wrong key", []string{"whsec_aGVsbG8="}, vectorID, vectorTime, vectorSig, vectorBody, vectorNow, 0, ErrMismatch},
		{"no keys", nil, vectorID, vectorTime, vectorSig, vectorBody, vectorNow, 0, ErrMismatch},
		{"changed body", []string{vectorSecret}, vectorID, vectorTime, vectorSig, vectorBody + " ", vectorNow, 0, ErrMismatch},
		{"changed id", []string{vectorSecret}, "msg_2", vectorTime, vectorSig, vectorBody, vectorNow, 0, ErrMismatch},
		{"changed timestamp", []string{vectorSecret}, vectorID, "1614265331", vectorSig, vectorBody, vectorNow, 0, ErrMismatch},
		{"no version", []string{vectorSecret}, vectorID, vectorTime, vectorSig[3:], vectorBody, vectorNow, 0, ErrMismatch},
		{"too old", []string{vectorSecret}, vectorID, vectorTime, vectorSig, vectorBody, vectorNow.Add(5*time.Minute + time.Second), 0, ErrStale},
		{"from the future", []string{vectorSecret}, vectorID, vectorTime, vectorSig, vectorBody, vectorNow.Add(-5*time.Minute - time.Second), 0, ErrStale},
		{"no number", []string{vectorSecret}, vectorID, "yesterday", vectorSig, vectorBody, vectorNow, 0, ErrStale},
		{"so far away that a difference would overflow", []string{vectorSecret}, vectorID, "-9223372036854775808", vectorSig, vectorBody, vectorNow, 0, ErrStale},
		{"no id", []string{vectorSecret}, "", vectorTime, vectorSig, vectorBody, vectorNow, 0, ErrMissing},
		{"no timestamp", []string{vectorSecret}, vectorID, "", vectorSig, vectorBody, vectorNow, 0, ErrMissing},
		{"no signature", []string{vectorSecret}, vectorID, vectorTime, "", vectorBody, vectorNow, 0, ErrMissing},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var keys []StandardKey
			for _, s := range tt.keys {
				keys = append(keys, key(t, s))
			}
			err := VerifyStandard(keys, tt.id, tt.ts, tt.sigs, []byte(tt.body), tt.now, tt.tolerate)
			if !errors.Is(err, tt.want) {
				t.Errorf("error is %v, want %v", err, tt.want)
			}
		})
	}
}

func TestVerifyStandardHeader(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		prefix string
		want   error
	}{
		{"the standard's headers", "Webhook-", nil},
		{"those of Svix", "Svix-", nil},
		{"others", "X-Webhook-", ErrMissing},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := http.Header{}
			h.Set(tt.prefix+"Id", vectorID)
			h.Set(tt.prefix+"Timestamp", vectorTime)
			h.Set(tt.prefix+"Signature", vectorSig)
			err := VerifyStandardHeader([]StandardKey{key(t, vectorSecret)}, h, []byte(vectorBody), vectorNow, 0)
			if !errors.Is(err, tt.want) {
				t.Errorf("error is %v, want %v", err, tt.want)
			}
		})
	}
}

func TestParseStandardSecret(t *testing.T) {
	t.Parallel()
	private, public := seeded(1)
	_, otherPublic := seeded(2)
	seed := private[:len("whsk_")] + base64.StdEncoding.EncodeToString(make([]byte, 32))
	halves, _ := base64.StdEncoding.DecodeString(private[5:])
	stranger, _ := base64.StdEncoding.DecodeString(otherPublic[5:])
	torn := "whsk_" + base64.StdEncoding.EncodeToString(append(halves[:32:32], stranger...))

	tests := []struct {
		name    string
		secret  string
		ok      bool
		canSign bool
		prints  string
	}{
		{"shared", "whsec_" + vectorSecret, true, true, "whsec_***"},
		{"shared, without prefix", vectorSecret, true, true, "whsec_***"},
		{"shared, without padding", "whsec_aGVsbG8", true, true, "whsec_***"},
		{"private", private, true, true, "whsk_***"},
		{"private, seed alone", seed, true, true, "whsk_***"},
		{"public", public, true, false, public},
		{"empty", "", false, false, ""},
		{"prefix alone", "whsec_", false, false, ""},
		{"not base64", "whsec_top secret!", false, false, ""},
		{"private, too short", "whsk_aGVsbG8=", false, false, ""},
		{"private, of two halves that are strangers", torn, false, false, ""},
		{"public, too short", "whpk_aGVsbG8=", false, false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k, err := ParseStandardSecret(tt.secret)
			if (err == nil) != tt.ok {
				t.Fatalf("error is %v, want none: %v", err, tt.ok)
			}
			if err != nil {
				if body := strings.TrimPrefix(tt.secret, "whsec_"); len(body) > 5 && strings.Contains(err.Error(), body) {
					t.Errorf("error %q contains the secret", err)
				}
				return
			}
			if k.CanSign() != tt.canSign {
				t.Errorf("can sign: %v, want %v", k.CanSign(), tt.canSign)
			}
			for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
				if got := fmt.Sprintf(verb, k); got != tt.prints {
					t.Errorf("%s prints %q, want %q", verb, got, tt.prints)
				}
			}
		})
	}
}

func TestNewStandardSecretIsNewEachTime(t *testing.T) {
	t.Parallel()
	a, b := NewStandardSecret(), NewStandardSecret()
	if a == b {
		t.Errorf("two secrets are both %s", a)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(a, "whsec_"))
	if err != nil || len(raw) != 24 || !strings.HasPrefix(a, "whsec_") {
		t.Errorf("secret %q has %d bytes after whsec_ (%v), want 24", a, len(raw), err)
	}
}

// One key is used by all workers of a dispatcher at once.
func TestOneKeySignsConcurrently(t *testing.T) {
	t.Parallel()
	keys := []StandardKey{key(t, vectorSecret)}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				if got := string(SignStandard(nil, keys, vectorID, vectorNow, []byte(vectorBody))); got != vectorSig {
					t.Errorf("signature is %s, want %s", got, vectorSig)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestDeliveryJWTVector(t *testing.T) {
	t.Parallel()
	const (
		iss = "staging"
		sub = "7f08e914-3e64-4acb-9a1e-d21f9cbabcba"
		jti = "266dd6d0-4f21-4191-aa05-2d9833fd8eee"
	)
	iat := time.Unix(1603894744, 0)
	parts := strings.Split(DeliveryJWT([]byte("hush"), iss, sub, jti, []byte(`{"id":1}`), iat), ".")
	if len(parts) != 3 {
		t.Fatalf("token has %d parts, want 3", len(parts))
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	wantClaims := `{"iss":"staging","sub":"` + sub + `","jti":"` + jti +
		`","c_hash":"037c9214eef74cc3887f3a4f085b4e17d76280dafd273b0ee160c09c4ba1cfd4","iat":1603894744}`
	if string(claims) != wantClaims {
		t.Errorf("claims are %s, want %s", claims, wantClaims)
	}
	if want := "SWLLNd6RrD8pw8AVZxEJP9VH_leO97xOfBMwl85BrRw"; parts[2] != want {
		t.Errorf("signature part is %s, want %s", parts[2], want)
	}
	if got := DeliveryJWT(nil, iss, sub, jti, nil, iat); got != "" {
		t.Errorf("an empty secret signed as %q, want nothing", got)
	}
}

func BenchmarkSignStandard512B(b *testing.B) {
	keys := []StandardKey{key(b, vectorSecret)}
	body, buf := make([]byte, 512), make([]byte, 0, 128)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		buf = SignStandard(buf[:0], keys, vectorID, vectorNow, body)
	}
}
