package source

import (
	"net/url"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func TestEventsOfProviders(t *testing.T) {
	t.Parallel()
	const jsonType = "Content-Type: application/json"
	stripe := compile(t, &posthornv1.Source{Kind: posthornv1.Source_STRIPE}, stripeSecret)
	slack := compile(t, &posthornv1.Source{Kind: posthornv1.Source_SLACK}, slackSecret)
	shopify := compile(t, &posthornv1.Source{Kind: posthornv1.Source_SHOPIFY}, "hush")
	standard := compile(t, &posthornv1.Source{Kind: posthornv1.Source_STANDARD_WEBHOOKS}, standardSecret)
	twilio := compile(t, &posthornv1.Source{Kind: posthornv1.Source_TWILIO, Type: "twilio.call"}, twilioToken)
	gitlab := compile(t, &posthornv1.Source{Kind: posthornv1.Source_GITLAB}, "glsecret")
	fromGitLab := func(body, name string, headers ...string) *Request {
		return request(body, append(headers, "X-Gitlab-Event: "+name, "X-Gitlab-Token: glsecret")...)
	}
	interaction := `{"type":"block_actions","trigger_id":"1.2.x"}`

	tests := []struct {
		name    string
		source  *Source
		request *Request
		want    event.Event
		key     string
	}{
		{"Stripe", stripe, fromStripe(`{"id":"evt_1","created":1680064028,"type":"charge.succeeded","data":{"object":{"id":"ch_1"}}}`, jsonType),
			event.Event{Type: "charge.succeeded", ExternalID: "evt_1", Subject: "ch_1", Time: time.Unix(1680064028, 0).UTC()}, "evt_1"},
		{"Stripe, a thin event", stripe, fromStripe(`{"id":"evt_2","created":"2024-09-17T06:20:52.246Z","type":"v1.billing.meter.error_report_triggered","related_object":{"id":"mtr_1"}}`),
			event.Event{Type: "v1.billing.meter.error_report_triggered", ExternalID: "evt_2", Subject: "mtr_1",
				Time: time.Date(2024, 9, 17, 6, 20, 52, 246e6, time.UTC)}, "evt_2"},
		{"Stripe without type", stripe, fromStripe(`{"id":"evt_test"}`).to("payments"), event.Event{Type: "payments", ExternalID: "evt_test"}, "evt_test"},
		{"Stripe with odd members", stripe, fromStripe(`{"id":7,"type":"a","created":99999999999999999999,"data":[]}`), event.Event{Type: "a"}, ""},

		{"Slack", slack, fromSlack(`{"type":"event_callback","event_id":"Ev1","event_time":1515449522,"event":{"type":"app_mention"}}`, jsonType),
			event.Event{Type: "app_mention", ExternalID: "Ev1", Time: time.Unix(1515449522, 0).UTC()}, "Ev1"},
		{"Slack, not the Events API's envelope", slack, fromSlack(`{"type":"app_rate_limited","event":{"type":"x"}}`),
			event.Event{Type: "app_rate_limited"}, ""},
		{"Slack, a slash command", slack, fromSlack(slackVector, formType),
			event.Event{Type: "slash_commands", ExternalID: "398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"},
			"398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"},
		{"Slack, a slash command to a topic", slack, fromSlack("command=%2Fdeploy", formType).to("deploy"), event.Event{Type: "deploy"}, ""},
		{"Slack, a button", slack, fromSlack("payload="+url.QueryEscape(interaction), formType),
			event.Event{Type: "block_actions", ExternalID: "1.2.x", DataContentType: "application/json", Data: []byte(interaction)}, "1.2.x"},

		{"Shopify", shopify, fromShopify(`{"id":1,"admin_graphql_api_id":"gid://shopify/Order/1"}`, "X-Shopify-Topic: orders/create", "X-Shopify-Webhook-Id: b54",
			"X-Shopify-Shop-Domain: shop.myshopify.com", "X-Shopify-Triggered-At: 2023-03-29T18:00:27.877041743Z"),
			event.Event{Type: "orders.create", ExternalID: "b54", ExternalSource: "https://shop.myshopify.com/", Subject: "gid://shopify/Order/1",
				Time: time.Date(2023, 3, 29, 18, 0, 27, 877041743, time.UTC)}, "b54"},
		{"Shopify, the least", shopify, fromShopify(`{}`, "X-Shopify-Topic: app/uninstalled", "X-Shopify-Shop-Domain: evil.com/x"),
			event.Event{Type: "app.uninstalled"}, ""},

		{"Standard Webhooks", standard, fromStandard(t, standardSecret, "webhook", `{"type":"user.created","timestamp":"2022-11-03T20:26:10.344522Z","data":{}}`),
			event.Event{Type: "user.created", ExternalID: "msg_1", Time: time.Date(2022, 11, 3, 20, 26, 10, 344522000, time.UTC)}, "msg_1"},
		{"Svix", standard, fromStandard(t, standardSecret, "svix", `{"type":"a"}`), event.Event{Type: "a", ExternalID: "msg_1"}, "msg_1"},
		{"Standard Webhooks, not JSON", standard, fromStandard(t, standardSecret, "webhook", `{"type":"a"}`, "Content-Type: text/plain").to("topic"),
			event.Event{Type: "topic", ExternalID: "msg_1"}, "msg_1"},

		{"Twilio, the vector", twilio, fromTwilio(twilioVector), event.Event{Type: "twilio.call", ExternalID: "CA1234567890ABCDE"}, "CA1234567890ABCDE"},
		{"Twilio, progress of a message", twilio, fromTwilio("MessageSid=SM1&MessageStatus=delivered&CallStatus=x").to("sms"),
			event.Event{Type: "sms", ExternalID: "SM1"}, "SM1/delivered"},
		{"Twilio, progress of a call", twilio, fromTwilio("CallSid=CA1&CallStatus=ringing&SequenceNumber=1"),
			event.Event{Type: "twilio.call", ExternalID: "CA1"}, "CA1/ringing/1"},
		{"Twilio, JSON", twilio, fromTwilioJSON(`{"MessageSid":"SM1","MessageStatus":"sent"}`, jsonType),
			event.Event{Type: "twilio.call", ExternalID: "SM1"}, "SM1/sent"},
		{"Twilio, neither", twilio, fromTwilio("a=1"), event.Event{Type: "twilio.call"}, ""},

		{"GitLab", gitlab, fromGitLab(`{"object_kind":"push"}`, "Push Hook", "X-Gitlab-Event-UUID: u1", "Idempotency-Key: k1", "X-Gitlab-Instance: https://gitlab.com"),
			event.Event{Type: "push", ExternalID: "k1", ExternalSource: "https://gitlab.com"}, "k1"},
		{"GitLab, several words", gitlab, fromGitLab(`{}`, "Merge Request Hook", "X-Gitlab-Event-UUID: u1"), event.Event{Type: "merge_request", ExternalID: "u1"}, "u1"},
		{"GitLab, of the whole system", gitlab, fromGitLab(`{}`, "System Hook", "webhook-id: w1"), event.Event{Type: "system", ExternalID: "w1"}, "w1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			oneEvent(t, tt.source, tt.request, tt.want, tt.key)
		})
	}
}

