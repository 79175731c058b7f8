package source

import (
	"fmt"
	"net/http"

	"github.com/posthornhq/posthorn/pkg/signature"
)

// standardHeaders are the headers of Standard Webhooks, or of Svix.
type standardHeaders struct{ id, timestamp, signature string }

var (
	standardNames = standardHeaders{signature.HeaderID, signature.HeaderTimestamp, signature.HeaderSignature}
	svixNames     = standardHeaders{"Svix-Id", "Svix-Timestamp", "Svix-Signature"}
)

// standardNamesOf returns the names that a request uses.
func standardNamesOf(h http.Header) standardHeaders {
	if h.Get(standardNames.id) == "" && h.Get(svixNames.id) != "" {
		return svixNames
	}
	return standardNames
}

// standardKeys reads the keys of a source. Its errors do not contain them.
func standardKeys(secrets [][]byte) ([]signature.StandardKey, error) {
	keys := make([]signature.StandardKey, len(secrets))
	for i, s := range secrets {
		var err error
		if keys[i], err = signature.ParseStandardSecret(string(s)); err != nil {
			return nil, fmt.Errorf("secret %d: %w", i+1, err)
		}
	}
	return keys, nil
}

// matchStandard returns the index of the key that signed the request, -1 for
// none, or an error that says what else is wrong.
func matchStandard(keys []signature.StandardKey, r *Request) (int, error) {
	names := standardNamesOf(r.Header)
	for _, name := range []string{names.id, names.timestamp, names.signature} {
		if r.Header.Get(name) == "" {
			return -1, unverified("the request has no %s header", name)
		}
	}
	timestamp := r.Header.Get(names.timestamp)
	i := signature.MatchStandard(keys, r.Header.Get(names.id), timestamp, r.Header.Get(names.signature), r.Body)
	switch {
	case i < 0:
		return -1, mismatch(names.signature)
	case !signature.Fresh(timestamp, r.Now, signature.DefaultTolerance):
		return -1, stale(names.timestamp, signature.DefaultTolerance)
	}
	return i, nil
}

// standardWebhooks takes what is signed by Standard Webhooks, with a shared
// secret or with ed25519, and with the headers of Svix. An event's type is the
// body's, its time the body's timestamp: the one in the header is that of the
// attempt.
type standardWebhooks struct {
	keys        []signature.StandardKey
	details     []string // for the receipt, one a key
	defaultType string
}

func newStandard(secrets [][]byte, defaultType string) (standardWebhooks, error) {
	keys, err := standardKeys(secrets)
	if err != nil {
		return standardWebhooks{}, err
	}
	return standardWebhooks{keys: keys, details: verifyDetails("standard webhooks", len(keys)), defaultType: defaultType}, nil
}

func (s standardWebhooks) verify(r *Request) (string, error) {
	i, err := matchStandard(s.keys, r)
	if err != nil {
		return "", err
	}
	return s.details[i], nil
}

func (s standardWebhooks) parse(r *Request) (Batch, error) {
	id, err := headerText(r.Header, standardNamesOf(r.Header).id)
	if err != nil {
		return Batch{}, err
	}
	ev, err := plainEvent(r)
	if err != nil {
		return Batch{}, err
	}
	doc := pick(jsonDocument(ev), "type", "timestamp")
	if ev.Type, err = bodyType(r, "type", doc[0], s.defaultType); err != nil {
		return Batch{}, err
	}
	ev.ExternalID, ev.Time = id, publisherTime(doc[1])
	return Batch{Events: []Incoming{{Event: ev, Key: id}}}, nil
}
