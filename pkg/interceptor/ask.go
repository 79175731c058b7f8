package interceptor

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/posthornhq/posthorn/pkg/authorization"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// Kinds of questions, as a callout has them.
const (
	askAccessToken = "access_token"
	askClientID    = "client_id"
	askBoth        = "oauth"
)

// maxAnswer is how much of an answer is read, in bytes.
const maxAnswer = 64 << 10

// A question is about a token, a client ID, or both.
type question struct {
	kind, context, token, client string
}

// askOAuth lets a credential pass if the URL of the context's OAUTH section does.
func (a *Asker) askOAuth(ctx context.Context, q question) (string, *refusal) {
	az, no := a.oauthSection(q.context)
	if no != nil {
		return "", no
	}
	o := az.Spec.GetOauth()
	key := hashOf(q.kind, q.context, o.GetUrl(), o.GetMode().String(), o.GetClientId(), q.token, q.client)
	for _, known := range []*lru.Cache[hash, answer]{a.answers, a.refusals} {
		if got, ok := known.Get(key); ok && a.cfg.Now().Before(got.until) {
			return got.detail, got.no
		}
	}
	timeout := authorization.DefaultTimeout
	if o.GetTimeout() != nil {
		timeout = o.GetTimeout().AsDuration()
	}
	// Twice: introspection may ask about the client by itself.
	got := a.once(ctx, string(key[:]), 2*timeout, func(ctx context.Context) answer {
		got := a.guarded(o.GetUrl(), "the OAUTH server of context "+q.context, func() (answer, error) {
			if o.GetMode() == posthornv1.Authorization_OAuth_INTROSPECTION {
				return a.introspect(ctx, az, q, timeout)
			}
			return a.callOut(ctx, az, q, timeout)
		})
		if now := a.cfg.Now(); got.until.After(now) {
			known := a.answers
			if got.no != nil {
				known = a.refusals
			}
			known.Add(key, got)
		}
		return got
	})
	return got.detail, got.no
}

// oauthSection returns the authorization of a context that has an OAUTH section.
func (a *Asker) oauthSection(context string) (*authorization.Authorization, *refusal) {
	az, ok := a.known.Authorization(context)
	if !ok || az.Spec.GetOauth().GetUrl() == "" {
		return nil, denied("the authorization of context %q has no OAUTH section with a URL, so nobody can be asked", context)
	}
	return az, nil
}

// askable refuses a request in whose context nobody can be asked.
func (a *Asker) askable(r *Request) *refusal {
	_, no := a.oauthSection(contextOf(r))
	return no
}

// no returns an answer that is remembered briefly.
func (a *Asker) no(r *refusal) answer { return answer{no: r, until: a.cfg.Now().Add(a.cfg.Negative)} }

// yes returns an answer that is remembered as the authorization says, but not
// longer than the token lives, if that can be seen.
func (a *Asker) yes(o *posthornv1.Authorization_OAuth, q question, detail string, bounds ...time.Time) answer {
	cache := authorization.DefaultCache
	if o.GetCache() != nil {
		cache = o.GetCache().AsDuration()
	}
	until := a.cfg.Now().Add(cache)
	for _, b := range append(bounds, expiryOf(q.token)) {
		if !b.IsZero() && b.Before(until) {
			until = b
		}
	}
	return answer{detail: detail, until: until}
}

// expiryOf reads exp from what looks like a JWT, zero if there is none. It is not
// verified: it can only shorten what is remembered.
func expiryOf(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Expires *json.Number `json:"exp"`
	}
	if err != nil || json.Unmarshal(raw, &claims) != nil || claims.Expires == nil {
		return time.Time{}
	}
	return unix(*claims.Expires)
}

func unix(n json.Number) time.Time {
	seconds, err := n.Float64()
	if err != nil || seconds < 0 || seconds > 1<<40 {
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0)
}

func (a *Asker) callOut(ctx context.Context, az *authorization.Authorization, q question, timeout time.Duration) (answer, error) {
	body, err := q.encode()
	if err != nil {
		return answer{}, fmt.Errorf("encode the question: %w", err)
	}
	resp, err := a.post(ctx, az, "application/json", body, timeout)
	if err != nil {
		return answer{}, err
	}
	switch s := resp.status; {
	case s/100 == 2:
		return a.yes(az.Spec.GetOauth(), q, q.kind+" is accepted", freshUntil(resp.header, a.cfg.Now())), nil
	case s == http.StatusForbidden:
		return a.no(denied("the %s is known and not allowed", noun(q.kind))), nil
	case s/100 == 4 && s != http.StatusRequestTimeout && s != http.StatusTooManyRequests:
		return a.no(unauthenticated("the %s is not valid", noun(q.kind))), nil
	default:
		return answer{}, fmt.Errorf("answered %d", s)
	}
}

