package e2e

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// traced is what the API tells of an event.
type traced struct {
	Status  string `json:"status"`
	Entries []struct {
		Step    string `json:"step"`
		Outcome string `json:"outcome"`
		Detail  string `json:"detail"`
		Round   int    `json:"round"`
		Attempt struct {
			Number int `json:"number"`
			Status int `json:"status"`
		} `json:"attempt"`
	} `json:"entries"`
}

func (p *platform) trace(id string) traced {
	p.t.Helper()
	var tr traced
	if err := json.Unmarshal([]byte(p.must("GET", "/api/v1/events/"+id+"/trace", "")), &tr); err != nil {
		p.t.Fatal(err)
	}
	return tr
}

func (p *platform) untilStatus(id, status string) {
	p.t.Helper()
	p.until("event "+id+" is "+status, 20*time.Second, func() bool { return p.trace(id).Status == status })
}

func sign(secret, body string) string {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte(body))
	return hex.EncodeToString(m.Sum(nil))
}

// A1, A2: a batch in each of its forms; known logs are recognised.
func TestAnAuth0BatchIsDeliveredOnceEach(t *testing.T) {
	t.Parallel()
	p, s := serve(t), newSink(t, nil)
	p.must("PUT", "/api/v1/sources/auth0", `{"kind":"AUTH0","secrets":["let-me-in"],"auth0":{"codes":["s","fp","sapi"]}}`)
	p.subscribe("logins", "com.auth0.log.#", "INCOMING", s.URL, "")
	record := func(id, code string) string {
		return fmt.Sprintf(`{"log_id":%q,"data":{"date":"2026-01-02T03:04:05.678Z","type":%q,"hostname":"t.eu.auth0.com","user_id":"auth0|1","n":1.10,"log_id":%q}}`, id, code, id)
	}
	forms := []string{
		"[" + record("a1", "s") + "," + record("a2", "fp") + "]",
		record("b1", "s") + "\n" + record("b2", "sapi") + "\n",
		record("c1", "s"),
		`{"logs":[` + record("d1", "s") + "," + record("d2", "slo") + "]}", // slo is not wanted
	}
	post := func(body, auth string) (int, string) {
		status, out, err := p.call("POST", "/events/auth0", body, "Authorization", auth)
		if err != nil {
			t.Fatal(err)
		}
		return status, out
	}
	for _, f := range forms {
		if status, out := post(f, "let-me-in"); status != http.StatusAccepted {
			t.Fatalf("batch %s: %d %s", f, status, out)
		}
	}
	p.until("six logs arrive", 20*time.Second, func() bool { return s.count() >= 6 })
	for _, f := range forms {
		if status, out := post(f, "let-me-in"); status != http.StatusAccepted {
			t.Fatalf("the same batch again: %d %s", status, out)
		}
	}
	if status, _ := post(forms[0], "wrong"); status != http.StatusUnauthorized {
		t.Errorf("with a wrong Authorization the answer is %d, want 401", status)
	}
	rejections := p.must("GET", "/api/v1/rejections?source=auth0", "")
	if !strings.Contains(rejections, `"signature"`) || strings.Contains(rejections, "let-me-in") {
		t.Errorf("rejections are %s, want one for the signature and never the secret", rejections)
	}
	// Another event behind the repeats shows that none of them is still on its way.
	last, _ := post(record("e1", "s"), "let-me-in")
	p.until("the last log arrives", 20*time.Second, func() bool { return s.count() >= 7 })
	if last != http.StatusAccepted || s.count() != 7 {
		t.Errorf("%d deliveries of 7 different logs", s.count())
	}
	got := s.all()[0]
	if got.header.Get("ce-type") == "" || !bytes.Contains(got.body, []byte("1.10")) {
		t.Errorf("delivered %s with type %q, want the data as it came", got.body, got.header.Get("ce-type"))
	}
}

