package signature

import (
	"crypto/hmac"
	"crypto/sha512"
	"hash"
	"sync"
)

// A Signer makes the signatures of a [Scheme] with one secret. It keys the hash
// once, which costs as much as a kilobyte of body does. It may be copied and used
// concurrently. The zero Signer signs and verifies nothing.
type Signer struct {
	scheme Scheme
	macs   *sync.Pool // of *keyedMAC; nil without a secret
}

// keyedMAC has room for a sum beside the hash, as what is handed to an
// interface would else be allocated at each use.
type keyedMAC struct {
	hash hash.Hash
	sum  [sha512.Size]byte
}

// NewSigner returns a Signer that keeps secret, which must not be modified. With
// an empty secret it is the zero Signer.
func NewSigner(s Scheme, secret []byte) Signer {
	if len(secret) == 0 {
		return Signer{}
	}
	return Signer{scheme: s, macs: &sync.Pool{New: func() any {
		return &keyedMAC{hash: hmac.New(s.Algorithm.new, secret)}
	}}}
}

// Append appends the signature over the parts, as [Scheme.Sign] returns it. The
// zero Signer appends nothing.
func (k Signer) Append(dst []byte, parts ...[]byte) []byte {
	if k.macs == nil {
		return dst
	}
	m := k.macs.Get().(*keyedMAC)
	dst = k.scheme.encode(dst, m.of(parts))
	k.macs.Put(m)
	return dst
}

// Verify reports whether sig is the signature over the parts.
func (k Signer) Verify(sig string, parts ...[]byte) bool {
	if k.macs == nil {
		return false
	}
	var buf [sha512.Size + 2]byte // as in Scheme.MatchAny
	got := k.scheme.decode(buf[:], sig)
	if got == nil {
		return false
	}
	m := k.macs.Get().(*keyedMAC)
	equal := hmac.Equal(got, m.of(parts))
	k.macs.Put(m)
	return equal
}

// of returns the sum over the parts, valid until the next use of m.
func (m *keyedMAC) of(parts [][]byte) []byte {
	m.hash.Reset()
	for _, p := range parts {
		m.hash.Write(p)
	}
	return m.hash.Sum(m.sum[:0])
}

// String says that there is a secret, and not which.
func (k Signer) String() string {
	if k.macs == nil {
		return "no key"
	}
	return k.scheme.Prefix + "***"
}

// GoString is String, so that %#v shows no more than %v.
func (k Signer) GoString() string { return k.String() }
