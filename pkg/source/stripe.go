package source

import (
	"strconv"
	"time"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/signature"
)

// stripe takes Stripe's webhooks, snapshot and thin events. An event's type is
// the one Stripe gives it: "charge.succeeded". Its subject is the object it is
// about, its time that of the event and not of the attempt.
type stripe struct {
	secrets     [][]byte
	details     []string // for the receipt, one a secret
	defaultType string
}

func newStripe(secrets [][]byte, defaultType string) stripe {
	return stripe{secrets: secrets, details: verifyDetails("stripe hmac-sha256", len(secrets)), defaultType: defaultType}
}

func (s stripe) verify(r *Request) (string, error) {
	header := r.Header.Get(signature.HeaderStripe)
	if header == "" {
		return "", unverified("the request has no %s header", signature.HeaderStripe)
	}
	i, timestamp := signature.MatchStripe(s.secrets, header, r.Body)
	switch {
	case i < 0:
		return "", mismatch(signature.HeaderStripe)
	case !signature.Fresh(timestamp, r.Now, signature.DefaultTolerance):
		return "", stale("t of "+signature.HeaderStripe, signature.DefaultTolerance)
	}
	return s.details[i], nil
}

func (s stripe) parse(r *Request) (Batch, error) {
	ev, err := plainEvent(r)
	if err != nil {
		return Batch{}, err
	}
	doc := pick(jsonDocument(ev), "type", "id", "created", "data", "related_object")
	if ev.Type, err = bodyType(r, "type", doc[0], s.defaultType); err != nil {
		return Batch{}, err
	}
	ev.ExternalID, ev.Time = cleanString(doc[1]), publisherTime(doc[2])
	if ev.Subject = cleanString(member(member(doc[3], "object"), "id")); ev.Subject == "" {
		ev.Subject = cleanString(member(doc[4], "id"))
	}
	return Batch{Events: []Incoming{{Event: ev, Key: ev.ExternalID}}}, nil
}

// jsonDocument returns the data of an event in which members may be looked for:
// none if they are not JSON, which its content type then says.
func jsonDocument(ev event.Event) []byte {
	if event.IsJSON(ev.DataContentType) {
		return ev.Data
	}
	return nil
}

// bodyType is the type that the body names in a field, or else [fallbackType].
func bodyType(r *Request, field string, raw []byte, configured string) (string, error) {
	if t, ok := text(raw); ok && t != "" {
		return checkType(field, t)
	}
	return fallbackType(r, configured)
}

// publisherTime reads a time in Unix seconds or as in RFC 3339; zero for
// anything else. That a publisher's clock reads oddly is no reason to refuse what
// it signed.
func publisherTime(raw []byte) time.Time {
	if isInteger(raw) {
		sec, err := strconv.ParseInt(string(raw), 10, 64)
		if t := time.Unix(sec, 0).UTC(); err == nil && t.Year() >= 0 && t.Year() <= 9999 {
			return t
		}
		return time.Time{}
	}
	if t, err := parseTime(cleanString(raw)); err == nil {
		return t
	}
	return time.Time{}
}
