package source

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/rawjson"
	"github.com/posthornhq/posthorn/pkg/signature"
)

// Headers of Slack's requests.
const (
	headerSlackSignature = "X-Slack-Signature"
	headerSlackTimestamp = "X-Slack-Request-Timestamp"
)

// slackCommand is the type of slash commands, if neither the path nor the
// settings say another.
const slackCommand = "slash_commands"

// slack takes what Slack sends to an app's URLs: the Events API, where an
// event's type is the inner event's ("app_mention"); interactivity, where it is
// the payload's ("block_actions"); and slash commands, whose form stays a form.
// The challenge by which Slack checks a URL is signed like everything else, and
// answered; it is no event.
type slack struct {
	secrets     [][]byte
	details     []string // for the receipt, one a secret
	defaultType string
}

func newSlack(secrets [][]byte, defaultType string) slack {
	return slack{secrets: secrets, details: verifyDetails("slack hmac-sha256", len(secrets)), defaultType: defaultType}
}

func (s slack) verify(r *Request) (string, error) {
	sig, timestamp := r.Header.Get(headerSlackSignature), r.Header.Get(headerSlackTimestamp)
	if sig == "" {
		return "", unverified("the request has no %s header", headerSlackSignature)
	}
	if timestamp == "" {
		return "", unverified("the request has no %s header", headerSlackTimestamp)
	}
	i := signature.Slack.Match(s.secrets, sig, []byte("v0:"), []byte(timestamp), []byte(":"), r.Body)
	switch {
	case i < 0:
		return "", mismatch(headerSlackSignature)
	case !signature.Fresh(timestamp, r.Now, signature.DefaultTolerance):
		return "", stale(headerSlackTimestamp, signature.DefaultTolerance)
	}
	return s.details[i], nil
}

func (s slack) parse(r *Request) (Batch, error) {
	if isForm(r.Header) {
		return one(s.form(r))
	}
	ev, err := plainEvent(r)
	if err != nil {
		return Batch{}, err
	}
	doc := pick(jsonDocument(ev), "type", "event", "event_id", "event_time", "challenge")
	field, name := "type", doc[0]
	switch kind, _ := text(name); kind {
	case "url_verification":
		return slackChallenge(doc[4])
	case "event_callback":
		field, name = "event.type", member(doc[1], "type")
	}
	if ev.Type, err = bodyType(r, field, name, s.defaultType); err != nil {
		return Batch{}, err
	}
	ev.ExternalID, ev.Time = cleanString(doc[2]), publisherTime(doc[3])
	return Batch{Events: []Incoming{{Event: ev, Key: ev.ExternalID}}}, nil
}

// slackChallenge answers as text: a browser that is led here runs nothing.
func slackChallenge(raw []byte) (Batch, error) {
	challenge := cleanString(raw)
	if challenge == "" {
		return Batch{}, malformedField("challenge", "a url_verification has a text of at most %d bytes here", maxText)
	}
	return Batch{Reply: &Reply{Status: http.StatusOK, ContentType: "text/plain; charset=utf-8", Body: []byte(challenge)}}, nil
}

// form takes interactivity, whose form is but a wrapping of JSON, and slash
// commands. Their trigger_id is made anew for each interaction.
func (s slack) form(r *Request) (Incoming, error) {
	form, err := url.ParseQuery(string(r.Body))
	if err != nil {
		return Incoming{}, malformed("the body is not a form, as its content type says")
	}
	if !form.Has("payload") {
		return s.command(r, form)
	}
	payload := []byte(form.Get("payload"))
	if !rawjson.Valid(payload) {
		return Incoming{}, malformedField("payload", "the field of the form is not valid JSON")
	}
	ev := event.Event{DataContentType: "application/json", Data: payload}
	if ev.Type, err = bodyType(r, "payload.type", member(payload, "type"), s.defaultType); err != nil {
		return Incoming{}, err
	}
	ev.ExternalID = cleanString(member(payload, "trigger_id"))
	return Incoming{Event: ev, Key: ev.ExternalID}, nil
}

func (s slack) command(r *Request, form url.Values) (Incoming, error) {
	ev, err := plainEvent(r)
	if err != nil {
		return Incoming{}, err
	}
	configured := s.defaultType
	if configured == "" {
		configured = slackCommand
	}
	if ev.Type, err = fallbackType(r, configured); err != nil {
		return Incoming{}, err
	}
	if id := form.Get("trigger_id"); cleanText(id) {
		ev.ExternalID = id
	}
	return Incoming{Event: ev, Key: ev.ExternalID}, nil
}

// isForm says whether a request's body is a form.
func isForm(h http.Header) bool {
	return strings.EqualFold(mediaType(h.Get("Content-Type")), "application/x-www-form-urlencoded")
}
