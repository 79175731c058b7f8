package rabbittest

import (
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// What is durable is there after a stop, and after a kill.
func TestANodeComesBackWithWhatItHad(t *testing.T) {
	t.Parallel()
	s := Start(t)
	s.Queue("kept", "")
	put := func(body string) {
		ch := s.Channel()
		if err := ch.Confirm(false); err != nil {
			t.Fatal(err)
		}
		c, err := ch.PublishWithDeferredConfirm("", "kept", true, false, amqp.Publishing{Body: []byte(body), DeliveryMode: amqp.Persistent})
		if err != nil || !c.Wait() {
			t.Fatalf("%s was not taken: %v", body, err)
		}
	}
	put("1")
	s.Restart()
	put("2")
	s.Kill()
	s.Restart()
	got := s.Drain("kept")
	if len(got) != 2 || string(got[0].Body) != "1" || string(got[1].Body) != "2" {
		t.Errorf("the queue has %v, want messages 1 and 2", got)
	}
}