// C8, C9: the published vector in, our signatures out; the bytes as they came.
func TestASignedWebhookIsVerifiedAndDeliveredSigned(t *testing.T) {
	t.Parallel()
	p, s := serve(t), newSink(t, nil)
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	p.must("PUT", "/api/v1/sources/github", `{"kind":"GITHUB","secrets":["new secret","It's a Secret to Everybody"]}`)
	p.must("PUT", "/api/v1/subscriptions/gh", fmt.Sprintf(`{"types":["push"],"direction":"INCOMING","secrets":[%q],"destination":{"webhook":{"url":%q}}}`, secret, s.URL))
	body := "Hello, World!"
	send := func(body, sig, delivery string) (int, string) {
		status, out, err := p.call("POST", "/events/github", body, "Content-Type", "text/plain",
			"X-GitHub-Event", "push", "X-Hub-Signature-256", sig, "X-GitHub-Delivery", delivery)
		if err != nil {
			t.Fatal(err)
		}
		return status, out
	}
	vector := "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
	status, out := send(body, vector, "d-1") // by the secret that is being rotated out
	if status != http.StatusAccepted {
		t.Fatalf("GitHub's vector: %d %s", status, out)
	}
	first := id(t, out)
	if status, out = send(body, vector, "d-1"); id(t, out) != first || !strings.Contains(out, `"duplicate":true`) {
		t.Errorf("the same delivery again: %d %s, want a duplicate of %s", status, out, first)
	}
	if status, out = send("Hello, World?", vector, "d-2"); status != http.StatusUnauthorized || !strings.Contains(out, "urn:posthorn:problem:signature") {
		t.Errorf("a changed byte: %d %s, want a 401 problem", status, out)
	}
	p.until("the event arrives", 20*time.Second, func() bool { return s.count() >= 1 })
	got := s.all()[0]
	if string(got.body) != body {
		t.Errorf("delivered %q, want %q", got.body, body)
	}
	if want := "SHA256 " + sign(secret, body); got.header.Get("HMAC-SIG") != want {
		t.Errorf("HMAC-SIG is %q, want %q", got.header.Get("HMAC-SIG"), want)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		t.Fatal(err)
	}
	m := hmac.New(sha256.New, key)
	_, _ = fmt.Fprintf(m, "%s.%s.%s", got.id, got.header.Get("webhook-timestamp"), body)
	if want := "v1," + base64.StdEncoding.EncodeToString(m.Sum(nil)); got.header.Get("webhook-signature") != want {
		t.Errorf("webhook-signature is %q, want %q", got.header.Get("webhook-signature"), want)
	}
	if got.id != first {
		t.Errorf("webhook-id is %s, want the event's ID %s", got.id, first)
	}
}

// No number loses precision, no key changes place; and only whom it is meant
// for gets it.
func TestAnOutgoingEventKeepsItsBytesAndItsParty(t *testing.T) {
	t.Parallel()
	p := serve(t)
	acme, other, filtered := newSink(t, nil), newSink(t, nil), newSink(t, nil)
	p.subscribe("acme", "order.*", "OUTGOING", acme.URL, `,"tenant":"acme"`)
	p.subscribe("other", "order.*", "OUTGOING", other.URL, `,"tenant":"other"`)
	p.subscribe("filtered", "order.*", "OUTGOING", filtered.URL, `,"filter":"data.total > 100.0"`)
	data := `{"z":9007199254740993,"a":1.10,"total":1,"nested":{"b":1,"a":2}}`
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	status, out, err := p.call("POST", "/api/v1/events", `{"type":"order.created","tenant":"acme","source":"shop","data":`+data+`}`, "traceparent", parent)
	if err != nil || status != http.StatusAccepted {
		t.Fatal(status, out, err)
	}
	first := id(t, out)
	second := id(t, p.must("POST", "/api/v1/events", `{"type":"order.created","data":{"total":101}}`))
	p.untilStatus(first, "delivered")
	p.untilStatus(second, "delivered")
	got := acme.all()
	if len(got) != 1 || string(got[0].body) != data {
		t.Fatalf("acme got %v, want the data as it came, once", got)
	}
	if tp := got[0].header.Get("traceparent"); !strings.HasPrefix(tp, parent[:36]) || tp == parent {
		t.Errorf("traceparent is %q, want a new span in the publisher's trace", tp)
	}
	if ids := got[0].header.Get("X-Correlation-Id"); !strings.Contains(ids, "eb.1-") {
		t.Errorf("X-Correlation-Id is %q, want the broker's", ids)
	}
	if other.count() != 0 || filtered.count() != 1 {
		t.Errorf("the other party got %d, the filter let %d through; want 0 and 1", other.count(), filtered.count())
	}
	if ev := p.must("GET", "/api/v1/events/"+first, ""); !strings.Contains(ev, data) {
		t.Errorf("the API shows %s, want the data as it came", ev)
	}
	third := id(t, p.must("POST", "/api/v1/events", `{"type":"nobody.wants.this","data":1}`))
	p.untilStatus(third, "unmatched")
}

