package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/rawjson"
	"github.com/posthornhq/posthorn/pkg/wire"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// outgoingContext hands on what the generated code would.
func outgoingContext(r *http.Request) context.Context {
	md := make(metadata.MD, 3)
	for _, name := range []string{"Authorization", "Traceparent", "Tracestate"} {
		if v := r.Header[name]; len(v) > 0 {
			md[strings.ToLower(name)] = v
		}
	}
	return metadata.NewOutgoingContext(r.Context(), md)
}

// publish serves POST /api/v1/events.
func (h *handler) publish(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r, h.cfg.bodyLimit())
	if err != nil {
		return err
	}
	if err := checkJSON(body); err != nil {
		return err
	}
	req, err := h.parseEvent(body, "")
	if err != nil {
		return err
	}
	if key := r.Header.Get("Idempotency-Key"); key != "" {
		if req.IdempotencyKey != "" && req.IdempotencyKey != key {
			return errs.Field("idempotencyKey", "is another one than in the header Idempotency-Key")
		}
		req.IdempotencyKey = key
	}
	res, err := h.events.PublishEvent(outgoingContext(r), req)
	if err != nil {
		return err
	}
	out := make([]byte, 0, 64)
	out = appendReceipt(out, res.GetId(), res.GetDuplicate())
	writeJSON(w, http.StatusAccepted, append(out, '\n'))
	return nil
}

func appendReceipt(dst []byte, id string, duplicate bool) []byte {
	return fmt.Appendf(dst, `{"id":%s,"duplicate":%t}`, quote(id), duplicate)
}

// quote returns s as a JSON string.
func quote(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		return []byte(`""`) // a string always encodes
	}
	return b
}

// publishBatch serves POST /api/v1/events:batch. An event that cannot be read
// refuses the whole batch; one that the platform does not want, itself alone.
func (h *handler) publishBatch(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r, h.cfg.MaxBatchBytes)
	if err != nil {
		return err
	}
	if err := checkJSON(body); err != nil {
		return err
	}
	req := new(posthornv1.PublishEventsRequest)
	err = members(body, "", func(name, value []byte) error {
		if string(name) != "events" {
			return unknown("", name)
		}
		return elements(value, "events", func(i int, value []byte) error {
			if i == h.cfg.MaxBatchEvents {
				return errs.Field("events", "has more than the %d that are allowed at once", h.cfg.MaxBatchEvents)
			}
			e, err := h.parseEvent(value, fmt.Sprintf("events[%d]", i))
			req.Events = append(req.Events, e)
			return err
		})
	})
	if err != nil {
		return err
	}
	res, err := h.events.PublishEvents(outgoingContext(r), req)
	if err != nil {
		return err
	}
	out := []byte(`{"results":[`)
	for i, one := range res.GetResults() {
		if i > 0 {
			out = append(out, ',')
		}
		if one.GetError() == nil {
			out = appendReceipt(out, one.GetId(), one.GetDuplicate())
			continue
		}
		refusal, err := newCodec().Marshal(one.GetError())
		if err != nil {
			return fmt.Errorf("api: encode refusal: %w", err)
		}
		out = append(append(append(out, `{"error":`...), refusal...), '}')
	}
	writeJSON(w, http.StatusAccepted, append(out, "]}\n"...))
	return nil
}

// parseEvent reads an event to be published, which shares b. at is its path in
// the body.
func (h *handler) parseEvent(b []byte, at string) (*posthornv1.PublishEventRequest, error) {
	req := new(posthornv1.PublishEventRequest)
	data := payload{at: at}
	err := members(b, at, func(name, value []byte) (err error) {
		if data.take(name, value) {
			return nil
		}
		switch string(name) {
		case "time":
			t, err := timeValue(join(at, "time"), value)
			req.Time = wire.Timestamp(t)
			return err
		case "extensions":
			req.Extensions, err = parseExtensions(value, join(at, "extensions"))
			return err
		}
		field := textField(req, name)
		if field == nil {
			return unknown(at, name)
		}
		*field, err = stringValue(join(at, string(name)), value)
		return err
	})
	if err != nil {
		return nil, err
	}
	req.Data, err = data.bytes(req.DataContentType, h.cfg.MaxEventBytes)
	if len(req.Data) > 0 && data.encoded != nil && req.DataContentType == "" && !json.Valid(req.Data) {
		req.DataContentType = "application/octet-stream" // no type at all is JSON's
	}
	return req, err
}

// textField returns the field of a name that holds text, nil if there is none.
func textField(req *posthornv1.PublishEventRequest, name []byte) *string {
	switch string(name) {
	case "type":
		return &req.Type
	case "tenant":
		return &req.Tenant
	case "source":
		return &req.Source
	case "context":
		return &req.Context
	case "subject":
		return &req.Subject
	case "dataContentType":
		return &req.DataContentType
	case "dataSchema":
		return &req.DataSchema
	case "idempotencyKey":
		return &req.IdempotencyKey
	}
	return nil
}

func parseExtensions(b []byte, at string) (map[string]string, error) {
	if rawjson.IsNull(b) {
		return nil, nil
	}
	ext := make(map[string]string)
	err := members(b, at, func(name, value []byte) (err error) {
		ext[string(name)], err = stringValue(join(at, string(name)), value)
		return err
	})
	return ext, err
}

// getEvent serves GET /api/v1/events/{id}: the data as JSON if that is what it
// is, else in base64.
func (h *handler) getEvent(w http.ResponseWriter, r *http.Request) error {
	id := strings.TrimPrefix(r.URL.Path, "/api/v1/events/")
	ev, err := h.events.GetEvent(outgoingContext(r), &posthornv1.GetEventRequest{Id: id})
	if err != nil {
		return err
	}
	out, err := encodeEvent(ev)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, append(out, '\n'))
	return nil
}

// encodeEvent returns an event's JSON: the data as JSON if that is what it is, else
// in base64. It takes the data out of ev.
func encodeEvent(ev *posthornv1.Event) ([]byte, error) {
	data := ev.GetData()
	ev.Data = nil
	out, err := newCodec().Marshal(ev)
	if err != nil {
		return nil, fmt.Errorf("api: encode event %s: %w", ev.GetId(), err)
	}
	out = withoutEmpty(out, "data", `""`)
	out = out[:len(out)-1] // the closing brace
	switch {
	case len(data) == 0:
	case event.IsJSON(ev.GetDataContentType()) && json.Valid(data):
		out = append(append(out, `,"data":`...), data...)
	default:
		out = append(out, `,"dataBase64":"`...)
		out = append(base64.StdEncoding.AppendEncode(out, data), '"')
	}
	return append(out, '}'), nil
}
