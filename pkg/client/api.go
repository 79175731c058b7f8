package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"strconv"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// pageSize is what lists ask for when the caller does not.
const pageSize = 200

// ListEvents yields what was accepted, newest first, fetching page after page.
// The limit of req is the size of a page; its cursor is where to begin.
func (c *Client) ListEvents(ctx context.Context, req *posthornv1.ListEventsRequest) iter.Seq2[*posthornv1.EventSummary, error] {
	return list(ctx, c, "/api/v1/events", req, func() *posthornv1.EventSummary { return new(posthornv1.EventSummary) })
}

// GetEvent returns a stored event, with its data as the bytes that came.
func (c *Client) GetEvent(ctx context.Context, id string) (*posthornv1.Event, error) {
	if id == "" {
		return nil, errors.New("client: an event without an ID")
	}
	in := call{method: http.MethodGet, path: "/api/v1/events/" + url.PathEscape(id), repeat: always}
	ans, err := c.do(ctx, in)
	if err != nil {
		return nil, err
	}
	ev, err := decodeEvent(ans.body)
	if err != nil {
		return nil, fmt.Errorf("client: event %s: %w", id, err)
	}
	return ev, nil
}

// decodeEvent reads an event, with its data as the bytes that came.
func decodeEvent(body []byte) (*posthornv1.Event, error) {
	ev := new(posthornv1.Event)
	return ev, decodeAround(body, ev, "data", "dataBase64", func(data, encoded json.RawMessage) error {
		if encoded == nil {
			ev.Data = data
			return nil
		}
		return json.Unmarshal(encoded, &ev.Data)
	})
}

// decodeAround decodes a message in whose JSON two members are not what
// protobuf would make of them; those it hands to set, nil where missing.
func decodeAround(body []byte, out proto.Message, first, second string, set func(first, second json.RawMessage) error) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil {
		return err
	}
	a, b := members[first], members[second]
	delete(members, first)
	delete(members, second)
	rest, err := json.Marshal(members)
	if err != nil {
		return err
	}
	if err := decode.Unmarshal(rest, out); err != nil {
		return err
	}
	return set(a, b)
}

// TraceEvent tells all that happened to an event, in time order.
func (c *Client) TraceEvent(ctx context.Context, id string) (*posthornv1.TraceEventResponse, error) {
	out := new(posthornv1.TraceEventResponse)
	in := call{method: http.MethodGet, path: "/api/v1/events/" + url.PathEscape(id) + "/trace", repeat: always}
	return out, c.into(ctx, in, out)
}

// ReplayEvent delivers a stored event again to whom it matches now, and returns
// the number of deliveries that were queued.
func (c *Client) ReplayEvent(ctx context.Context, id string) (int, error) {
	out := new(posthornv1.ReplayEventResponse)
	in := call{method: http.MethodPost, path: "/api/v1/events/" + url.PathEscape(id) + ":replay", body: []byte("{}")}
	err := c.into(ctx, in, out)
	return int(out.GetDeliveries()), err
}

// ListRejections yields the publishes that were refused, newest first.
func (c *Client) ListRejections(ctx context.Context, req *posthornv1.ListRejectionsRequest) iter.Seq2[*posthornv1.Rejection, error] {
	return list(ctx, c, "/api/v1/rejections", req, func() *posthornv1.Rejection { return new(posthornv1.Rejection) })
}

// ListChanges yields who changed what, newest first.
func (c *Client) ListChanges(ctx context.Context, req *posthornv1.ListChangesRequest) iter.Seq2[*posthornv1.Change, error] {
	return list(ctx, c, "/api/v1/audit", req, func() *posthornv1.Change { return new(posthornv1.Change) })
}

// ListLanes returns the lanes of subscriptions that have one of their own.
func (c *Client) ListLanes(ctx context.Context) ([]*posthornv1.Lane, error) {
	out := new(posthornv1.ListLanesResponse)
	err := c.into(ctx, call{method: http.MethodGet, path: "/api/v1/lanes", repeat: always}, out)
	return out.GetItems(), err
}

// ListPolicyVersions returns what a policy was, newest first.
func (c *Client) ListPolicyVersions(ctx context.Context, name string) ([]*posthornv1.Policy, error) {
	out := new(posthornv1.ListPolicyVersionsResponse)
	err := c.into(ctx, call{method: http.MethodGet, path: "/api/v1/policies/" + url.PathEscape(name) + "/versions", repeat: always}, out)
	return out.GetItems(), err
}

// RevertPolicy makes an old version, named by its etag, the newest.
func (c *Client) RevertPolicy(ctx context.Context, name, version string) (*posthornv1.Policy, error) {
	out := new(posthornv1.Policy)
	return out, c.post(ctx, "/api/v1/policies/"+url.PathEscape(name)+":revert", &posthornv1.RevertPolicyRequest{Version: version}, out)
}

