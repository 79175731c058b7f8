package dedup

import (
	"crypto/sha256"
	"encoding/hex"
)

const (
	// longestKey is how long a key is kept in full, in bytes; of a longer one its
	// beginning is kept, for people, and a hash of all of it.
	longestKey = 200
	keptOfLong = 64

	upperHex = "0123456789ABCDEF"
)

// appendKey appends key in the characters that keys of a KV bucket may have,
// which makes it safe as a subject of NATS too. Publishers choose a part of it,
// so different keys must never become one:
//
//   - letters, digits, "-", "_" and "/" stay;
//   - ":" becomes ".", which separates tokens, unless that left an empty token;
//   - each other byte becomes "=" and two upper-case hex digits;
//   - the empty key is "=";
//   - a long key's beginning, so written, is followed by "==" and the SHA-256 of
//     the whole in hex; no other key has "==".
func appendKey(b []byte, key string) []byte {
	if key == "" {
		return append(b, '=')
	}
	if len(key) <= longestKey {
		return escapeKey(b, key)
	}
	sum := sha256.Sum256([]byte(key))
	b = escapeKey(b, key[:keptOfLong])
	b = append(b, "=="...)
	return hex.AppendEncode(b, sum[:])
}

func escapeKey(b []byte, key string) []byte {
	for i := range len(key) {
		c := key[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '/':
			b = append(b, c)
		case c == ':' && i > 0 && i < len(key)-1 && key[i-1] != ':':
			b = append(b, '.')
		default:
			b = append(b, '=', upperHex[c>>4], upperHex[c&15])
		}
	}
	return b
}
