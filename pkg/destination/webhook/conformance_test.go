package webhook

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/destination/destinationtest"
	"github.com/posthornhq/posthorn/pkg/netguard"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func TestWebhookConforms(t *testing.T) {
	t.Parallel()
	const secret, header, token = "hush-secret-1", "hush-header-2", "hush-token-3"
	at := func(t *testing.T, url string) destination.Destination {
		return newWebhook(t, newClient(t, Config{}), &posthornv1.Webhook{
			Url: url + "/hooks?key=" + header, Headers: map[string]string{"X-Key": header}, Auth: bearer(token),
		}, secret)
	}
	answering := func(handler http.HandlerFunc) destinationtest.Make {
		return func(t *testing.T) destination.Destination {
			srv := httptest.NewServer(handler)
			t.Cleanup(srv.Close)
			return at(t, srv.URL)
		}
	}
	status := func(code int) destinationtest.Make {
		return answering(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(code) })
	}
	destinationtest.Run(t, destinationtest.Suite{
		Secrets:      []string{secret, header, token},
		Accepts:      status(http.StatusNoContent),
		Refuses:      status(http.StatusBadRequest),
		Unauthorized: status(http.StatusUnauthorized),
		Unavailable:  status(http.StatusServiceUnavailable),
		Slow: answering(func(rw http.ResponseWriter, _ *http.Request) {
			<-time.After(50 * time.Millisecond)
			rw.WriteHeader(http.StatusNoContent)
		}),
		Huge: answering(func(rw http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(rw, strings.Repeat("x", 4<<20)) // the client reads no more than it keeps
		}),
		Silent: func(t *testing.T) destination.Destination { return at(t, hang(t, func(http.ResponseWriter) {}).URL) },
		Cut:    func(t *testing.T) destination.Destination { return at(t, "http://"+serveRaw(t, "")) },
		Nobody: func(t *testing.T) destination.Destination { return at(t, "http://127.0.0.1:1") },
		NoName: func(t *testing.T) destination.Destination { return at(t, "http://no-such-host..invalid") },
		Untrusted: func(t *testing.T) destination.Destination {
			srv := httptest.NewUnstartedServer(http.NotFoundHandler())
			srv.Config.ErrorLog = log.New(io.Discard, "", 0)
			srv.StartTLS()
			t.Cleanup(srv.Close)
			return at(t, srv.URL)
		},
		Blocked: func(t *testing.T) destination.Destination {
			lis, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { lis.Close() })
			c := NewClient(netguard.New(nil), Config{})
			t.Cleanup(c.Close)
			return newWebhook(t, c, &posthornv1.Webhook{Url: "http://" + lis.Addr().String(), Headers: map[string]string{"X-Key": header}, Auth: bearer(token)}, secret)
		},
	})
}
