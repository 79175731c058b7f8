package amqp

import (
	"math/rand/v2"
	"strings"
	"testing"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/posthornhq/posthorn/pkg/amqp/rabbittest"
	"github.com/posthornhq/posthorn/pkg/pattern"
)

// A3: a subscription's patterns mean to us what they mean to a topic exchange.
func TestPatternsMeanWhatTheyMeanToATopicExchange(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	text := func(words ...string) string {
		list := make([]string, 1+r.IntN(4))
		for i := range list {
			list[i] = words[r.IntN(len(words))]
		}
		return strings.Join(list, ".")
	}
	s := rabbittest.Shared(t)
	ch := s.Channel()
	if err := ch.ExchangeDeclare("meanings", amqp091.ExchangeTopic, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	patterns := map[string]pattern.Pattern{"#": {}, "*": {}, "a.#": {}, "#.a": {}, "*.#": {}, "#.*.#": {}, "a.#.b": {}}
	for range 40 {
		patterns[text("a", "b", "*", "#")] = pattern.Pattern{}
	}
	keys := map[string]bool{}
	for range 100 {
		keys[text("a", "b", "c")] = true
	}
	for p := range patterns {
		s.Queue("meaning of "+p, "meanings", p)
	}
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	for key := range keys {
		c, err := ch.PublishWithDeferredConfirm("meanings", key, false, false, amqp091.Publishing{})
		if err != nil || !c.Wait() {
			t.Fatalf("key %s is not taken: %v", key, err)
		}
	}
	for text := range patterns {
		p, err := pattern.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]bool{}
		for _, d := range s.Drain("meaning of " + text) {
			got[d.RoutingKey] = true
		}
		for key := range keys {
			if p.Match(key) != got[key] {
				t.Errorf("pattern %s, key %s: matched %v, by RabbitMQ %v", text, key, p.Match(key), got[key])
			}
		}
	}
}