// S11, C16: retries by the policy, then success, all of it on record.
func TestAFailingEndpointIsTriedAgain(t *testing.T) {
	t.Parallel()
	p := serve(t)
	s := newSink(t, func(n int, _ *received) int {
		if n < 3 {
			return http.StatusServiceUnavailable
		}
		return http.StatusOK
	})
	p.must("PUT", "/api/v1/policies/quick", `{"delivery":{"maxRetries":5,"backoff":{"strategy":"LINEAR","initial":"0.05s"}}}`)
	p.subscribe("flaky", "order.*", "OUTGOING", s.URL, `,"policy":"quick"`)
	ev := id(t, p.must("POST", "/api/v1/events", `{"type":"order.created","data":{}}`))
	p.untilStatus(ev, "delivered")
	var attempts []string
	for _, e := range p.trace(ev).Entries {
		if e.Step == "attempt" {
			attempts = append(attempts, fmt.Sprintf("%d %d %s", e.Attempt.Number, e.Attempt.Status, e.Outcome))
		}
	}
	if got, want := strings.Join(attempts, ", "), "1 503 retry, 2 503 retry, 3 200 delivered"; got != want {
		t.Errorf("the trace has attempts %q, want %q", got, want)
	}
	if s.times(ev) != 3 {
		t.Errorf("webhook-id %s came %d times, want the same ID 3 times", ev, s.times(ev))
	}
}

// S12: what was given up is kept with its reason, and a retry by hand is a new round.
func TestADeadLetterIsRetriedByHand(t *testing.T) {
	t.Parallel()
	p := serve(t)
	var mu sync.Mutex
	answer := http.StatusNotFound
	s := newSink(t, func(int, *received) int {
		mu.Lock()
		defer mu.Unlock()
		return answer
	})
	p.must("PUT", "/api/v1/policies/once", `{"delivery":{"maxRetries":1,"backoff":{"initial":"0.02s"}}}`)
	p.subscribe("picky", "order.*", "OUTGOING", s.URL, `,"policy":"once"`)
	letter := func(ev, reason string) string {
		t.Helper()
		var page struct {
			Items []struct{ ID, EventID, Reason string } `json:"items"`
		}
		p.until("a dead letter of "+ev, 20*time.Second, func() bool {
			if err := json.Unmarshal([]byte(p.must("GET", "/api/v1/deadletters?subscription=picky", "")), &page); err != nil {
				t.Fatal(err)
			}
			return len(page.Items) == 1
		})
		if it := page.Items[0]; it.EventID != ev || it.Reason != reason {
			t.Errorf("the dead letter is %+v, want %s of %s", it, reason, ev)
		}
		return page.Items[0].ID
	}
	ev := id(t, p.must("POST", "/api/v1/events", `{"type":"order.created","data":{}}`))
	dead := letter(ev, "refused") // 404 is not retried
	if s.count() != 1 {
		t.Errorf("the endpoint was tried %d times for a 404, want once", s.count())
	}
	mu.Lock()
	answer = http.StatusInternalServerError
	mu.Unlock()
	p.must("POST", "/api/v1/deadletters:retry", fmt.Sprintf(`{"ids":[%q]}`, dead))
	dead = letter(ev, "exhausted") // round 2: one try, one retry
	if s.count() != 3 {
		t.Errorf("after round 2 the endpoint was tried %d times, want 3", s.count())
	}
	mu.Lock()
	answer = http.StatusNoContent
	mu.Unlock()
	if out := p.must("POST", "/api/v1/deadletters:retry", fmt.Sprintf(`{"ids":[%q,"999999"]}`, dead)); !strings.Contains(out, `"round":3`) {
		t.Errorf("the retry answered %s, want round 3 for one and an error for the other", out)
	}
	p.untilStatus(ev, "delivered")
	if page := p.must("GET", "/api/v1/deadletters", ""); strings.Contains(page, ev) {
		t.Errorf("the dead letter is still there: %s", page)
	}
}

