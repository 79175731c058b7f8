package source

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/posthornhq/posthorn/pkg/errs"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func TestValidate(t *testing.T) {
	t.Parallel()
	generic := func(change func(*posthornv1.Source)) *posthornv1.Source {
		s := &posthornv1.Source{Name: "shop", Kind: posthornv1.Source_GENERIC}
		change(s)
		return s
	}
	hmac := func(s *posthornv1.HmacSettings) *posthornv1.Source {
		return &posthornv1.Source{Name: "shop", Kind: posthornv1.Source_HMAC, Hmac: s}
	}
	auth0 := func(s *posthornv1.Auth0Settings) *posthornv1.Source {
		return &posthornv1.Source{Name: "shop", Kind: posthornv1.Source_AUTH0, Auth0: s}
	}
	of := func(kind posthornv1.Source_Kind, secrets ...string) *posthornv1.Source {
		return &posthornv1.Source{Name: "shop", Kind: kind, Secrets: secrets}
	}
	header := func(s *posthornv1.HeaderSettings) *posthornv1.Source {
		return &posthornv1.Source{Name: "shop", Kind: posthornv1.Source_HEADER, Header: s}
	}
	field := func(s *posthornv1.JsonFieldSettings) *posthornv1.Source {
		return &posthornv1.Source{Name: "shop", Kind: posthornv1.Source_JSON_FIELD, JsonField: s}
	}
	twilio := func(u string) *posthornv1.Source {
		return &posthornv1.Source{Name: "shop", Kind: posthornv1.Source_TWILIO, Twilio: &posthornv1.TwilioSettings{Url: u}}
	}
	queue := func(change func(*posthornv1.Source)) *posthornv1.Source {
		s := &posthornv1.Source{Name: "shop", Kind: posthornv1.Source_AMQP, Secrets: []string{"hush"},
			Amqp: &posthornv1.AmqpSource{Url: "amqps://rabbit.example/v", Username: "u", Queue: "q"}}
		change(s)
		return s
	}
	bound := func(b *posthornv1.AmqpSource_Binding) *posthornv1.Source {
		return queue(func(s *posthornv1.Source) {
			s.Amqp.Declare, s.Amqp.Bindings = true, []*posthornv1.AmqpSource_Binding{b}
		})
	}
	private, public := ed25519Pair()
	tests := []struct {
		name    string
		spec    *posthornv1.Source
		secrets int
		field   string // "" if it is valid
	}{
		{"generic", generic(func(*posthornv1.Source) {}), 0, ""},
		{"a Certes URI as type", generic(func(s *posthornv1.Source) { s.Type = "community.certes.dev/github/1/push" }), 0, ""},
		{"context and policy", generic(func(s *posthornv1.Source) { s.Context, s.Policy = "testing", "strict" }), 0, ""},
		{"hmac without settings", hmac(nil), 1, ""},
		{"hmac with all", hmac(&posthornv1.HmacSettings{Header: "X-Sig", Prefix: "SHA256 ", TimestampHeader: "X-Time",
			Tolerance: durationpb.New(time.Minute), IdHeader: "X-Id", IdPointer: "/a~0b/~1", TypePointer: "/t"}), 2, ""},
		{"auth0", auth0(&posthornv1.Auth0Settings{Codes: []string{"s", "brand_new"}, Categories: []string{"login_fail", "other"}}), 1, ""},

		{"no name", &posthornv1.Source{Kind: posthornv1.Source_GENERIC}, 0, "name"},
		{"a bad name", generic(func(s *posthornv1.Source) { s.Name = "My Shop" }), 0, "name"},
		{"a bad context", generic(func(s *posthornv1.Source) { s.Context = "a/b" }), 0, "context"},
		{"a bad policy", generic(func(s *posthornv1.Source) { s.Policy = "a b" }), 0, "policy"},
		{"no kind", generic(func(s *posthornv1.Source) { s.Kind = 0 }), 0, "kind"},
		{"an unknown kind", generic(func(s *posthornv1.Source) { s.Kind = 99 }), 0, "kind"},
		{"a bad type", generic(func(s *posthornv1.Source) { s.Type = "a..b" }), 0, "type"},
		{"an unknown schema mode", generic(func(s *posthornv1.Source) { s.SchemaMode = 9 }), 0, "schemaMode"},
		{"schemas required and not looked at", generic(func(s *posthornv1.Source) { s.SchemaRequired, s.SchemaMode = true, posthornv1.Source_OFF }), 0, "schemaRequired"},
		{"a secret that nothing asks for", generic(func(*posthornv1.Source) {}), 1, "secrets"},
		{"github without secret", generic(func(s *posthornv1.Source) { s.Kind = posthornv1.Source_GITHUB }), 0, "secrets"},
		{"auth0 without secret", auth0(nil), 0, "secrets"},
		{"hmac without secret", hmac(nil), 0, "secrets"},
		{"an empty secret", &posthornv1.Source{Name: "a", Kind: posthornv1.Source_GITHUB, Secrets: []string{"x", ""}}, 2, "secrets"},
		{"an Authorization with a blank behind", &posthornv1.Source{Name: "a", Kind: posthornv1.Source_AUTH0, Secrets: []string{"x "}}, 1, "secrets"},

		{"hmac settings of another kind", generic(func(s *posthornv1.Source) { s.Hmac = &posthornv1.HmacSettings{} }), 0, "hmac"},
		{"an unknown algorithm", hmac(&posthornv1.HmacSettings{Algorithm: 9}), 1, "hmac.algorithm"},
		{"an unknown encoding", hmac(&posthornv1.HmacSettings{Encoding: 9}), 1, "hmac.encoding"},
		{"a prefix that no header has", hmac(&posthornv1.HmacSettings{Prefix: " x"}), 1, "hmac.prefix"},
		{"a bad header", hmac(&posthornv1.HmacSettings{Header: "X Sig"}), 1, "hmac.header"},
		{"a bad timestamp header", hmac(&posthornv1.HmacSettings{TimestampHeader: "X:"}), 1, "hmac.timestampHeader"},
		{"a bad id header", hmac(&posthornv1.HmacSettings{IdHeader: "é"}), 1, "hmac.idHeader"},
		{"a bad type header", hmac(&posthornv1.HmacSettings{TypeHeader: "a\n"}), 1, "hmac.typeHeader"},
		{"a bad id pointer", hmac(&posthornv1.HmacSettings{IdPointer: "data.id"}), 1, "hmac.idPointer"},
		{"a bad escape in a pointer", hmac(&posthornv1.HmacSettings{TypePointer: "/a~2"}), 1, "hmac.typePointer"},
		{"a negative tolerance", hmac(&posthornv1.HmacSettings{TimestampHeader: "X", Tolerance: durationpb.New(-1)}), 1, "hmac.tolerance"},
		{"no tolerance at all", hmac(&posthornv1.HmacSettings{TimestampHeader: "X", Tolerance: durationpb.New(0)}), 1, "hmac.tolerance"},
		{"tolerance without timestamp", hmac(&posthornv1.HmacSettings{Tolerance: durationpb.New(time.Minute)}), 1, "hmac.tolerance"},

		{"stripe", of(posthornv1.Source_STRIPE, "whsec_x"), 1, ""},
		{"standard webhooks", of(posthornv1.Source_STANDARD_WEBHOOKS, standardSecret, standardSecret[6:], public), 3, ""},
		{"gitlab both ways", of(posthornv1.Source_GITLAB, standardSecret, "any token"), 2, ""},
		{"header", header(&posthornv1.HeaderSettings{Name: "X-Token", Prefix: "Bearer ", IdHeader: "X-Id", IdPointer: "/id", TypeHeader: "X-T", TypePointer: "/t"}), 1, ""},
		{"json field", field(&posthornv1.JsonFieldSettings{Pointer: "/token", IdHeader: "X-Id", IdPointer: "/id", TypeHeader: "X-T", TypePointer: "/t"}), 1, ""},
		{"twilio", of(posthornv1.Source_TWILIO, "x"), 1, ""},
		{"twilio with a URL", twilio("https://u:p@example.com:8443/x%20y"), 1, ""},
		{"topics and rates", generic(func(s *posthornv1.Source) {
			s.Topics, s.RatePerClient, s.RatePerSecond = []string{"order.created", "a"}, 0.5, 100
		}), 0, ""},

		{"stripe without secret", of(posthornv1.Source_STRIPE), 0, "secrets"},
		{"slack without secret", of(posthornv1.Source_SLACK), 0, "secrets"},
		{"shopify without secret", of(posthornv1.Source_SHOPIFY), 0, "secrets"},
		{"standard webhooks without secret", of(posthornv1.Source_STANDARD_WEBHOOKS), 0, "secrets"},
		{"twilio without secret", of(posthornv1.Source_TWILIO), 0, "secrets"},
		{"gitlab without secret", of(posthornv1.Source_GITLAB), 0, "secrets"},
		{"header without secret", header(&posthornv1.HeaderSettings{Name: "X-Token"}), 0, "secrets"},
		{"json field without secret", field(&posthornv1.JsonFieldSettings{Pointer: "/t"}), 0, "secrets"},
		{"a cloudevents source with a secret", of(posthornv1.Source_CLOUDEVENTS, "x"), 1, "secrets"},
		{"an empty secret of slack", of(posthornv1.Source_SLACK, "x", ""), 2, "secrets"},
		{"a secret that is not base64", of(posthornv1.Source_STANDARD_WEBHOOKS, "whsec_?"), 1, "secrets"},
		{"a prefix without secret", of(posthornv1.Source_STANDARD_WEBHOOKS, "whsec_"), 1, "secrets"},
		{"a private key", of(posthornv1.Source_STANDARD_WEBHOOKS, private), 1, "secrets"},
		{"a public key that is cut", of(posthornv1.Source_STANDARD_WEBHOOKS, "whpk_AAAA"), 1, "secrets"},
		{"a signing token that is not base64", of(posthornv1.Source_GITLAB, "token", "whsec_?"), 2, "secrets"},
		{"a secret token with a blank behind", of(posthornv1.Source_GITLAB, "token "), 1, "secrets"},
		{"a header's secret with a blank before", &posthornv1.Source{Name: "a", Kind: posthornv1.Source_HEADER, Secrets: []string{" x"},
			Header: &posthornv1.HeaderSettings{Name: "X"}}, 1, "secrets"},

		{"header without settings", header(nil), 1, "header.name"},
		{"header without name", header(&posthornv1.HeaderSettings{}), 1, "header.name"},
		{"header with a bad name", header(&posthornv1.HeaderSettings{Name: "X Token"}), 1, "header.name"},
		{"header with a bad prefix", header(&posthornv1.HeaderSettings{Name: "X", Prefix: "a\n"}), 1, "header.prefix"},
		{"header with a bad id header", header(&posthornv1.HeaderSettings{Name: "X", IdHeader: "a b"}), 1, "header.idHeader"},
		{"header with a bad id pointer", header(&posthornv1.HeaderSettings{Name: "X", IdPointer: "a"}), 1, "header.idPointer"},
		{"header with a bad type header", header(&posthornv1.HeaderSettings{Name: "X", TypeHeader: "a b"}), 1, "header.typeHeader"},
		{"header with a bad type pointer", header(&posthornv1.HeaderSettings{Name: "X", TypePointer: "a"}), 1, "header.typePointer"},
		{"json field without settings", field(nil), 1, "jsonField.pointer"},
		{"json field with a bad pointer", field(&posthornv1.JsonFieldSettings{Pointer: "token"}), 1, "jsonField.pointer"},
		{"json field with a bad id pointer", field(&posthornv1.JsonFieldSettings{Pointer: "/t", IdPointer: "/~"}), 1, "jsonField.idPointer"},
		{"json field with a bad type header", field(&posthornv1.JsonFieldSettings{Pointer: "/t", TypeHeader: ":"}), 1, "jsonField.typeHeader"},
		{"twilio with a URL that is none", twilio("example.com/x"), 1, "twilio.url"},
		{"twilio with another scheme", twilio("ftp://example.com/x"), 1, "twilio.url"},
		{"twilio without host", twilio("https:///x"), 1, "twilio.url"},
		{"twilio with a query", twilio("https://example.com/x?a=1"), 1, "twilio.url"},
		{"twilio with an empty query", twilio("https://example.com/x?"), 1, "twilio.url"},
		{"twilio with a fragment", twilio("https://example.com/x#a"), 1, "twilio.url"},
		{"header settings of another kind", generic(func(s *posthornv1.Source) { s.Header = &posthornv1.HeaderSettings{} }), 0, "header"},
		{"json field settings of another kind", generic(func(s *posthornv1.Source) { s.JsonField = &posthornv1.JsonFieldSettings{} }), 0, "jsonField"},
		{"twilio settings of another kind", generic(func(s *posthornv1.Source) { s.Twilio = &posthornv1.TwilioSettings{} }), 0, "twilio"},
		{"a bad topic", generic(func(s *posthornv1.Source) { s.Topics = []string{"a", "a..b"} }), 0, "topics[1]"},
		{"an empty topic", generic(func(s *posthornv1.Source) { s.Topics = []string{""} }), 0, "topics[0]"},
		{"a topic with a wildcard", generic(func(s *posthornv1.Source) { s.Topics = []string{"a.*"} }), 0, "topics[0]"},
		{"a negative rate", generic(func(s *posthornv1.Source) { s.RatePerClient = -1 }), 0, "ratePerClient"},
		{"a rate that is no number", generic(func(s *posthornv1.Source) { s.RatePerSecond = math.NaN() }), 0, "ratePerSecond"},
		{"a rate without end", generic(func(s *posthornv1.Source) { s.RatePerSecond = math.Inf(1) }), 0, "ratePerSecond"},

		{"amqp", queue(func(*posthornv1.Source) {}), 1, ""},
		{"amqp with all", queue(func(s *posthornv1.Source) {
			s.Amqp.Declare, s.Amqp.DeadLetterExchange, s.Amqp.Prefetch = true, "dead", 65535
			s.Amqp.Bindings = []*posthornv1.AmqpSource_Binding{{Exchange: "x", ExchangeType: "topic", RoutingKeys: []string{"a.#", ""}}, {Exchange: "amq.topic"}}
		}), 1, ""},
		{"amqp without settings", of(posthornv1.Source_AMQP, "hush"), 1, "amqp.url"},
		{"amqp without a password", queue(func(s *posthornv1.Source) { s.Secrets = nil }), 0, "secrets"},
		{"amqp with two passwords", queue(func(s *posthornv1.Source) { s.Secrets = []string{"a", "b"} }), 2, "secrets"},
		{"amqp without a queue", queue(func(s *posthornv1.Source) { s.Amqp.Queue = "" }), 1, "amqp.queue"},
		{"amqp with a long queue", queue(func(s *posthornv1.Source) { s.Amqp.Queue = strings.Repeat("q", 256) }), 1, "amqp.queue"},
		{"amqp without a user", queue(func(s *posthornv1.Source) { s.Amqp.Username = "" }), 1, "amqp.username"},
		{"amqp with a password in the URL", queue(func(s *posthornv1.Source) { s.Amqp.Url = "amqp://u:hush@h" }), 1, "amqp.url"},
		{"amqp over HTTP", queue(func(s *posthornv1.Source) { s.Amqp.Url = "http://h" }), 1, "amqp.url"},
		{"amqp with less than no prefetch", queue(func(s *posthornv1.Source) { s.Amqp.Prefetch = -1 }), 1, "amqp.prefetch"},
		{"amqp with too much prefetch", queue(func(s *posthornv1.Source) { s.Amqp.Prefetch = 65536 }), 1, "amqp.prefetch"},
		{"amqp with a policy", queue(func(s *posthornv1.Source) { s.Policy = "strict" }), 1, "policy"},
		{"amqp with topics", queue(func(s *posthornv1.Source) { s.Topics = []string{"a"} }), 1, "topics"},
		{"amqp with a rate", queue(func(s *posthornv1.Source) { s.RatePerSecond = 1 }), 1, "ratePerSecond"},
		{"amqp with a rate of clients", queue(func(s *posthornv1.Source) { s.RatePerClient = 1 }), 1, "ratePerClient"},
		{"bindings that nobody makes", queue(func(s *posthornv1.Source) {
			s.Amqp.Bindings = []*posthornv1.AmqpSource_Binding{{Exchange: "x"}}
		}), 1, "amqp.bindings"},
		{"a dead-letter exchange that nobody sets", queue(func(s *posthornv1.Source) { s.Amqp.DeadLetterExchange = "x" }), 1, "amqp.deadLetterExchange"},
		{"a binding to the default exchange", bound(&posthornv1.AmqpSource_Binding{RoutingKeys: []string{"a"}}), 1, "amqp.bindings[0].exchange"},
		{"a binding to an unknown type", bound(&posthornv1.AmqpSource_Binding{Exchange: "x", ExchangeType: "topics"}), 1, "amqp.bindings[0].exchangeType"},
		{"a binding that declares the broker's own", bound(&posthornv1.AmqpSource_Binding{Exchange: "amq.topic", ExchangeType: "topic"}), 1, "amqp.bindings[0].exchangeType"},
		{"a binding by a long key", bound(&posthornv1.AmqpSource_Binding{Exchange: "x", RoutingKeys: []string{"a", strings.Repeat("a", 256)}}), 1, "amqp.bindings[0].routingKeys[1]"},
		{"amqp settings of another kind", generic(func(s *posthornv1.Source) { s.Amqp = &posthornv1.AmqpSource{} }), 0, "amqp"},

		{"auth0 settings of another kind", generic(func(s *posthornv1.Source) { s.Auth0 = &posthornv1.Auth0Settings{} }), 0, "auth0"},
		{"an unknown category", auth0(&posthornv1.Auth0Settings{Categories: []string{"login", "logins"}}), 1, "auth0.categories[1]"},
		{"a bad code", auth0(&posthornv1.Auth0Settings{Codes: []string{"s", "a b"}}), 1, "auth0.codes[1]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := Validate(tt.spec, tt.secrets)
			var fields []string
			for _, v := range errs.ViolationsOf(err) {
				fields = append(fields, v.Field)
			}
			if tt.field == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if errs.KindOf(err) != errs.Invalid || !slices.Equal(fields, []string{tt.field}) {
				t.Errorf("error is %v about %q, want an invalid %s", err, fields, tt.field)
			}
		})
	}
}

