package source

import (
	"fmt"
	"net/url"
	"time"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/rawjson"
	"github.com/posthornhq/posthorn/pkg/signature"
)

// Headers of GitHub's webhooks.
const (
	headerGitHubSignature = "X-Hub-Signature-256"
	headerGitHubEvent     = "X-GitHub-Event"
	headerGitHubDelivery  = "X-GitHub-Delivery"
)

// github takes GitHub's webhooks. An event's type is the name that GitHub gives
// it, and the action in the body where there is one: "push", "issues.opened".
type github struct {
	secrets [][]byte
	details []string // for the receipt, one a secret
}

func newGitHub(secrets [][]byte) github {
	return github{secrets: secrets, details: verifyDetails("github hmac-sha256", len(secrets))}
}

// verifyDetails says, for each secret, how a request was verified.
func verifyDetails(how string, secrets int) []string {
	details := make([]string, secrets)
	for i := range details {
		details[i] = fmt.Sprintf("%s, secret %d of %d", how, i+1, secrets)
	}
	return details
}

func (g github) verify(r *Request) (string, error) {
	sig := r.Header.Get(headerGitHubSignature)
	if sig == "" {
		return "", unverified("the request has no %s header; set the webhook's secret at GitHub", headerGitHubSignature)
	}
	i := signature.GitHub.Match(g.secrets, sig, r.Body)
	if i < 0 {
		return "", mismatch(headerGitHubSignature)
	}
	return g.details[i], nil
}

// mismatch is the error for a signature that no secret makes.
func mismatch(header string) error {
	return unverified("%s does not match: the publisher has another secret, or the body was changed on its way", header)
}

// stale is the error for a time of signing that is too far from now. It is told
// to those alone whose signature is right.
func stale(header string, tolerance time.Duration) error {
	return unverified("%s is not a time in Unix seconds within %s of now", header, tolerance)
}

func (g github) parse(r *Request) (Batch, error) {
	name, err := headerText(r.Header, headerGitHubEvent)
	if err != nil {
		return Batch{}, err
	}
	if name == "" {
		return Batch{}, malformedField(headerGitHubEvent, "the header is missing")
	}
	delivery, err := headerText(r.Header, headerGitHubDelivery)
	if err != nil {
		return Batch{}, err
	}
	ev, err := githubEvent(r)
	if err != nil {
		return Batch{}, err
	}
	if action, ok := text(member(ev.Data, "action")); ok && action != "" {
		// Of a repository_dispatch the action is whatever its sender likes.
		name += "." + word(action)
	}
	if ev.Type, err = checkType(headerGitHubEvent, name); err != nil {
		return Batch{}, err
	}
	ev.ExternalID = delivery
	return Batch{Events: []Incoming{{Event: ev, Key: delivery}}}, nil
}

// githubEvent takes the payload, which is the body, or, with the content type
// that GitHub sets if nobody changes it, a field of a form.
func githubEvent(r *Request) (event.Event, error) {
	if !isForm(r.Header) {
		return plainEvent(r)
	}
	form, err := url.ParseQuery(string(r.Body))
	payload := []byte(form.Get("payload"))
	if err != nil || !rawjson.Valid(payload) {
		return event.Event{}, malformed("the form has no field payload with valid JSON")
	}
	return event.Event{DataContentType: "application/json", Data: payload}, nil
}