// C2, C13: a bad event is refused with the place of what is wrong, and nothing
// of it is kept but the rejection.
func TestABadEventIsRefusedWithItsPointer(t *testing.T) {
	t.Parallel()
	p := serve(t)
	p.must("PUT", "/api/v1/schemas/order.created", `{"type":"object","required":["id"],"properties":{"id":{"type":"integer"},"total":{"type":"number"}}}`)
	status, out := p.api("POST", "/api/v1/events", `{"type":"order.created","source":"shop","data":{"id":"x"}}`)
	if status != http.StatusBadRequest || !strings.Contains(out, `"/id"`) || !strings.Contains(out, "problem:schema") {
		t.Errorf("a bad event: %d %s, want a 400 problem that points to /id", status, out)
	}
	// Of what is wrong with all of it there is no pointer to show.
	if _, out = p.api("POST", "/api/v1/events", `{"type":"order.created","source":"shop","data":{}}`); !strings.Contains(out, "version 1: missing property") {
		t.Errorf("an event without an id is answered %s, want it in words", out)
	}
	if events := p.must("GET", "/api/v1/events", ""); strings.Contains(events, "order.created") {
		t.Errorf("the refused event is listed: %s", events)
	}
	p.until("the rejection is listed", 10*time.Second, func() bool {
		return strings.Contains(p.must("GET", "/api/v1/rejections", ""), `"schema"`)
	})
	p.must("POST", "/api/v1/events", `{"type":"order.created","source":"shop","data":{"id":7}}`)
	status, out = p.api("PUT", "/api/v1/schemas/order.created", `{"type":"object","required":["id"],"properties":{"id":{"type":"integer"}}}`)
	if status != http.StatusConflict || !strings.Contains(out, "total") || !strings.Contains(out, "removed") {
		t.Errorf("an incompatible schema: %d %s, want a 409 that says in words that total was removed", status, out)
	}
	p.must("PUT", "/api/v1/sources/lax", `{"kind":"GENERIC","type":"order.created","schemaMode":"WARN"}`)
	ev := id(t, p.must("POST", "/events/lax", `{"id":"x"}`))
	found := false
	for _, e := range p.trace(ev).Entries {
		found = found || e.Step == "schema" && e.Outcome == "warn" && strings.Contains(e.Detail, "/id")
	}
	if !found {
		t.Errorf("the trace of an event that was let through is %+v, want a warning about /id", p.trace(ev))
	}
}

func TestOneIdempotencyKeyIsOneEvent(t *testing.T) {
	t.Parallel()
	p, s := serve(t), newSink(t, nil)
	p.subscribe("all", "order.*", "OUTGOING", s.URL, "")
	var mu sync.Mutex
	ids := map[string]int{}
	fresh := 0
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			out := p.must("POST", "/api/v1/events", `{"type":"order.created","source":"shop","data":{},"idempotencyKey":"k1"}`)
			mu.Lock()
			defer mu.Unlock()
			ids[id(t, out)]++
			if !strings.Contains(out, `"duplicate":true`) {
				fresh++
			}
		})
	}
	wg.Wait()
	if len(ids) != 1 || fresh == 0 {
		t.Errorf("20 publishes under one key gave IDs %v, %d of them fresh; want one ID", ids, fresh)
	}
	other := id(t, p.must("POST", "/api/v1/events", `{"type":"order.created","source":"shop","data":{},"idempotencyKey":"k2"}`))
	p.until("the other arrives", 20*time.Second, func() bool { return s.times(other) == 1 })
	if s.count() != 2 {
		t.Errorf("%d deliveries for two keys, want 2", s.count())
	}
}

func TestLargeDataTravelsAndTooLargeIsRefused(t *testing.T) {
	t.Parallel()
	p, s := serve(t, "--max-event-bytes", "2MiB"), newSink(t, nil)
	p.must("PUT", "/api/v1/sources/any", `{"kind":"GENERIC","type":"big.thing"}`)
	p.subscribe("big", "big.#", "INCOMING", s.URL, "")
	large := `"` + strings.Repeat("x", 1<<20) + `"`
	p.must("POST", "/events/any", large)
	p.until("a megabyte arrives", 20*time.Second, func() bool { return s.count() == 1 })
	if got := s.all()[0].body; string(got) != large {
		t.Errorf("delivered %d bytes, want the %d that came", len(got), len(large))
	}
	if status, out := p.api("POST", "/events/any", `"`+strings.Repeat("x", 3<<20)+`"`); status != http.StatusRequestEntityTooLarge {
		t.Errorf("3 MiB: %d %s, want 413", status, out)
	}
}