// TestSubscription sends a test event to a subscription's destination right now and
// returns what came of it. That the destination did not take it is no error; see Ok.
func (c *Client) TestSubscription(ctx context.Context, req *posthornv1.TestSubscriptionRequest) (*posthornv1.TestSubscriptionResponse, error) {
	if req.GetName() == "" {
		return nil, errNoName
	}
	out := new(posthornv1.TestSubscriptionResponse)
	return out, c.post(ctx, "/api/v1/subscriptions/"+url.PathEscape(req.GetName())+":test", req, out)
}

// SimulatePolicy shows what a policy, or a draft of one, does to a request.
func (c *Client) SimulatePolicy(ctx context.Context, req *posthornv1.SimulatePolicyRequest) (*posthornv1.SimulatePolicyResponse, error) {
	out := new(posthornv1.SimulatePolicyResponse)
	return out, c.post(ctx, "/api/v1/policies/"+url.PathEscape(req.GetName())+":simulate", req, out)
}

// TryTransform shows what a program for a subscription's transform makes of data.
func (c *Client) TryTransform(ctx context.Context, req *posthornv1.TryTransformRequest) (*posthornv1.TryTransformResponse, error) {
	out := new(posthornv1.TryTransformResponse)
	return out, c.post(ctx, "/api/v1/subscriptions:transform", req, out)
}

// GetSettings returns the settings of the platform as a whole.
func (c *Client) GetSettings(ctx context.Context) (*posthornv1.Settings, error) {
	out := new(posthornv1.Settings)
	return out, c.into(ctx, call{method: http.MethodGet, path: "/api/v1/settings", repeat: always}, out)
}

// PutSettings replaces the settings. If v has an etag in its meta, only the version
// with that etag is replaced; another one is an [*Error] of status 412.
func (c *Client) PutSettings(ctx context.Context, v *posthornv1.Settings) (*posthornv1.Settings, error) {
	body, err := protojson.Marshal(settable(v))
	if err != nil {
		return nil, fmt.Errorf("client: settings: %w", err)
	}
	in := call{method: http.MethodPut, path: "/api/v1/settings", body: body, etag: v.GetMeta().GetEtag(), repeat: always}
	if in.etag != "" {
		in.repeat = refused // as of Put
	}
	out := new(posthornv1.Settings)
	return out, c.into(ctx, in, out)
}

// ListDeadLetters yields the deliveries that the platform gave up on.
func (c *Client) ListDeadLetters(ctx context.Context, req *posthornv1.ListDeadLettersRequest) iter.Seq2[*posthornv1.DeadLetter, error] {
	return list(ctx, c, "/api/v1/deadletters", req, func() *posthornv1.DeadLetter { return new(posthornv1.DeadLetter) })
}

// RetryDeadLetters queues the deliveries anew, each as a new round, and answers
// for each. It is not repeated by itself.
func (c *Client) RetryDeadLetters(ctx context.Context, req *posthornv1.RetryDeadLettersRequest) (*posthornv1.RetryDeadLettersResponse, error) {
	out := new(posthornv1.RetryDeadLettersResponse)
	return out, c.post(ctx, "/api/v1/deadletters:retry", req, out)
}

// DeleteDeadLetters deletes for good what req names or selects, and returns how
// many there were.
func (c *Client) DeleteDeadLetters(ctx context.Context, req *posthornv1.DeleteDeadLettersRequest) (int, error) {
	query, err := queryOf(req)
	if err != nil {
		return 0, err
	}
	out := new(posthornv1.DeleteDeadLettersResponse)
	err = c.into(ctx, call{method: http.MethodDelete, path: "/api/v1/deadletters", query: query, repeat: always}, out)
	return int(out.GetDeleted()), err
}

func (c *Client) post(ctx context.Context, path string, req, out proto.Message) error {
	body, err := protojson.Marshal(req)
	if err != nil {
		return fmt.Errorf("client: %s: %w", path, err)
	}
	return c.into(ctx, call{method: http.MethodPost, path: path, body: body}, out)
}

// SignIn returns a token for a user's password, which a Client takes as its key.
func (c *Client) SignIn(ctx context.Context, name, password string) (*posthornv1.SignInResponse, error) {
	out := new(posthornv1.SignInResponse)
	return out, c.post(ctx, "/api/v1/signin", &posthornv1.SignInRequest{Name: name, Password: password}, out)
}

