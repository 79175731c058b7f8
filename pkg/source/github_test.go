package source

import (
	"net/url"
	"testing"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/signature"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

const githubSecret = "It's a Secret to Everybody"

// fromGitHub returns a request as GitHub signs it.
func fromGitHub(body, name string, headers ...string) *Request {
	return request(body, append(headers,
		"X-GitHub-Event: "+name,
		"X-GitHub-Delivery: 72d3162e-cc78-11e3-81ab-4c9367dc0958",
		"X-Hub-Signature-256: "+signature.GitHub.Sign([]byte(githubSecret), []byte(body)))...)
}

func TestGitHub(t *testing.T) {
	t.Parallel()
	const delivery = "72d3162e-cc78-11e3-81ab-4c9367dc0958"
	const opened = `{"issue":{"action":"inner"}, "number":9007199254740993 , "action":"opened"}`
	const form = "application/x-www-form-urlencoded"
	tests := []struct {
		name    string
		request *Request
		want    event.Event
	}{
		{"push", fromGitHub(`{"ref":"refs/heads/main"}`, "push", "Content-Type: application/json"),
			event.Event{Type: "push", DataContentType: "application/json", Data: []byte(`{"ref":"refs/heads/main"}`)}},
		{"ping", fromGitHub(`{"zen":"Keep it logically awesome."}`, "ping"),
			event.Event{Type: "ping", Data: []byte(`{"zen":"Keep it logically awesome."}`)}},
		{"an action", fromGitHub(opened, "issues"), event.Event{Type: "issues.opened", Data: []byte(opened)}},
		{"an action after escaped quotes", fromGitHub(`{"title":"\",\"action\":\"x\\","action":"closed"}`, "issues"),
			event.Event{Type: "issues.closed", Data: []byte(`{"title":"\",\"action\":\"x\\","action":"closed"}`)}},
		{"an action that is no string", fromGitHub(`{"action":1}`, "x"), event.Event{Type: "x", Data: []byte(`{"action":1}`)}},
		{"an empty action", fromGitHub(`{"action":""}`, "x"), event.Event{Type: "x", Data: []byte(`{"action":""}`)}},
		{"an action of somebody's own", fromGitHub(`{"action":"deploy to..prod"}`, "repository_dispatch"),
			event.Event{Type: "repository_dispatch.deploy_to__prod", Data: []byte(`{"action":"deploy to..prod"}`)}},
		{"a form", fromGitHub("payload="+url.QueryEscape(opened), "issues", "Content-Type: "+form),
			event.Event{Type: "issues.opened", DataContentType: "application/json", Data: []byte(opened)}},
	}
	s := compile(t, &posthornv1.Source{Kind: posthornv1.Source_GITHUB}, githubSecret)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.want.ExternalID = delivery
			diff(t, receive(t, s, tt.request), []Incoming{{Event: tt.want, Key: delivery}})
		})
	}
}

func TestGitHubRefuses(t *testing.T) {
	t.Parallel()
	const vector = "X-Hub-Signature-256: sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
	const text, ev = "Content-Type: text/plain", "X-GitHub-Event: push"
	tests := []struct {
		name    string
		secrets []string
		request *Request
		kind    errs.Kind
		want    string // "" if it is accepted
	}{
		{"nothing: the vector", []string{githubSecret}, request("Hello, World!", vector, text, ev), 0, ""},
		{"nothing: the second secret", []string{"new", githubSecret}, request("Hello, World!", vector, text, ev), 0, ""},
		{"a wrong secret", []string{"other"}, request("Hello, World!", vector, text, ev), errs.Unauthenticated, "does not match"},
		{"a changed byte", []string{githubSecret}, request("Hello, World?", vector, text, ev), errs.Unauthenticated, "does not match"},
		{"no signature", []string{githubSecret}, request("Hello, World!", text, ev), errs.Unauthenticated, "no X-Hub-Signature-256"},
		{"the old SHA-1 signature alone", []string{githubSecret},
			request("Hello, World!", "X-Hub-Signature: sha1=01dc10d0c83e72ed246219cdd91669667fe2ca59", text, ev), errs.Unauthenticated, "no X-Hub-Signature-256"},
		{"no event name", []string{githubSecret}, request("Hello, World!", vector, text), errs.Invalid, "X-GitHub-Event"},
		{"an event name that is no type", []string{githubSecret}, request("Hello, World!", vector, text, "X-GitHub-Event: a b"), errs.Invalid, "X-GitHub-Event"},
		{"a body that is no JSON", []string{githubSecret}, request("Hello, World!", vector, ev), errs.Invalid, "not valid JSON"},
		{"a form without payload", []string{githubSecret}, fromGitHub("a=b", "push", "Content-Type: application/x-www-form-urlencoded"), errs.Invalid, "payload"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := compile(t, &posthornv1.Source{Kind: posthornv1.Source_GITHUB}, tt.secrets...)
			b, err := s.Receive(tt.request)
			if tt.want == "" {
				if err != nil || len(b.Events) != 1 {
					t.Errorf("%d events, error %v; want one event", len(b.Events), err)
				}
				return
			}
			reason := "malformed"
			if tt.kind == errs.Unauthenticated {
				reason = "signature"
			}
			refused(t, b, err, tt.kind, reason, tt.want)
		})
	}
}
