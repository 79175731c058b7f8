package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
)

// KeySize is the length of a key in bytes: AES-256.
const KeySize = 32

const (
	version    = 1
	keyIDSize  = 4
	headerSize = 1 + keyIDSize
	nonceSize  = 12
)

var (
	// ErrUnknownKey is returned for a value that no key at hand has sealed.
	ErrUnknownKey = errors.New("sealed by a key that is not configured")
	// ErrTampered is returned for a value that was changed, cut or moved to
	// another place.
	ErrTampered = errors.New("not a value that was sealed for this place")
)

// A Sealer seals and opens values. It is safe for use by several goroutines.
type Sealer struct {
	primary keyID
	keys    map[keyID]cipher.AEAD
}

type keyID [keyIDSize]byte

// New returns a Sealer that seals with primary, and opens what primary or one of
// older has sealed. A key has [KeySize] random bytes.
func New(primary []byte, older ...[]byte) (*Sealer, error) {
	s := &Sealer{keys: make(map[keyID]cipher.AEAD, 1+len(older))}
	for i, key := range append([][]byte{primary}, older...) {
		if len(key) != KeySize {
			return nil, fmt.Errorf("seal: key %d has %d bytes, want %d", i+1, len(key), KeySize)
		}
		id := idOf(key)
		if i == 0 {
			s.primary = id
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, fmt.Errorf("seal: key %d: %w", i+1, err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, fmt.Errorf("seal: key %d: %w", i+1, err)
		}
		if _, taken := s.keys[id]; taken {
			return nil, fmt.Errorf("seal: key %d has the ID of an earlier one; is it the same?", i+1)
		}
		s.keys[id] = aead
	}
	return s, nil
}

// idOf names a key without telling anything about it that helps to guess it: a
// key is 256 random bits, not a password.
func idOf(key []byte) keyID {
	sum := sha256.Sum256(key)
	return keyID(sum[:keyIDSize])
}

// Seal encrypts plain for the place that aad names.
func (s *Sealer) Seal(plain []byte, aad string) ([]byte, error) {
	aead := s.keys[s.primary]
	sealed := make([]byte, headerSize+nonceSize, headerSize+nonceSize+len(plain)+aead.Overhead())
	sealed[0] = version
	copy(sealed[1:], s.primary[:])
	nonce := sealed[headerSize:]
	rand.Read(nonce) // never fails: it ends the process instead
	return aead.Seal(sealed, nonce, plain, additional(sealed, aad)), nil
}

// Open returns what [Sealer.Seal] was given, if aad is the same. The error wraps
// [ErrUnknownKey] or [ErrTampered], or names a version that is not known.
func (s *Sealer) Open(sealed []byte, aad string) ([]byte, error) {
	if len(sealed) < headerSize+nonceSize {
		return nil, fmt.Errorf("seal: open %s: %w", aad, ErrTampered)
	}
	if sealed[0] != version {
		return nil, fmt.Errorf("seal: open %s: version %d is not known", aad, sealed[0])
	}
	id := keyID(sealed[1:headerSize])
	aead, ok := s.keys[id]
	if !ok {
		return nil, fmt.Errorf("seal: open %s: key %x: %w", aad, id, ErrUnknownKey)
	}
	nonce, ciphertext := sealed[headerSize:headerSize+nonceSize], sealed[headerSize+nonceSize:]
	plain, err := aead.Open(nil, nonce, ciphertext, additional(sealed, aad))
	if err != nil {
		// GCM's own error says only that it failed.
		return nil, fmt.Errorf("seal: open %s: %w", aad, ErrTampered)
	}
	return plain, nil
}

// Current reports whether sealed is by the primary key. What is not should be
// sealed again before the older key is taken away.
func (s *Sealer) Current(sealed []byte) bool {
	return len(sealed) >= headerSize && sealed[0] == version && keyID(sealed[1:headerSize]) == s.primary
}

// additional binds the header and the place. The header has a fixed length, so
// no two pairs give the same bytes.
func additional(sealed []byte, aad string) []byte {
	return append(sealed[:headerSize:headerSize], aad...)
}
