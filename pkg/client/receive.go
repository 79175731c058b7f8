package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/posthornhq/posthorn/pkg/signature"
)

// MaxBody bounds what [Handler] reads of a delivery, in bytes: the largest
// event that the platform takes by default, in base64, and its attributes.
const MaxBody = 12 << 20

// Handler returns an http.Handler that receives the deliveries of a webhook
// subscription. It checks the Standard Webhooks signature over the bytes that
// came with any of the secrets ("whsec_…", or "whpk_…" of an ed25519 key), reads
// the event from any of the platform's formats, and calls fn.
//
// When fn returns nil, the answer is 204 and the delivery is done. When it
// returns an [*Error] with a status, the answer has that status, and the policy
// decides whether it is tried again; any other error is answered with 500 and
// its text stays here. Delivery is at least once: fn may see a DeliveryID again.
//
// Without a secret, or with one that cannot be read, every request is answered
// with 500: there is no such thing as an unsigned delivery.
func Handler(secrets []string, fn func(context.Context, Event) error) http.Handler {
	keys, err := parseKeys(secrets)
	return &receiver{keys: keys, unusable: err, fn: fn, now: time.Now}
}

func parseKeys(secrets []string) ([]signature.StandardKey, error) {
	if len(secrets) == 0 {
		return nil, errors.New("the receiver has no secret to check signatures with")
	}
	keys := make([]signature.StandardKey, len(secrets))
	for i, s := range secrets {
		var err error
		if keys[i], err = signature.ParseStandardSecret(s); err != nil {
			// One bad secret of two is a mistake to find now, not when the good one is
			// rotated out.
			return nil, errors.New("a secret of the receiver cannot be read")
		}
	}
	return keys, nil
}

type receiver struct {
	keys     []signature.StandardKey
	unusable error
	fn       func(context.Context, Event) error
	now      func() time.Time
}

func (h *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := h.receive(w, r); err != nil {
		writeProblem(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (h *receiver) receive(w http.ResponseWriter, r *http.Request) error {
	if h.unusable != nil {
		return &Error{Status: http.StatusInternalServerError, Detail: h.unusable.Error()}
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return &Error{Status: http.StatusMethodNotAllowed, Detail: "deliveries are POST requests"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &Error{Status: http.StatusRequestEntityTooLarge, Detail: "the delivery is too large"}
	}
	if err != nil {
		return &Error{Status: http.StatusBadRequest, Detail: "the body broke off"}
	}
	if err := signature.VerifyStandardHeader(h.keys, r.Header, body, h.now(), 0); err != nil {
		return &Error{Status: http.StatusUnauthorized, Detail: err.Error()}
	}
	ev, err := parseDelivery(r.Header, body)
	if err != nil {
		return &Error{Status: http.StatusBadRequest, Detail: err.Error()}
	}
	return h.fn(r.Context(), ev)
}

// writeProblem answers with what err says, if it is meant for the sender.
func writeProblem(w http.ResponseWriter, err error) {
	p := Error{Status: http.StatusInternalServerError, Detail: "the receiver failed"}
	if e, ok := errors.AsType[*Error](err); ok && e.Status >= 400 && e.Status <= 599 {
		p = *e
	}
	if p.Title == "" {
		p.Title = http.StatusText(p.Status)
	}
	body, err := json.Marshal(map[string]any{"type": "about:blank", "title": p.Title, "status": p.Status, "detail": p.Detail})
	if err != nil {
		body = []byte("{}")
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	w.Write(body)
}
