package client_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthornhq/posthorn/pkg/client"
	"github.com/posthornhq/posthorn/pkg/signature"
)

const (
	secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	other  = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"
)

// delivery returns a signed request; edits come after the signing.
func delivery(t *testing.T, body string, edit ...func(*http.Request)) *http.Request {
	t.Helper()
	return deliveryAt(t, time.Now(), body, edit...)
}

func deliveryAt(t *testing.T, at time.Time, body string, edit ...func(*http.Request)) *http.Request {
	t.Helper()
	key, err := signature.ParseStandardSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/hook", strings.NewReader(body))
	r.Header.Set("Webhook-Id", "msg_1")
	r.Header.Set("Webhook-Timestamp", timestamp(at))
	r.Header.Set("Webhook-Signature", string(signature.SignStandard(nil, []signature.StandardKey{key}, "msg_1", at, []byte(body))))
	r.Header.Set("Content-Type", "application/json")
	for _, e := range edit {
		e(r)
	}
	return r
}

func timestamp(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func TestHandlerRefuses(t *testing.T) {
	t.Parallel()
	resend := func(body string) func(*http.Request) {
		return func(r *http.Request) { *r = *withBody(r, body) }
	}
	tests := []struct {
		name    string
		secrets []string
		request *http.Request
		want    int
	}{
		{"another secret", []string{other}, delivery(t, `{}`), 401},
		{"a changed byte", []string{secret}, delivery(t, `{"a":1}`, resend(`{"a":2}`)), 401},
		{"another ID", []string{secret}, delivery(t, `{}`, header("Webhook-Id", "msg_2")), 401},
		{"no ID", []string{secret}, delivery(t, `{}`, header("Webhook-Id", "")), 401},
		{"no timestamp", []string{secret}, delivery(t, `{}`, header("Webhook-Timestamp", "")), 401},
		{"no signature", []string{secret}, delivery(t, `{}`, header("Webhook-Signature", "")), 401},
		{"an old timestamp", []string{secret}, deliveryAt(t, time.Now().Add(-6*time.Minute), `{}`), 401},
		{"a timestamp of the future", []string{secret}, deliveryAt(t, time.Now().Add(6*time.Minute), `{}`), 401},
		{"no secrets", nil, delivery(t, `{}`), 500},
		{"an empty secret", []string{""}, delivery(t, `{}`), 500},
		{"a secret that is none beside a good one", []string{secret, "whsec_%%"}, delivery(t, `{}`), 500},
		{"another method", []string{secret}, delivery(t, `{}`, func(r *http.Request) { r.Method = http.MethodGet }), 405},
		{"a body over the limit", []string{secret}, delivery(t, strings.Repeat("x", client.MaxBody+1)), 413},
		{"a batch", []string{secret}, delivery(t, `[]`, header("Content-Type", "application/cloudevents-batch+json")), 400},
		{"a structured event without type", []string{secret}, delivery(t, `{"specversion":"1.0","id":"1","source":"s"}`,
			header("Content-Type", "application/cloudevents+json")), 400},
		{"both data and data_base64", []string{secret}, delivery(t, `{"specversion":"1.0","id":"1","source":"s","type":"t","data":1,"data_base64":""}`,
			header("Content-Type", "application/cloudevents+json")), 400},
		{"ce-datacontenttype in binary mode", []string{secret}, delivery(t, `{}`, binary, header("Ce-Datacontenttype", "text/plain")), 400},
		{"malformed UTF-8 in a header", []string{secret}, delivery(t, `{}`, binary, header("Ce-Subject", "%C0%A0")), 400},
		{"another version of CloudEvents", []string{secret}, delivery(t, `{}`, binary, header("Ce-Specversion", "0.3")), 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			called := false
			w := httptest.NewRecorder()
			client.Handler(tt.secrets, func(context.Context, client.Event) error { called = true; return nil }).ServeHTTP(w, tt.request)
			if w.Code != tt.want || called {
				t.Errorf("status %d, called %t, want %d and not called; body %s", w.Code, called, tt.want, w.Body)
			}
		})
	}
}

func withBody(r *http.Request, body string) *http.Request {
	n := httptest.NewRequest(r.Method, "/hook", strings.NewReader(body))
	n.Header = r.Header
	return n
}

func binary(r *http.Request) {
	r.Header.Set("Ce-Specversion", "1.0")
	r.Header.Set("Ce-Id", "ev_1")
	r.Header.Set("Ce-Source", "shop")
	r.Header.Set("Ce-Type", "order.created")
}