func TestUnknownCategoryListsTheKnownOnes(t *testing.T) {
	t.Parallel()
	err := Validate(&posthornv1.Source{Name: "a", Kind: posthornv1.Source_AUTH0,
		Auth0: &posthornv1.Auth0Settings{Categories: []string{"logins"}}}, 1)
	for _, want := range []string{"logins", "login_fail", "token_exchange", "other"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want it to name %s", err, want)
		}
	}
}

// Every kind of the protos is either verified by itself or known to leave that
// to its policy; none falls through to one that lets everybody in.
func TestEveryKindIsImplemented(t *testing.T) {
	t.Parallel()
	for n, name := range posthornv1.Source_Kind_name {
		kind := posthornv1.Source_Kind(n)
		if kind == posthornv1.Source_KIND_UNSPECIFIED {
			continue
		}
		k, err := newKind(&posthornv1.Source{Kind: kind}, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := k.verify(request("")); (err != nil) != verifies(kind) {
			t.Errorf("%s lets in a request without anything: %v, want %v", name, err == nil, !verifies(kind))
		}
		if !strings.Contains(kindNames(), name) {
			t.Errorf("kinds are %s, want %s among them", kindNames(), name)
		}
	}
	if _, err := newKind(&posthornv1.Source{Kind: 99}, nil); err == nil {
		t.Error("kind 99 compiles")
	}
}

func TestRefusedSecretsAreNotShown(t *testing.T) {
	t.Parallel()
	private, _ := ed25519Pair()
	for kind, secret := range map[posthornv1.Source_Kind]string{
		posthornv1.Source_STANDARD_WEBHOOKS: private, posthornv1.Source_GITLAB: "whsec_hush?", posthornv1.Source_AUTH0: "hush-hush ",
	} {
		err := Validate(&posthornv1.Source{Name: "a", Kind: kind, Secrets: []string{secret}}, 1)
		if err == nil || strings.Contains(err.Error(), strings.TrimSpace(secret)) {
			t.Errorf("%v with a bad secret: error is %v, want one without the secret", kind, err)
		}
	}
	if err := Validate(&posthornv1.Source{Name: "a", Kind: posthornv1.Source_TWILIO, Secrets: []string{"x"},
		Twilio: &posthornv1.TwilioSettings{Url: "https://u:hush@[::1/"}}, 1); err == nil || strings.Contains(err.Error(), "hush") {
		t.Errorf("error is %v, want one without the password", err)
	}
}