// An edit takes effect within a second, and what is queued stays.
func TestAPolicyEditTakesEffectWhileItRuns(t *testing.T) {
	t.Parallel()
	p := serve(t)
	var mu sync.Mutex
	answer := http.StatusServiceUnavailable
	s := newSink(t, func(int, *received) int {
		mu.Lock()
		defer mu.Unlock()
		return answer
	})
	p.must("PUT", "/api/v1/policies/edited", `{"delivery":{"maxRetries":10,"backoff":{"initial":"0.2s","max":"0.2s","jitter":0}}}`)
	p.subscribe("edited", "order.*", "OUTGOING", s.URL, `,"policy":"edited"`)
	first := id(t, p.must("POST", "/api/v1/events", `{"type":"order.created","data":1}`))
	p.until("a first try", 20*time.Second, func() bool { return s.count() > 0 })
	p.must("PUT", "/api/v1/policies/edited", `{"delivery":{"maxRetries":0}}`)
	p.untilStatus(first, "failed") // no further try is allowed
	second := id(t, p.must("POST", "/api/v1/events", `{"type":"order.created","data":2}`))
	p.untilStatus(second, "failed")
	if s.times(second) != 1 {
		t.Errorf("after the edit an event was tried %d times, want once", s.times(second))
	}
	mu.Lock()
	answer = http.StatusOK
	mu.Unlock()
	third := id(t, p.must("POST", "/api/v1/events", `{"type":"order.created","data":3}`))
	p.untilStatus(third, "delivered")
}

