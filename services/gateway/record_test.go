package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/recording"
)

// fakeRecorder keeps what is offered, and of source cloud nothing is due.
type fakeRecorder struct{ offered []*recording.Request }

func (f *fakeRecorder) Due(source string, _ bool, _ time.Time) bool { return source != "cloud" }
func (f *fakeRecorder) Offer(r *recording.Request)                  { f.offered = append(f.offered, r) }

// Whatever became of a request, what is recorded says it, and has no credential.
func TestRequestsAreRecordedWithoutCredentials(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		request  *http.Request
		answered int
		want     string // source, policy and decisions; nothing recorded if empty
	}{
		{"taken", post("/events/keyed/a.b?k=hush-query", `{"hush-body":1}`, "X-Key: hush", "Cookie: sid=hush-cookie", "Authorization: Bearer hush-token"), 202, "keyed keyed ok ok"},
		{"a wrong key", post("/events/keyed/a.b", `{}`, "X-Key: hush-wrong"), 401, "keyed keyed ok refused"},
		{"no key", post("/events/keyed/a.b", `{}`), 401, "keyed keyed ok refused"},
		{"a policy that is gone", post("/events/lost/a.b", `{}`, "X-Key: hush"), 403, "lost gone"},
		{"a wrong signature", post("/events/signed", `{}`, "X-Signature: hush"), 401, "signed "},
		{"disabled", post("/events/old/a.b", `{}`), 403, "old "},
		{"a batch", post("/events/auth0", `[{"log_id":"1","data":{"type":"s"}},{"log_id":"2","data":{"type":"s"}}]`, "Authorization: "+auth0Secret), 202, "auth0 "},
		{"refused by the broker", post("/events/shop/no.good", `{}`), 400, "shop "},
		{"no method of ours", httptest.NewRequest(http.MethodGet, "/events/shop/a.b", nil), 405, ""},
		{"not due", post("/events/cloud", `{"specversion":"1.0","id":"1","source":"/s","type":"a"}`, "Content-Type: application/cloudevents+json"), 202, ""},
		{"nobody's", post("/events/nobody", `{}`), 404, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rec := &fakeRecorder{}
			r := newRig(t, Config{Recorder: rec})
			r.accept.refuse = func(_ context.Context, ev *event.Event) error {
				if ev.Type == "no.good" {
					return errs.New(errs.Invalid, "no good")
				}
				return nil
			}
			tt.request.RemoteAddr = "192.0.2.1:1"
			if w := r.do(tt.request); w.Code != tt.answered {
				t.Fatalf("answered %d %s, want %d", w.Code, w.Body, tt.answered)
			}
			if len(rec.offered) == 0 {
				if tt.want != "" {
					t.Fatal("nothing was recorded")
				}
				return
			}
			got := rec.offered[0]
			text := got.Source + " " + got.Policy
			for _, d := range got.Decisions {
				text += " " + d.Outcome
			}
			if text != tt.want || got.Answered != tt.answered || got.Client != netip.MustParseAddr("192.0.2.1") || got.Size != tt.request.ContentLength {
				t.Errorf("recorded %+v, want %q answered %d", got, tt.want, tt.answered)
			}
			doc, err := json.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(doc), "hush") || strings.Contains(string(doc), auth0Secret) {
				t.Errorf("a credential is recorded: %s", doc)
			}
		})
	}
}

// What a source is told to read as its credential is one, whatever its name.
func TestHeadersThatASourceReadsAreNotRecorded(t *testing.T) {
	t.Parallel()
	rec := &fakeRecorder{}
	r := newRig(t, Config{Recorder: rec})
	if w := r.do(post("/events/agent", `{}`, "User-Agent: hush", "Accept: text/plain")); w.Code != http.StatusAccepted {
		t.Fatalf("answered %d %s", w.Code, w.Body)
	}
	if got := rec.offered[0].Header; got["User-Agent"] != "(stripped)" || got["Accept"] != "text/plain" {
		t.Errorf("recorded %v", got)
	}
}

func TestRequestsOverTheirRateAreNotRecorded(t *testing.T) {
	t.Parallel()
	rec := &fakeRecorder{}
	r := newRig(t, Config{Recorder: rec})
	for i, want := range []int{202, 429} {
		if w := r.do(post(fmt.Sprintf("/events/slow/a.%d", i), `{}`)); w.Code != want {
			t.Fatalf("answered %d, want %d", w.Code, want)
		}
	}
	if len(rec.offered) != 1 {
		t.Errorf("%d were recorded, want the one that was taken", len(rec.offered))
	}
}
