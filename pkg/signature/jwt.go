package signature

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"time"
)

// jwtHeader has its members in the order that the platform of the policies
// writes them (S16); another order is another signature.
const jwtHeader = `{"typ":"JWT","alg":"HS256"}`

// DeliveryJWT returns the JWT that signs a delivery (S16), with HS256: iss is
// the subscriber's name on the platform, sub the subscription, jti the
// delivery's ID, iat when it was made; c_hash is the body's SHA-256 in hex. An
// empty secret signs nothing: the result is empty.
func DeliveryJWT(secret []byte, iss, sub, jti string, body []byte, iat time.Time) string {
	if len(secret) == 0 {
		return ""
	}
	hash := sha256.Sum256(body)
	claims, err := json.Marshal(struct {
		Issuer   string `json:"iss"`
		Subject  string `json:"sub"`
		ID       string `json:"jti"`
		BodyHash string `json:"c_hash"`
		IssuedAt int64  `json:"iat"`
	}{iss, sub, jti, hex.EncodeToString(hash[:]), iat.Unix()})
	if err != nil {
		panic(err) // strings and a number always have a form in JSON
	}
	enc := base64.RawURLEncoding
	token := enc.AppendEncode(make([]byte, 0, 512), []byte(jwtHeader))
	token = enc.AppendEncode(append(token, '.'), claims)
	mac := hmac.New(sha256.New, secret)
	mac.Write(token)
	return string(enc.AppendEncode(append(token, '.'), mac.Sum(nil)))
}
