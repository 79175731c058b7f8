package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/posthornhq/posthorn/pkg/amqp/rabbittest"
)

// A4, A5, A7: out of one queue, through the platform, into another, while the
// broker goes away and comes back.
func TestEventsGoFromQueueToQueueThroughARestartOfRabbitMQ(t *testing.T) {
	t.Parallel()
	const messages = 2000
	rabbit := rabbittest.Start(t)
	rabbit.Queue("graves", "graveyard", "#")
	rabbit.Queue("out", "outgoing", "logs.order.#")
	p, s := serve(t), newSink(t, nil)
	p.must("PUT", "/api/v1/sources/rabbit", fmt.Sprintf(`{"kind":"AMQP","secrets":[%q],"amqp":{"url":%q,"username":%q,"queue":"in","declare":true,
		"deadLetterExchange":"graveyard","bindings":[{"exchange":"incoming","exchangeType":"topic","routingKeys":["order.#"]}]}}`,
		rabbittest.Password, rabbit.URL(), rabbittest.User))
	p.must("PUT", "/api/v1/policies/patient", `{"delivery":{"maxRetries":10,"backoff":{"strategy":"LINEAR","initial":"0.5s"}}}`)
	p.must("PUT", "/api/v1/subscriptions/logs", fmt.Sprintf(`{"types":["order.#"],"direction":"INCOMING","policy":"patient","destination":{"amqp":
		{"url":%q,"username":%q,"password":%q,"exchange":"outgoing","routingKey":"logs.{type}"}}}`, rabbit.URL(), rabbittest.User, rabbittest.Password))
	p.subscribe("watch", "order.#", "INCOMING", s.URL, "")
	p.until("the queue is declared and consumed", time.Minute, func() bool { return p.metric(`posthorn_gateway_amqp_connected{source="rabbit"}`) == "1" })

	ch := rabbit.Channel()
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	send := func(key, id, body string) {
		t.Helper()
		c, err := ch.PublishWithDeferredConfirm("incoming", key, true, false, amqp.Publishing{
			ContentType: "application/json", MessageId: id, DeliveryMode: amqp.Persistent, Body: []byte(body)})
		if err == nil && id == "last" && !c.Wait() {
			err = fmt.Errorf("nacked")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range messages {
		send("order.created", fmt.Sprint(i), fmt.Sprintf(`{"n":%d,"total":1.10}`, i))
	}
	send("order.created", "poison", `{"n":`)
	send("order.created", "last", `{"n":-1}`)
	p.until("some are through", time.Minute, func() bool { return s.count() > messages/10 })
	rabbit.Restart()

	times := map[string][]int32{}
	p.until("all are through", 2*time.Minute, func() bool {
		for _, d := range rabbit.Drain("out") {
			attempt, _ := d.Headers["posthorn-attempt"].(int32)
			times[string(d.Body)] = append(times[string(d.Body)], attempt)
			if d.RoutingKey != "logs.order.created" || d.DeliveryMode != amqp.Persistent || d.Headers["cloudEvents:source"] != "rabbit" || !strings.HasPrefix(d.MessageId, "ev_") {
				t.Fatalf("message is %+v", d)
			}
		}
		return s.count() >= messages+1 && len(times) == messages+1
	})
	p.until("the source's queue is empty", time.Minute, func() bool { return rabbit.Depth("in") == 0 })
	for body, attempts := range times {
		seen := map[int32]bool{}
		for _, a := range attempts {
			if seen[a] {
				t.Errorf("%s came out twice by attempt %d", body, a)
			}
			seen[a] = true
		}
	}
	// The source's message-ids make up for what RabbitMQ delivered twice.
	if n := s.count(); n != messages+1 {
		t.Errorf("the webhook got %d events, want %d", n, messages+1)
	}
	dead := rabbit.Drain("graves")
	for _, d := range dead {
		if d.MessageId != "poison" {
			t.Errorf("message %s is a dead letter, want the poison alone", d.MessageId)
		}
	}
	if len(dead) == 0 {
		t.Error("the poison is no dead letter")
	}
	if r := p.must("GET", "/api/v1/rejections?source=rabbit", ""); !strings.Contains(r, `"malformed"`) {
		t.Errorf("rejections are %s, want one that is malformed", r)
	}
	if status, out := p.api("POST", "/events/rabbit", "{}"); status != http.StatusForbidden || !strings.Contains(out, "not-http") {
		t.Errorf("over HTTP the source answers %d %s", status, out)
	}
	if err := p.stop(30 * time.Second); err != nil {
		t.Errorf("it ended with %v", err)
	}
	for _, text := range []string{p.stdout.String(), p.stderr.String()} {
		if strings.Contains(text, `"`+rabbittest.Password+`"`) {
			t.Error("a password is in the output")
		}
	}
}

// A5, A6: what no queue takes is tried again, and is a dead letter in the end.
func TestAnUnroutableDeliveryBecomesADeadLetter(t *testing.T) {
	t.Parallel()
	rabbit := rabbittest.Start(t)
	rabbit.Queue("some", "topics", "user.#")
	p := serve(t)
	p.must("PUT", "/api/v1/policies/hasty", `{"delivery":{"maxRetries":1,"backoff":{"initial":"0.01s"}}}`)
	p.must("PUT", "/api/v1/subscriptions/lost", fmt.Sprintf(`{"types":["#"],"policy":"hasty","destination":{"amqp":{"url":%q,"username":%q,"password":%q,"exchange":"topics"}}}`,
		rabbit.URL(), rabbittest.User, rabbittest.Password))
	event := id(t, p.must("POST", "/api/v1/events", `{"type":"order.created","data":{}}`))
	p.until("it is given up", time.Minute, func() bool { return p.deadLetters()[event] })
	letters := p.must("GET", "/api/v1/deadletters?subscription=lost", "")
	if !strings.Contains(letters, `exchange \"topics\", routing key \"order.created\": unroutable`) {
		t.Errorf("dead letters are %s, want exchange and routing key named", letters)
	}
	rabbit.Queue("all", "topics", "#")
	p.must("POST", "/api/v1/deadletters:retry", `{"subscription":"lost"}`)
	p.until("the retry arrives", time.Minute, func() bool { return rabbit.Depth("all") == 1 })
}

// metric returns the value of a series as it is shown; empty if it is not.
func (p *platform) metric(series string) string {
	p.t.Helper()
	resp, err := httpClient.Get(p.obs + "/metrics")
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), series+" "); ok {
			return value
		}
	}
	return ""
}
