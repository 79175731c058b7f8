package consumer

import (
	"strconv"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/posthornhq/posthorn/pkg/amqp/rabbittest"
	"github.com/posthornhq/posthorn/pkg/event"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// A4, A7: the broker goes away in the middle, once as an operator ends it and once
// as a crash does. Every message becomes an event; one that comes twice, because
// its acknowledgement was lost, is marked, or known by its message-id.
func TestNothingIsLostWhenTheBrokerRestartsWhileConsuming(t *testing.T) {
	t.Parallel()
	const messages = 20_000
	s := rabbittest.Start(t)
	s.Queue("in", "")
	all := make([]amqp091.Publishing, messages)
	for i := range all {
		all[i] = amqp091.Publishing{Type: "order.created", ContentType: "application/json", Body: strconv.AppendInt(nil, int64(i), 10)}
		if i%2 == 0 { // the others are known by nothing
			all[i].MessageId = strconv.Itoa(i)
		}
	}
	publish(t, s, "", "in", all...)

	r := newRig(t, Config{})
	distinct := make(map[string]bool, messages)
	third, later, whole := make(chan struct{}), make(chan struct{}), make(chan struct{})
	r.accept.refusing(func(ev *event.Event) error { // refuses none, and counts
		before := len(distinct)
		distinct[string(ev.Data)] = true
		if len(distinct) == before {
			return nil
		}
		switch len(distinct) {
		case messages / 3:
			close(third)
		case 2 * messages / 3:
			close(later)
		case messages:
			close(whole)
		}
		return nil
	})
	r.put(of(s, "in", &posthornv1.AmqpSource{Queue: "in"}))
	<-third
	s.Restart()
	<-later
	s.Kill()
	s.Restart()

	select {
	case <-whole:
	case <-time.After(5 * time.Minute):
		t.Errorf("%d of %d messages came; log:\n%s", len(r.accept.all()), messages, r.log.String())
	}
	r.until("all are acknowledged", func() bool { return s.Depth("in") == 0 })
	r.stop()
	if n := s.Depth("in"); n != 0 {
		t.Errorf("%d messages went back to the queue", n)
	}
	seen := map[string][]bool{} // by body: whether each was marked as redelivered
	for _, p := range r.accept.all() {
		seen[string(p.Event.Data)] = append(seen[string(p.Event.Data)], p.Event.Extensions["amqpredelivered"] == "true")
	}
	if len(seen) != messages {
		t.Errorf("%d different messages came, want %d", len(seen), messages)
	}
	twice, marked := 0, 0
	for body, deliveries := range seen {
		unmarked := 0
		for _, m := range deliveries {
			if m {
				marked++
			} else {
				unmarked++
			}
		}
		if unmarked > 1 {
			t.Errorf("message %s came %d times, %d of them without a mark", body, len(deliveries), unmarked)
		}
		if len(deliveries) > 1 {
			twice++
		}
	}
	t.Logf("%d messages came more than once, %d deliveries were marked", twice, marked)
	if marked == 0 {
		t.Error("no delivery was marked: the broker had nothing in hand when it went away")
	}
}
