package signature

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Prefixes of Standard Webhooks keys.
const (
	secretPrefix  = "whsec_" // shared secret, signs and verifies v1
	privatePrefix = "whsk_"  // ed25519 private key, signs and verifies v1a
	publicPrefix  = "whpk_"  // ed25519 public key, verifies v1a
)

// Headers of Standard Webhooks.
const (
	HeaderID        = "Webhook-Id"
	HeaderTimestamp = "Webhook-Timestamp"
	HeaderSignature = "Webhook-Signature"
)

// DefaultTolerance is how far a timestamp may be from now where nobody says
// otherwise.
const DefaultTolerance = 5 * time.Minute

// What can be wrong with a Standard Webhooks request. All are safe to show.
var (
	ErrMissing  = errors.New("signature: a webhook-id, webhook-timestamp or webhook-signature header is missing")
	ErrStale    = errors.New("signature: the timestamp is too far from now")
	ErrMismatch = errors.New("signature: no signature matches")
)

// A StandardKey signs or verifies by Standard Webhooks. The zero StandardKey
// does neither. It may be copied and used concurrently, and prints without what
// is secret in it.
type StandardKey struct {
	macs    *sync.Pool // of *standardMAC; nil unless the key is a shared secret
	private ed25519.PrivateKey
	public  ed25519.PublicKey
}

// standardMAC is an HMAC keyed once (which costs more than a short body does)
// and a buffer for what goes in and out of it.
type standardMAC struct {
	hash hash.Hash
	buf  []byte
}

// ParseStandardSecret reads a key: base64 after "whsec_" or without a prefix is
// a shared secret, "whsk_" an ed25519 private key (seed, or seed and public
// key), "whpk_" a public one. Its errors do not contain the key.
func ParseStandardSecret(s string) (StandardKey, error) {
	kind, text := "", s
	for _, prefix := range []string{secretPrefix, privatePrefix, publicPrefix} {
		if rest, ok := strings.CutPrefix(s, prefix); ok {
			kind, text = prefix, rest
		}
	}
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return StandardKey{}, errors.New("signature: the secret is not base64, with or without " + secretPrefix + " before it")
	}
	if len(raw) == 0 {
		return StandardKey{}, errors.New("signature: the secret is empty")
	}
	switch kind {
	case privatePrefix:
		return parsePrivate(raw)
	case publicPrefix:
		if len(raw) != ed25519.PublicKeySize {
			return StandardKey{}, fmt.Errorf("signature: an ed25519 public key has %d bytes, not %d", ed25519.PublicKeySize, len(raw))
		}
		return StandardKey{public: raw}, nil
	}
	return StandardKey{macs: &sync.Pool{New: func() any {
		return &standardMAC{hash: hmac.New(sha256.New, raw)}
	}}}, nil
}

func parsePrivate(raw []byte) (StandardKey, error) {
	var key ed25519.PrivateKey
	switch len(raw) {
	case ed25519.SeedSize:
		key = ed25519.NewKeyFromSeed(raw)
	case ed25519.PrivateKeySize:
		key = ed25519.NewKeyFromSeed(raw[:ed25519.SeedSize])
		if !key.Equal(ed25519.PrivateKey(raw)) {
			return StandardKey{}, errors.New("signature: the halves of the ed25519 private key do not belong together")
		}
	default:
		return StandardKey{}, fmt.Errorf("signature: an ed25519 private key has %d or %d bytes, not %d",
			ed25519.SeedSize, ed25519.PrivateKeySize, len(raw))
	}
	return StandardKey{private: key, public: key.Public().(ed25519.PublicKey)}, nil
}

// NewStandardSecret returns a new shared secret: "whsec_" and 24 random bytes
// in base64.
func NewStandardSecret() string {
	raw := make([]byte, 24)
	rand.Read(raw) // never fails: it ends the process first
	return secretPrefix + base64.StdEncoding.EncodeToString(raw)
}

// CanSign reports whether the key makes signatures; a public key does not.
func (k StandardKey) CanSign() bool { return k.macs != nil || k.private != nil }

// String says what kind of key it is, and nothing else.
func (k StandardKey) String() string {
	switch {
	case k.macs != nil:
		return secretPrefix + "***"
	case k.private != nil:
		return privatePrefix + "***"
	case k.public != nil:
		return publicPrefix + base64.StdEncoding.EncodeToString(k.public)
	}
	return "no key"
}

// GoString is String, so that %#v shows no more than %v.
func (k StandardKey) GoString() string { return k.String() }

// SignStandard appends to dst the value of header webhook-signature: one
// signature for each key that can sign, separated by spaces.
func SignStandard(dst []byte, keys []StandardKey, id string, ts time.Time, body []byte) []byte {
	start := len(dst)
	for _, k := range keys {
		if !k.CanSign() {
			continue
		}
		if len(dst) > start {
			dst = append(dst, ' ')
		}
		if k.private != nil {
			dst = append(dst, "v1a,"...)
			msg := appendSigned(make([]byte, 0, len(id)+len(body)+24), id, strconv.FormatInt(ts.Unix(), 10), body)
			dst = base64.StdEncoding.AppendEncode(dst, ed25519.Sign(k.private, msg))
			continue
		}
		m := k.macs.Get().(*standardMAC)
		m.buf = append(append(m.buf[:0], id...), '.')
		m.buf = append(strconv.AppendInt(m.buf, ts.Unix(), 10), '.')
		dst = append(dst, "v1,"...)
		dst = base64.StdEncoding.AppendEncode(dst, m.sum(body))
		k.macs.Put(m)
	}
	return dst
}

