package source

import (
	"net/http"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/rawjson"
)

// headerKey is the idempotency key of publishers that follow no other rule.
const headerKey = "Idempotency-Key"

// generic takes any body, one event each. A CloudEvents request is taken as
// what it is. Who may send is for the policy to say.
type generic struct {
	defaultType string
}

func (generic) verify(*Request) (string, error) { return "", nil }

func (g generic) parse(r *Request) (Batch, error) {
	if isCloudEvents(r.Header) {
		return parseCloudEvents(r)
	}
	ev, err := plainEvent(r)
	if err != nil {
		return Batch{}, err
	}
	if ev.Type, err = fallbackType(r, g.defaultType); err != nil {
		return Batch{}, err
	}
	key, err := headerText(r.Header, headerKey)
	if err != nil {
		return Batch{}, err
	}
	return Batch{Events: []Incoming{{Event: ev, Key: key}}}, nil
}

// plainEvent makes an event of which only the data are known: the body, as what
// the request's content type says it is. An empty body is no data.
func plainEvent(r *Request) (event.Event, error) {
	contentType, err := headerText(r.Header, "Content-Type")
	if err != nil {
		return event.Event{}, err
	}
	if err := checkData(contentType, r.Body); err != nil {
		return event.Event{}, err
	}
	ev := event.Event{DataContentType: contentType}
	if len(r.Body) > 0 {
		ev.Data = r.Body
	}
	return ev, nil
}

// checkData refuses data that claim to be JSON, or claim nothing, and are not.
func checkData(contentType string, data []byte) error {
	if len(data) == 0 || !event.IsJSON(contentType) || rawjson.Valid(data) {
		return nil
	}
	if contentType == "" {
		return malformed("the body is not valid JSON; if it is not meant to be, say what it is in Content-Type")
	}
	return malformed("the body is not valid JSON, as its content type %s says", contentType)
}

// isCloudEvents says whether a request is a CloudEvent in any mode. One of the
// required headers is enough, so that the error can say which others are missing.
func isCloudEvents(h http.Header) bool {
	return h.Get("Ce-Specversion") != "" || h.Get("Ce-Id") != "" || h.Get("Ce-Type") != "" ||
		hasPrefixFold(mediaType(h.Get("Content-Type")), mediaCloudEvents)
}
