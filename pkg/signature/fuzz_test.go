package signature

import (
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// flip returns b with one bit changed, so that no signature over b is one over it.
func flip(b []byte, at uint) []byte {
	if len(b) == 0 {
		return []byte{0}
	}
	out := slices.Clone(b)
	out[at%uint(len(b))] ^= 1
	return out
}

// Whatever a header says: a signature that is made matches wherever it stands in
// it, not for another body or secret, and what is foreign matches never.
func FuzzMatchStripe(f *testing.F) {
	for _, header := range []string{"", "t=1614556800,v1=" + stripeSum, "t=1614556800,v0=" + stripeSum, "v1=,v1==", "t=1,t=2", ",,,", "t", " t = 1 , v1 = x", "T=1,V1=2"} {
		f.Add(header, []byte(stripeSecret), []byte(stripeBody), int64(1614556800), uint(3))
	}
	f.Fuzz(func(t *testing.T, header string, secret, body []byte, unix int64, at uint) {
		i, ts := MatchStripe([][]byte{[]byte("hush")}, header, body)
		if i >= 0 {
			sum := stripe.Sign([]byte("hush"), []byte(ts), []byte("."), body)
			if !strings.Contains(strings.ToLower(header), sum) {
				t.Fatalf("%q matches, but %s is not in it", header, sum)
			}
		}
		if len(secret) == 0 {
			return
		}
		list := [][]byte{nil, secret}
		made := SignStripe(secret, time.Unix(unix, 0), body)
		if i, _ := MatchStripe(list, made, body); i != 1 {
			t.Errorf("%s matches secret %d, want 1", made, i)
		}
		if i, _ := MatchStripe(list, made, flip(body, at)); i >= 0 {
			t.Errorf("%s matches a changed body", made)
		}
		if i, _ := MatchStripe([][]byte{append(flip(secret, at), 1)}, made, body); i >= 0 {
			t.Errorf("%s matches a changed secret", made)
		}
	})
}

func FuzzMatchSlack(f *testing.F) {
	for _, sig := range []string{"", "v0=", "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503", "v1=00", "V0=00"} {
		f.Add(sig, "1531420618", []byte("8f742231b10e8888abcd99yyyzzz85a5"), []byte(slackBody), uint(7))
	}
	f.Fuzz(func(t *testing.T, sig, ts string, secret, body []byte, at uint) {
		parts := func(body []byte) [][]byte { return [][]byte{[]byte("v0:"), []byte(ts), []byte(":"), body} }
		made := Slack.Sign(secret, parts(body)...)
		if got := Slack.Verify([][]byte{secret}, sig, parts(body)...); got && !strings.EqualFold(sig, made) {
			t.Errorf("%q verifies, want %q alone", sig, made)
		}
		if got, want := Slack.Verify([][]byte{secret}, made, parts(body)...), len(secret) > 0; got != want {
			t.Errorf("%q verifies: %v, want %v", made, got, want)
		}
		if Slack.Verify([][]byte{secret}, made, parts(flip(body, at))...) {
			t.Errorf("%q verifies a changed body", made)
		}
	})
}

func FuzzMatchStandard(f *testing.F) {
	for _, sigs := range []string{"", vectorSig, "v1," + vectorSig, "v1a," + vectorSig[3:], "  v1,  v1a, ", "v1", ",", "v1,=", strings.Repeat("v1,AAAA ", 20)} {
		f.Add(sigs, vectorID, vectorTime, []byte(vectorBody), uint(5))
	}
	raw, err := base64.StdEncoding.DecodeString(vectorSecret)
	if err != nil {
		f.Fatal(err)
	}
	private, public := seeded(1)
	signing := []StandardKey{key(f, vectorSecret), key(f, private)}
	keys := []StandardKey{key(f, vectorSecret), key(f, public)}
	f.Fuzz(func(t *testing.T, sigs, id, ts string, body []byte, at uint) {
		sum := Scheme{Encoding: Base64}.Sign(raw, appendSigned(nil, id, ts, body))
		if MatchStandard(keys[:1], id, ts, sigs, body) >= 0 && !strings.Contains(sigs, sum) {
			t.Errorf("%q matches, but %s is not in it", sigs, sum)
		}
		now := time.Unix(int64(at%(1<<32)), 0)
		unix := strconv.FormatInt(now.Unix(), 10)
		for i, k := range signing {
			made := string(SignStandard(nil, []StandardKey{k}, id, now, body))
			if got := MatchStandard(keys, id, unix, "v1,AA== "+made, body); got != i {
				t.Errorf("%s matches key %d, want %d", made, got, i)
			}
			if got := MatchStandard(keys, id, unix, made, flip(body, at)); got >= 0 {
				t.Errorf("%s matches key %d for a changed body", made, got)
			}
			if got := MatchStandard(keys, id+"x", unix, made, body); got >= 0 {
				t.Errorf("%s matches key %d for a changed id", made, got)
			}
		}
	})
}

func FuzzMatchTwilio(f *testing.F) {
	for _, sig := range []string{"", twilioSig, "AAAA", twilioSig + twilioSig, "====", "-_-_"} {
		f.Add(sig, twilioURL, twilioVector().Encode(), []byte(twilioToken), uint(3))
	}
	f.Add("", "", "a=1&a=2&a=1&=&%zz", []byte{0}, uint(0))
	f.Fuzz(func(t *testing.T, sig, rawURL, body string, token []byte, at uint) {
		form, err := url.ParseQuery(body)
		if err != nil {
			return
		}
		made := SignTwilio(token, rawURL, form)
		urls := []string{rawURL}
		if MatchTwilio([][]byte{token}, sig, urls, form) >= 0 && sig != made {
			t.Errorf("%q verifies, want %q alone", sig, made)
		}
		if got, want := MatchTwilio([][]byte{token}, made, urls, form) >= 0, len(token) > 0; got != want {
			t.Errorf("%q verifies: %v, want %v", made, got, want)
		}
		// Encoding a form anew changes no signature.
		if again, err := url.ParseQuery(form.Encode()); err != nil || SignTwilio(token, rawURL, again) != made {
			t.Errorf("the form of %q signs as another once encoded", body)
		}
		if MatchTwilio([][]byte{token}, made, []string{string(flip([]byte(rawURL), at)) + "\x00"}, form) >= 0 {
			t.Errorf("%q verifies another URL", made)
		}
		if VerifyTwilioBody(sig, token) {
			if raw, err := hex.DecodeString(sig); err != nil || len(raw) != 32 {
				t.Errorf("%q is taken for a SHA-256", sig)
			}
		}
	})
}

func FuzzVerifyCertes(f *testing.F) {
	for _, sig := range []string{"", "SHA256 ", "SHA1 00", "sha256 00", string(Certes(nil, []byte("hush"), []byte("{}")))} {
		f.Add(sig, []byte("hush"), []byte("{}"), uint(1))
	}
	f.Fuzz(func(t *testing.T, sig string, secret, body []byte, at uint) {
		made := string(Certes(nil, secret, body))
		if VerifyCertes([][]byte{secret}, sig, body) && !strings.EqualFold(sig, made) {
			t.Errorf("%q verifies, want %q alone", sig, made)
		}
		if got, want := VerifyCertes([][]byte{secret}, made, body), len(secret) > 0; got != want {
			t.Errorf("%q verifies: %v, want %v", made, got, want)
		}
		if VerifyCertes([][]byte{secret}, made, flip(body, at)) {
			t.Errorf("%q verifies a changed body", made)
		}
	})
}

// What is read as a key signs what it verifies, and no key is in an error.
func FuzzParseStandardSecret(f *testing.F) {
	private, public := seeded(1)
	for _, s := range []string{"", vectorSecret, "whsec_" + vectorSecret, private, public, "whsk_AAAA", "whpk_", "whsec_====", "%%%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParseStandardSecret(s)
		if err != nil {
			if len(s) > 20 && strings.Contains(err.Error(), s) {
				t.Errorf("the error for %q has it: %v", s, err)
			}
			return
		}
		if !k.CanSign() {
			return
		}
		keys := []StandardKey{k}
		sig := string(SignStandard(nil, keys, "id", vectorNow, nil))
		if err := VerifyStandard(keys, "id", vectorTime, sig, nil, vectorNow, 0); err != nil {
			t.Errorf("what %q signs: %v", s, err)
		}
	})
}
