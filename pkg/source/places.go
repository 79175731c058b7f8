package source

import (
	"fmt"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/rawjson"
)

// placesSpec is what the settings of HMAC, HEADER and JSON_FIELD have in common.
type placesSpec interface {
	GetIdHeader() string
	GetIdPointer() string
	GetTypeHeader() string
	GetTypePointer() string
}

// places says where in a request an event's ID and type stand. It parses the
// requests of publishers of whom nothing but this is known.
type places struct {
	spec        placesSpec
	idPointer   []string
	typePointer []string
	defaultType string
}

func newPlaces(spec placesSpec, defaultType string) (places, error) {
	p := places{spec: spec, defaultType: defaultType}
	var err error
	if p.idPointer, err = parsePointer(spec.GetIdPointer()); err != nil {
		return places{}, fmt.Errorf("id pointer: %w", err)
	}
	if p.typePointer, err = parsePointer(spec.GetTypePointer()); err != nil {
		return places{}, fmt.Errorf("type pointer: %w", err)
	}
	return p, nil
}

func (p places) parse(r *Request) (Batch, error) {
	ev, err := plainEvent(r)
	if err != nil {
		return Batch{}, err
	}
	// Pointers lead into JSON whatever the content type says it is.
	doc := ev.Data
	if (p.idPointer != nil || p.typePointer != nil) && !event.IsJSON(ev.DataContentType) && !rawjson.Valid(doc) {
		doc = nil
	}
	if ev.Type, err = p.eventType(r, doc); err != nil {
		return Batch{}, err
	}
	key, err := p.setID(r, doc, &ev)
	if err != nil {
		return Batch{}, err
	}
	return Batch{Events: []Incoming{{Event: ev, Key: key}}}, nil
}

// eventType is what the header says, or else the body, the path, the settings.
func (p places) eventType(r *Request, doc []byte) (string, error) {
	if name := p.spec.GetTypeHeader(); name != "" {
		if t := r.Header.Get(name); t != "" {
			return checkType(name, t)
		}
	}
	if p.typePointer != nil {
		if t, ok := text(resolve(doc, p.typePointer)); ok && t != "" {
			return checkType(p.spec.GetTypePointer(), t)
		}
	}
	return fallbackType(r, p.defaultType)
}

// setID sets the publisher's ID of the event and returns its key: that ID, or
// where the settings name none, the Idempotency-Key header. A request without
// the ID is taken all the same, without protection against repeats.
func (p places) setID(r *Request, doc []byte, ev *event.Event) (string, error) {
	if p.spec.GetIdHeader() == "" && p.idPointer == nil {
		return headerText(r.Header, headerKey)
	}
	if name := p.spec.GetIdHeader(); name != "" {
		id, err := headerText(r.Header, name)
		if err != nil {
			return "", err
		}
		ev.ExternalID = id
	}
	if ev.ExternalID == "" && p.idPointer != nil {
		id, _ := scalarText(resolve(doc, p.idPointer))
		if !cleanText(id) {
			return "", malformedField(p.spec.GetIdPointer(), "the ID is longer than %d bytes or has control characters", maxText)
		}
		ev.ExternalID = id
	}
	return ev.ExternalID, nil
}
