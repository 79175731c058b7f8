// Package seal encrypts the few values that a database thief must not read:
// secrets of sources and subscriptions, private signing keys.
//
// A sealed value is AES-256-GCM in one envelope:
//
//	byte 0       version, 1
//	bytes 1–4    key ID: the first four bytes of SHA-256 of the key
//	bytes 5–16   nonce, random
//	bytes 17–    ciphertext, the last 16 bytes of it GCM's tag
//
// The additional data of GCM is the first five bytes and then the caller's aad,
// which is where the value is kept ("secrets/source.github"): a value that is
// copied to another key does not open there.
//
// A [Sealer] seals with its primary key and opens with that or an older one, so
// keys can be changed while values sealed by the old one remain. Random nonces
// allow 2^32 values for each key (NIST SP 800-38D, 8.3), far more than
// configuration ever writes.
//
// It promises that a value which opens is what was sealed, for the same place.
// It does not hide a value's length, does not know whether a value is the
// latest one (an older value of the same place opens), and keeps nothing but
// the keys, in memory, for as long as the Sealer lives.
package seal
