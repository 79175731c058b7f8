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

// strictBase64 reads what it writes and nothing else, so that a signature has one
// spelling only.
var strictBase64 = base64.StdEncoding.Strict()

// A Scheme is an HMAC over parts of a request, written as text after a prefix.
// The zero Scheme is HMAC-SHA256 in hex without one.
type Scheme struct {
	Algorithm Algorithm
	Encoding  Encoding
	// Prefix stands before the encoded signature, for instance "sha256=".
	Prefix string
}

// The schemes of providers that sign with a plain HMAC.
var (
	// GitHub is of header X-Hub-Signature-256, over the body.
	GitHub = Scheme{Algorithm: SHA256, Encoding: Hex, Prefix: "sha256="}
	// Slack is of header X-Slack-Signature, over "v0:<timestamp>:<body>".
	Slack = Scheme{Algorithm: SHA256, Encoding: Hex, Prefix: "v0="}
	// Shopify is of header X-Shopify-Hmac-SHA256, over the body.
	Shopify = Scheme{Algorithm: SHA256, Encoding: Base64}
)

// maxSignatures is how many signatures of one request are looked at. Who sends
// more wants to keep us busy: a rotation needs two.
const maxSignatures = 16

// Sign returns the signature over the parts, taken one after the other. An
// empty secret signs all the same, but nothing verifies with one.
func (s Scheme) Sign(secret []byte, parts ...[]byte) string {
	var buf [sha512.Size]byte
	return string(s.encode(nil, s.sum(buf[:0], secret, parts)))
}

// encode appends a sum to dst as text.
func (s Scheme) encode(dst, sum []byte) []byte {
	dst = append(dst, s.Prefix...)
	if s.Encoding == Base64 {
		return base64.StdEncoding.AppendEncode(dst, sum)
	}
	return hex.AppendEncode(dst, sum)
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
	return s.MatchAny(secrets, []string{sig}, parts...)
}

// MatchAny is Match for a publisher that sends several signatures, as during a
// rotation. Of more than 16 the others are not looked at.
func (s Scheme) MatchAny(secrets [][]byte, sigs []string, parts ...[]byte) int {
	var sumBuf [sha512.Size]byte
	// Base64 decodes into whole groups of three before it cuts the padding.
	var buf [sha512.Size + 2]byte
	sigs = sigs[:min(len(sigs), maxSignatures)]
	for i, secret := range secrets {
		if len(secret) == 0 {
			continue
		}
		var sum []byte // made once a secret, and only for what could be a signature
		for _, sig := range sigs {
			got := s.decode(buf[:], sig)
			if got == nil {
				continue
			}
			if sum == nil {
				sum = s.sum(sumBuf[:0], secret, parts)
			}
			if hmac.Equal(got, sum) {
				return i
			}
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

// decode reads sig into dst. It returns nil if sig is not what Sign could have
// written.
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
		n, err := strictBase64.Decode(dst, []byte(text))
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
