package subscription_test

import (
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/subscription"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func TestWhatIsAsItShouldBeIsValid(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, spec string }{
		{"the least", `{"name":"s","types":["#"],"destination":{"webhook":{"url":"http://erp/hooks"}}}`},
		{"the most", `{"name":"orders-erp","description":"d","types":["order.*","community.certes.dev/#"],"direction":"OUTGOING","tenant":"acme",
			"context":"testing","filter":"data.total > 100.0",
			"destination":{"webhook":{"url":"https://erp.example:8443/hooks?a=b","headers":{"X-Env":"prod","Authorization":"Bearer x","User-Agent":"u"},
			"format":"CLOUDEVENTS_BINARY","expectedStatus":204,"disableOnGone":true}},
			"policy":"default","priority":"HIGH","ordered":false,"maxInFlight":64,"ratePerSecond":0,"paused":false,
			"secrets":["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw","12345678"]}`},
		{"an exchange", `{"name":"s","types":["#"],"destination":{"amqp":{"url":"amqps://rabbit.example/orders","username":"posthorn","exchange":"events",
			"routingKey":"{context}.{tenant}.{type}.{subject}","headers":{"X-Env":"prod"}}}}`},
		{"the default exchange", `{"name":"s","types":["#"],"destination":{"amqp":{"url":"amqp://posthorn@rabbit.example:5673","routingKey":"queue"}}}`},
		{"fetched", `{"name":"s","types":["a"],"destination":{"pull":{}}}`},
		{"fetched in order", `{"name":"s","types":["a"],"ordered":true,"destination":{"pull":{"ackWait":"43200s"}}}`},
		{"an address", `{"name":"s","types":["a"],"destination":{"webhook":{"url":"http://[::1]:80"}}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			spec := read(t, tt.spec)
			if err := subscription.Validate(spec); err != nil {
				t.Fatalf("error is %q, want none", err)
			}
			if _, err := subscription.Compile(spec, nil); err != nil {
				t.Errorf("valid, but compiling says %q", err)
			}
		})
	}
}

func TestWhatIsWrongIsRefusedByField(t *testing.T) {
	t.Parallel()
	header := func(name, value string) func(*posthornv1.Subscription) {
		return func(s *posthornv1.Subscription) {
			s.Destination.GetWebhook().Headers = map[string]string{name: value}
		}
	}
	address := func(url string) func(*posthornv1.Subscription) {
		return func(s *posthornv1.Subscription) { s.Destination.GetWebhook().Url = url }
	}
	exchange := func(spoil func(*posthornv1.Amqp)) func(*posthornv1.Subscription) {
		return func(s *posthornv1.Subscription) {
			a := &posthornv1.Amqp{Url: "amqp://h", Username: "u"}
			spoil(a)
			s.Destination.Kind = &posthornv1.Destination_Amqp{Amqp: a}
		}
	}
	property := func(name, value string) func(*posthornv1.Subscription) {
		return exchange(func(a *posthornv1.Amqp) { a.Headers = map[string]string{name: value} })
	}
	broker := func(url string) func(*posthornv1.Subscription) {
		return exchange(func(a *posthornv1.Amqp) { a.Url = url })
	}
	type spec = posthornv1.Subscription
	tests := []struct {
		name  string
		spoil func(*spec)
		field string
		want  string // part of what is said of it
	}{
		{"no name", func(s *spec) { s.Name = "" }, "name", "is required"},
		{"not a name", func(s *spec) { s.Name = "a.b" }, "name", "is not a name"},
		{"not a context", func(s *spec) { s.Context = "a.b" }, "context", "is not a name"},
		{"not a policy", func(s *spec) { s.Policy = "*" }, "policy", "is not a name"},
		{"no direction that we know", func(s *spec) { s.Direction = 9 }, "direction", "9 is not a direction"},
		{"no priority that we know", func(s *spec) { s.Priority = 9 }, "priority", "9 is not a priority"},
		{"no types", func(s *spec) { s.Types = nil }, "types", "has 0 patterns"},
		{"too many types", func(s *spec) { s.Types = make([]string, 101) }, "types", "has 101 patterns"},
		{"an empty pattern", func(s *spec) { s.Types = []string{"a", ""} }, "types[1]", "is empty"},
		{"not a pattern", func(s *spec) { s.Types = []string{"order*"} }, "types[0]", "mixes a wildcard"},
		{"a tenant with a line break", func(s *spec) { s.Tenant = "a\nb" }, "tenant", "control characters"},
		{"a long tenant", func(s *spec) { s.Tenant = strings.Repeat("a", 256) }, "tenant", "256 bytes"},
		{"a filter with a typing mistake", func(s *spec) { s.Filter = "data.total >" }, "filter", "Syntax error"},
		{"a filter on what is not there", func(s *spec) { s.Filter = "secret == ''" }, "filter", "undeclared reference to 'secret'"},
		{"a filter that is no condition", func(s *spec) { s.Filter = "type" }, "filter", "is of type string, must be a condition"},
		{"a filter that may be no condition", func(s *spec) { s.Filter = "data.active" }, "filter", "is of type dyn, must be a condition"},
		{"a filter that is too long", func(s *spec) { s.Filter = "type == '" + strings.Repeat("a", 4096) + "'" }, "filter", "4096"},
		{"no destination", func(s *spec) { s.Destination = nil }, "destination", "is required"},
		{"a destination of no kind", func(s *spec) { s.Destination.Kind = nil }, "destination", "is required"},
		{"no URL", address(""), "destination.webhook.url", "is required"},
		{"a URL without a scheme", address("erp.example/hooks"), "destination.webhook.url", "must begin with http"},
		{"a URL of another scheme", address("file:///etc/passwd"), "destination.webhook.url", "must begin with http"},
		{"a URL without a host", address("https:///hooks"), "destination.webhook.url", "has no host"},
		{"a URL with a port alone", address("https://:443/hooks"), "destination.webhook.url", "has no host"},
		{"a URL with a password", address("https://u:hunter2@erp.example/"), "destination.webhook.url", "user name or password"},
		{"a URL that can't be read", address("https://u:hunter2@erp.example:port/"), "destination.webhook.url", "is not a URL"},
		{"a URL with a fragment", address("https://erp.example/#top"), "destination.webhook.url", "fragment"},
		{"a long URL", address("https://erp.example/" + strings.Repeat("a", 2048)), "destination.webhook.url", "2068 bytes"},
		{"no format that we know", func(s *spec) { s.Destination.GetWebhook().Format = 9 }, "destination.webhook.format", "9 is not a format"},
		{"a failure expected", func(s *spec) { s.Destination.GetWebhook().ExpectedStatus = 404 }, "destination.webhook.expectedStatus", "is 404"},
		{"a redirect expected", func(s *spec) { s.Destination.GetWebhook().ExpectedStatus = 300 }, "destination.webhook.expectedStatus", "is 300"},
		{"less than a status expected", func(s *spec) { s.Destination.GetWebhook().ExpectedStatus = -1 }, "destination.webhook.expectedStatus", "is -1"},
		{"not a header", header("X Env", "a"), "destination.webhook.headers", `"X Env" is not the name`},
		{"a header without a name", header("", "a"), "destination.webhook.headers", `"" is not the name`},
		{"a header that smuggles another", header("X-Env", "a\r\nX-Admin: 1"), "destination.webhook.headers.X-Env", "control characters"},
		{"a long header", header("X-Env", strings.Repeat("a", 4096)), "destination.webhook.headers.X-Env", "4096 bytes"},
		{"our ID", header("Webhook-Id", "a"), "destination.webhook.headers.Webhook-Id", "set by the platform"},
		{"our signature", header("HMAC-SIG", "a"), "destination.webhook.headers.HMAC-SIG", "set by the platform"},
		{"our attributes", header("ce-type", "a"), "destination.webhook.headers.ce-type", "set by the platform"},
		{"our trace", header("Traceparent", "a"), "destination.webhook.headers.Traceparent", "set by the platform"},
		{"a key for all events", header("idempotency-key", "a"), "destination.webhook.headers.idempotency-key", "set by the platform"},
		{"the host", header("Host", "a"), "destination.webhook.headers.Host", "set by the platform"},
		{"the content type", header("content-type", "a"), "destination.webhook.headers.content-type", "set by the platform"},
		{"the length", header("Content-Length", "1"), "destination.webhook.headers.Content-Length", "set by the platform"},
		{"the transfer", header("Transfer-Encoding", "chunked"), "destination.webhook.headers.Transfer-Encoding", "set by the platform"},
		{"a JWT in our header", jwt("Webhook-Id"), "destination.webhook.jwtSignature.header", "set by the platform"},
		{"a JWT in no header", jwt("a b"), "destination.webhook.jwtSignature.header", "not the name"},
		{"a JWT in a header of its own", jwt("x-ENV"), "destination.webhook.jwtSignature.header", "too"},
		{"a key without order", func(s *spec) { s.OrderingKey = "subject" }, "orderingKey", "set ordered"},
		{"a block without order", func(s *spec) { s.OnExhausted = posthornv1.Subscription_BLOCK }, "onExhausted", "set ordered"},
		{"less than no rate", func(s *spec) { s.RatePerSecond = -1 }, "ratePerSecond", "must be 0.001 to"},
		{"next to no rate", func(s *spec) { s.RatePerSecond = 1e-9 }, "ratePerSecond", "must be 0.001 to"},
		{"a rate that is no number", func(s *spec) { s.RatePerSecond = math.NaN() }, "ratePerSecond", "must be 0.001 to"},
		{"no broker", broker(""), "destination.amqp.url", "is required"},
		{"a broker of another scheme", broker("http://h"), "destination.amqp.url", "must begin with amqp"},
		{"a broker without a host", broker("amqp:///v"), "destination.amqp.url", "has no host"},
		{"a broker with a password", broker("amqp://u:hunter2@h"), "destination.amqp.url", "has a password"},
		{"a broker that can't be read", broker("amqp://u:hunter2@h:port/"), "destination.amqp.url", "is not a URL"},
		{"a broker with a query", broker("amqps://h?cacertfile=/etc/passwd"), "destination.amqp.url", "query"},
		{"a long broker", broker("amqp://h/" + strings.Repeat("v", 2048)), "destination.amqp.url", "2057 bytes"},
		{"a long virtual host", broker("amqp://h/" + strings.Repeat("v", 256)), "destination.amqp.url", "256 bytes"},
		{"nobody at a broker", exchange(func(a *posthornv1.Amqp) { a.Username = "" }), "destination.amqp.username", "is required"},
		{"a long exchange", exchange(func(a *posthornv1.Amqp) { a.Exchange = strings.Repeat("x", 256) }), "destination.amqp.exchange", "256 bytes"},
		{"a long routing key", exchange(func(a *posthornv1.Amqp) { a.RoutingKey = strings.Repeat("x", 256) }), "destination.amqp.routingKey", "256 bytes"},
		{"a routing key with a typing mistake", exchange(func(a *posthornv1.Amqp) { a.RoutingKey = "a.{typ}" }), "destination.amqp.routingKey", "{typ} stands for nothing"},
		{"our attributes at a broker", property("cloudEvents:type", "a"), "destination.amqp.headers.cloudEvents:type", "set by the platform"},
		{"our count at a broker", property("Posthorn-Attempt", "a"), "destination.amqp.headers.Posthorn-Attempt", "set by the platform"},
		{"the broker's own account", property("x-death", "a"), "destination.amqp.headers.x-death", "set by the platform"},
		{"a nameless header at a broker", property("", "a"), "destination.amqp.headers", "is not the name"},
		{"a long name at a broker", property(strings.Repeat("x", 256), "a"), "destination.amqp.headers", "256 bytes"},
		{"a long header at a broker", property("X-Env", strings.Repeat("a", 4096)), "destination.amqp.headers.X-Env", "4096 bytes"},
		{"less than none in flight", func(s *spec) { s.MaxInFlight = -1 }, "maxInFlight", "must not be negative"},
		{"an empty secret", func(s *spec) { s.Secrets = []string{"hunter2hunter2", ""} }, "secrets[1]", "shorter than 8"},
		{"a short secret", func(s *spec) { s.Secrets = []string{"hunter2"} }, "secrets[0]", "shorter than 8"},
		{"a prefix alone", func(s *spec) { s.Secrets = []string{"whsec_"} }, "secrets[0]", "shorter than 8"},
		{"a short key", func(s *spec) { s.Secrets = []string{"whsec_aHVudGVyMg=="} }, "secrets[0]", "shorter than 8"},
		{"a key that is not base64", func(s *spec) { s.Secrets = []string{"whsec_hunter2_hunter2"} }, "secrets[0]", "must be base64"},
		{"a transform that does not parse", func(s *spec) { s.Transform = "{a: " }, "transform", "line 1, column"},
		{"a transform that reaches out", func(s *spec) { s.Transform = "env.HOME" }, "transform", "environment"},
		{"too many secrets", func(s *spec) { s.Secrets = make([]string, 11) }, "secrets", "has 11"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := read(t, minimal)
			tt.spoil(s)
			err := subscription.Validate(s)
			if err == nil {
				t.Fatalf("no error, want one about %s", tt.field)
			}
			v := errs.ViolationsOf(err)
			if errs.KindOf(err) != errs.Invalid || len(v) != 1 || v[0].Field != tt.field || !strings.Contains(v[0].Description, tt.want) {
				t.Errorf("error is %q (%v, %v), want an invalid one about %s with %q", err, errs.KindOf(err), v, tt.field, tt.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %q shows a secret", err)
			}
		})
	}
}

func TestHeadersThatDifferInCaseOnlyAreRefused(t *testing.T) {
	t.Parallel()
	s := read(t, minimal)
	s.Destination.GetWebhook().Headers = map[string]string{"X-Env": "a", "x-env": "b"}
	if err := subscription.Validate(s); err == nil || !strings.Contains(err.Error(), "there twice") {
		t.Errorf("error is %v, want that a header is there twice", err)
	}
}

func TestCompile(t *testing.T) {
	t.Parallel()
	s := compile(t, minimal)
	if s.Policy != "default" || s.Context != event.DefaultContext || s.Priority != event.Normal || s.Direction != event.Outgoing || s.Filter != nil {
		t.Errorf("what is left out became %+v, want policy default, context default, normal priority, outgoing, no filter", s)
	}
	spec := read(t, `{"name":"s","types":["a"],"direction":"INCOMING","tenant":"t","context":"c","policy":"p","priority":"LOW","filter":"type == 'a'",
		"maxInFlight":3,"paused":true,"disabled":true,"destination":{"webhook":{"url":"http://h"}}}`)
	secrets := []string{"first", "second"}
	s, err := subscription.Compile(spec, secrets)
	if err != nil {
		t.Fatal(err)
	}
	secrets[0] = "changed"
	if s.Policy != "p" || s.Context != "c" || s.Tenant != "t" || s.Priority != event.Low || s.Direction != event.Incoming ||
		s.MaxInFlight != 3 || !s.Paused || !s.Disabled || s.Filter.String() != "type == 'a'" || s.Secrets[0] != "first" || s.Spec != spec {
		t.Errorf("compiled as %+v, want all as in %v", s, spec)
	}
	for _, broken := range []*posthornv1.Subscription{{Name: "s", Types: []string{"a..b"}}, {Name: "s", Types: []string{"a"}, Filter: "("}} {
		if _, err := subscription.Compile(broken, nil); err == nil {
			t.Errorf("%v compiles, want an error", broken)
		}
	}
}

const minimal = `{"name":"s","types":["order.*"],"destination":{"webhook":{"url":"https://erp.example/hooks"}}}`

func read(t testing.TB, text string) *posthornv1.Subscription {
	t.Helper()
	spec := new(posthornv1.Subscription)
	if err := protojson.Unmarshal([]byte(text), spec); err != nil {
		t.Fatal(err)
	}
	return spec
}

func compile(t testing.TB, text string) *subscription.Subscription {
	t.Helper()
	s, err := subscription.Compile(read(t, text), nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// jwt asks for a JWT in a header, beside another header.
func jwt(name string) func(*posthornv1.Subscription) {
	return func(s *posthornv1.Subscription) {
		w := s.GetDestination().GetWebhook()
		w.Headers = map[string]string{"X-Env": "prod"}
		w.JwtSignature = &posthornv1.JwtSignature{Header: name}
	}
}