// sum returns the HMAC over what is in the buffer and body. It is valid until
// the next use of m.
func (m *standardMAC) sum(body []byte) []byte {
	m.hash.Reset()
	m.hash.Write(m.buf)
	m.hash.Write(body)
	m.buf = m.hash.Sum(m.buf[:0])
	return m.buf
}

// appendSigned appends what is signed: "<id>.<timestamp>.<body>".
func appendSigned(dst []byte, id, timestamp string, body []byte) []byte {
	dst = append(append(dst, id...), '.')
	dst = append(append(dst, timestamp...), '.')
	return append(dst, body...)
}

// VerifyStandard checks a request by Standard Webhooks: that one of the
// space-separated signatures is by one of the keys, and that timestamp, in Unix
// seconds, is within tolerance of now. A tolerance of 0 is [DefaultTolerance].
// Its errors are [ErrMissing], [ErrStale] and [ErrMismatch].
func VerifyStandard(keys []StandardKey, id, timestamp, signatures string, body []byte, now time.Time, tolerance time.Duration) error {
	if id == "" || timestamp == "" || signatures == "" {
		return ErrMissing
	}
	if !Fresh(timestamp, now, tolerance) {
		return ErrStale
	}
	if MatchStandard(keys, id, timestamp, signatures, body) < 0 {
		return ErrMismatch
	}
	return nil
}

// MatchStandard returns the index of the key that made one of the
// space-separated signatures, or -1. It does not look at the age of timestamp,
// nor at more than 16 signatures. It is for callers that say who signed.
func MatchStandard(keys []StandardKey, id, timestamp, signatures string, body []byte) int {
	var buf [maxSignatures]string
	sigs := buf[:0]
	for sig := range strings.FieldsSeq(signatures) {
		if len(sigs) == maxSignatures {
			break
		}
		sigs = append(sigs, sig)
	}
	for i, k := range keys {
		if k.verify(sigs, id, timestamp, body) {
			return i
		}
	}
	return -1
}

// VerifyStandardHeader is [VerifyStandard] on the headers of a request: the
// standard's own, or else those of Svix ("svix-id" and so on).
func VerifyStandardHeader(keys []StandardKey, header http.Header, body []byte, now time.Time, tolerance time.Duration) error {
	if header.Get(HeaderID) != "" {
		return VerifyStandard(keys, header.Get(HeaderID), header.Get(HeaderTimestamp), header.Get(HeaderSignature), body, now, tolerance)
	}
	return VerifyStandard(keys, header.Get("Svix-Id"), header.Get("Svix-Timestamp"), header.Get("Svix-Signature"), body, now, tolerance)
}

// verify reports whether one of the signatures is by the key. What is signed is
// put together, or summed, once for all of them.
func (k StandardKey) verify(sigs []string, id, timestamp string, body []byte) bool {
	if k.macs == nil && k.public == nil {
		return false
	}
	version := "v1,"
	var m *standardMAC
	var sum, msg []byte
	if k.macs != nil {
		m = k.macs.Get().(*standardMAC)
		defer k.macs.Put(m)
	} else {
		version = "v1a,"
	}
	var buf [ed25519.SignatureSize + 2]byte // base64 decodes whole groups of three
	for _, sig := range sigs {
		text, ok := strings.CutPrefix(sig, version)
		if !ok || len(text) > base64.StdEncoding.EncodedLen(ed25519.SignatureSize) {
			continue
		}
		n, err := strictBase64.Decode(buf[:], []byte(text))
		if err != nil {
			continue
		}
		switch {
		case m == nil:
			if msg == nil {
				msg = appendSigned(make([]byte, 0, len(id)+len(timestamp)+len(body)+2), id, timestamp, body)
			}
			if ed25519.Verify(k.public, msg, buf[:n]) {
				return true
			}
			continue
		case sum == nil:
			m.buf = appendSigned(m.buf[:0], id, timestamp, nil)
			sum = m.sum(body)
		}
		if hmac.Equal(buf[:n], sum) {
			return true
		}
	}
	return false
}

// Fresh reports whether timestamp, in Unix seconds, is within tolerance of now,
// before or after. A tolerance of 0 is [DefaultTolerance].
func Fresh(timestamp string, now time.Time, tolerance time.Duration) bool {
	if tolerance == 0 {
		tolerance = DefaultTolerance
	}
	sec, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil {
		return false
	}
	age := now.Sub(time.Unix(sec, 0)) // saturates, so no timestamp wraps around
	return age <= tolerance && age >= -tolerance
}
