package subscription_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/posthornhq/posthorn/pkg/certs/certstest"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/subscription"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

const credentialed = `{"name":"s","types":["#"],"secrets":["sign-sign"],"destination":%s}`

func withDestination(t *testing.T, doc string) *posthornv1.Subscription {
	t.Helper()
	return read(t, strings.Replace(credentialed, "%s", doc, 1))
}

// store is what an edit does: the spec for bucket config, and the list for bucket secrets.
func store(t *testing.T, spec *posthornv1.Subscription, stored []string) (*posthornv1.Subscription, []string) {
	t.Helper()
	list := subscription.MergeSecrets(spec, stored)
	if err := subscription.ValidateSecrets(spec, list); err != nil {
		t.Fatal(err)
	}
	kept := proto.CloneOf(spec)
	subscription.ClearSecrets(kept)
	subscription.CountSecrets(kept, list)
	return kept, list
}

var everyKind = []struct{ name, destination string }{
	{"headers", `{"webhook":{"url":"https://erp.example/hooks","headers":{"X-Key":"hush-1","x-other":"hush-2","X-Empty":""}}}`},
	{"a bearer's token", `{"webhook":{"url":"https://erp.example/","auth":{"bearer":{"token":"hush-1"}}}}`},
	{"a password", `{"webhook":{"url":"https://erp.example/","auth":{"basic":{"username":"ann","password":"hush-1"}}}}`},
	{"a client secret", `{"webhook":{"url":"https://erp.example/","auth":{"oauth2":{"tokenUrl":"https://auth.example/token","clientId":"me","clientSecret":"hush-1"}}}}`},
	{"a user of AMQP", `{"amqp":{"url":"amqp://mq.example","username":"ann","password":"hush-1","headers":{"k":"hush-2"}}}`},
	{"a token of NATS", `{"nats":{"url":"nats://n.example","subject":"a","token":"hush-1","headers":{"k":"hush-2"}}}`},
	{"a .creds file", `{"nats":{"url":"nats://n.example","subject":"a","credentials":"-----BEGIN hush\nhush-1\n"}}`},
	{"a user of NATS", `{"nats":{"url":"nats://n.example","subject":"a","username":"ann","password":"hush-1"}}`},
}

func TestCredentialsAreKeptApartAndComeBack(t *testing.T) {
	t.Parallel()
	for _, tt := range everyKind {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			spec := withDestination(t, tt.destination)
			kept, list := store(t, spec, nil)
			doc, err := protojson.Marshal(kept)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(doc), "hush") || strings.Contains(string(doc), "sign-sign") {
				t.Errorf("what is stored in clear is %s", doc)
			}
			if n := len(list) - 1; int(kept.GetCredentialCount()) != n || n < 1 || kept.GetSecretCount() != 1 {
				t.Errorf("counts are %d secrets and %d credentials of the %d that are stored", kept.GetSecretCount(), kept.GetCredentialCount(), len(list))
			}

			// An edit with what was answered changes nothing.
			again, same := store(t, kept, list)
			if !slices.Equal(same, list) || !proto.Equal(again, kept) {
				t.Errorf("an edit with the answer makes %q of %q", same, list)
			}

			full := proto.CloneOf(kept)
			signing, err := subscription.FillCredentials(full, list)
			if err != nil || !slices.Equal(signing, []string{"sign-sign"}) {
				t.Fatalf("signing secrets are %q, error %v", signing, err)
			}
			if diff := cmp.Diff(spec.GetDestination(), full.GetDestination(), protocmp.Transform()); diff != "" {
				t.Errorf("the destination differs from the one that was given (-want +got):\n%s", diff)
			}
			for missing := 1; missing < len(list); missing++ {
				if _, err := subscription.FillCredentials(proto.CloneOf(kept), list[:missing]); !errors.Is(err, subscription.ErrCredentialsMissing) {
					t.Errorf("with %d of %d: error %v, want that credentials are missing", missing, len(list), err)
				}
			}
		})
	}
}

// Whoever may edit a subscription must not learn its credentials by having them sent
// to a server of their own.
func TestCredentialsDoNotFollowToAnotherServerOrUser(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, before, after, field string }{
		{"a header, to another host", everyKind[0].destination, `{"webhook":{"url":"https://evil.example/","headers":{"X-Key":"***"}}}`, "destination.webhook.headers.X-Key"},
		{"a header, without TLS", everyKind[0].destination, `{"webhook":{"url":"http://erp.example/","headers":{"X-Key":"***"}}}`, "destination.webhook.headers.X-Key"},
		{"a header of another name", everyKind[0].destination, `{"webhook":{"url":"https://erp.example/","headers":{"X-New":"***"}}}`, "destination.webhook.headers.X-New"},
		{"a token, to another port", everyKind[1].destination, `{"webhook":{"url":"https://erp.example:444/","auth":{"bearer":{}}}}`, "destination.webhook.auth.bearer.token"},
		{"a password of another user", everyKind[2].destination, `{"webhook":{"url":"https://erp.example/","auth":{"basic":{"username":"bob"}}}}`, "destination.webhook.auth.basic.password"},
		{"a client secret, to another token endpoint", everyKind[3].destination, `{"webhook":{"url":"https://erp.example/","auth":{"oauth2":{"tokenUrl":"https://evil.example/","clientId":"me"}}}}`, "destination.webhook.auth.oauth2.clientSecret"},
		{"a client secret, whose tokens another host would get", everyKind[3].destination, `{"webhook":{"url":"https://evil.example/","auth":{"oauth2":{"tokenUrl":"https://auth.example/token","clientId":"me"}}}}`, "destination.webhook.auth.oauth2.clientSecret"},
		{"a token as a password", everyKind[1].destination, `{"webhook":{"url":"https://erp.example/","auth":{"basic":{"username":"ann"}}}}`, "destination.webhook.auth.basic.password"},
		{"AMQP", everyKind[4].destination, `{"amqp":{"url":"amqp://evil.example","username":"ann"}}`, "destination.amqp.password"},
		{"NATS", everyKind[7].destination, `{"nats":{"url":"nats://evil.example","subject":"a","username":"ann"}}`, "destination.nats.password"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, list := store(t, withDestination(t, tt.before), nil)
			spec := withDestination(t, tt.after)
			merged := subscription.MergeSecrets(spec, list)
			if got := strings.Join(merged, ""); strings.Contains(got, "hush") {
				t.Errorf("%q is kept", got)
			}
			err := subscription.ValidateSecrets(spec, merged)
			if v := errs.ViolationsOf(err); len(v) != 1 || v[0].Field != tt.field {
				t.Errorf("error is %v, want one about %s", err, tt.field)
			}
		})
	}
}

