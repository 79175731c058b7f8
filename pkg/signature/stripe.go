package signature

import (
	"strconv"
	"strings"
	"time"
)

// HeaderStripe is where Stripe has its signatures.
const HeaderStripe = "Stripe-Signature"

// stripe is the scheme of one signature in that header, over "<t>.<body>".
var stripe = Scheme{Algorithm: SHA256, Encoding: Hex}

// SignStripe returns the value of header Stripe-Signature: "t=<unix>,v1=<hex>".
// The secret is taken as it is, "whsec_" included.
func SignStripe(secret []byte, ts time.Time, body []byte) string {
	t := strconv.FormatInt(ts.Unix(), 10)
	return "t=" + t + ",v1=" + stripe.Sign(secret, []byte(t), []byte("."), body)
}

// MatchStripe returns the index of the secret that made one of the v1
// signatures in a Stripe-Signature header, or -1, and the timestamp in Unix
// seconds that they cover, "" if there is none. Whether that is recent is for
// callers to ask, of [Fresh]. Signatures of other versions are not looked at,
// nor more than 16, and a header with two timestamps matches nothing.
func MatchStripe(secrets [][]byte, header string, body []byte) (secret int, timestamp string) {
	var buf [maxSignatures]string
	sigs := buf[:0]
	for item := range strings.SplitSeq(header, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(item), "=")
		switch {
		case name == "t" && timestamp != "":
			return -1, timestamp
		case name == "t":
			timestamp = value
		case name == "v1" && len(sigs) < maxSignatures:
			sigs = append(sigs, value)
		}
	}
	if timestamp == "" {
		return -1, ""
	}
	return stripe.MatchAny(secrets, sigs, []byte(timestamp), []byte("."), body), timestamp
}