func TestTwilioTakesEventStreams(t *testing.T) {
	t.Parallel()
	s := compile(t, &posthornv1.Source{Kind: posthornv1.Source_TWILIO}, twilioToken)
	diff(t, receive(t, s, fromTwilioJSON("["+envelope("")+"]", batchType)), []Incoming{basic(nil)})
	// ce- headers are not signed: they are not looked at.
	b, err := s.Receive(fromTwilioJSON(`{}`, "ce-specversion: 1.0", "ce-id: 7", "ce-source: /s", "ce-type: t.x"))
	refused(t, b, err, errs.Invalid, "malformed", "no type")
}

func TestProvidersRefuseWhatIsMalformed(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		kind    posthornv1.Source_Kind
		secret  string
		request *Request
		want    string
	}{
		{"Stripe, no JSON", posthornv1.Source_STRIPE, stripeSecret, fromStripe(`{`), "not valid JSON"},
		{"Stripe, no type", posthornv1.Source_STRIPE, stripeSecret, fromStripe(`{}`), "no type"},
		{"Stripe, a bad type", posthornv1.Source_STRIPE, stripeSecret, fromStripe(`{"type":"a b"}`), "type"},
		{"Slack, no JSON", posthornv1.Source_SLACK, slackSecret, fromSlack(`{`), "not valid JSON"},
		{"Slack, no inner event", posthornv1.Source_SLACK, slackSecret, fromSlack(`{"type":"event_callback"}`), "no type"},
		{"Slack, a bad type", posthornv1.Source_SLACK, slackSecret, fromSlack(`{"type":"event_callback","event":{"type":"*"}}`), "event.type"},
		{"Slack, a payload that is no JSON", posthornv1.Source_SLACK, slackSecret, fromSlack(`payload={`, formType), "payload"},
		{"Slack, a bad form", posthornv1.Source_SLACK, slackSecret, fromSlack(`%zz`, formType), "not a form"},
		{"Slack, no challenge", posthornv1.Source_SLACK, slackSecret, fromSlack(`{"type":"url_verification"}`), "challenge"},
		{"Slack, a challenge that is no text", posthornv1.Source_SLACK, slackSecret, fromSlack(`{"type":"url_verification","challenge":{}}`), "challenge"},
		{"Shopify, no topic", posthornv1.Source_SHOPIFY, "hush", fromShopify(`{}`), "X-Shopify-Topic"},
		{"Shopify, a bad topic", posthornv1.Source_SHOPIFY, "hush", fromShopify(`{}`, "X-Shopify-Topic: orders//create"), "X-Shopify-Topic"},
		{"Shopify, no JSON", posthornv1.Source_SHOPIFY, "hush", fromShopify(`{`, "X-Shopify-Topic: a/b"), "not valid JSON"},
		{"Shopify, a bad ID", posthornv1.Source_SHOPIFY, "hush", fromShopify(`{}`, "X-Shopify-Topic: a/b", "X-Shopify-Webhook-Id: \xff"), "X-Shopify-Webhook-Id"},
		{"Standard Webhooks, no type", posthornv1.Source_STANDARD_WEBHOOKS, standardSecret, fromStandard(t, standardSecret, "webhook", `{}`), "no type"},
		{"Twilio, no type", posthornv1.Source_TWILIO, twilioToken, fromTwilio("a=1"), "no type"},
		{"GitLab, no name", posthornv1.Source_GITLAB, "t", request(`{}`, "X-Gitlab-Token: t"), "X-Gitlab-Event"},
		{"GitLab, no JSON", posthornv1.Source_GITLAB, "t", request(`{`, "X-Gitlab-Token: t", "X-Gitlab-Event: Push Hook"), "not valid JSON"},
		{"GitLab, an empty name", posthornv1.Source_GITLAB, "t", request(`{}`, "X-Gitlab-Token: t", "X-Gitlab-Event:  Hook"), "X-Gitlab-Event"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, err := compile(t, &posthornv1.Source{Kind: tt.kind}, tt.secret).Receive(tt.request)
			refused(t, b, err, errs.Invalid, "malformed", tt.want)
		})
	}
}