func TestCredentialsAreReplacedAndTakenAway(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, before, after, want string }{
		{"one header of two", everyKind[0].destination, `{"webhook":{"url":"https://erp.example/other","headers":{"x-key":"new","x-other":"***"}}}`, "new hush-2"},
		{"a header that goes", everyKind[0].destination, `{"webhook":{"url":"https://erp.example/","headers":{"X-Key":"***"}}}`, "hush-1"},
		{"a token", everyKind[1].destination, `{"webhook":{"url":"https://erp.example/","auth":{"bearer":{"token":"new"}}}}`, "new"},
		{"a token for a file", everyKind[5].destination, `{"nats":{"url":"nats://n.example","subject":"b","credentials":"new"}}`, "new"},
		{"a token that is emptied", everyKind[5].destination, `{"nats":{"url":"nats://n.example","subject":"b","token":""}}`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, list := store(t, withDestination(t, tt.before), nil)
			_, after := store(t, withDestination(t, tt.after), list)
			var values []string
			for _, s := range after[1:] {
				_, value, _ := strings.Cut(s, "\n")
				values = append(values, value)
			}
			if got := strings.Join(values, " "); got != tt.want {
				t.Errorf("stored are %q, want %q", got, tt.want)
			}
		})
	}
}

func TestSecretsOfTheSubscriptionStayWithoutCredentials(t *testing.T) {
	t.Parallel()
	_, list := store(t, withDestination(t, everyKind[1].destination), nil)
	spec := withDestination(t, `{"webhook":{"url":"https://elsewhere.example/"}}`)
	spec.Secrets = nil
	if _, got := store(t, spec, list); !slices.Equal(got, []string{"sign-sign"}) {
		t.Errorf("stored are %q, want the signing secret alone", got)
	}
}

// An earlier version stored header values in clear, and no count.
func TestHeadersThatWereStoredInClearAreUsedAndSealedByTheNextEdit(t *testing.T) {
	t.Parallel()
	old := withDestination(t, `{"webhook":{"url":"https://erp.example/","headers":{"X-Key":"hush-1"}}}`)
	old.Secrets, old.SecretCount = nil, 1
	full := proto.CloneOf(old)
	if signing, err := subscription.FillCredentials(full, []string{"sign-sign"}); err != nil || len(signing) != 1 {
		t.Fatalf("signing secrets %q, error %v", signing, err)
	}
	if got := full.GetDestination().GetWebhook().GetHeaders()["X-Key"]; got != "hush-1" {
		t.Errorf("the header is %q, want the value that is stored", got)
	}
	kept, list := store(t, old, []string{"sign-sign"})
	if len(list) != 2 || kept.GetDestination().GetWebhook().GetHeaders()["X-Key"] != subscription.Masked {
		t.Errorf("an edit stores %v with %d secrets, want a masked header and two", kept, len(list))
	}
}

// A private key's halves and those of a certificate are checked when they are saved.
func TestAClientCertificateNeedsItsKey(t *testing.T) {
	t.Parallel()
	authority := certstest.New(t)
	cert, its := authority.Issue(t, "client")
	_, others := authority.Issue(t, "other")
	chain, key, other := string(cert), string(its), string(others)
	tests := []struct{ name, key, field string }{
		{"its own", key, ""},
		{"none", "", "destination.webhook.auth.clientKey"},
		{"another's", other, "destination.webhook.auth.clientKey"},
		{"no key at all", "hush", "destination.webhook.auth.clientKey"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			spec := withDestination(t, `{"webhook":{"url":"https://erp.example/"}}`)
			spec.GetDestination().GetWebhook().Auth = &posthornv1.WebhookAuth{ClientCertificate: chain}
			if tt.key != "" {
				spec.GetDestination().GetWebhook().Auth.ClientKey = &tt.key
			}
			if err := subscription.Validate(spec); err != nil {
				t.Fatalf("the certificate alone is refused: %v", err)
			}
			err := subscription.ValidateSecrets(spec, subscription.MergeSecrets(spec, nil))
			if tt.field == "" {
				if err != nil {
					t.Errorf("error is %v, want none", err)
				}
				return
			}
			if v := errs.ViolationsOf(err); len(v) != 1 || v[0].Field != tt.field || strings.Contains(err.Error(), "hush") {
				t.Errorf("error is %v, want one about %s", err, tt.field)
			}
		})
	}
}
