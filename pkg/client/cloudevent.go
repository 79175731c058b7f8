package client

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/signature"
)

// parseDelivery reads an event in CloudEvents structured or binary mode (HTTP
// protocol binding of CloudEvents 1.0), or else raw data.
func parseDelivery(h http.Header, body []byte) (Event, error) {
	media, _, _ := mime.ParseMediaType(h.Get("Content-Type"))
	var ev Event
	var err error
	switch {
	// Before the next: one is a prefix of the other.
	case strings.HasPrefix(media, "application/cloudevents-batch"):
		err = errors.New("a delivery is one event, not a batch")
	case strings.HasPrefix(media, "application/cloudevents"):
		ev, err = parseStructured(body)
	case h.Get("Ce-Specversion") != "" || h.Get("Ce-Type") != "":
		ev, err = parseBinary(h)
		ev.Data = body
	default:
		ev = Event{Data: body, DataContentType: h.Get("Content-Type")}
	}
	if err != nil {
		return Event{}, err
	}
	ev.DeliveryID = h.Get(signature.HeaderID)
	if ev.DeliveryID == "" {
		ev.DeliveryID = h.Get("Svix-Id")
	}
	ev.TraceParent = h.Get("Traceparent")
	return ev, nil
}

func parseBinary(h http.Header) (Event, error) {
	attributes := make(map[string]string)
	for name, values := range h {
		attr, ok := strings.CutPrefix(name, "Ce-")
		if !ok {
			continue
		}
		v, err := unescapeHeader(values[0])
		if err != nil {
			return Event{}, fmt.Errorf("header %s: %w", name, err)
		}
		attributes[strings.ToLower(attr)] = v
	}
	if _, ok := attributes["datacontenttype"]; ok {
		return Event{}, errors.New("header ce-datacontenttype has no place in binary mode")
	}
	ev, err := fromAttributes(attributes)
	ev.DataContentType = h.Get("Content-Type")
	return ev, err
}

func parseStructured(body []byte) (Event, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil {
		return Event{}, errors.New("the body is not a JSON object")
	}
	data, encoded := member(members, "data"), member(members, "data_base64")
	if data != nil && encoded != nil {
		return Event{}, errors.New("there are both data and data_base64")
	}
	attributes := make(map[string]string)
	for name, raw := range members {
		if string(raw) == "null" || name == "data" || name == "data_base64" {
			continue
		}
		v := string(raw) // numbers and booleans as they are written
		if raw[0] == '"' {
			if err := json.Unmarshal(raw, &v); err != nil {
				return Event{}, fmt.Errorf("attribute %s: %w", name, err)
			}
		} else if raw[0] == '{' || raw[0] == '[' {
			return Event{}, fmt.Errorf("attribute %s is neither text, number nor boolean", name)
		}
		attributes[name] = v
	}
	contentType := attributes["datacontenttype"]
	delete(attributes, "datacontenttype")
	ev, err := fromAttributes(attributes)
	if err != nil {
		return Event{}, err
	}
	ev.DataContentType = contentType
	ev.Data, err = structuredData(contentType, data, encoded)
	return ev, err
}

func structuredData(contentType string, data, encoded json.RawMessage) ([]byte, error) {
	var text string
	switch {
	case encoded != nil:
		if err := json.Unmarshal(encoded, &text); err != nil {
			return nil, errors.New("data_base64 is not a string")
		}
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, errors.New("data_base64 is not base64")
		}
		return raw, nil
	case event.IsJSON(contentType) || data == nil:
		return data, nil
	}
	// Data that is text but not JSON stands there as a JSON string.
	if err := json.Unmarshal(data, &text); err != nil {
		return nil, fmt.Errorf("data of type %s is not a string", contentType)
	}
	return []byte(text), nil
}

// member returns a member's value; one that is null is one that is missing.
func member(members map[string]json.RawMessage, name string) json.RawMessage {
	raw := members[name]
	if string(raw) == "null" {
		return nil
	}
	return raw
}

func fromAttributes(attributes map[string]string) (Event, error) {
	for _, name := range []string{"id", "source", "specversion", "type"} {
		if attributes[name] == "" {
			return Event{}, fmt.Errorf("attribute %s is missing", name)
		}
	}
	if v := attributes["specversion"]; v != "1.0" {
		return Event{}, fmt.Errorf("CloudEvents %s is not 1.0", v)
	}
	ev := Event{
		ID: attributes["id"], Source: attributes["source"], Type: attributes["type"],
		Subject: attributes["subject"], DataSchema: attributes["dataschema"],
	}
	if t := attributes["time"]; t != "" {
		at, err := time.Parse(time.RFC3339, t)
		if err != nil {
			return Event{}, fmt.Errorf("attribute time: %q is not of RFC 3339", t)
		}
		ev.Time = at
	}
	for _, name := range []string{"id", "source", "specversion", "type", "subject", "dataschema", "time"} {
		delete(attributes, name)
	}
	if len(attributes) > 0 {
		ev.Extensions = attributes
	}
	return ev, nil
}

// unescapeHeader undoes the percent-encoding of attribute values in headers.
func unescapeHeader(v string) (string, error) {
	if strings.IndexByte(v, '%') < 0 {
		return v, nil
	}
	text, err := url.PathUnescape(v)
	if err != nil {
		return "", errors.New("the percent-encoding is broken")
	}
	if !utf8.ValidString(text) {
		return "", errors.New("the percent-encoding is not of UTF-8")
	}
	return text, nil
}