// RotateSigningKey makes a new key sign tokens. Those that are out stay good.
func (c *Client) RotateSigningKey(ctx context.Context) (*posthornv1.GetSigningKeysResponse, error) {
	out := new(posthornv1.GetSigningKeysResponse)
	return out, c.post(ctx, "/api/v1/jwks:rotate", &posthornv1.RotateSigningKeyRequest{}, out)
}

// ListKeys yields the API keys, without the keys themselves.
func (c *Client) ListKeys(ctx context.Context, opts ListOptions) iter.Seq2[*posthornv1.ApiKey, error] {
	return list(ctx, c, "/api/v1/keys", &posthornv1.ListKeysRequest{OrderBy: opts.OrderBy, Search: opts.Search},
		func() *posthornv1.ApiKey { return new(posthornv1.ApiKey) })
}

// CreateKey makes an API key. The answer alone has the key itself.
func (c *Client) CreateKey(ctx context.Context, key *posthornv1.ApiKey) (*posthornv1.ApiKey, error) {
	out := new(posthornv1.ApiKey)
	return out, c.post(ctx, "/api/v1/keys", key, out)
}

// DeleteKey ends the use of an API key.
func (c *Client) DeleteKey(ctx context.Context, name string) error {
	if name == "" {
		return errNoName
	}
	_, err := c.do(ctx, call{method: http.MethodDelete, path: "/api/v1/keys/" + url.PathEscape(name), repeat: refused})
	return err
}

// WhoAmI tells who the client's key is to the platform.
func (c *Client) WhoAmI(ctx context.Context) (*posthornv1.WhoAmIResponse, error) {
	out := new(posthornv1.WhoAmIResponse)
	return out, c.into(ctx, call{method: http.MethodGet, path: "/api/v1/whoami", repeat: always}, out)
}

func list[T proto.Message](ctx context.Context, c *Client, path string, req proto.Message, empty func() T) iter.Seq2[T, error] {
	query, err := queryOf(req)
	if err != nil {
		return func(yield func(T, error) bool) {
			var none T
			yield(none, err)
		}
	}
	return pages(ctx, c, path, query, parser(empty))
}

// parser returns a function that decodes one item of a list.
func parser[T proto.Message](empty func() T) func(json.RawMessage) (T, error) {
	return func(raw json.RawMessage) (T, error) {
		m := empty()
		return m, decode.Unmarshal(raw, m)
	}
}

// queryOf writes the fields that are set as parameters, with their JSON names.
// It is for messages whose fields are scalars, or lists of them.
func queryOf(m proto.Message) (url.Values, error) {
	raw, err := protojson.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("client: query: %w", err)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, fmt.Errorf("client: query: %w", err)
	}
	query := url.Values{}
	for name, v := range fields {
		list := []json.RawMessage{v}
		if v[0] == '[' {
			if err := json.Unmarshal(v, &list); err != nil {
				return nil, fmt.Errorf("client: query: %w", err)
			}
		}
		for _, one := range list {
			text := string(one)
			if one[0] == '"' {
				if err := json.Unmarshal(one, &text); err != nil {
					return nil, fmt.Errorf("client: query: %w", err)
				}
			}
			query.Add(name, text)
		}
	}
	return query, nil
}

// pages yields the items of a list, following nextCursor.
func pages[T any](ctx context.Context, c *Client, path string, query url.Values, parse func(json.RawMessage) (T, error)) iter.Seq2[T, error] {
	if query.Get("limit") == "" {
		query.Set("limit", strconv.Itoa(pageSize))
	}
	return func(yield func(T, error) bool) {
		var none T
		// A copy, so that ranging over the list a second time begins anew.
		query := maps.Clone(query)
		for {
			items, next, err := c.page(ctx, path, query)
			if err != nil {
				yield(none, err)
				return
			}
			for _, raw := range items {
				item, err := parse(raw)
				if err != nil {
					yield(none, fmt.Errorf("client: list %s: %w", path, err))
					return
				}
				if !yield(item, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			if next == query.Get("cursor") {
				yield(none, fmt.Errorf("client: list %s: the server answered with the cursor that it was given", path))
				return
			}
			query.Set("cursor", next)
		}
	}
}

func (c *Client) page(ctx context.Context, path string, query url.Values) (items []json.RawMessage, next string, err error) {
	ans, err := c.do(ctx, call{method: http.MethodGet, path: path, query: query, repeat: always})
	if err != nil {
		return nil, "", err
	}
	var p struct {
		Items      []json.RawMessage `json:"items"`
		NextCursor string            `json:"nextCursor"`
	}
	if err := json.Unmarshal(ans.body, &p); err != nil {
		return nil, "", fmt.Errorf("client: list %s: %w", path, err)
	}
	return p.Items, p.NextCursor, nil
}

func setIf(query url.Values, name, value string) {
	if value != "" {
		query.Set(name, value)
	}
}
