package signature

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"strings"
	"testing"
	"time"
)

const (
	stripeSecret = "whsec_test_secret"
	stripeBody   = `{"id":"evt_test"}`
	stripeSum    = "8d7e36959f35255aff1c2cc6a906fedf5d8f34dc74004f274f68dbde50ff6d16"
)

func TestSignStripeVector(t *testing.T) {
	t.Parallel()
	if got, want := SignStripe([]byte(stripeSecret), time.Unix(1614556800, 0), []byte(stripeBody)), "t=1614556800,v1="+stripeSum; got != want {
		t.Errorf("header is %s, want %s", got, want)
	}
}

func TestMatchStripe(t *testing.T) {
	t.Parallel()
	wrong := strings.Repeat("0", 64)
	tests := []struct {
		name    string
		secrets [][]byte
		header  string
		body    string
		want    int
		time    string
	}{
		{"the vector", secrets(stripeSecret), "t=1614556800,v1=" + stripeSum, stripeBody, 0, "1614556800"},
		{"the second secret", secrets("new", stripeSecret), "t=1614556800,v1=" + stripeSum, stripeBody, 1, "1614556800"},
		{"the second secret after an empty one", secrets("", stripeSecret), "t=1614556800,v1=" + stripeSum, stripeBody, 1, "1614556800"},
		{"the second signature", secrets(stripeSecret), "t=1614556800,v1=" + wrong + ",v1=" + stripeSum, stripeBody, 0, "1614556800"},
		{"the time last", secrets(stripeSecret), "v1=" + stripeSum + ", t=1614556800", stripeBody, 0, "1614556800"},
		{"beside other versions", secrets(stripeSecret), "t=1614556800,v0=" + wrong + ",v1=" + stripeSum + ",v2=x", stripeBody, 0, "1614556800"},

		{"as another version", secrets(stripeSecret), "t=1614556800,v0=" + stripeSum, stripeBody, -1, "1614556800"},
		{"the secret without its prefix", secrets("test_secret"), "t=1614556800,v1=" + stripeSum, stripeBody, -1, "1614556800"},
		{"a changed body", secrets(stripeSecret), "t=1614556800,v1=" + stripeSum, stripeBody + " ", -1, "1614556800"},
		{"a changed time", secrets(stripeSecret), "t=1614556801,v1=" + stripeSum, stripeBody, -1, "1614556801"},
		{"two times", secrets(stripeSecret), "t=1614556800,t=1614556801,v1=" + stripeSum, stripeBody, -1, "1614556800"},
		{"no time", secrets(stripeSecret), "v1=" + stripeSum, stripeBody, -1, ""},
		{"no signature", secrets(stripeSecret), "t=1614556800", stripeBody, -1, "1614556800"},
		{"a cut signature", secrets(stripeSecret), "t=1614556800,v1=" + stripeSum[:62], stripeBody, -1, "1614556800"},
		{"nothing", secrets(stripeSecret), "", stripeBody, -1, ""},
		{"no secrets", nil, "t=1614556800,v1=" + stripeSum, stripeBody, -1, "1614556800"},
		{"an empty secret", secrets(""), SignStripe(nil, time.Unix(1614556800, 0), []byte(stripeBody)), stripeBody, -1, "1614556800"},
		{"behind more signatures than are looked at", secrets(stripeSecret),
			"t=1614556800" + strings.Repeat(",v1="+wrong, 16) + ",v1=" + stripeSum, stripeBody, -1, "1614556800"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, ts := MatchStripe(tt.secrets, tt.header, []byte(tt.body))
			if got != tt.want || ts != tt.time {
				t.Errorf("secret %d at %q, want %d at %q", got, ts, tt.want, tt.time)
			}
		})
	}
}

const (
	twilioToken = "12345"
	twilioURL   = "https://mycompany.com/myapp.php?foo=1&bar=2"
	twilioSig   = "RSOYDt4T1cUTdK1PDd93/VVr8B8="
)

func twilioVector() url.Values {
	return url.Values{
		"CallSid": {"CA1234567890ABCDE"}, "Caller": {"+14158675309"}, "Digits": {"1234"},
		"From": {"+14158675309"}, "To": {"+18005551212"},
	}
}

func TestTwilioVector(t *testing.T) {
	t.Parallel()
	if got := SignTwilio([]byte(twilioToken), twilioURL, twilioVector()); got != twilioSig {
		t.Errorf("signature is %s, want %s", got, twilioSig)
	}
}

