package signature

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"strings"
)

// An Algorithm is the hash function of an HMAC. SHA-1 is not among them.
type Algorithm uint8

const (
	SHA256 Algorithm = iota
	SHA512
)

// String returns the algorithm as people write it: "sha256" or "sha512".
func (a Algorithm) String() string {
	if a == SHA512 {
		return "sha512"
	}
	return "sha256"
}

func (a Algorithm) new() hash.Hash {
	if a == SHA512 {
		return sha512.New()
	}
	return sha256.New()
}

// An Encoding is how a signature is written as text.
type Encoding uint8

const (
	// Hex is written in lower case and read in either.
	Hex Encoding = iota
	// Base64 is the standard alphabet with padding.
	Base64
)

// A Scheme is an HMAC over parts of a request, written as text after a prefix.
// The zero Scheme is HMAC-SHA256 in hex without one.
type Scheme struct {
	Algorithm Algorithm
	Encoding  Encoding
	// Prefix stands before the encoded signature, for instance "sha256=".
	Prefix string
}

// GitHub is the scheme of header X-Hub-Signature-256, over the body.
var GitHub = Scheme{Algorithm: SHA256, Encoding: Hex, Prefix: "sha256="}

// Sign returns the signature over the parts, taken one after the other.
func (s Scheme) Sign(secret []byte, parts ...[]byte) string {
	var buf [sha512.Size]byte
	sum := s.sum(buf[:0], secret, parts)
	if s.Encoding == Base64 {
		return s.Prefix + base64.StdEncoding.EncodeToString(sum)
	}
	return s.Prefix + hex.EncodeToString(sum)
}

// Verify reports whether sig is the signature over the parts with one of the
// secrets.
func (s Scheme) Verify(secrets [][]byte, sig string, parts ...[]byte) bool {
	return s.Match(secrets, sig, parts...) >= 0
}

// Match returns the index of the secret with which sig is the signature over
// the parts, or -1. It stops at the first that matches: only who already knows
// a secret can learn from the time which of them it is.
func (s Scheme) Match(secrets [][]byte, sig string, parts ...[]byte) int {
	var sumBuf [sha512.Size]byte
	// Base64 decodes into whole groups of three before it cuts the padding.
	var buf [sha512.Size + 2]byte
	got := s.decode(buf[:], sig)
	if got == nil {
		return -1
	}
	for i, secret := range secrets {
		if len(secret) == 0 {
			continue
		}
		if hmac.Equal(got, s.sum(sumBuf[:0], secret, parts)) {
			return i
		}
	}
	return -1
}

func (s Scheme) sum(dst, secret []byte, parts [][]byte) []byte {
	mac := hmac.New(s.Algorithm.new, secret)
	for _, p := range parts {
		mac.Write(p)
	}
	return mac.Sum(dst)
}

// decode reads sig into dst. It returns
// nil if sig is not what Sign could have written.
func (s Scheme) decode(dst []byte, sig string) []byte {
	text, ok := strings.CutPrefix(sig, s.Prefix)
	size := s.Algorithm.size()
	if !ok {
		return nil
	}
	if s.Encoding == Base64 {
		if len(text) != base64.StdEncoding.EncodedLen(size) {
			return nil
		}
		n, err := base64.StdEncoding.Decode(dst, []byte(text))
		if err != nil || n != size {
			return nil
		}
		return dst[:n]
	}
	if len(text) != hex.EncodedLen(size) {
		return nil
	}
	if n, err := hex.Decode(dst, []byte(text)); err != nil || n != size {
		return nil
	}
	return dst[:size]
}

func (a Algorithm) size() int {
	if a == SHA512 {
		return sha512.Size
	}
	return sha256.Size
}

// MatchToken returns the index of the secret that token equals byte for byte,
// or -1. It is for publishers that send the secret itself. Neither the secrets'
// content nor their length shows in the time it takes.
func MatchToken(secrets [][]byte, token string) int {
	got := sha256.Sum256([]byte(token))
	match := -1
	for i, secret := range secrets {
		want := sha256.Sum256(secret)
		if subtle.ConstantTimeCompare(got[:], want[:]) == 1 && len(secret) > 0 && match < 0 {
			match = i
		}
	}
	return match
}