func TestSlackChallenge(t *testing.T) {
	t.Parallel()
	const body = `{"token":"x","challenge":"3eZb<b>","type":"url_verification"}`
	s := compile(t, &posthornv1.Source{Kind: posthornv1.Source_SLACK}, slackSecret)
	b, err := s.Receive(fromSlack(body))
	if err != nil {
		t.Fatal(err)
	}
	diff(t, b.Reply, &Reply{Status: 200, ContentType: "text/plain; charset=utf-8", Body: []byte("3eZb<b>")})
	if len(b.Events) != 0 || len(b.Steps) != 1 {
		t.Errorf("%d events and %d steps, want no event and one step", len(b.Events), len(b.Steps))
	}

	// Answered to anybody, it would let others claim our URL for their app.
	b, err = s.Receive(request(body))
	refused(t, b, err, errs.Unauthenticated, "signature", "X-Slack-Signature")
	b, err = compile(t, &posthornv1.Source{Kind: posthornv1.Source_SLACK}, "other").Receive(fromSlack(body))
	refused(t, b, err, errs.Unauthenticated, "signature", "does not match")
	if b.Reply != nil {
		t.Errorf("refused, but with the reply %q", b.Reply.Body)
	}
}

func TestTwilioURL(t *testing.T) {
	t.Parallel()
	const form = "MessageSid=SM1"
	fields := url.Values{"MessageSid": {"SM1"}}
	tests := []struct {
		name       string
		signed     string
		configured string
		called     string // as the platform knows it
		ok         bool
	}{
		{"as it is", "https://a.example/x?y=1", "", "https://a.example/x?y=1", true},
		{"TLS ends in front of us", "https://a.example/x", "", "http://a.example/x", true},
		{"without TLS", "http://a.example/x", "", "http://a.example/x", true},
		{"with the default port, called without", "https://a.example:443/x", "", "https://a.example/x", true},
		{"without the default port, called with it", "https://a.example/x", "", "https://a.example:443/x", true},
		{"without a port of ours", "https://a.example/x", "", "https://a.example:8443/x", true},
		{"with a port of ours", "https://a.example:8443/x", "", "https://a.example:8443/x", true},
		{"the default port of http", "http://a.example:80/x", "", "http://a.example/x", true},
		{"IPv6", "https://[2001:db8::1]:443/x", "", "https://[2001:db8::1]/x", true},
		{"an escaped path", "https://a.example/a%20b%2Fc", "", "https://a.example/a%20b%2Fc", true},
		{"configured", "https://public.example/hook?y=1", "https://public.example/hook", "http://10.0.0.1:9600/events/sms?y=1", true},
		{"configured, with a port", "https://public.example:443/hook", "https://public.example/hook", "http://10.0.0.1/", true},
		{"configured, with a password", "https://u:p@public.example:443/hook", "https://u:p@public.example/hook", "http://10.0.0.1/", true},
		{"configured, no path", "https://public.example", "https://public.example", "http://10.0.0.1/x", true},

		{"TLS promised, called without", "http://a.example/x", "", "https://a.example/x", false},
		{"another host", "https://b.example/x", "", "https://a.example/x", false},
		{"another path", "https://a.example/x", "", "https://a.example/x/", false},
		{"another query", "https://a.example/x?y=1", "", "https://a.example/x?y=2", false},
		{"another port", "https://a.example:444/x", "", "https://a.example:443/x", false},
		{"configured, but the other one signed", "https://a.example/x", "https://b.example/x", "https://a.example/x", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			spec := &posthornv1.Source{Kind: posthornv1.Source_TWILIO, Type: "sms"}
			if tt.configured != "" {
				spec.Twilio = &posthornv1.TwilioSettings{Url: tt.configured}
			}
			s := compile(t, spec, "old", twilioToken)
			r := request(form, formType, "X-Twilio-Signature: "+signTwilio(tt.signed, fields)).called(tt.called)
			b, err := s.Receive(r)
			if !tt.ok {
				refused(t, b, err, errs.Unauthenticated, "signature", "twilio.url")
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func TestTwilioBodyThatIsNoForm(t *testing.T) {
	t.Parallel()
	s := compile(t, &posthornv1.Source{Kind: posthornv1.Source_TWILIO, Type: "sms"}, twilioToken)
	without := request(`{}`, "X-Twilio-Signature: "+signTwilio("https://a.example/x", nil)).called("https://a.example/x")
	b, err := s.Receive(without)
	refused(t, b, err, errs.Unauthenticated, "signature", "bodySHA256")

	other := fromTwilioJSON(`{}`)
	other.Body = []byte(`{"a":1}`)
	b, err = s.Receive(other)
	refused(t, b, err, errs.Unauthenticated, "signature", "bodySHA256")

	twice := fromTwilioJSON(`{}`)
	twice.called("https://mycompany.com/x?" + twice.RawQuery + "&bodySHA256=00")
	twice.Header.Set("X-Twilio-Signature", signTwilio("https://mycompany.com/x?"+twice.RawQuery, nil))
	b, err = s.Receive(twice)
	refused(t, b, err, errs.Unauthenticated, "signature", "bodySHA256")

	if got := receive(t, s, request("", "X-Twilio-Signature: "+signTwilio("https://a.example/x", nil)).called("https://a.example/x")); len(got) != 1 {
		t.Errorf("without a body there are %d events, want 1", len(got))
	}
	b, err = s.Receive(request("", "X-Twilio-Signature: "+twilioSum))
	refused(t, b, err, errs.Unauthenticated, "signature", "does not say which host")
	b, err = s.Receive(request("%zz", formType, "X-Twilio-Signature: "+twilioSum).called("https://a.example/x"))
	refused(t, b, err, errs.Unauthenticated, "signature", "not a form")
}

// A webhook with both is held to the signature, and one without to the token:
// so a source lives through the move from the one to the other.
func TestGitLabWithTokenAndSigningToken(t *testing.T) {
	t.Parallel()
	both := compile(t, &posthornv1.Source{Kind: posthornv1.Source_GITLAB}, standardSecret, "glsecret")
	tokenOnly := compile(t, &posthornv1.Source{Kind: posthornv1.Source_GITLAB}, "glsecret")
	signingOnly := compile(t, &posthornv1.Source{Kind: posthornv1.Source_GITLAB}, standardSecret)
	const name, token = "X-Gitlab-Event: Push Hook", "X-Gitlab-Token: glsecret"
	signed := fromStandard(t, standardSecret, "webhook", `{}`, name)
	signedWrong := fromStandard(t, "whsec_aGVsbG8=", "webhook", `{}`, name, token)

	tests := []struct {
		name    string
		source  *Source
		request *Request
		want    string // the receipt, or "" if it is refused
	}{
		{"both: signed", both, signed, "gitlab, secret 1 of 2, signing token"},
		{"both: with the token", both, request(`{}`, name, token), "gitlab, secret 2 of 2, secret token"},
		{"both: badly signed, with the token", both, signedWrong, ""},
		{"both: the signing token sent as it is", both, request(`{}`, name, "X-Gitlab-Token: "+standardSecret), ""},
		{"token: with a signature that nothing can check", tokenOnly, signedWrong, "gitlab, secret 1 of 1, secret token"},
		{"token: signed only", tokenOnly, signed, ""},
		{"signing: with the token only", signingOnly, request(`{}`, name, token), ""},
		{"signing: the signing token sent as it is", signingOnly, request(`{}`, name, "X-Gitlab-Token: "+standardSecret), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, err := tt.source.Receive(tt.request)
			if tt.want == "" {
				refused(t, b, err, errs.Unauthenticated, "signature", "")
			} else if err != nil || b.Steps[0].Detail != tt.want {
				t.Errorf("receipt is %+v, error %v; want %q", b.Steps, err, tt.want)
			}
		})
	}
}
