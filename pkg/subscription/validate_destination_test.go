package subscription_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/posthornhq/posthorn/pkg/certs/certstest"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/subscription"
)

func quoted(t *testing.T, text []byte) string {
	t.Helper()
	return `"` + strings.ReplaceAll(string(text), "\n", `\n`) + `"`
}

func TestDestinationsAreChecked(t *testing.T) {
	t.Parallel()
	certBytes, keyBytes := certstest.New(t).Issue(t, "client")
	cert, key := quoted(t, certBytes), quoted(t, keyBytes)
	auth := func(doc string) string { return `{"webhook":{"url":"https://erp.example/","auth":` + doc + `}}` }
	oauth := func(doc string) string { return auth(`{"oauth2":` + doc + `}`) }
	nats := func(url, subject string) string { return `{"nats":{"url":"` + url + `","subject":"` + subject + `"}}` }
	const in = "destination."
	tests := []struct{ name, destination, field, says string }{
		{"bearer", auth(`{"bearer":{"token":"t"}}`), "", ""},
		{"bearer whose token is stored", auth(`{"bearer":{}}`), "", ""},
		{"basic", auth(`{"basic":{"username":"ann","password":"p:q"}}`), "", ""},
		{"oauth2", oauth(`{"tokenUrl":"https://auth.example/token","clientId":"me","clientSecret":"s","scopes":["a","b:c"],"audience":"x"}`), "", ""},
		{"a certificate beside a token", auth(`{"bearer":{"token":"t"},"clientCertificate":` + cert + `,"clientKey":` + key + `}`), "", ""},
		{"nothing", auth(`{}`), in + "webhook.auth", "neither"},
		{"a token that splits", auth(`{"bearer":{"token":"hush\r\nX: y"}}`), in + "webhook.auth.bearer.token", "control characters"},
		{"no user", auth(`{"basic":{"password":"hush"}}`), in + "webhook.auth.basic.username", "required"},
		{"a user with a colon", auth(`{"basic":{"username":"a:b"}}`), in + "webhook.auth.basic.username", "colon"},
		{"no token endpoint", oauth(`{"clientId":"me"}`), in + "webhook.auth.oauth2.tokenUrl", "required"},
		{"a token endpoint with a password", oauth(`{"tokenUrl":"https://a:hush@auth.example/","clientId":"me"}`), in + "webhook.auth.oauth2.tokenUrl", "user name or password"},
		{"no client", oauth(`{"tokenUrl":"https://auth.example/token"}`), in + "webhook.auth.oauth2.clientId", "required"},
		{"two scopes in one", oauth(`{"tokenUrl":"https://auth.example/token","clientId":"me","scopes":["a b"]}`), in + "webhook.auth.oauth2.scopes[0]", "not a scope"},
		{"an Authorization of its own beside", `{"webhook":{"url":"https://erp.example/","headers":{"authorization":"hush"},"auth":{"bearer":{"token":"t"}}}}`, in + "webhook.headers.authorization", "destination.webhook.auth"},
		{"an Authorization of its own beside a certificate", `{"webhook":{"url":"https://erp.example/","headers":{"authorization":"hush"},"auth":{"clientCertificate":` + cert + `}}}`, "", ""},
		{"a JWT in Authorization beside", `{"webhook":{"url":"https://erp.example/","jwtSignature":{"header":"authorization"},"auth":{"bearer":{"token":"t"}}}}`, in + "webhook.jwtSignature.header", "destination.webhook.auth"},
		{"a certificate without TLS", `{"webhook":{"url":"http://erp.example/","auth":{"clientCertificate":` + cert + `}}}`, in + "webhook.url", "https"},
		{"a key without a certificate", auth(`{"clientKey":` + key + `}`), in + "webhook.auth.clientCertificate", "required"},
		{"a key for a certificate", auth(`{"clientCertificate":` + key + `}`), in + "webhook.auth.clientCertificate", "clientKey"},
		{"no PEM", auth(`{"clientCertificate":"hush"}`), in + "webhook.auth.clientCertificate", "PEM"},
		{"a broken certificate", auth(`{"clientCertificate":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}`), in + "webhook.auth.clientCertificate", "number 1"},

		{"NATS", nats("nats://n.example:4222, tls://m.example", "orders.{type}.{tenant}.{context}"), "", ""},
		{"no URL", nats("", "a"), in + "nats.url", "required"},
		{"another scheme", nats("nats://n,http://hush@m", "a"), in + "nats.url", "nats:// or tls://"},
		{"credentials in the URL", nats("nats://ann:hush@n", "a"), in + "nats.url", "user name"},
		{"a path", nats("nats://n/a", "a"), in + "nats.url", "more than a host"},
		{"no host", nats("nats://:4222", "a"), in + "nats.url", "no host"},
		{"no subject", nats("nats://n", ""), in + "nats.subject", "required"},
		{"JetStream's own", nats("nats://n", "$JS.API.INFO"), in + "nats.subject", "NATS itself"},
		{"a bucket", nats("nats://n", "$KV.config.x"), in + "nats.subject", "NATS itself"},
		{"an inbox", nats("nats://n", "_INBOX.x"), in + "nats.subject", "NATS itself"},
		{"an empty token", nats("nats://n", "a..b"), in + "nats.subject", "empty token"},
		{"a wildcard", nats("nats://n", "a.>"), in + "nats.subject", "wildcards"},
		{"an unknown name", nats("nats://n", "a.{subject}"), in + "nats.subject", "{type}"},
		{"a name within a token", nats("nats://n", "a-{type}"), in + "nats.subject", "token of its own"},
		{"a header of NATS", `{"nats":{"url":"nats://n","subject":"a","headers":{"nats-msg-id":"hush"}}}`, in + "nats.headers.nats-msg-id", "can't be chosen"},
		{"a header that splits", `{"nats":{"url":"nats://n","subject":"a","headers":{"k":"hush\r\n"}}}`, in + "nats.headers.k", "control"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := subscription.Validate(withDestination(t, tt.destination))
			if tt.field == "" {
				if err != nil {
					t.Errorf("error is %v, want none", err)
				}
				return
			}
			v := errs.ViolationsOf(err)
			if len(v) != 1 || v[0].Field != tt.field || !strings.Contains(v[0].Description, tt.says) {
				t.Fatalf("error is %v, want one about %s with %q", err, tt.field, tt.says)
			}
			if strings.Contains(err.Error(), "hush") {
				t.Errorf("error %q repeats a credential", err)
			}
		})
	}
}

