package api

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"

	"github.com/posthornhq/posthorn/pkg/errs"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// fetch serves POST /api/v1/subscriptions/{subscription}:fetch.
func (h *handler) fetch(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r, maxResource)
	if err != nil {
		return err
	}
	name := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/api/v1/subscriptions/"), ":fetch")
	req := new(posthornv1.FetchRequest)
	if len(bytes.TrimSpace(body)) > 0 {
		if err := checkJSON(body); err != nil {
			return err
		}
		if err := newCodec().Unmarshal(body, req); err != nil {
			return errs.Wrap(err, errs.Invalid, "the body is not a fetch request: %v", err)
		}
	}
	if req.Subscription != "" && req.Subscription != name {
		return errs.Field("subscription", "is %q, but the path says %q", req.Subscription, name)
	}
	req.Subscription = name
	res, err := h.pulled.Fetch(outgoingContext(r), req)
	if err != nil {
		return err
	}
	out := []byte(`{"deliveries":[`)
	for i, d := range res.GetDeliveries() {
		if i > 0 {
			out = append(out, ',')
		}
		if out, err = appendDelivery(out, d); err != nil {
			return err
		}
	}
	writeJSON(w, http.StatusOK, append(out, "]}\n"...))
	return nil
}

// appendDelivery appends a delivery's JSON, whose event is that of GetEvent.
func appendDelivery(dst []byte, d *posthornv1.PulledDelivery) ([]byte, error) {
	// It was made for this answer, and is nobody else's.
	ev := d.GetEvent()
	event, err := encodeEvent(ev)
	if err != nil {
		return nil, err
	}
	d.Event = nil
	out, err := newCodec().Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("api: encode delivery of %s: %w", ev.GetId(), err)
	}
	out = bytes.Replace(out, []byte(`"event":null,`), nil, 1)
	dst = append(append(dst, `{"event":`...), event...)
	return append(append(dst, ','), out[1:]...), nil
}
