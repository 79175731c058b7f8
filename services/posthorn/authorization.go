package main

import (
	"cmp"
	"time"

	"github.com/spf13/cobra"

	"github.com/posthornhq/posthorn/pkg/client"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func newAuthorization(a *app) *cobra.Command {
	return newResource(a, noun[*posthornv1.Authorization]{
		name: "authorization", plural: "authorizations",
		short: "Whom the checks of a context ask, each named after its context",
		example: `  posthorn authorization apply -f - <<EOF
  name: default
  oauth: {url: https://auth.example/introspect, mode: INTROSPECTION, clientId: posthorn, clientSecret: …}
  jwt: {issuer: https://auth.example}
  EOF`,
		collection: func(c *client.Client) *client.Collection[*posthornv1.Authorization] { return c.Authorizations },
		empty:      func() *posthornv1.Authorization { return new(posthornv1.Authorization) },
		header:     []string{"CONTEXT", "OAUTH", "MODE", "JWT", "AGE"},
		row: func(v *posthornv1.Authorization) []string {
			mode := ""
			if v.GetOauth() != nil {
				mode = v.GetOauth().GetMode().String()
			}
			return []string{
				v.GetName(), v.GetOauth().GetUrl(), mode, cmp.Or(v.GetJwt().GetJwksUrl(), v.GetJwt().GetIssuer()),
				age(v.GetMeta().GetCreatedAt(), time.Now()),
			}
		},
	})
}
