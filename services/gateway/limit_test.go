package gateway

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/source"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func limited(t *testing.T, perClient, perSecond float64) *source.Source {
	t.Helper()
	s, err := source.Compile(&posthornv1.Source{Name: "s", Kind: posthornv1.Source_GENERIC, RatePerClient: perClient, RatePerSecond: perSecond}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRates(t *testing.T) {
	t.Parallel()
	now := time.Now()
	type request struct {
		client string
		after  time.Duration // since the first
		want   bool
	}
	tests := []struct {
		name                 string
		perClient, perSecond float64
		requests             []request
	}{
		{"none", 0, 0, []request{{"a", 0, true}, {"a", 0, true}, {"a", 0, true}, {"a", 0, true}}},
		{"a client's burst and its rate", 1, 0, []request{
			{"a", 0, true}, {"a", 0, true}, {"a", 0, false}, {"a", 900 * time.Millisecond, false}, {"a", time.Second, true}, {"a", time.Second, false},
		}},
		{"clients by themselves", 0.5, 0, []request{{"a", 0, true}, {"a", 0, false}, {"b", 0, true}, {"b", 0, false}}},
		{"all together", 0, 1, []request{{"a", 0, true}, {"b", 0, true}, {"c", 0, false}}},
		// a is refused for itself, and leaves b's share alone.
		{"both", 0.5, 1, []request{{"a", 0, true}, {"a", 0, false}, {"a", 0, false}, {"b", 0, true}, {"c", 0, false}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l, err := newLimits()
			if err != nil {
				t.Fatal(err)
			}
			src := limited(t, tt.perClient, tt.perSecond)
			for i, r := range tt.requests {
				err := l.admit(src, r.client, now.Add(r.after))
				if (err == nil) != r.want {
					t.Errorf("request %d by %s: error %v, want it let in: %v", i, r.client, err, r.want)
				}
				if err != nil && (errs.KindOf(err) != errs.Throttled || errs.ReasonOf(err) != "rate") {
					t.Errorf("request %d: error %v of kind %v, want it throttled", i, err, errs.KindOf(err))
				}
			}
		})
	}
}

func TestANewRateIsInForceAtOnce(t *testing.T) {
	t.Parallel()
	l, err := newLimits()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	slow := limited(t, 0, 0.5)
	if err := l.admit(slow, "a", now); err != nil {
		t.Fatal(err)
	}
	if l.admit(slow, "a", now) == nil {
		t.Fatal("the second request is let in, want it throttled")
	}
	if err := l.admit(limited(t, 0, 5), "a", now); err != nil {
		t.Errorf("after the rate was raised: %v", err)
	}
}

func TestWhoIsThrottledIsToldWhenToComeAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	for _, want := range []int{202, 429} {
		w := r.do(post("/events/slow/a.b", `{}`))
		if w.Code != want {
			t.Fatalf("answer is %d %s, want %d", w.Code, w.Body, want)
		}
		after, _ := strconv.Atoi(w.Header().Get("Retry-After"))
		if want == 429 && (after < 1 || after > 100) {
			t.Errorf("Retry-After is %q, want up to 100 seconds", w.Header().Get("Retry-After"))
		}
	}
	if n := len(r.rejecter.rejected); n != 1 || r.rejecter.rejected[0].Reason != "rate" {
		t.Errorf("%d rejections recorded, want the one: %+v", n, r.rejecter.rejected)
	}
}

// A body that does not come does not hold the gateway.
func TestASlowBodyIsCutOff(t *testing.T) {
	t.Parallel()
	for _, length := range []string{"Content-Length: 100", "Transfer-Encoding: chunked"} {
		t.Run(length, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, Config{MaxBytes: 1000, BodyWait: 50 * time.Millisecond})
			srv := httptest.NewServer(r.handler)
			defer srv.Close()
			conn, err := net.Dial("tcp", srv.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := fmt.Fprintf(conn, "POST /events/shop/a.b HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", length); err != nil {
				t.Fatal(err)
			}
			if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusRequestTimeout || !strings.Contains(resp.Header.Get("Content-Type"), "problem+json") {
				t.Errorf("answered %d (%s), want 408 as a problem", resp.StatusCode, resp.Header.Get("Content-Type"))
			}
		})
	}
}
