package webhook

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
	"golang.org/x/sync/singleflight"

	"github.com/posthornhq/posthorn/pkg/destination"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

const (
	// tokenTimeout bounds the question for a token, which outlives the attempt that
	// asked: others wait for the answer, and the next attempt wants it too.
	tokenTimeout = 10 * time.Second
	// maxTokenMargin is how long before its end a token is not used any more; it may
	// take that long to the endpoint, and clocks differ.
	maxTokenMargin = 30 * time.Second
)

// tokens gets access tokens by OAuth2 client credentials and keeps the newest.
type tokens struct {
	config *clientcredentials.Config
	http   *http.Client
	flight singleflight.Group

	mu      sync.Mutex
	token   string
	expires time.Time // zero for never
}

func newTokens(c *Client, spec *posthornv1.WebhookAuth_OAuth2) *tokens {
	t := &tokens{
		config: &clientcredentials.Config{
			ClientID: spec.GetClientId(), ClientSecret: spec.GetClientSecret(), TokenURL: spec.GetTokenUrl(), Scopes: spec.GetScopes(),
		},
		http: &http.Client{
			Transport: c.transport,
			// The secret is for the token endpoint and for nobody whom it names.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	if a := spec.GetAudience(); a != "" {
		t.config.EndpointParams = url.Values{"audience": {a}}
	}
	return t
}

// get returns a token that is not the given one, which did not do. Many that wait
// ask once.
func (t *tokens) get(ctx context.Context, not string) (string, error) {
	if token, ok := t.kept(not); ok {
		return token, nil
	}
	ch := t.flight.DoChan("", func() (any, error) {
		if token, ok := t.kept(not); ok {
			return token, nil // it came while we were on our way
		}
		return t.fetch(context.WithoutCancel(ctx))
	})
	select {
	case res := <-ch:
		if res.Err != nil {
			return "", res.Err
		}
		return res.Val.(string), nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (t *tokens) kept(not string) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ok := t.token != "" && t.token != not && (t.expires.IsZero() || time.Now().Before(t.expires))
	return t.token, ok
}

func (t *tokens) fetch(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	asked := time.Now()
	got, err := t.config.Token(context.WithValue(ctx, oauth2.HTTPClient, t.http))
	if err != nil {
		return "", newTokenError(ctx, err)
	}
	if !strings.EqualFold(got.Type(), "Bearer") || !httpguts.ValidHeaderFieldValue(got.AccessToken) {
		return "", &tokenError{text: "the token endpoint answered with a token that is no bearer token", class: destination.ClassAuth}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.token, t.expires = got.AccessToken, time.Time{}
	if !got.Expiry.IsZero() {
		t.expires = got.Expiry.Add(-min(maxTokenMargin, got.Expiry.Sub(asked)/10))
	}
	return t.token, nil
}

// A tokenError says why there is no token. Its text has nothing of the answer but
// its status and, if that is one of the known ones, its error code: an answer may
// repeat what it was asked with.
type tokenError struct {
	text, class string
	cause       error
}

func (e *tokenError) Error() string { return "no access token: " + e.text }
func (e *tokenError) Unwrap() error { return e.cause }

func newTokenError(ctx context.Context, err error) *tokenError {
	if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		text := "the token endpoint answered " + statusText(refused.Response.StatusCode)
		switch refused.ErrorCode { // RFC 6749, 5.2
		case "invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope":
			text += ": " + refused.ErrorCode
		}
		return &tokenError{text: text, class: destination.ClassAuth}
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		class := classOf(ctx, u.Err)
		text := u.Err.Error()
		if class == destination.ClassTimeout {
			text = "the token endpoint did not answer in time"
		}
		return &tokenError{text: destination.Clean(text), class: class, cause: u.Err}
	}
	// The others quote the answer.
	return &tokenError{text: "the answer of the token endpoint cannot be read", class: destination.ClassAuth}
}
