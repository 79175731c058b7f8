package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/posthornhq/posthorn/pkg/client"
	"github.com/posthornhq/posthorn/pkg/signature"
)

// The demo's inputs are what the providers really send, with times and IDs of
// this start: the platform would take the same IDs for repeats.

// auth0Codes are a login, a wrong password and a signup.
var auth0Codes = []struct{ code, description string }{
	{"s", "Successful login"},
	{"fp", "Wrong email or password."},
	{"ss", "Successful signup"},
}

// auth0Batch is what a custom webhook log stream with content format JSON Lines sends.
func auth0Batch(now time.Time) string {
	var b strings.Builder
	for i, c := range auth0Codes {
		id := fmt.Sprintf("902%s%021d%s", now.UTC().Format("20060102150405"), i, randomHex(6))
		at := now.UTC().Add(time.Duration(i-len(auth0Codes)) * time.Second).Format("2006-01-02T15:04:05.000Z")
		fmt.Fprintf(&b, `{"log_id":%q,"data":{"date":%q,"type":%q,"description":%q,"connection":"Username-Password-Authentication",`+
			`"connection_id":"con_8Yd0VZQe1lZxB6Tq","client_id":"3kT8dW2n5pQbX0aJ","client_name":"Storefront","ip":"203.0.113.7",`+
			`"user_agent":"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0","details":{},`+
			`"hostname":"tenant.eu.auth0.com","user_id":"auth0|6538ab94c3e8f0b7d1a2e4f5","user_name":"ada@example.com",`+
			`"strategy":"auth0","strategy_type":"database","log_id":%q}}`+"\n", id, at, c.code, c.description, id)
	}
	return b.String()
}

// githubPush is GitHub's payload of event push, without most of what it says
// of the repository and the sender.
func githubPush(now time.Time) string {
	commit := randomHex(20)
	return fmt.Sprintf(`{"ref":"refs/heads/main","before":%q,"after":%q,"repository":{"id":35129377,"name":"public-repo",`+
		`"full_name":"octo-org/public-repo","private":false,"html_url":"https://github.com/octo-org/public-repo","default_branch":"main"},`+
		`"pusher":{"name":"octocat","email":"octocat@example.com"},"sender":{"login":"octocat","id":583231,"type":"User"},`+
		`"created":false,"deleted":false,"forced":false,"commits":[{"id":%q,"message":"Deliver every event","timestamp":%q,`+
		`"author":{"name":"Octo Cat","email":"octocat@example.com","username":"octocat"},"added":[],"removed":[],"modified":["README.md"]}]}`,
		randomHex(20), commit, commit, now.UTC().Format(time.RFC3339))
}

// demoOrder is the data of the demo's own event; its schema is made from it.
type demoOrder struct {
	ID       string `json:"id" jsonschema:"minLength=1"`
	Customer string `json:"customer"`
	Currency string `json:"currency" jsonschema:"pattern=^[A-Z]{3}$"`
	// Total is in the currency's smallest unit.
	Total int64 `json:"total" jsonschema:"minimum=0"`
}

const demoOrderType = "order.created"

// sendAuth0 sends the batch as Auth0 does and returns the IDs of its events.
func (d *demo) sendAuth0(ctx context.Context) ([]string, error) {
	h := http.Header{"Content-Type": {"application/json"}, "Authorization": {d.auth0Secret}}
	return d.post(ctx, "/events/auth0", h, auth0Batch(time.Now()))
}

// sendGitHub sends a push as GitHub does.
func (d *demo) sendGitHub(ctx context.Context) ([]string, error) {
	body := githubPush(time.Now())
	id := randomHex(16)
	return d.post(ctx, "/events/github", http.Header{
		"Content-Type":        {"application/json"},
		"User-Agent":          {"GitHub-Hookshot/044aadd"},
		"X-GitHub-Event":      {"push"},
		"X-GitHub-Delivery":   {strings.Join([]string{id[:8], id[8:12], id[12:16], id[16:20], id[20:]}, "-")},
		"X-Hub-Signature-256": {signature.GitHub.Sign([]byte(d.githubSecret), []byte(body))},
	}, body)
}

// sendOrder publishes as a service of one's own does, with the SDK.
func (d *demo) sendOrder(ctx context.Context) ([]string, error) {
	ev, err := client.NewEvent(demoOrderType, demoOrder{ID: "A-" + randomHex(3), Customer: "ada@example.com", Currency: "EUR", Total: 4999})
	if err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	ev.Source, ev.Tenant = "shop", "acme"
	r, err := d.client.Publish(ctx, ev)
	if err != nil {
		return nil, fmt.Errorf("demo: publish %s: %w", demoOrderType, err)
	}
	return []string{r.ID}, nil
}

// post sends a provider's request to a source.
func (d *demo) post(ctx context.Context, path string, h http.Header, body string) ([]string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.base+path, strings.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	for name, values := range h {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	resp, err := d.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("demo: read the answer of %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusAccepted {
		return nil, fmt.Errorf("demo: POST %s was answered with %s: %s", path, resp.Status, oneLine(string(answer)))
	}
	var receipt struct {
		IDs []string `json:"ids"`
	}
	if err := json.Unmarshal(answer, &receipt); err != nil || len(receipt.IDs) == 0 {
		return nil, fmt.Errorf("demo: POST %s was answered without IDs: %s", path, oneLine(string(answer)))
	}
	return receipt.IDs, nil
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
