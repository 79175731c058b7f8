package signature

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// HeaderCertes is where Certes has its signature (C9).
const HeaderCertes = "HMAC-SIG"

const certesPrefix = "SHA256 "

// NewCertes returns the Signer that writes what [Certes] does, for who signs
// often with one secret.
func NewCertes(secret []byte) Signer { return NewSigner(Scheme{Prefix: certesPrefix}, secret) }

// Certes appends to dst the value of header HMAC-SIG: "SHA256 " and the
// HMAC-SHA256 of the body in hex. An empty secret signs nothing: dst is returned
// as it is.
func Certes(dst, secret, body []byte) []byte {
	if len(secret) == 0 {
		return dst
	}
	var buf [sha256.Size]byte
	mac := hmac.New(sha256.New, secret)
	mac.Write(body)
	return hex.AppendEncode(append(dst, certesPrefix...), mac.Sum(buf[:0]))
}

// VerifyCertes reports whether sig is the value of header HMAC-SIG for body
// with one of the secrets. SHA1, which older senders use, is refused.
func VerifyCertes(secrets [][]byte, sig string, body []byte) bool {
	// The name of the algorithm is read without regard to case, as people type it.
	name, sum, ok := strings.Cut(sig, " ")
	if !ok || !strings.EqualFold(name, "SHA256") {
		return false
	}
	return Scheme{Algorithm: SHA256, Encoding: Hex}.Verify(secrets, sum, body)
}
