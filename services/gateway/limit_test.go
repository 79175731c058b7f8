package gateway

import (
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
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

// lateBody is a body of which no more comes in time.
type lateBody struct{ io.Reader }

func (lateBody) Close() error { return nil }

func TestASlowBodyIsCutOff(t *testing.T) {
	t.Parallel()
	for _, length := range []int64{100, -1} {
		t.Run(strconv.FormatInt(length, 10), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, Config{MaxBytes: 1000})
			req := post("/events/shop/a.b", "")
			req.Body, req.ContentLength = lateBody{io.MultiReader(strings.NewReader("{"), iotest.ErrReader(os.ErrDeadlineExceeded))}, length
			w := r.do(req)
			if w.Code != http.StatusRequestTimeout || w.Header().Get("Connection") != "close" || !strings.Contains(w.Header().Get("Content-Type"), "problem+json") {
				t.Errorf("answered %d with headers %v, want 408 as a problem, and the connection closed", w.Code, w.Header())
			}
		})
	}
}
