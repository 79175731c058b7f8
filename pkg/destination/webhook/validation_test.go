package webhook

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/errs"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func TestPermissionIsAskedForBeforeTheFirstDelivery(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, origin string
		status       int
		allowed      string
		delivered    bool
		want         int // status of the result
	}{
		{"granted", "", 200, "posthorn", true, 200},
		{"granted to all", "", 204, "*", true, 200},
		{"granted to a name", "events.example.com", 200, "Events.example.com", true, 200},
		{"granted to another", "events.example.com", 200, "elsewhere.example", false, 200},
		{"not granted", "", 200, "", false, 200},
		{"not known", "", 405, "*", false, 405},
		{"not now", "", 503, "", false, 503},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var asked, posted atomic.Int32
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					posted.Add(1)
					return
				}
				asked.Add(1)
				want := tt.origin
				if want == "" {
					want = DefaultOrigin
				}
				if got := r.Header.Get("WebHook-Request-Origin"); r.Method != http.MethodOptions || got != want || r.Header.Get("X-Env") != "prod" {
					t.Errorf("asked by %s as %q with X-Env %q, want OPTIONS as %q with the subscription's headers", r.Method, got, r.Header.Get("X-Env"), want)
				}
				if tt.allowed != "" {
					w.Header().Set("WebHook-Allowed-Origin", tt.allowed)
				}
				w.WriteHeader(tt.status)
			}))
			defer srv.Close()
			w := newWebhook(t, newClient(t, Config{}), &posthornv1.Webhook{
				Url: srv.URL, Headers: map[string]string{"X-Env": "prod"}, Validation: &posthornv1.WebhookValidation{Origin: tt.origin},
			})
			for range 2 {
				r := send(t, w, newMessage("{}"))
				if (r.Verdict == destination.Accepted) != tt.delivered || r.Status != tt.want {
					t.Errorf("the result is %+v, want status %d and delivered %t", r, tt.want, tt.delivered)
				}
			}
			if tt.delivered && (asked.Load() != 1 || posted.Load() != 2) || !tt.delivered && (asked.Load() != 2 || posted.Load() != 0) {
				t.Errorf("asked %d times and delivered %d times, delivered should be %t", asked.Load(), posted.Load(), tt.delivered)
			}
		})
	}
	_, err := New(newClient(t, Config{}), &posthornv1.Webhook{Url: "https://e.example", Validation: &posthornv1.WebhookValidation{Origin: "a b"}}, "s", []string{"hush-hush"})
	if errs.KindOf(err) != errs.Invalid {
		t.Errorf("an origin that is none: error %v, want it refused", err)
	}
}
