package api_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/client"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func TestATestEventShowsWhatWasSentAndWhatCameBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	status := http.StatusOK
	var got *http.Request
	var body string
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		b, err := io.ReadAll(req.Body)
		if err != nil {
			t.Error(err)
		}
		got, body = req, string(b)
		rw.WriteHeader(status)
		_, _ = io.WriteString(rw, "heard "+strings.Repeat("x", 8<<10)) // no more than 4 KiB is wanted
	}))
	t.Cleanup(srv.Close)
	r.do("PUT", "/api/v1/policies/once", `{"delivery":{"retryOn":["503"]}}`).is(http.StatusOK)
	r.do("PUT", "/api/v1/subscriptions/erp", `{"types":["invoice.*","order.created"],"policy":"once","disabled":true,"secrets":["hush-secret"],"destination":{"webhook":{
		"url":"`+srv.URL+`/hooks?hush","headers":{"X-Key":"hush-header"},"auth":{"bearer":{"token":"hush-token"}}}}}`).is(http.StatusOK)
	const path = "/api/v1/subscriptions/erp:test"

	a := r.do("POST", path, `{"data":{"b":1,"a":[true]}}`).is(http.StatusOK).lacks("hush").
		has("ok", true).has("status", 200).has("outcome", "delivered").has("error", "").has("errorClass", "").
		has("sent.method", "POST").has("sent.target", srv.URL+"/hooks").has("sent.body", `{"a":[true],"b":1}`)
	if got.Header.Get("X-Key") != "hush-header" || got.Header.Get("Authorization") != "Bearer hush-token" || got.URL.RawQuery != "hush" || body != `{"a":[true],"b":1}` {
		t.Errorf("the endpoint got %v with %s", got.Header, body)
	}
	shown := map[string]string{}
	for _, h := range a.field("sent.headers").([]any) {
		h := h.(map[string]any)
		shown[h["name"].(string)] = h["value"].(string)
	}
	for _, name := range []string{"Webhook-Id", "Webhook-Signature", "Webhook-Timestamp", "Hmac-Sig", "Ce-Type", "Ce-Id", "Traceparent"} {
		if shown[name] == "" || shown[name] != got.Header.Get(name) {
			t.Errorf("header %s is shown as %q, and was %q", name, shown[name], got.Header.Get(name))
		}
	}
	if shown["X-Key"] != "***" || shown["Authorization"] != "***" || shown["Ce-Type"] != "order.created" {
		t.Errorf("shown are %v, want masked credentials and the first type that is no pattern", shown)
	}
	if response := a.field("response").(string); len(response) != 4<<10 || !strings.HasPrefix(response, "heard x") {
		t.Errorf("%d bytes of the response are shown, want 4096", len(response))
	}

	status = http.StatusServiceUnavailable
	r.do("POST", path, `{"type":"other.type"}`).is(http.StatusOK).has("ok", false).has("status", 503).has("outcome", "retry").contains("answered 503").has("sent.body", `{"test":true}`)
	if got.Header.Get("Ce-Type") != "other.type" {
		t.Errorf("the type is %s, want the one that was asked for", got.Header.Get("Ce-Type"))
	}
	status = http.StatusBadRequest
	r.do("POST", path, `{}`).is(http.StatusOK).has("ok", false).has("outcome", "refused")
	r.do("POST", path, `{"type":"a..b"}`).problem(http.StatusBadRequest, "type")
	r.do("POST", path, `{"data":"`+strings.Repeat("x", 300<<10)+`"}`).problem(http.StatusBadRequest, "data")
	r.do("POST", "/api/v1/subscriptions/none:test", `{}`).problem(http.StatusNotFound, "")
	r.send("POST", path, `{}`).problem(http.StatusUnauthorized, "")
	if strings.Contains(r.log.String(), "hush") || !strings.Contains(r.log.String(), "a test event was sent") {
		t.Errorf("the log says %s", r.log.String())
	}
}

func TestATestEventOfPatternsAloneHasATypeOfItsOwn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.do("PUT", "/api/v1/subscriptions/erp", `{"types":["#"],"destination":{"webhook":{"url":"http://127.0.0.1:1","format":"CLOUDEVENTS_STRUCTURED"}}}`).is(http.StatusOK)
	r.do("POST", "/api/v1/subscriptions/erp:test", `{}`).is(http.StatusOK).has("ok", false).has("errorClass", "connect").has("status", 0).has("outcome", "retry").
		contains(`\"type\":\"posthorn.test\"`)
}

// The policy's timeout bounds the attempt, and the destination's silence the answer.
func TestATestEventEndsWithThePolicysTimeout(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	end := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		select {
		case <-end:
		case <-req.Context().Done():
		}
	}))
	t.Cleanup(func() { close(end); srv.Close() })
	r.do("PUT", "/api/v1/policies/short", `{"delivery":{"timeout":"0.1s"}}`).is(http.StatusOK)
	r.do("PUT", "/api/v1/subscriptions/erp", `{"types":["#"],"policy":"short","destination":{"webhook":{"url":"`+srv.URL+`"}}}`).is(http.StatusOK)
	r.do("POST", "/api/v1/subscriptions/erp:test", `{}`).is(http.StatusOK).has("ok", false).has("errorClass", "timeout").contains("no answer within the timeout")
}

func TestTheSDKTestsSubscriptions(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	server := httptest.NewServer(r.handler)
	t.Cleanup(server.Close)
	c, err := client.New(server.URL, client.Config{Key: r.key, Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	r.do("PUT", "/api/v1/subscriptions/erp", `{"types":["#"],"destination":{"webhook":{"url":"http://127.0.0.1:1"}}}`).is(http.StatusOK)
	got, err := c.TestSubscription(t.Context(), &posthornv1.TestSubscriptionRequest{Name: "erp"})
	if err != nil || got.GetOk() || got.GetErrorClass() != "connect" || got.GetLatency().AsDuration() <= 0 || got.GetLatency().AsDuration() > time.Minute {
		t.Errorf("tested as %v, %v; want an attempt that found nobody", got, err)
	}
	if _, err := c.TestSubscription(t.Context(), &posthornv1.TestSubscriptionRequest{Name: "none"}); !client.IsNotFound(err) {
		t.Errorf("testing what is not there: %v, want not found", err)
	}
}
