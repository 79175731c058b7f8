package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

const (
	// maxAnswer bounds what is read of an answer, in bytes.
	maxAnswer = 64 << 20

	firstDelay = 100 * time.Millisecond
	maxDelay   = 5 * time.Second
	// maxRetryAfter is the longest wait that a Retry-After header may ask for;
	// beyond it the error goes to the caller, who knows better what to do meanwhile.
	maxRetryAfter = 30 * time.Second
)

// ErrUnreachable is in the chain of an error that says that no answer came.
var ErrUnreachable = errors.New("server unreachable")

// Config holds what may be set. The zero value is usable.
type Config struct {
	// Key is the API key, sent as a bearer token. Without one, none is sent.
	Key string

	// HTTPClient makes the requests. Default: one of its own with a timeout of
	// 45s, longer than any attempt at a delivery, which follows no redirects.
	HTTPClient *http.Client

	// TLS is how servers with https URLs are called. Default: by the authorities
	// of the system. It is not looked at with an HTTPClient.
	TLS *tls.Config

	// UserAgent is the User-Agent header. Default "posthorn-go".
	UserAgent string

	// Retries is how often a call that may be repeated is repeated after 429,
	// 503 or no answer at all. Default 4; negative is none.
	Retries int
}

// A Client speaks to one platform. It is safe for concurrent use.
type Client struct {
	Sources       *Collection[*posthornv1.Source]
	Subscriptions *Collection[*posthornv1.Subscription]
	Policies      *Collection[*posthornv1.Policy]
	// Authorizations are named after their contexts.
	Authorizations *Collection[*posthornv1.Authorization]
	Backoffs       *Collection[*posthornv1.BackoffOverride]
	Users          *Collection[*posthornv1.User]

	base string // without a slash at the end
	http *http.Client
	cfg  Config
}

// New returns a Client of the platform at baseURL, for instance
// "http://127.0.0.1:9600". It connects only when it is used.
func New(baseURL string, cfg Config) (*Client, error) {
	u, err := url.Parse(baseURL)
	if err != nil {
		return nil, fmt.Errorf("client: base URL is not http://host or https://host: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("client: base URL %q is not http://host or https://host", u.Redacted())
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("client: base URL %q has more than a host and a path", u.Redacted())
	}
	if strings.ContainsAny(cfg.Key, "\r\n") {
		return nil, errors.New("client: the key has a line break in it")
	}
	if cfg.HTTPClient == nil {
		cfg.HTTPClient = defaultHTTPClient(cfg.TLS)
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "posthorn-go"
	}
	if cfg.Retries == 0 {
		cfg.Retries = 4
	}
	c := &Client{base: strings.TrimRight(u.String(), "/"), http: cfg.HTTPClient, cfg: cfg}
	c.Sources = newCollection(c, "sources", func() *posthornv1.Source { return new(posthornv1.Source) })
	c.Subscriptions = newCollection(c, "subscriptions", func() *posthornv1.Subscription { return new(posthornv1.Subscription) })
	c.Policies = newCollection(c, "policies", func() *posthornv1.Policy { return new(posthornv1.Policy) })
	c.Backoffs = newCollection(c, "backoffs", func() *posthornv1.BackoffOverride { return new(posthornv1.BackoffOverride) })
	c.Authorizations = newCollection(c, "authorizations", func() *posthornv1.Authorization { return new(posthornv1.Authorization) })
	c.Users = newCollection(c, "users", func() *posthornv1.User { return new(posthornv1.User) })
	return c, nil
}

func defaultHTTPClient(tlsConfig *tls.Config) *http.Client {
	h := &http.Client{
		Timeout: 45 * time.Second,
		// A redirected publish would arrive as a GET without a body, and the key
		// belongs to this server alone.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if t, ok := http.DefaultTransport.(*http.Transport); ok {
		t = t.Clone()
		// The default of two makes parallel publishers open a connection a request.
		t.MaxIdleConnsPerHost = 64
		if tlsConfig != nil {
			t.TLSClientConfig = tlsConfig.Clone()
		}
		h.Transport = t
	}
	return h
}

// A repeat says when a call may be made again.
type repeat uint8

const (
	never   repeat = iota // a second one could do something else
	refused               // after 429 and 503: nothing was done
	always                // after no answer too: the second one does nothing new
)

// A call is one request of the API.
type call struct {
	method string
	path   string // escaped, from /api/v1 on
	query  url.Values
	body   []byte
	etag   string // If-Match
	repeat repeat
}

// An answer is the body of a 2xx, and how many requests it took.
type answer struct {
	body  []byte
	tries int
}

// do makes the call, again where it may, and returns what the last one brought.
func (c *Client) do(ctx context.Context, in call) (answer, error) {
	delay := firstDelay
	for n := 1; ; n++ {
		body, wait, err := c.once(ctx, in)
		if err == nil {
			return answer{body, n}, nil
		}
		if n > c.cfg.Retries || !mayRepeat(in, err) || wait > maxRetryAfter || ctx.Err() != nil {
			return answer{tries: n}, err
		}
		// Half of the delay is random, so that many clients do not come back at once.
		wait = max(wait, delay/2+rand.N(delay/2))
		delay = min(2*delay, maxDelay)
		if pause(ctx, wait) != nil {
			return answer{tries: n}, err
		}
	}
}

// pause waits for d, or returns the error of a ctx that is done first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func mayRepeat(in call, err error) bool {
	if e, ok := errors.AsType[*Error](err); ok {
		return in.repeat >= refused && (e.Status == http.StatusTooManyRequests || e.Status == http.StatusServiceUnavailable)
	}
	return in.repeat == always && errors.Is(err, ErrUnreachable)
}

