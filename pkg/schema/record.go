package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/posthornhq/posthorn/pkg/bucket"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/pattern"
)

// The kinds of schemas, as in the registry's protocol.
const (
	// KindJSON is the kind of a version whose definition is a JSON Schema.
	KindJSON = "JSON_SCHEMA"
	// KindProto is the kind of a version that is a message of proto3 files.
	KindProto = "PROTOBUF"
)

// A Record is one version of an event type's schema as it is stored.
type Record struct {
	Type    string
	Version int // from 1, without gaps
	Kind    string
	// Definition is the schema's text as it came, without white space around it:
	// a JSON Schema, or a .proto file. Empty if it came as descriptors.
	Definition string
	CreatedAt  time.Time
	CreatedBy  string // empty if not known

	// Message is the full name of the message that the data must be. Of KindProto.
	Message string
	// DescriptorSet is a google.protobuf.FileDescriptorSet with all that the
	// message needs, without source positions. Of KindProto.
	DescriptorSet []byte
	// Origin is where a foreign schema was fetched from; empty for our own.
	Origin string
}

// compile makes a stored version ready for use. The text of a .proto file is not
// read again: what it came to is in the descriptor set.
func (r *Record) compile() (*Schema, error) {
	switch r.Kind {
	case KindProto:
		return CompileProto(r.Type, r.Version, r.DescriptorSet, r.Message)
	case KindJSON, "":
		return Compile(r.Type, r.Version, []byte(r.Definition))
	}
	return nil, errs.New(errs.Invalid, "its kind, %s, is not known here", cut(r.Kind, 40))
}

// stored is a Record as it is in the bucket. A JSON Schema is part of the JSON
// rather than a string in it, so that `nats kv get schemas order.created.1` can
// be read, and byte for byte what came. The text of a .proto file is a string.
type stored struct {
	Type       string          `json:"type"`
	Version    int             `json:"version"`
	Kind       string          `json:"kind"`
	CreatedAt  time.Time       `json:"createdAt"`
	CreatedBy  string          `json:"createdBy,omitempty"`
	Message    string          `json:"message,omitempty"`
	Set        []byte          `json:"descriptorSet,omitempty"`
	Definition json.RawMessage `json:"definition,omitempty"`
}

func codec() bucket.Codec[Record] {
	return bucket.Codec[Record]{Encode: encodeRecord, Decode: decodeRecord}
}

func encodeRecord(r Record) ([]byte, error) {
	head, err := json.Marshal(stored{
		Type: r.Type, Version: r.Version, Kind: r.Kind, CreatedAt: r.CreatedAt, CreatedBy: r.CreatedBy,
		Message: r.Message, Set: r.DescriptorSet,
	})
	if err != nil {
		return nil, err
	}
	// Marshal would take the white space out of a JSON Schema.
	var b bytes.Buffer
	b.Grow(len(head) + len(r.Definition) + len(r.Definition)/8 + 20)
	b.Write(head[:len(head)-1])
	b.WriteString(`,"definition":`)
	if r.Kind == KindProto {
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false) // a .proto file has many < and >
		if err := e.Encode(r.Definition); err != nil {
			return nil, err
		}
	} else {
		b.WriteString(r.Definition)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func decodeRecord(b []byte) (Record, error) {
	var s stored
	if err := json.Unmarshal(b, &s); err != nil {
		return Record{}, err
	}
	r := Record{
		Type: s.Type, Version: s.Version, Kind: s.Kind, Definition: string(s.Definition),
		CreatedAt: s.CreatedAt, CreatedBy: s.CreatedBy, Message: s.Message, DescriptorSet: s.Set,
	}
	if s.Kind == KindProto {
		if err := json.Unmarshal(s.Definition, &r.Definition); err != nil {
			return Record{}, fmt.Errorf("its definition: %w", err)
		}
	}
	if s.Type == "" || s.Version < 1 || r.Definition == "" && len(r.DescriptorSet) == 0 {
		return Record{}, errors.New("it has no type, version or definition")
	}
	return r, nil
}

// typeKey returns an event type as the beginning of a key: the tokens that it
// has in subjects, with "=" for "%" and every other byte that keys may not have
// as "=" and two hexadecimal digits.
//
//	order.created                       order.created
//	community.certes.dev/github/1/push  community=2Ecertes=2Edev.github.1.push
func typeKey(typ string) string {
	const hex = "0123456789ABCDEF"
	tokens := pattern.EncodeType(typ)
	out := make([]byte, 0, len(tokens)+8)
	for i := range len(tokens) {
		switch c := tokens[i]; {
		case c == '%':
			// Its two digits follow, and "%" itself comes as "%25".
			out = append(out, '=')
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
			out = append(out, c)
		default:
			out = append(out, '=', hex[c>>4], hex[c&15])
		}
	}
	return string(out)
}

// key returns the key of a version: "<type>.<version>".
func key(typ string, version int) string { return typeKey(typ) + "." + strconv.Itoa(version) }

// versionOf returns the version in a key of typ's.
func versionOf(key string) (int, error) {
	n, err := strconv.Atoi(key[strings.LastIndexByte(key, '.')+1:])
	if err != nil || n < 1 {
		return 0, fmt.Errorf("schema: key %q does not end with a version", key)
	}
	return n, nil
}