func TestHandlerReadsEveryFormat(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 31, 9, 0, 0, 0, time.UTC)
	tests := []struct {
		name    string
		request *http.Request
		want    client.Event
	}{
		{
			"binary",
			delivery(t, `{"n":9007199254740993}`, binary, header("Ce-Subject", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
				header("Ce-Time", "2026-01-31T09:00:00Z"), header("Ce-Region", "eu"), header("Traceparent", "00-a-b-01")),
			client.Event{
				ID: "ev_1", Source: "shop", Type: "order.created", Subject: "Euro € 😀", Time: at, DataContentType: "application/json",
				Extensions: map[string]string{"region": "eu"}, Data: []byte(`{"n":9007199254740993}`), DeliveryID: "msg_1", TraceParent: "00-a-b-01",
			},
		},
		{
			"structured",
			delivery(t, `{"specversion":"1.0","id":"ev_1","source":"shop","type":"order.created","subject":null,"n":7,"data":{"f":1.10}}`,
				header("Content-Type", "application/cloudevents+json; charset=utf-8")),
			client.Event{
				ID: "ev_1", Source: "shop", Type: "order.created", Extensions: map[string]string{"n": "7"},
				Data: []byte(`{"f":1.10}`), DeliveryID: "msg_1",
			},
		},
		{
			"structured with base64",
			delivery(t, `{"specversion":"1.0","id":"ev_1","source":"shop","type":"t","datacontenttype":"text/plain","data_base64":"aGVsbG8="}`,
				header("Content-Type", "application/cloudevents+json")),
			client.Event{ID: "ev_1", Source: "shop", Type: "t", DataContentType: "text/plain", Data: []byte("hello"), DeliveryID: "msg_1"},
		},
		{
			"structured with text",
			delivery(t, `{"specversion":"1.0","id":"ev_1","source":"shop","type":"t","datacontenttype":"text/plain","data":"hello"}`,
				header("Content-Type", "application/cloudevents+json")),
			client.Event{ID: "ev_1", Source: "shop", Type: "t", DataContentType: "text/plain", Data: []byte("hello"), DeliveryID: "msg_1"},
		},
		{
			"raw", delivery(t, `{"a":1}`),
			client.Event{DataContentType: "application/json", Data: []byte(`{"a":1}`), DeliveryID: "msg_1"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got client.Event
			w := httptest.NewRecorder()
			// The second secret of two is as good as the first: one is being rotated out.
			client.Handler([]string{other, secret}, func(_ context.Context, ev client.Event) error { got = ev; return nil }).ServeHTTP(w, tt.request)
			if w.Code != http.StatusNoContent {
				t.Fatalf("status %d, want 204: %s", w.Code, w.Body)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("event (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHandlerAnswersWithTheErrorsStatus(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		err  error
		want int
	}{
		{"one of its own", &client.Error{Status: 410}, 410},
		{"any other, without its text", errors.New("password is hunter2"), 500},
		{"a status that is no failure", &client.Error{Status: 204}, 500},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := httptest.NewRecorder()
			client.Handler([]string{secret}, func(context.Context, client.Event) error { return tt.err }).ServeHTTP(w, delivery(t, `{}`))
			if w.Code != tt.want || strings.Contains(w.Body.String(), "hunter2") {
				t.Errorf("status %d, want %d: %s", w.Code, tt.want, w.Body)
			}
		})
	}
}

type order struct {
	ID    int     `json:"id"`
	Total float64 `json:"total"`
}

func TestMuxDecodesForTheFunctionOfTheType(t *testing.T) {
	t.Parallel()
	var m client.Mux
	var got []string
	client.On(&m, "order.*", func(_ context.Context, ev client.Event, _ map[string]any) error {
		got = append(got, "pattern "+ev.Type)
		return nil
	})
	client.On(&m, "order.created", func(_ context.Context, _ client.Event, o order) error {
		if want := (order{17, 9.5}); o != want {
			t.Errorf("data %+v, want %+v", o, want)
		}
		got = append(got, "exact")
		return nil
	})
	for _, typ := range []string{"order.created", "order.paid", "user.created"} {
		if err := m.Handle(t.Context(), client.Event{Type: typ, Data: []byte(`{"id":17,"total":9.5}`)}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"exact", "pattern order.paid"}, got); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	err := m.Handle(t.Context(), client.Event{Type: "order.created", Data: []byte(`{"id":"x"}`)})
	if e, ok := errors.AsType[*client.Error](err); !ok || e.Status != 422 {
		t.Errorf("error %v for data of another form, want one of status 422", err)
	}
}

func TestOnPanicsAtATypeThatIsGivenTwice(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	var m client.Mux
	fn := func(context.Context, client.Event, order) error { return nil }
	client.On(&m, "order.created", fn)
	client.On(&m, "order.created", fn)
}