func TestMatchTwilio(t *testing.T) {
	t.Parallel()
	changed := twilioVector()
	changed.Set("Digits", "1235")
	added := twilioVector()
	added.Set("Extra", "")
	tests := []struct {
		name   string
		tokens [][]byte
		sig    string
		urls   []string
		form   url.Values
		want   int
	}{
		{"the vector", secrets(twilioToken), twilioSig, []string{twilioURL}, twilioVector(), 0},
		{"the second token", secrets("", "new", twilioToken), twilioSig, []string{twilioURL}, twilioVector(), 2},
		{"the second URL", secrets(twilioToken), twilioSig, []string{"https://mycompany.com:443/", twilioURL}, twilioVector(), 0},
		{"another token", secrets("12346"), twilioSig, []string{twilioURL}, twilioVector(), -1},
		{"an empty token", secrets(""), SignTwilio(nil, twilioURL, nil), []string{twilioURL}, nil, -1},
		{"no token", nil, twilioSig, []string{twilioURL}, twilioVector(), -1},
		{"another URL", secrets(twilioToken), twilioSig, []string{twilioURL + "3"}, twilioVector(), -1},
		{"no URL", secrets(twilioToken), twilioSig, nil, twilioVector(), -1},
		{"a changed value", secrets(twilioToken), twilioSig, []string{twilioURL}, changed, -1},
		{"a new name", secrets(twilioToken), twilioSig, []string{twilioURL}, added, -1},
		{"no form", secrets(twilioToken), twilioSig, []string{twilioURL}, nil, -1},
		{"a cut signature", secrets(twilioToken), twilioSig[:24], []string{twilioURL}, twilioVector(), -1},
		{"a signature with a line break", secrets(twilioToken), twilioSig[:8] + "\n" + twilioSig[8:], []string{twilioURL}, twilioVector(), -1},
		{"a signature in another spelling", secrets(twilioToken), "RSOYDt4T1cUTdK1PDd93/VVr8B9=", []string{twilioURL}, twilioVector(), -1},
		{"no signature", secrets(twilioToken), "", []string{twilioURL}, twilioVector(), -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := MatchTwilio(tt.tokens, tt.sig, tt.urls, tt.form); got != tt.want {
				t.Errorf("token %d, want %d", got, tt.want)
			}
		})
	}
}

// As Twilio's own libraries have it: sorted, and each value once.
func TestTwilioFormWithSeveralValuesOfOneName(t *testing.T) {
	t.Parallel()
	form := url.Values{"b": {"2", "1", "2"}, "a": {"x"}, "B": {""}}
	if got, want := string(twilioForm(form)), "Baxb1b2"; got != want {
		t.Errorf("signed is %q, want %q", got, want)
	}
	if got := strings.Join(form["b"], ""); got != "212" {
		t.Errorf("the form has %s now, want it as it was, 212", got)
	}
}

func TestVerifyTwilioBody(t *testing.T) {
	t.Parallel()
	sum := sha256.Sum256([]byte(`{"a":1}`))
	good := hex.EncodeToString(sum[:])
	for hash, want := range map[string]bool{good: true, strings.ToUpper(good): true, good[:62]: false, "": false, "zz": false} {
		if got := VerifyTwilioBody(hash, []byte(`{"a":1}`)); got != want {
			t.Errorf("hash %q verifies: %v, want %v", hash, got, want)
		}
		if VerifyTwilioBody(hash, []byte(`{"a":2}`)) {
			t.Errorf("hash %q verifies another body", hash)
		}
	}
}

// Nobody can make us sum a body as often as a header has room for signatures.
func TestOnlySoManySignaturesAreLookedAt(t *testing.T) {
	t.Parallel()
	keys := []StandardKey{key(t, vectorSecret)}
	for n, want := range map[int]int{0: 0, 15: 0, 16: -1, 1000: -1} {
		if got := MatchStandard(keys, vectorID, vectorTime, strings.Repeat("v1,AAAA ", n)+vectorSig, []byte(vectorBody)); got != want {
			t.Errorf("behind %d others: key %d, want %d", n, got, want)
		}
	}
	body := []byte("x")
	sigs := append(make([]string, 16), GitHub.Sign([]byte("k"), body))
	if got := GitHub.MatchAny(secrets("k"), sigs, body); got != -1 {
		t.Errorf("signature 17 matches secret %d, want none", got)
	}
	if got := GitHub.MatchAny(secrets("k"), sigs[1:], body); got != 0 {
		t.Errorf("signature 16 matches secret %d, want 0", got)
	}
}

func TestMatchStandardSaysWhichKey(t *testing.T) {
	t.Parallel()
	private, public := seeded(1)
	keys := []StandardKey{{}, key(t, NewStandardSecret()), key(t, public), key(t, vectorSecret)}
	asymmetric := string(SignStandard(nil, []StandardKey{key(t, private)}, vectorID, vectorNow, []byte(vectorBody)))
	tests := []struct {
		name, sigs string
		want       int
	}{
		{"a shared secret", vectorSig, 3},
		{"ed25519", asymmetric, 2},
		{"both", vectorSig + " " + asymmetric, 2},
		{"ed25519 after one that is not", "v1a," + strings.Repeat("A", 86) + "== " + asymmetric, 2},
		{"a signature that is too long", vectorSig[:len(vectorSig)-1] + strings.Repeat("A", 100), -1},
		{"a signature in another spelling", strings.Replace(vectorSig, "OE=", "OF=", 1), -1},
		{"a signature that is too short", vectorSig[:len(vectorSig)-4], -1},
		{"none", "", -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := MatchStandard(keys, vectorID, vectorTime, tt.sigs, []byte(vectorBody)); got != tt.want {
				t.Errorf("key %d, want %d", got, tt.want)
			}
		})
	}
}