// encode writes a question as a callout has it; what is not asked about is left out.
func (q question) encode() ([]byte, error) {
	doc := map[string]string{"kind": q.kind, "context": q.context}
	if q.token != "" {
		doc["accessToken"] = q.token
	}
	if q.client != "" {
		doc["clientId"] = q.client
	}
	return json.Marshal(doc)
}

func noun(kind string) string {
	switch kind {
	case askAccessToken:
		return "access token"
	case askClientID:
		return "client ID"
	}
	return "client ID and access token"
}

// freshUntil reads Cache-Control of an answer, zero if it does not say.
func freshUntil(h http.Header, now time.Time) time.Time {
	var until time.Time
	for directive := range strings.SplitSeq(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch strings.ToLower(name) {
		case "no-store", "no-cache":
			return now
		case "max-age":
			if n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31); err == nil {
				until = now.Add(time.Duration(n) * time.Second)
			}
		}
	}
	return until
}

// introspection is an answer of RFC 7662.
type introspection struct {
	Active    bool         `json:"active"`
	ClientID  string       `json:"client_id"`
	Expires   *json.Number `json:"exp"`
	NotBefore *json.Number `json:"nbf"`
}

func (a *Asker) introspect(ctx context.Context, az *authorization.Authorization, q question, timeout time.Duration) (answer, error) {
	token, hint := q.token, askAccessToken
	if q.kind == askClientID {
		token, hint = q.client, askClientID
	}
	got, err := a.introspectOne(ctx, az, token, hint, timeout)
	if err != nil {
		return answer{}, err
	}
	now := a.cfg.Now()
	if no := got.check(noun(q.kind), now); no != nil {
		return a.no(no), nil
	}
	var until time.Time
	if got.Expires != nil {
		until = unix(*got.Expires)
	}
	if q.kind == askBoth && got.ClientID != q.client {
		if got.ClientID != "" {
			return a.no(unauthenticated("the access token was given to another client")), nil
		}
		client, err := a.introspectOne(ctx, az, q.client, askClientID, timeout)
		if err != nil {
			return answer{}, err
		}
		if no := client.check("client ID", now); no != nil {
			return a.no(no), nil
		}
	}
	return a.yes(az.Spec.GetOauth(), q, noun(q.kind)+" is active", until), nil
}

func (i *introspection) check(what string, now time.Time) *refusal {
	switch {
	case !i.Active:
		return unauthenticated("the %s is not active", what)
	case i.Expires != nil && !now.Before(unix(*i.Expires)):
		return unauthenticated("the %s has expired", what)
	case i.NotBefore != nil && now.Before(unix(*i.NotBefore)):
		return unauthenticated("the %s is not good yet", what)
	}
	return nil
}

func (a *Asker) introspectOne(ctx context.Context, az *authorization.Authorization, token, hint string, timeout time.Duration) (*introspection, error) {
	form := url.Values{"token": {token}, "token_type_hint": {hint}}.Encode()
	resp, err := a.post(ctx, az, "application/x-www-form-urlencoded", []byte(form), timeout)
	if err != nil {
		return nil, err
	}
	if resp.status != http.StatusOK {
		return nil, fmt.Errorf("answered %d", resp.status)
	}
	var got introspection
	if err := json.Unmarshal(resp.body, &got); err != nil {
		return nil, errors.New("the answer is not that of RFC 7662") // json's error quotes it
	}
	return &got, nil
}

// post asks, and reads the answer.
func (a *Asker) post(ctx context.Context, az *authorization.Authorization, contentType string, body []byte, timeout time.Duration) (*reply, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	o := az.Spec.GetOauth()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, o.GetUrl(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Accept", "application/json")
	if o.GetClientId() != "" {
		// RFC 6749, 2.3.1: form-encoded before they are joined.
		req.SetBasicAuth(url.QueryEscape(o.GetClientId()), url.QueryEscape(az.ClientSecret))
	}
	return a.do(req)
}

// A reply is what a server answered, read to its end.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (a *Asker) do(req *http.Request) (*reply, error) {
	resp, err := a.client.Do(req)
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = fmt.Errorf("%s: %w", req.URL.Host, wrapped.Err) // without the query, which may hold a key
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // read as far as it is wanted
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
	}
	return &reply{status: resp.StatusCode, header: resp.Header, body: body}, nil
}