// once makes one request. Beside an error it returns how long the server asks
// to wait.
func (c *Client) once(ctx context.Context, in call) ([]byte, time.Duration, error) {
	req, err := c.request(ctx, in)
	if err != nil {
		return nil, 0, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, 0, fmt.Errorf("client: %s %s: %w", in.method, in.path, ctx.Err())
		}
		return nil, 0, fmt.Errorf("client: %w: %w", ErrUnreachable, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return nil, 0, fmt.Errorf("client: %w: reading the answer of %s %s: %w", ErrUnreachable, in.method, in.path, err)
	}
	if len(body) > maxAnswer {
		return nil, 0, fmt.Errorf("client: %s %s: the answer is over %d bytes", in.method, in.path, maxAnswer)
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return nil, retryAfter(res.Header, time.Now()), problem(res, body)
	}
	return body, 0, nil
}

func (c *Client) request(ctx context.Context, in call) (*http.Request, error) {
	target := c.base + in.path
	if len(in.query) > 0 {
		target += "?" + in.query.Encode()
	}
	var body io.Reader
	if in.body != nil {
		body = bytes.NewReader(in.body)
	}
	req, err := http.NewRequestWithContext(ctx, in.method, target, body)
	if err != nil {
		return nil, fmt.Errorf("client: %s %s: %w", in.method, in.path, err)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	if in.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.cfg.Key != "" {
		req.Header.Set("Authorization", "Bearer "+c.cfg.Key)
	}
	if in.etag != "" {
		req.Header.Set("If-Match", quoteETag(in.etag))
	}
	return req, nil
}

// quoteETag puts an entity tag between quotes, as RFC 9110 wants it.
func quoteETag(etag string) string {
	if etag == "*" || strings.HasPrefix(etag, `"`) || strings.HasPrefix(etag, "W/") {
		return etag
	}
	return `"` + etag + `"`
}

// retryAfter reads a Retry-After header, in seconds or as a date.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if v == "" {
		return 0
	}
	if s, err := strconv.Atoi(v); err == nil {
		return max(0, time.Duration(min(s, 1<<30))*time.Second)
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
