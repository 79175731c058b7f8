package source

import (
	"strings"

	"github.com/posthornhq/posthorn/pkg/signature"
)

// Headers of Shopify's webhooks.
const (
	headerShopifySignature = "X-Shopify-Hmac-SHA256"
	headerShopifyTopic     = "X-Shopify-Topic"
	headerShopifyID        = "X-Shopify-Webhook-Id"
	headerShopifyShop      = "X-Shopify-Shop-Domain"
	headerShopifyTime      = "X-Shopify-Triggered-At"
)

// shopify takes Shopify's webhooks. An event's type is the topic with a dot
// where Shopify writes a slash: "orders.create". (With the slash it would be
// taken for a URI by subscriptions.) Its source is the shop.
type shopify struct {
	secrets [][]byte
	details []string // for the receipt, one a secret
}

func newShopify(secrets [][]byte) shopify {
	return shopify{secrets: secrets, details: verifyDetails("shopify hmac-sha256", len(secrets))}
}

func (s shopify) verify(r *Request) (string, error) {
	sig := r.Header.Get(headerShopifySignature)
	if sig == "" {
		return "", unverified("the request has no %s header", headerShopifySignature)
	}
	i := signature.Shopify.Match(s.secrets, sig, r.Body)
	if i < 0 {
		return "", mismatch(headerShopifySignature)
	}
	return s.details[i], nil
}

func (s shopify) parse(r *Request) (Batch, error) {
	topic, err := headerText(r.Header, headerShopifyTopic)
	if err != nil {
		return Batch{}, err
	}
	if topic == "" {
		return Batch{}, malformedField(headerShopifyTopic, "the header is missing")
	}
	id, err := headerText(r.Header, headerShopifyID)
	if err != nil {
		return Batch{}, err
	}
	ev, err := plainEvent(r)
	if err != nil {
		return Batch{}, err
	}
	if ev.Type, err = checkType(headerShopifyTopic, strings.ReplaceAll(topic, "/", ".")); err != nil {
		return Batch{}, err
	}
	ev.ExternalID = id
	ev.ExternalSource = httpsSource(r.Header.Get(headerShopifyShop))
	ev.Subject = cleanString(member(jsonDocument(ev), "admin_graphql_api_id"))
	if t, err := parseTime(r.Header.Get(headerShopifyTime)); err == nil {
		ev.Time = t
	}
	return Batch{Events: []Incoming{{Event: ev, Key: id}}}, nil
}
