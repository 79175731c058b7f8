package source

import (
	"strings"

	"github.com/posthornhq/posthorn/pkg/rawjson"
	"github.com/posthornhq/posthorn/pkg/signature"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// headerToken takes any body with a secret in a header, one event each.
type headerToken struct {
	places
	name, prefix string
	secrets      [][]byte
	details      []string // for the receipt, one a secret
}

func newHeader(spec *posthornv1.Source, secrets [][]byte) (*headerToken, error) {
	s := spec.GetHeader()
	where, err := newPlaces(s, spec.GetType())
	if err != nil {
		return nil, err
	}
	return &headerToken{
		places: where, name: s.GetName(), prefix: s.GetPrefix(),
		secrets: secrets, details: verifyDetails("header "+s.GetName(), len(secrets)),
	}, nil
}

func (k *headerToken) verify(r *Request) (string, error) {
	value := r.Header.Get(k.name)
	if value == "" {
		return "", unverified("the request has no %s header", k.name)
	}
	token, ok := strings.CutPrefix(value, k.prefix)
	i := signature.MatchToken(k.secrets, token)
	if !ok || i < 0 {
		return "", unverified("%s has none of the secrets of this source", k.name)
	}
	return k.details[i], nil
}

// jsonField takes JSON with a secret in it, one event each. It has to look into
// a body before it knows the sender: it checks that it is JSON, finds the one
// string, and nothing else. The secret stays in the event's data, which are the
// bytes that came.
type jsonField struct {
	places
	pointer string
	path    []string
	secrets [][]byte
	details []string // for the receipt, one a secret
}

func newJSONField(spec *posthornv1.Source, secrets [][]byte) (*jsonField, error) {
	s := spec.GetJsonField()
	where, err := newPlaces(s, spec.GetType())
	if err != nil {
		return nil, err
	}
	path, err := parsePointer(s.GetPointer())
	if err != nil {
		return nil, err
	}
	return &jsonField{
		places: where, pointer: s.GetPointer(), path: path,
		secrets: secrets, details: verifyDetails("JSON field "+s.GetPointer(), len(secrets)),
	}, nil
}

func (k *jsonField) verify(r *Request) (string, error) {
	if !rawjson.Valid(r.Body) {
		return "", unverified("the body is not valid JSON, so it has no %s", k.pointer)
	}
	token, ok := text(resolve(r.Body, k.path))
	if !ok || token == "" {
		return "", unverified("the body has no text at %s", k.pointer)
	}
	i := signature.MatchToken(k.secrets, token)
	if i < 0 {
		return "", unverified("%s is none of the secrets of this source", k.pointer)
	}
	return k.details[i], nil
}