// C1: the broker over gRPC, with every form of publishing.
func TestTheBrokerOverGRPC(t *testing.T) {
	t.Parallel()
	p := serve(t)
	conn, err := grpc.NewClient(p.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := posthornv1.NewEventBrokerClient(conn)
	if _, err := c.SendOutgoingEvent(t.Context(), &posthornv1.SendOutgoingEventRequest{Event: &posthornv1.Event{Type: "a", Data: []byte(`{}`)}}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without a key: error %v, want that it is missing", err)
	}
	ctx := p.authorized()
	ev := func(typ string, n int) *posthornv1.Event {
		return &posthornv1.Event{Type: typ, Source: "grpc", Data: fmt.Appendf(nil, `{"n":%d}`, n)}
	}
	in, err := c.HandleIncomingEvent(ctx, &posthornv1.HandleIncomingEventRequest{Event: ev("in.one", 1)})
	if err != nil {
		t.Fatal(err)
	}
	alias, err := c.HandleIncomingMessage(ctx, &posthornv1.HandleIncomingEventRequest{Event: ev("in.two", 2)})
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.SendOutgoingEvent(ctx, &posthornv1.SendOutgoingEventRequest{Event: ev("out.one", 3)})
	if err != nil {
		t.Fatal(err)
	}
	for want, got := range map[string]string{"in.one": in.GetReceipt().GetId(), "in.two": alias.GetReceipt().GetId(), "out.one": out.GetReceipt().GetId()} {
		if shown := p.must("GET", "/api/v1/events/"+got, ""); !strings.Contains(shown, want) {
			t.Errorf("event %s is %s, want type %s", got, shown, want)
		}
	}
	_, err = c.SendOutgoingEvent(ctx, &posthornv1.SendOutgoingEventRequest{Event: ev("bad type", 4)})
	if s := status.Convert(err); s.Code() != codes.InvalidArgument || len(s.Details()) < 2 {
		t.Errorf("a bad type: %v with details %v, want INVALID_ARGUMENT with the field", err, s.Details())
	}
	batch, err := c.PublishBatch(ctx, &posthornv1.PublishBatchRequest{Events: []*posthornv1.PublishRequest{
		{Event: ev("out.a", 1)}, {Event: ev("", 2)}, {Event: ev("out.c", 3)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if r := batch.GetResults(); len(r) != 3 || r[0].GetReceipt() == nil || r[1].GetRefusal() == nil || r[2].GetReceipt() == nil {
		t.Errorf("the batch was answered with %v, want a refusal of the second alone", r)
	}
	for _, service := range []string{"", posthornv1.EventBroker_ServiceDesc.ServiceName} {
		hs, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil || hs.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v %v, want it serving", service, hs, err)
		}
	}
	streamInOrder(ctx, t, c)
}

// streamInOrder sends some thousand events over one stream and checks that the
// answers come in the order of the requests: every hundredth is refused.
func streamInOrder(ctx context.Context, t *testing.T, c posthornv1.EventBrokerClient) {
	t.Helper()
	const n = 3000
	st, err := c.Publish(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		for i := range n {
			typ := "out.stream"
			if i%100 == 99 {
				typ = ""
			}
			if err := st.Send(&posthornv1.PublishRequest{Event: &posthornv1.Event{Type: typ, Data: []byte("1")}}); err != nil {
				sent <- err
				return
			}
		}
		sent <- st.CloseSend()
	}()
	seen := map[string]bool{}
	for i := range n {
		resp, err := st.Recv()
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		if refused := resp.GetRefusal() != nil; refused != (i%100 == 99) {
			t.Fatalf("answer %d is %v: out of order", i, resp)
		}
		if r := resp.GetReceipt(); r != nil {
			seen[r.GetId()] = true
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if len(seen) != n-n/100 {
		t.Errorf("%d different IDs, want %d", len(seen), n-n/100)
	}
}

func TestSeenFromInside(t *testing.T) {
	t.Parallel()
	p := serve(t)
	p.must("POST", "/api/v1/events", `{"type":"order.created","data":1}`)
	get := func(path string) (int, string) {
		resp, err := httpClient.Get(p.obs + path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		var b bytes.Buffer
		if _, err := b.ReadFrom(resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, b.String()
	}
	_, metrics := get("/metrics")
	for _, m := range []string{
		`posthorn_events_accepted_total{direction="out"} 1`, "posthorn_attempts_total", "posthorn_delivery_seconds", "posthorn_queue_depth",
		"posthorn_queue_oldest_seconds", "posthorn_dedup_claims_total", "posthorn_commit_seconds", "posthorn_store_full",
	} {
		if !strings.Contains(metrics, m) {
			t.Errorf("/metrics has no %s", m)
		}
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if status, out := get(path); status != http.StatusOK {
			t.Errorf("%s: %d %s", path, status, out)
		}
	}
	if status, doc := p.api("GET", "/api/openapi.json", ""); status != http.StatusOK || !strings.Contains(doc, "/api/v1/deadletters:retry") {
		t.Errorf("/api/openapi.json: %d, %d bytes", status, len(doc))
	}
	status, out, err := p.call("GET", "/api/v1/whoami", "", "Authorization", "Bearer wrong")
	if err != nil || status != http.StatusUnauthorized || !strings.Contains(out, `"status":401`) {
		t.Errorf("with a wrong key: %d %s %v, want a 401 problem", status, out, err)
	}
}

// Another 2xx than the expected is a failure without retry; 410 disables the
// subscription that wants it; Retry-After moves the next try later.
func TestWhatAnEndpointMaySayBesidesYes(t *testing.T) {
	t.Parallel()
	p := serve(t)
	p.must("PUT", "/api/v1/policies/quick", `{"delivery":{"maxRetries":3,"retryOn":["429"],"backoff":{"initial":"0.01s","jitter":0}}}`)
	other := newSink(t, func(int, *received) int { return http.StatusOK })
	gone := newSink(t, func(int, *received) int { return http.StatusGone })
	var mu sync.Mutex
	var tries []time.Time
	later := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if tries = append(tries, time.Now()); len(tries) == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	}))
	t.Cleanup(later.Close)
	for name, webhook := range map[string]string{
		"other": fmt.Sprintf(`{"url":%q,"expectedStatus":204}`, other.URL),
		"gone":  fmt.Sprintf(`{"url":%q,"disableOnGone":true}`, gone.URL),
		"later": fmt.Sprintf(`{"url":%q}`, later.URL),
	} {
		p.must("PUT", "/api/v1/subscriptions/"+name, fmt.Sprintf(`{"types":[%q],"policy":"quick","destination":{"webhook":%s}}`, name+".event", webhook))
	}
	for _, name := range []string{"other", "gone"} {
		ev := id(t, p.must("POST", "/api/v1/events", fmt.Sprintf(`{"type":"%s.event","data":1}`, name)))
		p.untilStatus(ev, "failed")
	}
	p.until("one dead letter is refused and one gone", 10*time.Second, func() bool {
		letters := p.must("GET", "/api/v1/deadletters", "")
		return strings.Contains(letters, `"refused"`) && strings.Contains(letters, `"reason":"gone"`)
	})
	if other.count() != 1 || gone.count() != 1 {
		t.Errorf("the endpoints were tried %d and %d times, want once each", other.count(), gone.count())
	}
	p.until("the subscription of the endpoint that is gone is disabled", 10*time.Second, func() bool {
		return strings.Contains(p.must("GET", "/api/v1/subscriptions/gone", ""), `"disabled":true`)
	})
	p.untilStatus(id(t, p.must("POST", "/api/v1/events", `{"type":"later.event","data":1}`)), "delivered")
	mu.Lock()
	defer mu.Unlock()
	if len(tries) != 2 || tries[1].Sub(tries[0]) < time.Second {
		t.Errorf("tried at %v, want a second try a second after the first, as Retry-After said", tries)
	}
}
