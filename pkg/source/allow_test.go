package source

import (
	"net/http"
	"strings"
	"testing"

	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func TestAllowWebhook(t *testing.T) {
	t.Parallel()
	allowed := func(origin, rate string) http.Header {
		h := http.Header{}
		h.Set("WebHook-Allowed-Origin", origin)
		if rate != "" {
			h.Set("WebHook-Allowed-Rate", rate)
		}
		return h
	}
	const origin = "WebHook-Request-Origin: eventemitter.example.com"
	const name = "eventemitter.example.com"
	tests := []struct {
		name                 string
		perClient, perSecond float64
		headers              []string
		want                 http.Header
	}{
		{"an origin", 0, 0, []string{origin}, allowed(name, "")},
		{"an origin, of a source with limits", 1, 1, []string{origin}, allowed(name, "")},
		{"a rate", 0, 0, []string{origin, "WebHook-Request-Rate: 120"}, allowed(name, "120")},
		{"a rate over the limit of a client", 1, 10, []string{origin, "WebHook-Request-Rate: 120"}, allowed(name, "60")},
		{"a rate over the limit of all", 10, 0.5, []string{origin, "WebHook-Request-Rate: 120"}, allowed(name, "30")},
		{"a rate under the limit", 10, 10, []string{origin, "WebHook-Request-Rate: 120"}, allowed(name, "120")},
		{"less than one a minute", 0.001, 0, []string{origin, "WebHook-Request-Rate: 120"}, allowed(name, "1")},
		{"a limit beyond numbers", 1e300, 0, []string{origin, "WebHook-Request-Rate: x"}, allowed(name, "*")},
		{"a rate that is no number", 0, 0, []string{origin, "WebHook-Request-Rate: *"}, allowed(name, "*")},
		{"a rate of 0", 2, 0, []string{origin, "WebHook-Request-Rate: 0"}, allowed(name, "120")},
		{"a callback too", 0, 0, []string{origin, "WebHook-Request-Callback: https://169.254.169.254/"}, allowed(name, "")},
		{"a scheme and a port", 0, 0, []string{"webhook-request-origin: https://a.example:8443"}, allowed("https://a.example:8443", "")},

		{"nothing", 0, 0, nil, nil},
		{"a rate alone", 0, 0, []string{"WebHook-Request-Rate: 120"}, nil},
		{"an origin that would break a header", 0, 0, []string{"WebHook-Request-Origin: a\r\nX: y"}, nil},
		{"an origin that is none", 0, 0, []string{"WebHook-Request-Origin: <script>"}, nil},
		{"an origin that is too long", 0, 0, []string{"WebHook-Request-Origin: " + strings.Repeat("a", 256)}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := compile(t, &posthornv1.Source{Kind: posthornv1.Source_CLOUDEVENTS, RatePerClient: tt.perClient, RatePerSecond: tt.perSecond})
			diff(t, s.AllowWebhook(request("", tt.headers...).Header), tt.want)
		})
	}
}