func TestSigningKeysAreChecked(t *testing.T) {
	t.Parallel()
	for secret, ok := range map[string]bool{
		"whsk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=": true,
		"whsk_hush-hush-hush":                               false,
		"whpk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=": false,
		"\x00hush-hush-hush":                                false,
	} {
		spec := withDestination(t, `{"webhook":{"url":"https://erp.example/"}}`)
		spec.Secrets = []string{secret}
		err := subscription.Validate(spec)
		if (err == nil) != ok {
			t.Errorf("secret %q: error is %v", secret, err)
		}
		if err != nil && (strings.Contains(err.Error(), "hush") || errs.ViolationsOf(err)[0].Field != "secrets[0]") {
			t.Errorf("error %q, want one about secrets[0] that does not repeat it", err)
		}
	}
}

// What Validate takes has credentials that can be taken out and put back.
func FuzzDestination(f *testing.F) {
	for _, tt := range everyKind {
		f.Add([]byte(strings.Replace(credentialed, "%s", tt.destination, 1)))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		spec := withDestination(t, `{}`)
		if protojson.Unmarshal(doc, spec) != nil || subscription.Validate(spec) != nil {
			return
		}
		list := subscription.MergeSecrets(spec, nil)
		if subscription.ValidateSecrets(spec, list) != nil {
			return
		}
		kept := read(t, string(doc))
		subscription.ClearSecrets(kept)
		subscription.CountSecrets(kept, list)
		signing, err := subscription.FillCredentials(kept, list)
		if err != nil || len(signing) != len(spec.GetSecrets()) {
			t.Fatalf("what was stored does not come back: %q, %v", signing, err)
		}
		again := subscription.MergeSecrets(kept, nil)
		if len(again) != len(list)-len(signing) {
			t.Errorf("%d credentials came back of %d", len(again), len(list)-len(signing))
		}
	})
}
