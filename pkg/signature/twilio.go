package signature

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"maps"
	"net/url"
	"slices"
)

// HeaderTwilio is where Twilio has its signature.
const HeaderTwilio = "X-Twilio-Signature"

// SignTwilio returns the value of header X-Twilio-Signature: the HMAC-SHA1, in
// base64, of the URL that was called, and the names and values of a form sorted
// by name. Twilio has no other algorithm; nothing else here takes SHA-1, of which
// the HMAC is not known to be broken. Of a body that is no form, form is nil: the
// URL's query has its hash, see [VerifyTwilioBody].
func SignTwilio(token []byte, rawURL string, form url.Values) string {
	sum := twilioSum(nil, token, rawURL, twilioForm(form))
	return base64.StdEncoding.EncodeToString(sum)
}

// MatchTwilio returns the index of the token with which sig is the signature of
// one of the URLs, each with the form, or -1. There are several URLs because
// Twilio writes the default port in some and leaves it out in others.
func MatchTwilio(tokens [][]byte, sig string, urls []string, form url.Values) int {
	got, err := strictBase64.DecodeString(sig)
	if err != nil || len(got) != sha1.Size || len(sig) != base64.StdEncoding.EncodedLen(sha1.Size) {
		return -1
	}
	fields := twilioForm(form)
	var buf [sha1.Size]byte
	for i, token := range tokens {
		if len(token) == 0 {
			continue
		}
		for _, u := range urls {
			if hmac.Equal(got, twilioSum(buf[:0], token, u, fields)) {
				return i
			}
		}
	}
	return -1
}

func twilioSum(dst, token []byte, rawURL string, fields []byte) []byte {
	mac := hmac.New(sha1.New, token)
	mac.Write([]byte(rawURL))
	mac.Write(fields)
	return mac.Sum(dst)
}

// twilioForm puts names and values one after the other, without separators. Of
// a name with several values these are sorted, and each is there once.
func twilioForm(form url.Values) []byte {
	var out []byte
	for _, name := range slices.Sorted(maps.Keys(form)) {
		values := slices.Clone(form[name])
		slices.Sort(values)
		for _, v := range slices.Compact(values) {
			out = append(append(out, name...), v...)
		}
	}
	return out
}

// VerifyTwilioBody reports whether hash, the parameter bodySHA256 of the URL
// that Twilio called, is the SHA-256 of the body in hex. It proves something only
// together with the signature over the URL.
func VerifyTwilioBody(hash string, body []byte) bool {
	got, err := hex.DecodeString(hash)
	want := sha256.Sum256(body)
	return err == nil && subtle.ConstantTimeCompare(got, want[:]) == 1
}
